//! HTTP/2 streams between a caller and an origin, by the `h2` crate.
//!
//! `inbound` and `outbound` open a [`Connection`] for a caller, take [`Stream`]s from it, judge each, and [`forward`] it
//! over an [`Upstream`] that a pool shares among callers. It never answers by itself, except that what the `h2` crate
//! itself finds malformed is reset there.
//!
//! # Why
//! `h2` directly, without hyper's service layer: the pump needs cancellation, trailers, flow control and early answers as
//! they are on the wire. `h2` bounds resets, header lists and small DATA frames; what it leaves open (SETTINGS, PING and
//! other frames that cost their sender nothing, header blocks that never end, resets over time) `guard` counts on the
//! bytes as they are read.

mod caller;
mod fields;
mod flow;
mod guard;
mod held;
mod pump;

pub use pump::{StreamForward, StreamOutcome, forward};

use super::Limits;
use super::bodies::Bodies;
use super::h1::Watchdog;
use crate::refusal::{Dialect, Refusal, Refused};
use bytes::Bytes;
use caller::{Answer, Caller};
use guard::{Guard, Verdict};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};

/// What may wait unsent for one stream that its receiver does not open the window for.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Streams that a peer opened and reset before anybody looked at them (the first defence against rapid reset).
const PENDING_RESETS_MAX: usize = 20;
/// What `h2` lets a peer run up with DATA frames below 256 bytes before the streams' tasks have read them: some 16,000
/// frames, for which `h2` holds 3 MB. A gRPC server that streams small messages sends thousands in one turn; at the 2,000
/// of a window of 1 MiB the whole connection was ended.
const SMALL_FRAMES_BUDGET: usize = 4 * 1024 * 1024;
/// Stream errors of a peer on one connection before it is ended (the defence against provoked resets).
const ERROR_RESETS_MAX: usize = 256;

/// A caller's HTTP/2 connection.
pub struct Connection<S> {
    inner: h2::server::Connection<Guard<S>, Bytes>,
    verdict: Arc<Verdict>,
    watchdog: Watchdog,
    limits: Limits,
    bodies: Arc<Bodies>,
    drains: bool,
    ended: bool,
}

/// One request on a [`Connection`].
pub struct Stream {
    head: http::request::Parts,
    pub(super) exchange: Caller,
    /// How the caller wants refusals.
    dialect: Dialect,
}

