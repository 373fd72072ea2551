//! Moves a session's bytes between its [`State`] and its connection. One poll reads what is there, then writes everything
//! that all streams have gathered.

use super::guard::Fault;
use super::state::State;
use crate::clock;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncBufRead, AsyncWrite};

/// Records read, and writes made, before other connections of the worker get their turn.
const ROUNDS_PER_TURN: u32 = 8;
/// Memory that an idle session keeps for its next writes.
const KEPT_BYTES_MAX: usize = 8 * 1024;

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// All streams are done and none was to come any more, or the peer closed.
    Closed,
    /// The connection broke.
    Broken(io::Error),
    /// The peer broke a rule.
    Fault(Fault),
}

/// A session and its connection.
#[derive(Debug)]
pub(crate) struct Drive<T> {
    io: T,
    session: Rc<RefCell<State>>,
    began: Instant,
    sending: Vec<u8>,
    sent: usize,
}

impl<T: AsyncBufRead + AsyncWrite + Unpin> Drive<T> {
    /// A session that began at `began`.
    pub(crate) fn new(io: T, session: Rc<RefCell<State>>, began: Instant) -> Self {
        Self { io, session, began, sending: Vec::new(), sent: 0 }
    }

    /// Moves what can be moved; ready when the session has ended. Its streams are reset then, as far as they were not done.
    ///
    /// **Cancel safety**: state is kept here.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let end = match self.poll_both(cx) {
            Ok(Poll::Pending) => {
                self.session.borrow_mut().drive_by(cx.waker());
                return Poll::Pending;
            }
            Ok(Poll::Ready(())) => End::Closed,
            Err(end) => end,
        };
        self.session.borrow_mut().kill();
        Poll::Ready(end)
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        let mut is_busy = true;
        for _ in 0..ROUNDS_PER_TURN {
            let Poll::Ready(read) = Pin::new(&mut self.io).poll_fill_buf(cx) else {
                is_busy = false;
                break;
            };
            let bytes = read.map_err(End::Broken)?;
            if bytes.is_empty() {
                return Ok(Poll::Ready(()));
            }
            let now_ns = clock::now().saturating_duration_since(self.began).as_nanos();
            let now_ns = u64::try_from(now_ns).unwrap_or(u64::MAX);
            self.session.borrow_mut().receive(bytes, now_ns).map_err(End::Fault)?;
            let length = bytes.len();
            Pin::new(&mut self.io).consume(length);
        }
        let is_sent = self.poll_send(cx).map_err(End::Broken)?;
        let is_done = self.session.borrow().is_done();
        if is_sent && is_done {
            let shutdown = Pin::new(&mut self.io).poll_shutdown(cx).map_err(End::Broken)?;
            return Ok(shutdown);
        }
        if is_busy {
            // Let the other connections of this worker have their turn.
            cx.waker().wake_by_ref();
        }
        Ok(Poll::Pending)
    }

    /// Writes what was gathered; whether everything has left.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        for _ in 0..ROUNDS_PER_TURN {
            let Some(rest) = self.sending.get(self.sent..).filter(|rest| !rest.is_empty()) else {
                if self.gather() {
                    continue;
                }
                return Ok(Pin::new(&mut self.io).poll_flush(cx)?.is_ready());
            };
            match Pin::new(&mut self.io).poll_write(cx, rest)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => self.sent += written,
                Poll::Pending => return Ok(false),
            }
        }
        cx.waker().wake_by_ref();
        Ok(false)
    }

    /// Fills the buffer anew; whether there is anything to send.
    fn gather(&mut self) -> bool {
        self.sending.clear();
        self.sent = 0;
        let mut session = self.session.borrow_mut();
        if !session.has_output() {
            if self.sending.capacity() > KEPT_BYTES_MAX {
                self.sending = Vec::new();
            }
            return false;
        }
        session.gather(&mut self.sending);
        true
    }
}
