//! Copies bytes both ways between two streams until both have ended, with half-close.
//!
//! Used for opaque connections on both sides of the mesh and for upgraded HTTP. Never looks at the bytes.
//!
//! # Why
//! Each poll reads into one scratch buffer of the worker and writes at once; only what the other side does not take at
//! that moment is kept with the connection. So an idle tunnel holds no buffer at all, where a buffer of 8 KiB for each
//! direction cost 16 KiB (27.9 KiB for an idle tunnel, TLS included).
//!
//! What comes as records of 16 KiB leaves as one write of up to four: CPU of a pair for bulk, ms for each GB, up and down, three
//! rounds in turn on a busy machine, same options of the compiler: 1,232 and 1,205 with 32 KiB and a write for each read; 1,257
//! and 1,254 with 32 KiB gathered; 1,116 and 1,145 with 64 KiB gathered and 64 KiB read ahead by `transport`; 1,455 and 1,154 with
//! 128 and 64, since rustls takes 64; 1,187 and 1,599 with 32 and 64 (Envoy 1,291 and 1,354). Seven rounds, beside a build
//! before this one that was also optimised otherwise: 1,177 and 1,190 with 64 gathered and 32 ahead, 1,175 and 1,102 with 64
//! and 64, where that build took 1,243 and 1,248 and Envoy 1,538 and 1,429.
//!
//! By `perf`, before this, two thirds were the kernel's, AES 9 to 11 % and copies in user space 8 to 13 %, where Envoy's are
//! 4 %: `rustls` takes 4 KiB of a socket at a time, for which `transport` copies once more. Splicing is for plaintext only;
//! TLS in the kernel was not to be had to be measured.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read and written at once: four TLS records, as much as rustls takes.
const SCRATCH_BYTES: usize = 64 * 1024;
/// A read that brings so much has probably left something.
const STREAMING_BYTES: usize = 8 * 1024;
/// Rounds of reading and writing before other connections of the worker get their turn.
const ROUNDS_PER_TURN: u32 = 16;

/// The read buffer that all tunnels of a worker share: it is used within one poll only.
#[derive(Debug)]
pub(crate) struct Scratch(RefCell<Box<[u8]>>);

impl Scratch {
    /// One for each worker.
    pub(crate) fn new() -> Self {
        Self(RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()))
    }
}

/// What a tunnel has carried and when it last moved. Lives outside the future, so that it can be read while it runs.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// Bytes from the first stream to the second.
    pub(crate) forward: u64,
    /// Bytes from the second stream to the first.
    pub(crate) backward: u64,
}

