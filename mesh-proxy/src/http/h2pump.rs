//! HTTP/2 streams between a caller and an origin.

use super::canonical::Canonical;
use super::{Failure, Limits, Meter, Origin};
use crate::refusal::{Refusal, Refused};
use bytes::Bytes;
use std::future::Future;
use tokio::io::{AsyncRead, AsyncWrite};

/// A caller's HTTP/2 connection.
pub struct Connection<S> {
    _io: S,
}

/// One request on a [`Connection`].
pub struct Stream {
    /// The head.
    pub head: http::request::Parts,
    body: h2::RecvStream,
    respond: h2::server::SendResponse<Bytes>,
}

/// The sending half of an origin's HTTP/2 connection; cheap to clone, one for each stream.
pub type Upstream = h2::client::SendRequest<Bytes>;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Shakes hands. `early` are bytes that were already read.
    ///
    /// # Errors
    /// Not HTTP/2, or not in time.
    pub async fn open(io: S, early: Vec<u8>, limits: &Limits) -> Result<Self, Refusal> {
        let _ = (io, early, limits);
        Err(Refusal::NotReady)
    }

    /// The next stream, or `None` when the connection has ended.
    pub async fn accept(&mut self) -> Result<Option<Stream>, Refusal> {
        Err(Refusal::NotReady)
    }

    /// Sends GOAWAY; streams that are open go on, [`Connection::accept`] ends when they have.
    pub fn drain(&mut self) {}
}

impl Stream {
    /// Answers with a refusal.
    pub fn refuse(&mut self, refused: Refused<'_>) {
        let _ = (&refused, &self.body, &self.respond);
    }
}

/// Shakes hands with an origin. The second part must be driven to its end by the owner of the connection.
///
/// # Errors
/// The origin does not speak HTTP/2 or went away.
pub async fn connect<S>(
    io: S,
    limits: &Limits,
) -> Result<(Upstream, impl Future<Output = Result<(), h2::Error>>), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _ = limits;
    let (upstream, connection) = h2::client::handshake(io).await?;
    Ok((upstream, connection))
}

/// What became of one stream.
pub struct StreamOutcome {
    /// `None`: both sides ended it.
    pub failure: Option<Failure>,
}

/// What to forward and how.
pub struct StreamForward<'a> {
    /// The one canonical request.
    pub request: &'a Canonical<'a>,
    /// Fields to add.
    pub append: &'a http::HeaderMap,
    /// Who answers.
    pub origin: Origin,
}

/// One request and its response between two HTTP/2 connections.
pub async fn forward(
    stream: &mut Stream,
    what: StreamForward<'_>,
    upstream: Upstream,
    limits: &Limits,
    meter: &mut Meter,
) -> StreamOutcome {
    let _ = (stream, what.request, what.append, what.origin, upstream, limits, meter);
    StreamOutcome {
        failure: Some(Failure { refusal: Refusal::NotReady, answered: false, retry: super::Retry::Safe }),
    }
}
