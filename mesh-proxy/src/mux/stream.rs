//! A stream as its owner sees it: reads and writes like a socket. Dropped before both directions have ended, it is reset.

use super::state::State;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a session is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Session {
    /// Anything more.
    Open,
    /// What is under way; a bulk stream has it for itself, as far as it can.
    Bulk,
    /// What is under way, and nothing after it.
    Leaving,
}

/// One stream of a session.
#[derive(Debug)]
pub(crate) struct Stream {
    session: Rc<RefCell<State>>,
    id: u32,
}

impl Stream {
    /// Holds a stream that was opened or has arrived.
    pub(crate) fn new(session: &Rc<RefCell<State>>, id: u32) -> Self {
        Self { session: Rc::clone(session), id }
    }

    /// What its session is good for.
    pub(crate) fn session(&self) -> Session {
        let session = self.session.borrow();
        match (session.is_leaving(), session.is_bulk()) {
            (true, _) => Session::Leaving,
            (false, true) => Session::Bulk,
            (false, false) => Session::Open,
        }
    }

    /// What it has carried so far shall not be held against it.
    pub(crate) fn calm(&self) {
        self.session.borrow_mut().calm(self.id);
    }

    /// Ends both directions at once, visibly for the peer.
    pub(crate) fn reset(&self) {
        self.session.borrow_mut().reset(self.id);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.session.borrow_mut().release(self.id);
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.session.borrow_mut().read(self.id, buf, cx)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.session.borrow_mut().write(self.id, buf, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was taken is on its way: the session sends as soon as this turn of the loop ends.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.borrow_mut().finish(self.id);
        Poll::Ready(Ok(()))
    }
}
