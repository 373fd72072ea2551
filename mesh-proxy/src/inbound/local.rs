//! The way to the application. Every door here takes the evaluator's `Permit`.
//!
//! # Why
//! A `Permit` cannot be made or cloned outside the evaluator, so a path to the application that skips the decision does
//! not compile.

use super::Inbound;
use crate::outbound::connect::{ConnectError, Opened};
use crate::outbound::pool::{Freshness, Lane, LaneKey, Lease, Share};
use mesh_ca::tls::Alpn;
use mesh_proto::policy::evaluate::Permit;
use std::net::SocketAddr;
use std::rc::Rc;

/// The application as one request or tunnel may use it.
#[derive(Debug)]
pub(crate) struct App<'a> {
    inbound: &'a Inbound,
    /// Its lane.
    pub(crate) lane: Rc<Lane>,
    _permit: Permit,
}

impl<'a> App<'a> {
    /// Opens the door.
    pub(crate) fn new(inbound: &'a Inbound, address: SocketAddr, permit: Permit) -> Self {
        let lane = inbound.apps.lane(LaneKey { address, identity: None, name: None, instance: None });
        Self { inbound, lane, _permit: permit }
    }

    /// An HTTP/1 connection.
    ///
    /// # Errors
    /// The application does not listen, or all connections are in use.
    pub(crate) async fn lease(&self, freshness: Freshness) -> Result<Lease, ConnectError> {
        self.inbound.apps.lease(&self.lane, freshness).await
    }

    /// A stream's place on an HTTP/2 connection.
    ///
    /// # Errors
    /// As [`App::lease`]; or it does not speak HTTP/2.
    pub(crate) async fn share(&self) -> Result<Share, ConnectError> {
        self.inbound.apps.share(&self.lane).await
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// The application does not listen.
    pub(crate) async fn tunnel(&self) -> Result<Opened, ConnectError> {
        self.inbound.apps.open(&self.lane, Alpn::MeshTcp).await
    }
}
