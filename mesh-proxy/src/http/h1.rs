//! HTTP/1 connections, read strictly and framed anew (RFC 9112).
//!
//! A [`Server`] reads a caller's requests, a [`Client`] speaks to an origin; [`super::exchange`] moves a message between
//! them. Sequential: a pipelined request stays in the buffer until the one before is answered. Neither opens connections
//! nor decides anything about a request.
//!
//! # Why
//! One task owns a connection and both directions of it, so nothing is locked and nothing is handed over. A head stays
//! in the buffer it was read into, with ranges for its parts; a field is never allocated. A buffer lives only while
//! bytes are in it or expected: an idle connection holds none.
//!
//! A [`Server`] ends a connection cleanly (TLS `close_notify`) only after a complete answer or when it has read no byte
//! of a request. Callers in the mesh rely on that: a clean end before any answer proves that nothing was processed.

mod framing;
mod head;
mod link;
mod write;

pub use framing::{BodyLength, Decoded, decode};
pub use head::{RequestHead, ResponseHead, Version};

pub(crate) use framing::{Decoder, Piece, decimal, each_trailer};
pub(crate) use head::list;
pub(crate) use link::{Link, Watchdog};
pub(crate) use write::{Answer, Connection, chunk_size, is_explanation, request, response};

use super::Limits;
use crate::refusal::{BodyOf, Persistence, Refusal, Refused};
use head::RequestLayout;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};

/// What is read and thrown away of a caller that goes on sending after its last answer.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// A caller's connection.
pub struct Server<S> {
    pub(super) link: Link<S>,
    /// Reads the body of the request under way.
    pub(super) body: Decoder,
    watchdog: Option<Watchdog>,
    drains: bool,
}