/// The sending half of an origin's HTTP/2 connection; cheap to clone, one for each stream.
pub type Upstream = h2::client::SendRequest<Bytes>;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Shakes hands, within the header deadline. `early` are bytes that were already read; what its streams hold counts
    /// into `bodies`.
    ///
    /// # Errors
    /// [`Refusal::WrongProtocol`]: not HTTP/2. [`Refusal::RequestTimeout`]: not in time.
    pub async fn open(io: S, early: Vec<u8>, limits: &Limits, bodies: &Arc<Bodies>) -> Result<Self, Refusal> {
        let (guard, verdict) = Guard::new(io, early, limits);
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(limits.h2_stream_window)
            .initial_connection_window_size(limits.h2_connection_window())
            .data_frame_budget(SMALL_FRAMES_BUDGET)
            .max_concurrent_streams(limits.h2_streams_max)
            .max_header_list_size(limits.h2_header_list_bytes_max)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(Some(ERROR_RESETS_MAX));
        match tokio::time::timeout(limits.header_timeout, builder.handshake(guard)).await {
            Ok(Ok(inner)) => Ok(Self {
                inner,
                verdict,
                watchdog: Watchdog::new(limits.idle_timeout / 4),
                limits: limits.clone(),
                bodies: Arc::clone(bodies),
                drains: false,
                ended: false,
            }),
            Ok(Err(_)) => Err(Refusal::WrongProtocol),
            Err(_) => Err(Refusal::RequestTimeout),
        }
    }

    /// The next stream, or `None` when the connection has ended. Must be awaited as long as streams are open, since it
    /// is what moves bytes for all of them. Cancel safe.
    ///
    /// # Errors
    /// The caller broke the protocol or flooded ([`Refusal::Overloaded`]), or went away: the connection is over.
    pub async fn accept(&mut self) -> Result<Option<Stream>, Refusal> {
        if self.ended {
            return Ok(None);
        }
        let accepted = poll_fn(|cx| self.poll_accept(cx)).await;
        match accepted {
            Some(Ok((request, respond))) => {
                let (head, body) = request.into_parts();
                let grpc = super::canonical::is_grpc(&head.headers);
                let dialect = if grpc { Dialect::Grpc } else { Dialect::Http };
                let exchange = Caller::new(body, respond, &self.bodies);
                Ok(Some(Stream { head, exchange, dialect }))
            }
            None => {
                self.ended = true;
                if self.verdict.is_flood() { Err(Refusal::Overloaded) } else { Ok(None) }
            }
            Some(Err(error)) => {
                self.ended = true;
                Err(self.fault(&error))
            }
        }
    }

    fn fault(&self, error: &h2::Error) -> Refusal {
        if self.verdict.is_flood() || error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) {
            Refusal::Overloaded
        } else if error.is_io() {
            Refusal::CallerGone
        } else {
            Refusal::WrongProtocol
        }
    }

    #[expect(clippy::type_complexity, reason = "the type is h2's")]
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(http::Request<h2::RecvStream>, h2::server::SendResponse<Bytes>), h2::Error>>>
    {
        loop {
            let polled = self.inner.poll_accept(cx);
            if polled.is_ready() {
                self.watchdog.touch();
                return polled;
            }
            if self.verdict.is_flood() && self.verdict.take_notice() {
                self.inner.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                self.watchdog = Watchdog::new(self.limits.linger_timeout);
                continue;
            }
            // A flooder need not read our GOAWAY; a connection that drains without streams has nothing to wait for.
            let limit = if self.verdict.is_flood() || self.drains && !self.inner.has_streams() {
                self.limits.linger_timeout
            } else if self.inner.has_streams() {
                self.watchdog.touch();
                return Poll::Pending;
            } else {
                self.limits.idle_timeout
            };
            match self.watchdog.poll_expired(cx, limit) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if self.drains || self.verdict.is_flood() => return Poll::Ready(None),
                Poll::Ready(()) => self.drain(),
            }
        }
    }

    /// Sends GOAWAY; streams that are open go on, and [`Connection::accept`] ends when they have.
    pub fn drain(&mut self) {
        if !self.drains {
            self.drains = true;
            self.watchdog = Watchdog::new(self.limits.linger_timeout);
            self.inner.graceful_shutdown();
        }
    }
}

impl Stream {
    /// Takes the head out, so that the stream can be forwarded while a canonical request borrows it.
    pub fn take_head(&mut self) -> http::request::Parts {
        std::mem::replace(&mut self.head, http::Request::new(()).into_parts().0)
    }

    /// Answers with a refusal: gRPC callers get a gRPC status. An answer that has begun is ended, visibly cut off: with a
    /// gRPC status in trailers, or a reset. Does nothing where all is said.
    pub fn refuse(&mut self, refused: Refused<'_>) {
        self.exchange.refuse(refused, self.dialect);
    }

    /// Whether the head of an answer has been sent.
    pub fn is_answered(&self) -> bool {
        !matches!(self.exchange.answer, Answer::Awaited)
    }

    /// Resets the stream, for what deserves no answer.
    pub fn reset(&mut self, reason: h2::Reason) {
        self.exchange.reset(reason);
    }
}

/// Shakes hands with an origin. The second part is a future that moves the bytes of all streams: its owner must drive it
/// to its end.
///
/// # Errors
/// The origin does not speak HTTP/2, or went away.
pub async fn connect<S>(
    io: S,
    limits: &Limits,
) -> Result<(Upstream, h2::client::Connection<S, Bytes>), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window())
        .data_frame_budget(SMALL_FRAMES_BUDGET)
        .max_header_list_size(limits.h2_header_list_bytes_max)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .initial_max_send_streams(usize::try_from(limits.h2_streams_max).unwrap_or(usize::MAX))
        .max_local_error_reset_streams(Some(ERROR_RESETS_MAX));
    builder.handshake(io).await
}
