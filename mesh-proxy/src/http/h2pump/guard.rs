//! Counts what an HTTP/2 peer sends that costs it nothing, on the bytes as they are read.
//!
//! [`super::Connection`] puts it between a transport and the `h2` crate and ends the connection when it trips. It sees
//! frame headers only (RFC 9113, section 4.1): lengths, types, flags; never a payload, never HPACK.
//!
//! # Why
//! `h2` bounds memory for each of these floods, but not the work: a peer may send SETTINGS, PING, PRIORITY, WINDOW_UPDATE,
//! empty DATA or unknown frames as fast as it likes, and may keep a header block open for ever. Looking at nine bytes for
//! each frame costs a few nanoseconds. Budgets refill with time and with useful bytes, so that a busy peer never meets them.

use super::super::Limits;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// The client's connection preface (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
/// Bytes of a frame's head.
const FRAME_HEAD_BYTES: usize = 9;
/// Frames without use that may come at once. 1000 PINGs are what nghttp2 allows too.
const FREE_FRAMES_BURST: u32 = 1000;
/// What comes back of it each second.
const FREE_FRAMES_PER_SECOND: u32 = 200;
/// A useful run of bytes, in either direction, gives one frame back: acknowledging windows is what a receiver does.
const BYTES_PER_FREE_FRAME: usize = 512;
/// Frames of one header block. 16 KiB of decoded fields fit into one or two.
const CONTINUATIONS_MAX: u32 = 16;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// What the guard has found, shared with the connection.
#[derive(Debug, Default)]
pub(super) struct Verdict(AtomicU8);

impl Verdict {
    const FLOOD: u8 = 1;
    const NOTICED: u8 = 2;

    /// Whether the peer must be ended.
    pub(super) fn is_flood(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// `true` the first time after the guard tripped.
    pub(super) fn take_notice(&self) -> bool {
        self.0.swap(Self::NOTICED, Ordering::Relaxed) == Self::FLOOD
    }
}

/// A transport whose frames are counted.
pub(super) struct Guard<S> {
    io: S,
    early: Vec<u8>,
    early_used: usize,
    frames: Frames,
    budget: Budget,
    resets: Budget,
    /// Runs while a header block is open.
    deadline: Option<Pin<Box<Sleep>>>,
    header_timeout: Duration,
    verdict: Arc<Verdict>,
}

impl<S> Guard<S> {
    /// In front of a transport of which `early` was read already.
    pub(super) fn new(io: S, early: Vec<u8>, limits: &Limits) -> (Self, Arc<Verdict>) {
        let verdict = Arc::new(Verdict::default());
        let guard = Self {
            io,
            early,
            early_used: 0,
            frames: Frames::new(),
            budget: Budget::new(FREE_FRAMES_BURST, FREE_FRAMES_PER_SECOND),
            resets: Budget::new(limits.h2_resets_burst, limits.h2_resets_per_second),
            deadline: None,
            header_timeout: limits.header_timeout,
            verdict: Arc::clone(&verdict),
        };
        (guard, verdict)
    }

    /// Looks at bytes that were read; `false`: the peer floods.
    fn admit(&mut self, bytes: &[u8]) -> bool {
        let (budget, resets) = (&mut self.budget, &mut self.resets);
        let admitted = self.frames.read(bytes, &mut |seen| match seen {
            Seen::Free => budget.take(),
            Seen::Reset => resets.take() && budget.take(),
            Seen::Useful(bytes) => {
                budget.give(bytes / BYTES_PER_FREE_FRAME);
                true
            }
            Seen::Endless => false,
        });
        if !self.frames.in_header_block() {
            self.deadline = None;
        } else if self.deadline.is_none() {
            self.deadline = Some(Box::pin(tokio::time::sleep(self.header_timeout)));
        }
        admitted
    }

    /// Lets nothing more through. The connection is woken to say goodbye.
    fn trip(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.verdict.0.store(Verdict::FLOOD, Ordering::Relaxed);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.verdict.is_flood() {
            return Poll::Pending;
        }
        let start = buffer.filled().len();
        if let Some(early) = this.early.get(this.early_used..).filter(|early| !early.is_empty()) {
            let count = early.len().min(buffer.remaining());
            buffer.put_slice(early.get(..count).unwrap_or_default());
            this.early_used = this.early_used.saturating_add(count);
            if this.early_used == this.early.len() {
                this.early = Vec::new();
                this.early_used = 0;
            }
        } else {
            match Pin::new(&mut this.io).poll_read(cx, buffer) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    let expired =
                        this.deadline.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
                    return if expired { this.trip(cx) } else { Poll::Pending };
                }
            }
        }
        let fresh = buffer.filled().get(start..).unwrap_or_default();
        if this.admit(fresh) {
            return Poll::Ready(Ok(()));
        }
        buffer.set_filled(start);
        this.trip(cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.budget.give(count / BYTES_PER_FREE_FRAME);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
        this.budget.give(count / BYTES_PER_FREE_FRAME);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// What a frame means to the budgets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    /// Moves nothing.
    Free,
    /// Ends a stream.
    Reset,
    /// Carries so many bytes of use.
    Useful(usize),
    /// A header block that goes on and on.
    Endless,
}

/// Finds the frames in a stream of bytes.
#[derive(Debug)]
struct Frames {
    /// Bytes to pass over: the preface, then payloads.
    skip: usize,
    head: [u8; FRAME_HEAD_BYTES],
    head_filled: usize,
    /// A header block is open: frames it has so far.
    block: Option<u32>,
    /// The frame being passed over belongs to a header block that it ends.
    ends_block: bool,
}

impl Frames {
    fn new() -> Self {
        Self {
            skip: PREFACE_BYTES,
            head: [0; FRAME_HEAD_BYTES],
            head_filled: 0,
            block: None,
            ends_block: false,
        }
    }