/// An origin's connection.
pub struct Client<S> {
    pub(super) link: Link<S>,
    /// Exchanges that were begun on it.
    pub(super) exchanges: u64,
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
        let body = Decoder::new(BodyLength::None, 0);
        Self { link: Link::new(io, early), body, watchdog: None, drains: false }
    }

    /// Reads the next head, or `None` when the caller ended the connection between requests or was idle too long.
    ///
    /// Cancel safe: bytes that were read stay.
    ///
    /// # Errors
    /// What the caller must be told with [`Server::refuse`]; [`Refusal::CallerGone`] when nobody is there to be told.
    pub async fn read_request(&mut self, limits: &Limits) -> Result<Option<RequestHead>, Refusal> {
        // A body that nobody read cannot be told from a request; owners close such connections, this makes sure.
        if !self.body.is_done() {
            return Ok(None);
        }
        if self.link.unread().is_empty() && !poll_fn(|cx| self.poll_arrival(cx, limits)).await {
            return Ok(None);
        }
        let layout = match RequestLayout::parse(self.link.unread(), limits)? {
            Some(layout) => layout,
            // Boxed: a head in pieces is rare, and its deadline would make every idle connection larger.
            None => Box::pin(self.read_rest(limits)).await?,
        };
        let bytes = self.link.take_front(layout.length);
        let head = RequestHead::new(bytes, layout);
        self.body = Decoder::new(head.body(), limits.trailer_bytes_max);
        self.touch();
        Ok(Some(head))
    }

    /// Waits for the first bytes of a request; `false` if there will be none.
    fn poll_arrival(&mut self, cx: &mut Context<'_>, limits: &Limits) -> Poll<bool> {
        match self.link.poll_fill(cx) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(false),
            Poll::Ready(Ok(_)) => Poll::Ready(true),
            Poll::Pending => {
                self.link.release();
                self.poll_expired(cx, limits, limits.idle_timeout).map(|()| false)
            }
        }
    }

    /// Reads a head that did not come in one piece, within its deadline.
    async fn read_rest(&mut self, limits: &Limits) -> Result<RequestLayout, Refusal> {
        let mut deadline = pin!(tokio::time::sleep(limits.header_timeout));
        let mut scan = HeadScan::after(self.link.unread().len());
        loop {
            let link = &mut self.link;
            let filled = poll_fn(|cx| match link.poll_fill(cx) {
                Poll::Ready(filled) => Poll::Ready(Some(filled)),
                Poll::Pending => deadline.as_mut().poll(cx).map(|()| None),
            });
            match filled.await {
                None => return Err(Refusal::RequestTimeout),
                Some(Ok(0) | Err(_)) => return Err(Refusal::CallerGone),
                Some(Ok(count)) if !scan.is_due(self.link.unread(), count, limits) => {}
                Some(Ok(_)) => {
                    if let Some(layout) = RequestLayout::parse(self.link.unread(), limits)? {
                        return Ok(layout);
                    }
                }
            }
        }
    }

    /// Answers with a refusal instead of an exchange. `head` is the request's, if one was read.
    pub async fn refuse(
        &mut self,
        head: Option<&RequestHead>,
        refused: Refused<'_>,
        limits: &Limits,
    ) -> After {
        if refused.refusal == Refusal::CallerGone {
            return After::Abort;
        }
        let goes_on = head.is_some_and(RequestHead::is_persistent)
            && !self.drains
            && !refused.refusal.ends_connection()
            && self.skip_buffered_body();
        let persistence = if goes_on { Persistence::Keep } else { Persistence::Close };
        let is_head = head.is_some_and(|head| head.method() == b"HEAD");
        let body = if is_head { BodyOf::HeadOnly } else { BodyOf::Full };
        refused.write_h1(self.link.output(), persistence, body);
        let sent = poll_fn(|cx| self.link.poll_send(cx));
        match tokio::time::timeout(limits.linger_timeout, sent).await {
            Ok(Ok(())) if goes_on => After::NextRequest,
            Ok(Ok(())) => After::Close,
            _ => After::Abort,
        }
    }

    /// Skips the body as far as it has arrived, and says whether that was all of it.
    fn skip_buffered_body(&mut self) -> bool {
        loop {
            match self.body.next(self.link.unread()) {
                Ok(Piece::Data(count) | Piece::Framing(count) | Piece::Trailers(count)) => {
                    self.link.consume(count);
                }
                Ok(Piece::End) => return true,
                Ok(Piece::More) | Err(_) => return false,
            }
        }
    }

    /// From now on every answer says `connection: close`: the proxy drains.
    pub fn drain(&mut self) {
        self.drains = true;
    }

    pub(super) fn drains(&self) -> bool {
        self.drains
    }

    /// Gives the memory of a head back when its exchange is over.
    pub fn recycle(&mut self, head: RequestHead) {
        self.link.give_back(head.into_bytes());
    }

    /// Ends the connection so that the last answer arrives: closes our direction, then waits briefly for the caller's
    /// end. Without the wait, bytes still under way from the caller would make the system reset the connection, and
    /// the reset can overtake the answer.
    pub async fn end(mut self, limits: &Limits) {
        let mut skipped = 0_usize;
        let linger = async {
            if poll_fn(|cx| self.link.poll_shutdown(cx)).await.is_err() {
                return;
            }
            self.link.consume(usize::MAX);
            while skipped < LINGER_BYTES_MAX {
                match poll_fn(|cx| self.link.poll_fill(cx)).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => skipped = skipped.saturating_add(count),
                }
                self.link.consume(usize::MAX);
            }
        };
        // Whether it ended in time makes no difference: the transport is dropped either way.
        let _ = tokio::time::timeout(limits.linger_timeout, linger).await;
    }

    /// The transport.
    pub fn io(&self) -> &S {
        self.link.io()
    }

    /// Something moved on this connection or the origin's.
    pub(super) fn touch(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.touch();
        }
    }

    /// Whether nothing moved for `limit`.
    pub(super) fn poll_expired(
        &mut self,
        cx: &mut Context<'_>,
        limits: &Limits,
        limit: std::time::Duration,
    ) -> Poll<()> {
        let shortest = limits.progress_timeout.min(limits.exchange_timeout).min(limits.idle_timeout);
        let watchdog = self.watchdog.get_or_insert_with(|| Watchdog::new(shortest / 2));
        watchdog.poll_expired(cx, limit)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Takes over a fresh connection.
    pub fn new(io: S) -> Self {
        Self { link: Link::new(io, Vec::new()), exchanges: 0 }
    }

    /// Takes over a part of a connection that has carried something else before.
    pub(crate) fn kept(io: S) -> Self {
        Self { exchanges: 1, ..Self::new(io) }
    }

    /// Whether the connection can no longer be used: closed by the origin, or bytes came unasked. Asks the transport
    /// without waiting; for pools, before they hand a connection out.
    pub fn is_stale(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        !self.link.unread().is_empty() || self.link.poll_peek(&mut cx).is_ready()
    }

    /// Resolves when the connection can no longer be used: for pools that watch what they keep. Cancel safe.
    pub async fn stale(&mut self) {
        if self.link.unread().is_empty() {
            // Bytes, the end, or an error: none of them may come on an idle connection.
            let _ = poll_fn(|cx| self.link.poll_peek(cx)).await;
        }
    }

    /// Whether it has carried an exchange before.
    pub fn is_reused(&self) -> bool {
        self.exchanges > 0
    }

    /// The transport.
    pub fn io(&self) -> &S {
        self.link.io()
    }
}

/// When to parse a head again that was not complete.
///
/// # Why
/// Parsing at each read lets a caller that sends single bytes cost the square of the head's length. So it is parsed when
/// an empty line may have come, also one of bare LFs (which must be refused at once), or when it has doubled.
pub(super) struct HeadScan {
    parsed: usize,
}

impl HeadScan {
    pub(super) fn after(parsed: usize) -> Self {
        Self { parsed }
    }

    /// Whether to parse `unread`, of which the last `fresh` bytes are new.
    pub(super) fn is_due(&mut self, unread: &[u8], fresh: usize, limits: &Limits) -> bool {
        let tail = unread.len().saturating_sub(fresh.saturating_add(3));
        let tail = unread.get(tail..).unwrap_or_default();
        let due = unread.len() >= limits.head_bytes_max
            || unread.len() >= self.parsed.saturating_mul(2)
            || tail.windows(2).any(|pair| pair == b"\n\n")
            || tail.windows(3).any(|three| three == b"\n\r\n");
        if due {
            self.parsed = unread.len();
        }
        due
    }
}
