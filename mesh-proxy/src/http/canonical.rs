//! The one canonical request: made once, judged, and forwarded.

use super::h1::RequestHead;
use crate::refusal::Refusal;
use mesh_proto::policy::model::Protocol;
use std::borrow::Cow;
use std::sync::Arc;

/// What canonicalisation needs to know besides the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intake<'a> {
    /// Lower-case names of the fields that policies and limits of this port judge.
    pub judged: &'a [Arc<str>],
    /// The port that a host without a port means (and that is left out of the authority); `None` keeps ports as sent.
    pub default_port: Option<u16>,
}

/// A request with a single reading. Borrows from the head it was made of.
#[derive(Debug)]
pub struct Canonical<'h> {
    /// An RFC 9110 token.
    pub method: &'h str,
    /// `host` or `host:port`, lower case.
    pub authority: Cow<'h, str>,
    /// The authority without its port.
    pub host: Cow<'h, str>,
    /// Canonical path, or `*`.
    pub path: Cow<'h, str>,
    /// What follows `?`, as sent.
    pub query: Option<&'h [u8]>,
    /// HTTP/1, HTTP/2, or gRPC.
    pub protocol: Protocol,
    /// The protocol that the caller asks to upgrade to.
    pub upgrade: Option<&'h str>,
}

impl<'h> Canonical<'h> {
    /// From an HTTP/1 head.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] with what has no single reading; [`Refusal::ConnectMethod`].
    pub fn from_h1(head: &'h RequestHead, intake: &Intake<'_>) -> Result<Self, Refusal> {
        let _ = (head, intake);
        Err(Refusal::NotReady)
    }

    /// From the head of an HTTP/2 request.
    ///
    /// # Errors
    /// As [`Canonical::from_h1`].
    pub fn from_h2(head: &'h http::request::Parts, intake: &Intake<'_>) -> Result<Self, Refusal> {
        let _ = (head, intake);
        Err(Refusal::NotReady)
    }

    /// Calls `visit` with every value of a field, by its lower-case name; never those that are not forwarded.
    pub fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        let _ = (name, visit);
    }
}
