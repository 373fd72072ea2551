//! HTTP/1 connections to one endpoint that wait for their next request: those of their own, and streams of shared sessions.

use super::is_believed;
use crate::discovery::Applied;
use crate::http::h1::Client;
use crate::mux::stream::Session;
use crate::transport::Transport;
use mesh_ca::verify::PeerIdentity;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A connection that waits for its next request.
pub(super) struct Idle {
    pub(super) client: Client<Transport>,
    pub(super) peer: Option<Rc<PeerIdentity>>,
    pub(super) since: Instant,
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle").field("since", &self.since).finish_non_exhaustive()
    }
}

/// What one lane keeps, most recently used last.
#[derive(Debug, Default)]
pub(super) struct Kept {
    own: RefCell<Vec<Idle>>,
    streams: RefCell<Vec<Idle>>,
    /// The shortest idle time after which the peer was found to have closed a connection of its own.
    learned: Cell<Option<Duration>>,
}

impl Kept {
    pub(super) fn keep(&self, idle: Idle) {
        let kept = if let Transport::Shared { stream, .. } = idle.client.io() {
            stream.calm();
            &self.streams
        } else {
            &self.own
        };
        kept.borrow_mut().push(idle);
    }

    /// The most recently used connection of its own that is still open. What the peer closed meanwhile teaches its idle
    /// time.
    pub(super) fn take_own(&self, now: Instant, longest: Duration) -> Option<Idle> {
        loop {
            let mut idle = self.own.borrow_mut().pop()?;
            let age = now.saturating_duration_since(idle.since);
            if age >= self.idle_max(longest) {
                continue;
            }
            if !idle.client.is_stale() {
                return Some(idle);
            }
            // Much shorter is a restart, not an idle time.
            if age > Duration::from_millis(500) && self.learned.get().is_none_or(|learned| age < learned) {
                self.learned.set(Some(age));
            }
        }
    }

    /// The most recently used stream of a session that is good for more.
    pub(super) fn take_stream(&self) -> Option<Idle> {
        loop {
            let mut streams = self.streams.borrow_mut();
            let at = streams.iter().rposition(|idle| session_of(idle) == Session::Open)?;
            let mut idle = streams.remove(at);
            if !idle.client.is_stale() {
                return Some(idle);
            }
        }
    }

    /// Lets go of what has waited too long or is good for nothing more.
    pub(super) fn sweep(&self, applied: &Applied, now: Instant, longest: Duration) {
        let own = self.idle_max(longest);
        let is_good = |idle: &Idle, most| {
            now.saturating_duration_since(idle.since) < most && is_believed(idle.peer.as_deref(), applied)
        };
        self.own.borrow_mut().retain(|idle| is_good(idle, own));
        self.streams.borrow_mut().retain_mut(|idle| {
            is_good(idle, longest) && session_of(idle) != Session::Leaving && !idle.client.is_stale()
        });
    }

    pub(super) fn clear(&self) {
        self.own.borrow_mut().clear();
        self.streams.borrow_mut().clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.own.borrow().is_empty() && self.streams.borrow().is_empty()
    }

    fn idle_max(&self, longest: Duration) -> Duration {
        // Four fifths: the peer's clock began a moment before ours.
        self.learned.get().map_or(longest, |learned| longest.min(learned.saturating_mul(4) / 5))
    }
}

fn session_of(idle: &Idle) -> Session {
    match idle.client.io() {
        Transport::Shared { stream, .. } => stream.session(),
        Transport::Plain(_) | Transport::Mesh(_) => Session::Leaving,
    }
}
