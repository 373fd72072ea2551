//! Connections of which nothing is proven yet: how many there may be of one origin, and how many may shake hands at once.
//!
//! `handshake` asks here before it reads, and again when it has read a whole ClientHello. Reads nothing itself.
//!
//! # Why
//! A handshake costs 200 µs of CPU and then waits for the caller, so how many are in progress is bounded. A place is taken
//! only with a whole ClientHello in hand: whoever is silent, sends garbage or half a hello holds none. Each origin queues
//! for its own places first, so that its flood waits behind itself; the queue of all is fair by arrival.

use super::shares::Origin;
use crate::clock;
use crate::connections::Direction;
use crate::observe::Shard;
use crate::refusal::Refusal;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Handshakes in progress on one data thread; further ones wait, within their deadline. 5,000 a second for a core take a
/// fifth of a second for this many.
const HANDSHAKES_MAX: usize = 1_024;
/// Handshakes in progress from one origin: a quarter of all.
const HANDSHAKES_PER_ORIGIN_MAX: usize = 256;
/// Unproven connections from one origin, silent ones included; beyond, new ones are closed at once. As many as another
/// proxy opens at most to one endpoint, all at the same moment.
const PER_ORIGIN_MAX: u64 = 1_024;
/// Lines of one reason in the log: one in this time, with how many it stands for.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Connections of which nothing is proven yet.
#[derive(Debug)]
pub(crate) struct Strangers {
    by_origin: RefCell<HashMap<Origin, Rc<OfOrigin>>>,
    per_origin_max: u64,
    places: Arc<Semaphore>,
    said: RefCell<BTreeMap<&'static str, Said>>,
}

/// What one origin has here; it is forgotten with its last connection.
#[derive(Debug)]
struct OfOrigin {
    open: Cell<u64>,
    places: Arc<Semaphore>,
}

/// What was said of one reason in the log.
#[derive(Debug, Default)]
struct Said {
    at: Option<Instant>,
    unsaid: u64,
}

/// One connection of which nothing is proven yet.
#[derive(Debug)]
pub(crate) struct Stranger {
    all: Rc<Strangers>,
    of: Rc<OfOrigin>,
    origin: Origin,
}

/// A place among the handshakes in progress.
#[derive(Debug)]
pub(crate) struct Place {
    _of_origin: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Strangers {
    /// Nobody is there. One origin gets at most a quarter of `connections_max`.
    pub(crate) fn new(connections_max: u64) -> Rc<Self> {
        Rc::new(Self {
            by_origin: RefCell::default(),
            per_origin_max: PER_ORIGIN_MAX.min(connections_max / 4).max(1),
            places: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            said: RefCell::default(),
        })
    }

    /// A new connection; `None` when its origin has as many as it may have.
    pub(crate) fn admit(self: &Rc<Self>, origin: Origin) -> Option<Stranger> {
        let mut by_origin = self.by_origin.borrow_mut();
        let of = by_origin.entry(origin).or_insert_with(|| {
            let places = Arc::new(Semaphore::new(HANDSHAKES_PER_ORIGIN_MAX));
            Rc::new(OfOrigin { open: Cell::new(0), places })
        });
        if of.open.get() >= self.per_origin_max {
            return None;
        }
        of.open.set(of.open.get().saturating_add(1));
        Some(Stranger { all: Rc::clone(self), of: Rc::clone(of), origin })
    }

    /// Counts a refused connection and says so in the log, at most once a second for each reason.
    pub(crate) fn refused(&self, shard: &Shard, from: SocketAddr, refusal: Refusal) {
        shard.refused(Direction::Inbound, refusal.label());
        if let Some(unsaid) = self.may_say(refusal.label(), clock::now()) {
            tracing::info!(%from, reason = refusal.label(), unsaid, "refused: {}", refusal.text());
        }
    }

    /// Whether a line about this reason is due; then for how many others it stands.
    pub(crate) fn may_say(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut said = self.said.borrow_mut();
        let said = said.entry(reason).or_default();
        if said.at.is_some_and(|at| now.saturating_duration_since(at) < LINE_EVERY) {
            said.unsaid = said.unsaid.saturating_add(1);
            return None;
        }
        said.at = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

impl Stranger {
    /// Waits for a place: first behind others of its origin, then behind all.
    ///
    /// **Cancel safety**: a place that was not returned is free again, and the turn is lost.
    pub(crate) async fn place(&self) -> Option<Place> {
        // Neither is ever closed.
        let of_origin = Arc::clone(&self.of.places).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all.places).acquire_owned().await.ok()?;
        Some(Place { _of_origin: of_origin, _of_all: of_all })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let open = self.of.open.get().saturating_sub(1);
        self.of.open.set(open);
        if open == 0 {
            self.all.by_origin.borrow_mut().remove(&self.origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn origin(address: &str) -> Origin {
        Origin::of(address.parse().unwrap())
    }

    fn place(stranger: &Stranger) -> Option<Place> {
        stranger.place().now_or_never().flatten()
    }

    #[test]
    fn a_flood_of_one_origin_holds_no_place_of_another() {
        let strangers = Strangers::new(20_000);
        let silent: Vec<_> = (0..PER_ORIGIN_MAX).map_while(|_| strangers.admit(origin("10.0.0.1"))).collect();
        assert_eq!(silent.len() as u64, PER_ORIGIN_MAX);
        assert!(strangers.admit(origin("10.0.0.1")).is_none(), "it has all it may have");
        // Those who sent a whole hello and then fall silent hold places, but not all.
        let held: Vec<_> = silent.iter().map_while(place).collect();
        assert_eq!(held.len(), HANDSHAKES_PER_ORIGIN_MAX);
        let other = strangers.admit(origin("10.0.0.2")).expect("another origin is let in");
        assert!(place(&other).is_some(), "and finds a place at once");
        drop((held, silent));
        assert!(strangers.admit(origin("10.0.0.1")).is_some());
        drop(other);
        assert!(strangers.by_origin.borrow().is_empty(), "nobody is remembered who has none");
    }

    #[test]
    fn one_origin_never_has_more_than_a_quarter_of_a_small_proxy() {
        let strangers = Strangers::new(16);
        let held: Vec<_> = (0..20).map_while(|_| strangers.admit(origin("10.0.0.1"))).collect();
        assert_eq!(held.len(), 4);
    }

    #[test]
    fn a_reason_is_said_once_a_second() {
        let strangers = Strangers::new(16);
        let now = clock::now();
        assert_eq!(strangers.may_say("a", now), Some(0));
        assert_eq!(strangers.may_say("a", now), None);
        assert_eq!(strangers.may_say("a", now + LINE_EVERY / 2), None);
        assert_eq!(strangers.may_say("b", now), Some(0), "another reason is another line");
        assert_eq!(strangers.may_say("a", now + LINE_EVERY), Some(2));
    }
}