    /// Whether the peer has begun a header block, or a frame's head, and not ended it.
    fn in_header_block(&self) -> bool {
        self.block.is_some() || self.head_filled > 0
    }

    /// Calls `count` for each frame head in `bytes`; `false` as soon as it says so.
    fn read(&mut self, bytes: &[u8], count: &mut dyn FnMut(Seen) -> bool) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.skip > 0 {
                let (_, after) = rest.split_at(self.skip.min(rest.len()));
                self.skip = self.skip.saturating_sub(rest.len());
                rest = after;
                self.close_block();
                continue;
            }
            let missing = FRAME_HEAD_BYTES.saturating_sub(self.head_filled);
            let (part, after) = rest.split_at(missing.min(rest.len()));
            for (slot, byte) in self.head.iter_mut().skip(self.head_filled).zip(part) {
                *slot = *byte;
            }
            self.head_filled = self.head_filled.saturating_add(part.len());
            rest = after;
            if self.head_filled == FRAME_HEAD_BYTES {
                self.head_filled = 0;
                let seen = self.frame();
                if !count(seen) {
                    return false;
                }
                self.close_block();
            }
        }
        true
    }

    fn close_block(&mut self) {
        if self.skip == 0 && std::mem::take(&mut self.ends_block) {
            self.block = None;
        }
    }

    /// A frame's head is complete.
    fn frame(&mut self) -> Seen {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.skip = length;
        match kind {
            DATA if length == 0 && flags & END_STREAM == 0 => Seen::Free,
            DATA => Seen::Useful(length),
            HEADERS | CONTINUATION => {
                let frames = self.block.map_or(0, |frames| frames.saturating_add(1));
                self.block = Some(frames);
                self.ends_block = flags & END_HEADERS != 0;
                match frames {
                    0 => Seen::Useful(length),
                    1..=CONTINUATIONS_MAX if length > 0 => Seen::Useful(0),
                    1..=CONTINUATIONS_MAX => Seen::Free,
                    _ => Seen::Endless,
                }
            }
            RST_STREAM => Seen::Reset,
            _ => Seen::Free,
        }
    }
}

/// A budget that refills with time and with use. Reads the clock only when it runs low.
#[derive(Debug)]
struct Budget {
    left: u32,
    burst: u32,
    per_second: u32,
    refilled: Option<Instant>,
}

impl Budget {
    fn new(burst: u32, per_second: u32) -> Self {
        Self { left: burst, burst, per_second, refilled: None }
    }

    fn give(&mut self, frames: usize) {
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(frames).min(self.burst);
    }

    fn take(&mut self) -> bool {
        if self.left < self.burst / 2 {
            self.refill();
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "counts frames over time, and only below half of its burst"
    )]
    fn refill(&mut self) {
        let now = Instant::now();
        let since = self.refilled.map_or(Duration::ZERO, |then| now.duration_since(then));
        let earned = since.as_millis().saturating_mul(u128::from(self.per_second)) / 1000;
        if self.refilled.is_none() || earned > 0 {
            self.refilled = Some(now);
        }
        self.give(usize::try_from(earned).unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.extend_from_slice(payload);
        bytes
    }

    fn seen(parts: &[&[u8]]) -> (Vec<Seen>, bool) {
        let mut frames = Frames::new();
        let mut found = Vec::new();
        frames.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &mut |_| true);
        for part in parts {
            frames.read(part, &mut |one| {
                found.push(one);
                true
            });
        }
        (found, frames.in_header_block())
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut bytes = frame(0x4, 0, &[0; 12]);
        bytes.extend(frame(HEADERS, 0, b"abc"));
        bytes.extend(frame(CONTINUATION, END_HEADERS, b"d"));
        bytes.extend(frame(DATA, 0, b""));
        bytes.extend(frame(DATA, 0, b"12345"));
        bytes.extend(frame(RST_STREAM, 0, &[0; 4]));
        let whole = seen(&[&bytes]);
        assert_eq!(
            whole.0,
            [Seen::Free, Seen::Useful(3), Seen::Useful(0), Seen::Free, Seen::Useful(5), Seen::Reset]
        );
        assert!(!whole.1);
        for cut in 0..bytes.len() {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(seen(&[a, b]), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(seen(&single), whole);
    }

    #[test]
    fn an_open_header_block_is_noticed_until_its_last_byte() {
        let open = frame(HEADERS, 0, b"abc");
        let last = frame(CONTINUATION, END_HEADERS, b"defg");
        assert!(seen(&[&open]).1);
        assert!(seen(&[&open, &last[..last.len() - 1]]).1);
        assert!(!seen(&[&open, &last]).1);
        assert!(!seen(&[&frame(HEADERS, END_HEADERS, b"")]).1);
    }

    #[test]
    fn endless_continuations_are_not_waited_for() {
        let mut bytes = frame(HEADERS, 0, b"abc");
        for _ in 0..=CONTINUATIONS_MAX {
            bytes.extend(frame(CONTINUATION, 0, b"d"));
        }
        assert_eq!(seen(&[&bytes]).0.last(), Some(&Seen::Endless));
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_refills_with_time_and_use() {
        let mut budget = Budget::new(10, 5);
        assert_eq!((0..20).filter(|_| budget.take()).count(), 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..20).filter(|_| budget.take()).count(), 5);
        budget.give(3);
        assert_eq!((0..20).filter(|_| budget.take()).count(), 3);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!((0..20).filter(|_| budget.take()).count(), 10, "never more than the burst");
    }
}
