//! Counters. Each worker owns a [`Shard`] and is the only one that writes it; scrapes and reports read all of them.
//! Every label takes its values from a closed set, so nobody who calls can make a series.
//!
//! # Why
//! A plain load and store on an atomic that only one thread writes costs 0.3 ns where a locked add costs 5, and merging
//! on scrape costs nobody but the scraper.

use crate::connections::Direction;
use crate::observe::edges::{Edge, EdgeKey, Retired, Table};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A counter that one thread writes.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value.
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted by words of closed sets and happens rarely: refusals and failures.
type Reasons = BTreeMap<(&'static str, &'static str), u64>;

/// All counters of one worker (and one more shard for the control thread).
#[derive(Debug, Default)]
pub(crate) struct Shard {
    edges: Mutex<Table>,
    refusals: Mutex<Reasons>,
    handshakes: Mutex<Reasons>,
    audited: Mutex<Reasons>,
    dropped: Mutex<Reasons>,
    /// Connections accepted: inbound mesh, inbound plaintext, outbound.
    pub(crate) connections: [Counter; 3],
    /// Sessions accepted that carry many streams.
    pub(crate) sessions: Counter,
    /// Open inbound connections.
    pub(crate) inbound_open: AtomicU64,
    /// Open outbound connections.
    pub(crate) outbound_open: AtomicU64,
    /// Tasks that ended by a bug.
    pub(crate) panics: AtomicU64,
}

impl Shard {
    /// The edge's counters.
    pub(crate) fn edge(&self, key: EdgeKey) -> Arc<Edge> {
        self.table().edge(key)
    }

    /// The edges that are kept, for reports.
    pub(crate) fn edges(&self) -> Vec<Arc<Edge>> {
        self.table().live()
    }

    /// Everything that was ever counted by edges, once, for sums.
    pub(crate) fn counted(&self) -> Vec<Arc<Edge>> {
        self.table().counted()
    }

    /// Lets an edge go that nobody holds.
    pub(crate) fn retire(&self, key: &EdgeKey) -> Retired {
        self.table().retire(key)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more refused request or connection.
    pub(crate) fn refused(&self, direction: Direction, reason: &'static str) {
        bump(&self.refusals, (direction.as_str(), reason));
    }

    /// One more failed handshake.
    pub(crate) fn handshake_failed(&self, direction: Direction, reason: &'static str) {
        bump(&self.handshakes, (direction.as_str(), reason));
    }

    /// One more that an audit-mode policy or limit would have refused.
    pub(crate) fn audited(&self, reason: &'static str) {
        bump(&self.audited, ("", reason));
    }

    /// One more that a full queue did not take.
    pub(crate) fn dropped(&self, queue: &'static str) {
        bump(&self.dropped, ("", queue));
    }

    /// Refusals by direction and reason.
    pub(crate) fn refusals(&self) -> Reasons {
        read(&self.refusals)
    }

    /// Failed handshakes by direction and reason.
    pub(crate) fn handshakes(&self) -> Reasons {
        read(&self.handshakes)
    }

    /// Audited refusals by reason.
    pub(crate) fn audits(&self) -> Reasons {
        read(&self.audited)
    }

    /// Drops by queue.
    pub(crate) fn drops(&self) -> Reasons {
        read(&self.dropped)
    }
}

fn bump(reasons: &Mutex<Reasons>, key: (&'static str, &'static str)) {
    let mut reasons = reasons.lock().unwrap_or_else(PoisonError::into_inner);
    let count = reasons.entry(key).or_insert(0);
    *count = count.saturating_add(1);
}

fn read(reasons: &Mutex<Reasons>) -> Reasons {
    reasons.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Which of [`Shard::connections`] a connection counts into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ConnectionKind {
    /// Mesh TLS from a peer.
    InboundMesh,
    /// Plaintext from an unmeshed peer.
    InboundPlain,
    /// From the workload.
    Outbound,
}

/// Counts an open connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenGuard {
    shard: Arc<Shard>,
    direction: Direction,
}

impl OpenGuard {
    /// One more open connection.
    pub(crate) fn new(shard: &Arc<Shard>, direction: Direction) -> Self {
        let guard = Self { shard: Arc::clone(shard), direction };
        guard.gauge().fetch_add(1, Ordering::Relaxed);
        guard
    }

    /// How many are open in this direction, this one included.
    pub(crate) fn open(&self) -> u64 {
        self.gauge().load(Ordering::Relaxed)
    }

    fn gauge(&self) -> &AtomicU64 {
        match self.direction {
            Direction::Inbound => &self.shard.inbound_open,
            Direction::Outbound => &self.shard.outbound_open,
        }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.gauge().fetch_sub(1, Ordering::Relaxed);
    }
}
