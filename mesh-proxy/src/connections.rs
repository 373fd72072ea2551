//! The open connections of one worker: who they are, and how they learn that something changed.
//!
//! Each connection (and each HTTP/2 stream, and each tunnel) holds a [`Registration`]. When policy, revocations or
//! certificates change, or the proxy drains, every holder is woken once and judges for itself whether it may go on: it
//! alone has the facts. This module never judges and never closes anything.
//!
//! # Why
//! One thread, so no lock: a change is a number that each holder compares with the one it saw last. A `watch` channel
//! for each connection lost: it takes a lock and queues a waiter for each request.

use crate::discovery::Applied;
use mesh_proto::policy::model::Protocol;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Which side of the workload a connection is on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Direction {
    /// A peer calls the workload.
    Inbound,
    /// The workload calls a service.
    Outbound,
}

impl Direction {
    /// The word for it in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What `/connections` tells of one.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    /// Inbound or outbound.
    pub(crate) direction: Direction,
    /// The peer's identity or address (inbound), the service called (outbound).
    pub(crate) peer: Arc<str>,
    /// What it speaks; `None` while unknown.
    pub(crate) protocol: Option<Protocol>,
    /// The workload's port or the service's.
    pub(crate) port: u16,
    /// Milliseconds since the epoch at which it was opened.
    pub(crate) opened_ms: u64,
}

/// What a holder was woken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Judge again: policy, revocations or certificates changed, or a rule's time ran out.
    Judge,
    /// Finish what is under way, begin nothing new.
    Drain,
}

/// The open connections of one worker, and the configuration they all use.
#[derive(Debug)]
pub(crate) struct Connections {
    current: RefCell<Arc<Applied>>,
    epoch: Cell<u64>,
    draining: Cell<bool>,
    entries: RefCell<Slab<Entry>>,
}

#[derive(Debug)]
struct Entry {
    waker: Option<Waker>,
    description: Option<Description>,
}

impl Connections {
    /// With the configuration the worker starts with.
    pub(crate) fn new(current: Arc<Applied>) -> Rc<Self> {
        Rc::new(Self {
            current: RefCell::new(current),
            epoch: Cell::new(1),
            draining: Cell::new(false),
            entries: RefCell::new(Slab::new()),
        })
    }

    /// The configuration in use. Take it once for each request and use that one to the end.
    pub(crate) fn current(&self) -> Arc<Applied> {
        Arc::clone(&self.current.borrow())
    }

    /// Puts a new configuration to use and wakes everybody to judge again.
    pub(crate) fn replace(&self, applied: Arc<Applied>) {
        *self.current.borrow_mut() = applied;
        self.judge_again();
    }

    /// Wakes everybody to judge again, for instance because a rule's time ran out.
    pub(crate) fn judge_again(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.wake_all();
    }

    /// Tells everybody to finish.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.wake_all();
    }

    /// Whether nothing new shall begin.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Registers a connection; it is listed until the registration is dropped.
    pub(crate) fn register(self: &Rc<Self>, description: Description) -> Registration {
        self.insert(Some(description))
    }

    /// Registers a part of a connection (a stream) that is woken like one but not listed.
    pub(crate) fn register_part(self: &Rc<Self>) -> Registration {
        self.insert(None)
    }

    /// What is open, for `/connections`.
    pub(crate) fn describe(&self) -> Vec<Description> {
        self.entries.borrow().iter().filter_map(|(_, entry)| entry.description.clone()).collect()
    }

    /// How many connections are open.
    pub(crate) fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    fn insert(self: &Rc<Self>, description: Option<Description>) -> Registration {
        let key = self.entries.borrow_mut().insert(Entry { waker: None, description });
        Registration {
            owner: Rc::clone(self),
            key,
            seen: Cell::new(self.epoch.get()),
            drain_seen: Cell::new(false),
        }
    }

    fn wake_all(&self) {
        // Wakers are taken out first: waking must not find the entries borrowed.
        let wakers: Vec<Waker> =
            self.entries.borrow_mut().iter_mut().filter_map(|(_, entry)| entry.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A connection's place among the open ones.
#[derive(Debug)]
pub(crate) struct Registration {
    owner: Rc<Connections>,
    key: usize,
    seen: Cell<u64>,
    drain_seen: Cell<bool>,
}

impl Registration {
    /// Says what the connection was found to speak.
    pub(crate) fn set_protocol(&self, protocol: Protocol) {
        if let Some(entry) = self.owner.entries.borrow_mut().get_mut(self.key)
            && let Some(description) = &mut entry.description
        {
            description.protocol = Some(protocol);
        }
    }

    /// Ready when something changed since the last change that was seen here. [`Change::Drain`] comes once.
    pub(crate) fn poll_change(&self, cx: &mut Context<'_>) -> Poll<Change> {
        if self.seen.get() != self.owner.epoch.get() {
            self.seen.set(self.owner.epoch.get());
            return Poll::Ready(Change::Judge);
        }
        if self.owner.draining.get() && !self.drain_seen.replace(true) {
            return Poll::Ready(Change::Drain);
        }
        if let Some(entry) = self.owner.entries.borrow_mut().get_mut(self.key)
            && !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits for the next change.
    ///
    /// **Cancel safety**: a change that was not returned is returned by the next call.
    pub(crate) async fn changed(&self) -> Change {
        poll_fn(|cx| self.poll_change(cx)).await
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.owner.entries.borrow_mut().try_remove(self.key);
    }
}