impl Carried {
    /// Bytes of both directions.
    pub(crate) fn total(&self) -> u64 {
        self.forward.saturating_add(self.backward)
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    /// Read but not yet taken by the other side; empty and without memory most of the time.
    pending: Vec<u8>,
    written: usize,
    state: HalfState,
    /// What reading ended with, after bytes that are to be written first.
    failed: Option<io::Error>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum HalfState {
    #[default]
    Copying,
    Closing,
    Done,
}

/// A tunnel between two streams; make it, then drive it with [`Tunnel::poll`].
#[derive(Debug, Default)]
pub(crate) struct Tunnel {
    forward: Half,
    backward: Half,
    /// What has been carried so far.
    pub(crate) carried: Carried,
}

impl Tunnel {
    /// Bytes already read from the first stream go first to the second.
    pub(crate) fn with_prefix(prefix: Vec<u8>) -> Self {
        let carried = Carried { forward: prefix.len() as u64, backward: 0 };
        Self { forward: Half { pending: prefix, ..Half::default() }, backward: Half::default(), carried }
    }

    /// Bytes already read from the second stream go first to the first.
    pub(crate) fn push_backward(&mut self, bytes: &[u8]) {
        self.backward.pending.extend_from_slice(bytes);
        self.carried.backward = self.carried.backward.saturating_add(bytes.len() as u64);
    }

    /// Whether one direction has ended and the other has not.
    pub(crate) fn is_half_closed(&self) -> bool {
        (self.forward.state == HalfState::Done) != (self.backward.state == HalfState::Done)
    }

    /// Moves what can be moved. Ready when both directions have ended.
    ///
    /// **Cancel safety**: state is kept here, so that polling can stop and go on at any time.
    ///
    /// # Errors
    /// The first error of either stream; the other direction is then cut too.
    pub(crate) fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        a: &mut A,
        b: &mut B,
        scratch: &Scratch,
    ) -> Poll<io::Result<()>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let forward = self.forward.poll(cx, (a, b), scratch, &mut self.carried.forward)?;
        let backward = self.backward.poll(cx, (b, a), scratch, &mut self.carried.backward)?;
        if forward.is_ready() && backward.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Half {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut R, &mut W),
        scratch: &Scratch,
        count: &mut u64,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS_PER_TURN {
            match self.state {
                HalfState::Done => return Poll::Ready(Ok(())),
                HalfState::Closing => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = HalfState::Done;
                }
                HalfState::Copying => {
                    ready!(self.poll_drain(cx, to))?;
                    ready!(self.poll_once(cx, (from, to), scratch, count))?;
                }
            }
        }
        // Still busy: let the other connections of this worker have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is pending; gives its memory back when all is written.
    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.pending.get(self.written..).filter(|rest| !rest.is_empty()) {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        if self.pending.capacity() > 0 {
            self.pending = Vec::new();
            self.written = 0;
            ready!(Pin::new(to).poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// One read and, as far as the other side takes it, its write.
    fn poll_once<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut R, &mut W),
        scratch: &Scratch,
        count: &mut u64,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let mut scratch = scratch.0.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        if Pin::new(&mut *from).poll_read(cx, &mut buffer)?.is_pending() {
            // TLS keeps written bytes until they are flushed.
            ready!(Pin::new(to).poll_flush(cx))?;
            return Poll::Pending;
        }
        if buffer.filled().is_empty() {
            self.state = HalfState::Closing;
            return Poll::Ready(Ok(()));
        }
        self.gather(cx, from, &mut buffer);
        let read = buffer.filled();
        *count = count.saturating_add(read.len() as u64);
        let written = match Pin::new(to).poll_write(cx, read)? {
            Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(n) => n,
            Poll::Pending => 0,
        };
        if let Some(rest) = read.get(written..).filter(|rest| !rest.is_empty()) {
            self.pending.extend_from_slice(rest);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads on while much is coming, so that it leaves with one write.
    fn gather<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut R, buffer: &mut ReadBuf<'_>) {
        let mut before = 0;
        while buffer.filled().len().saturating_sub(before) >= STREAMING_BYTES && buffer.remaining() > 0 {
            before = buffer.filled().len();
            match Pin::new(&mut *from).poll_read(cx, buffer) {
                // An end is read again, and then begins the close.
                Poll::Ready(Ok(())) => {}
                // An error is told once: what came before it is written first.
                Poll::Ready(Err(error)) => self.failed = Some(error),
                Poll::Pending => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Answers reads from a list, then with the end; takes every write.
    struct Script {
        reads: VecDeque<io::Result<Vec<u8>>>,
        writes: Vec<usize>,
    }

    impl Script {
        fn new(reads: impl IntoIterator<Item = io::Result<Vec<u8>>>) -> Self {
            Self { reads: reads.into_iter().collect(), writes: Vec::new() }
        }
    }

    impl AsyncRead for Script {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(
                self.reads.pop_front().unwrap_or_else(|| Ok(Vec::new())).map(|bytes| buf.put_slice(&bytes)),
            )
        }
    }

    impl AsyncWrite for Script {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.writes.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_comes_in_pieces_leaves_as_one_and_a_reset_after_it_stays_a_reset() {
        let piece = || Ok(vec![7; 16 * 1024]);
        let reset = Err(io::ErrorKind::ConnectionReset.into());
        let mut a = Script::new([Ok(b"small".to_vec()), Ok(b"next".to_vec()), piece(), piece(), reset]);
        let mut b = Script::new([]);
        let (scratch, mut tunnel) = (Scratch::new(), Tunnel::default());
        let error = poll_fn(|cx| tunnel.poll(cx, &mut a, &mut b, &scratch)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "not the end that would be read after it");
        assert_eq!(b.writes, [5, 4, 32 * 1024]);
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_half_close_is_kept() {
        let (mut near, mut a) = tokio::io::duplex(1000);
        let (mut b, mut far) = tokio::io::duplex(7);
        let scratch = Scratch::new();
        let mut tunnel = Tunnel::with_prefix(b"he".to_vec());
        tunnel.push_backward(b"220 ");
        let carry = async { poll_fn(|cx| tunnel.poll(cx, &mut a, &mut b, &scratch)).await.unwrap() };
        let talk = async {
            near.write_all(b"llo, this is longer than the pipe").await.unwrap();
            near.shutdown().await.unwrap();
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"hello, this is longer than the pipe");
            far.write_all(b"answer after the other half closed").await.unwrap();
            far.shutdown().await.unwrap();
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"220 answer after the other half closed");
        };
        tokio::join!(carry, talk);
        assert_eq!((tunnel.carried.forward, tunnel.carried.backward), (35, 38));
        assert_eq!(tunnel.forward.pending.capacity(), 0, "an idle tunnel holds no buffer");
    }
}
