//! HTTP/1 connections, read strictly and framed anew (RFC 9112).
//!
//! A [`Server`] reads a caller's requests, a [`Client`] speaks to an origin; [`super::exchange`] moves a message between
//! them. Sequential: a pipelined request stays in the buffer until the one before is answered.
//!
//! # Why
//! One task owns a connection and both directions of it, so nothing is locked and nothing is handed over. A head stays
//! in the buffer it was read into, with ranges for its parts; a field is never allocated. A buffer lives only while
//! bytes are in it or expected: an idle connection holds none.

mod framing;
mod head;
mod link;
mod write;

pub use framing::BodyLength;
pub use head::{RequestHead, ResponseHead, Version};

use super::Limits;
use crate::refusal::{Refusal, Refused};
use link::Link;
use tokio::io::{AsyncRead, AsyncWrite};

/// A caller's connection.
pub struct Server<S> {
    link: Link<S>,
}

/// An origin's connection.
pub struct Client<S> {
    link: Link<S>,
}

/// What the owner of a caller's connection does after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// Reads the next request.
    NextRequest,
    /// Calls [`Server::end`].
    Close,
    /// Drops the transport as it is, without a clean end (no `close_notify`; a reset where it is plain TCP): the answer was
    /// cut off and the caller must see it.
    Abort,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Server<S> {
    /// Takes over a connection. `early` are bytes that were already read from it.
    pub fn new(io: S, early: Vec<u8>) -> Self {
        Self { link: Link::new(io, early) }
    }

    /// Reads the next head, or `None` when the caller ended the connection between requests or was idle too long.
    ///
    /// Cancel safe: bytes that were read stay.
    ///
    /// # Errors
    /// What the caller must be told with [`Server::refuse`]; [`Refusal::CallerGone`] when nobody is there to be told.
    pub async fn read_request(&mut self, limits: &Limits) -> Result<Option<RequestHead>, Refusal> {
        let _ = limits;
        Err(Refusal::NotReady)
    }

    /// Answers with a refusal instead of an exchange. `head` is the request's, if one was read.
    pub async fn refuse(
        &mut self,
        head: Option<&RequestHead>,
        refused: Refused<'_>,
        limits: &Limits,
    ) -> After {
        let _ = (head, refused, limits, &mut self.link);
        After::Close
    }

    /// From now on every answer says `connection: close`: the proxy drains.
    pub fn drain(&mut self) {}

    /// Gives the memory of a head back when its exchange is over.
    pub fn recycle(&mut self, head: RequestHead) {
        drop(head);
    }

    /// Ends the connection so that the last answer arrives: closes our direction, then waits briefly for the caller's end.
    pub async fn end(self, limits: &Limits) {
        let _ = limits;
    }

    /// The transport.
    pub fn io(&self) -> &S {
        self.link.io()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Takes over a fresh connection.
    pub fn new(io: S) -> Self {
        Self { link: Link::new(io, Vec::new()) }
    }

    /// Whether the connection can no longer be used: closed by the origin, or bytes came unasked. Asks the transport
    /// without waiting; for pools, before they hand a connection out.
    pub fn is_stale(&mut self) -> bool {
        false
    }

    /// Whether it has carried an exchange before.
    pub fn is_reused(&self) -> bool {
        false
    }

    /// The transport.
    pub fn io(&self) -> &S {
        self.link.io()
    }
}
