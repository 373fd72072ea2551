//! The way to the application. Every door here takes the evaluator's `Permit`.
//!
//! # Why
//! A `Permit` cannot be made or cloned outside the evaluator, so a path to the application that skips the decision does
//! not compile.
//!
//! Streams of several callers on one HTTP/2 connection share its fate: the application ends it when one of them resets
//! too much, and one that uploads into a handler that does not read uses up the credit of all. So each caller has
//! connections of its own; HTTP/1 connections carry one request at a time and are shared.

use super::{Call, Inbound};
use crate::outbound::connect::{BYTES, ConnectError, Opened};
use crate::outbound::pool::{Freshness, Lane, LaneKey, Lease, Share};
use mesh_proto::policy::evaluate::Permit;
use std::net::SocketAddr;
use std::rc::Rc;

/// The lane of one caller's HTTP/2 streams to the application.
pub(crate) fn caller_lane(inbound: &Inbound, call: &Call) -> Rc<Lane> {
    inbound.apps.lane_for(call.port.app, &call.peer.text)
}

/// The application as one request or tunnel may use it.
#[derive(Debug)]
pub(crate) struct App<'a> {
    inbound: &'a Inbound,
    lane: Rc<Lane>,
    _permit: Permit,
}

impl<'a> App<'a> {
    /// Opens the door.
    pub(crate) fn new(inbound: &'a Inbound, address: SocketAddr, permit: Permit) -> Self {
        let lane = inbound.apps.lane(LaneKey::workload(address));
        Self { inbound, lane, _permit: permit }
    }

    /// An HTTP/1 connection.
    ///
    /// # Errors
    /// The application does not listen, or all connections are in use.
    pub(crate) async fn lease(&self, freshness: Freshness) -> Result<Lease, ConnectError> {
        self.inbound.apps.lease(&self.lane, freshness).await
    }

    /// A stream's place on an HTTP/2 connection of the caller's own lane ([`caller_lane`]).
    ///
    /// # Errors
    /// As [`App::lease`]; or it does not speak HTTP/2.
    pub(crate) async fn share(&self, lane: &Rc<Lane>) -> Result<Share, ConnectError> {
        self.inbound.apps.share(lane).await
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// The application does not listen.
    pub(crate) async fn tunnel(&self) -> Result<Opened, ConnectError> {
        self.inbound.apps.open(&self.lane, BYTES).await
    }
}
