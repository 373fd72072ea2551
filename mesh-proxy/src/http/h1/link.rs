//! A transport with what was read and not used yet, and what is still to be written.
//!
//! [`super::Server`] and [`super::Client`] own one each; [`crate::http::exchange`] moves bytes between two. It knows
//! nothing of HTTP.
//!
//! # Why
//! Reading and writing are `poll_` functions, because an exchange drives four directions of two transports in one task:
//! halves made by `tokio::io::split` would cost a lock for each call. The read buffer is made when bytes can come and
//! freed when none did, so that an idle connection holds no memory; allocating 8 KiB costs 56 ns.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What is read at once while little comes: most heads fit.
const READ_BYTES: usize = 8 * 1024;
/// What is read at once while a body streams: four TLS records.
const STREAM_READ_BYTES: usize = 64 * 1024;
/// What is looked at while nothing is expected, from the stack.
const PEEK_BYTES: usize = 256;

/// One side of a connection.
pub(crate) struct Link<S> {
    io: S,
    input: Vec<u8>,
    taken: usize,
    /// Where [`Link::rewind`] goes back to; bytes from here on are kept although they were used.
    marked: Option<usize>,
    output: Vec<u8>,
    sent: usize,
    /// The last read filled its room: more is likely.
    streams: bool,
    /// The transport must be flushed: a TLS layer may hold records back.
    unflushed: bool,
}

impl<S> Link<S> {
    /// With bytes that were read before.
    pub(crate) fn new(io: S, early: Vec<u8>) -> Self {
        Self {
            io,
            input: early,
            taken: 0,
            marked: None,
            output: Vec::new(),
            sent: 0,
            streams: false,
            unflushed: false,
        }
    }

    /// The transport.
    pub(crate) fn io(&self) -> &S {
        &self.io
    }

    /// What was read and not used yet.
    pub(crate) fn unread(&self) -> &[u8] {
        self.input.get(self.taken..).unwrap_or_default()
    }

    /// Takes bytes from the front of [`Link::unread`] as used.
    pub(crate) fn consume(&mut self, count: usize) {
        self.taken = self.taken.saturating_add(count).min(self.input.len());
        self.drop_used();
    }

    fn drop_used(&mut self) {
        if self.marked.is_none() && self.taken == self.input.len() {
            self.input.clear();
            self.taken = 0;
        }
    }

    /// Keeps what is used from now on, until more is read, so that it can be used again.
    pub(crate) fn mark(&mut self) {
        self.marked = Some(self.taken);
    }

    /// Makes everything since [`Link::mark`] unread again; `false` if it is no longer there.
    pub(crate) fn rewind(&mut self) -> bool {
        let Some(marked) = self.marked.take() else {
            return false;
        };
        self.taken = marked;
        true
    }

    /// Whether [`Link::rewind`] would succeed.
    pub(crate) fn is_marked(&self) -> bool {
        self.marked.is_some()
    }

    /// Ends [`Link::mark`].
    pub(crate) fn unmark(&mut self) {
        self.marked = None;
        self.drop_used();
    }

    /// Takes the first `length` unread bytes out as a buffer of their own, without copying them where nothing follows.
    pub(crate) fn take_front(&mut self, length: usize) -> Vec<u8> {
        if self.taken == 0 && length <= self.input.len() {
            let rest = self.input.get(length..).unwrap_or_default().to_vec();
            let mut front = std::mem::replace(&mut self.input, rest);
            front.truncate(length);
            return front;
        }
        let front = self.unread().get(..length).unwrap_or_default().to_vec();
        self.consume(length);
        front
    }

    /// Gives a buffer back that [`Link::take_front`] gave away.
    pub(crate) fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.input.capacity() == 0 {
            buffer.clear();
            self.input = buffer;
        }
    }

    /// Where to write to: bytes are sent by [`Link::poll_send`] in one piece.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Whether bytes wait to be sent.
    pub(crate) fn has_output(&self) -> bool {
        self.sent < self.output.len() || self.unflushed
    }

    /// Forgets what was not sent, and says whether nothing of it was.
    pub(crate) fn discard_output(&mut self) -> bool {
        let untouched = self.sent == 0 && !self.unflushed;
        self.output.clear();
        self.sent = 0;
        untouched
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// Reads what is there, behind the unread bytes; 0 is the end of the connection.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.unmark();
        let wanted = if self.streams { STREAM_READ_BYTES } else { READ_BYTES };
        if self.taken > 0 && self.input.capacity() - self.input.len() < wanted {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        if self.input.capacity() == self.input.len() || (self.streams && self.input.is_empty()) {
            self.input.reserve(wanted);
        }
        let room = self.input.capacity() - self.input.len();
        let polled = tokio_util::io::poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input);
        match &polled {
            Poll::Ready(Ok(count)) => self.streams = *count >= room.min(READ_BYTES),
            Poll::Pending if self.input.is_empty() => {
                self.input = Vec::new();
                self.streams = false;
            }
            _ => {}
        }
        polled
    }

    /// As [`Link::poll_fill`], for a time when nothing need come: costs no buffer until something does.
    pub(crate) fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [0_u8; PEEK_BYTES];
        let mut buffer = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Sends everything in the output and flushes the transport.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent = self.sent.saturating_add(count);
            self.unflushed = true;
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        self.sent = 0;
        if self.output.capacity() > READ_BYTES {
            self.output = Vec::new();
        } else {
            self.output.clear();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes bytes past the output, which must be empty; says how many were taken.
    pub(crate) fn poll_write_through(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.unflushed = true;
        if count == 0 { Poll::Ready(Err(io::ErrorKind::WriteZero.into())) } else { Poll::Ready(Ok(count)) }
    }

    /// Ends our direction: the other side reads the end of the stream.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Gives all empty buffers back.
    pub(crate) fn release(&mut self) {
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        self.streams = false;
    }
}

/// Counts how long nothing moved, in ticks, without reading a clock where bytes do move.
///
/// # Why
/// A timer reset for each request or read costs a place in the timer wheel and a clock reading (28 ns); this one runs on
/// and is only asked how often it fired since the last progress. The price: a limit is kept to within one tick more.
pub(crate) struct Watchdog {
    sleep: Pin<Box<Sleep>>,
    tick: Duration,
    quiet: u32,
}

impl Watchdog {
    /// Ticks every `tick`.
    pub(crate) fn new(tick: Duration) -> Self {
        let tick = tick.max(Duration::from_millis(1));
        Self { sleep: Box::pin(tokio::time::sleep(tick)), tick, quiet: 0 }
    }

    /// Something moved.
    pub(crate) fn touch(&mut self) {
        self.quiet = 0;
    }

    /// Whether nothing moved for `limit`. Otherwise the task is woken at the next tick.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            self.quiet = self.quiet.saturating_add(1);
            let next = self.sleep.deadline() + self.tick;
            self.sleep.as_mut().reset(next);
        }
        // The tick under way when something last moved does not count.
        if self.tick.saturating_mul(self.quiet.saturating_sub(1)) >= limit {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
