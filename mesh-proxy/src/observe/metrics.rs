//! Counters. Each worker owns a [`Shard`] and is the only one that writes it; scrapes and reports read all of them.
//!
//! # Why
//! A plain load and store on an atomic that only one thread writes costs 0.3 ns where a locked add costs 5, and merging
//! on scrape costs nobody but the scraper. Edges are looked up once for each connection, not for each request.

use crate::connections::Direction;
use crate::observe::Outcome;
use mesh_proto::ops::histogram;
use mesh_proto::ops::metrics::ResponseClass;
use mesh_proto::policy::model::Protocol;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most edges of a worker; 2.6 KiB each. Beyond, all others are counted as one.
pub(crate) const EDGES_MAX: usize = 1_000;
/// What the source and destination of that one are called.
pub(crate) const OVERFLOW: &str = "others";

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

/// Who talked to whom through which service.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct EdgeKey {
    /// Inbound or outbound.
    pub(crate) direction: Direction,
    /// SPIFFE ID, or `unmeshed:<ip>`.
    pub(crate) source: Arc<str>,
    /// SPIFFE ID of the callee; empty while none was reached.
    pub(crate) destination: Arc<str>,
    /// `namespace/name`.
    pub(crate) service: Arc<str>,
    /// The service's or workload's port.
    pub(crate) port: u16,
    /// What was spoken.
    pub(crate) protocol: Protocol,
    /// `TLSv1.3`, or empty.
    pub(crate) tls_version: &'static str,
    /// Group of the key exchange, or empty.
    pub(crate) key_exchange: &'static str,
}

/// Counters of one edge.
#[derive(Debug)]
pub(crate) struct Edge {
    /// Which edge.
    pub(crate) key: EdgeKey,
    /// By [`Outcome`] and [`ResponseClass`].
    counts: [[Counter; ResponseClass::ALL.len()]; Outcome::ALL.len()],
    /// From the caller.
    pub(crate) bytes_in: Counter,
    /// To the caller.
    pub(crate) bytes_out: Counter,
    latency: Box<[Counter]>,
    latency_us_sum: Counter,
    last: Mutex<(&'static str, String)>,
}

impl Edge {
    fn new(key: EdgeKey) -> Arc<Self> {
        let latency = (0..histogram::BUCKETS).map(|_| Counter::default()).collect();
        Arc::new(Self {
            key,
            counts: Default::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            latency,
            latency_us_sum: Counter::default(),
            last: Mutex::default(),
        })
    }

    /// Counts an allowed connection when it begins, so that one that lives for days is seen before it ends. Its end is
    /// told to [`Self::count_ended`].
    pub(crate) fn count_begun(&self) {
        self.add(Outcome::Allowed, ResponseClass::None);
    }

    /// Counts one request or connection. `status` is 0 where there is none.
    pub(crate) fn count(&self, outcome: Outcome, status: u16, latency: Duration) {
        self.add(outcome, ResponseClass::of_status(status));
        if outcome == Outcome::Allowed {
            self.count_ended(latency);
        }
    }

    /// Counts how long something allowed took.
    pub(crate) fn count_ended(&self, latency: Duration) {
        let us = crate::clock::micros(latency);
        let bucket = usize::try_from(histogram::index(us)).unwrap_or(usize::MAX);
        if let Some(counter) = self.latency.get(bucket) {
            counter.add(1);
        }
        self.latency_us_sum.add(us);
    }

    fn add(&self, outcome: Outcome, class: ResponseClass) {
        let classes = self.counts.get(outcome as usize);
        if let Some(counter) = classes.and_then(|classes| classes.get(class as usize)) {
            counter.add(1);
        }
    }

    /// Remembers the last refusal, for `meshctl edges`.
    pub(crate) fn set_last(&self, reason: &'static str, rule: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != reason || last.1 != rule {
            *last = (reason, rule.to_owned());
        }
    }

    /// The last refusal: reason and rule.
    pub(crate) fn last(&self) -> (&'static str, String) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many had this outcome.
    pub(crate) fn outcome(&self, outcome: Outcome) -> u64 {
        self.counts.get(outcome as usize).into_iter().flatten().map(Counter::value).sum()
    }

    /// How many had this outcome and an answer of this class.
    pub(crate) fn count_of(&self, outcome: Outcome, class: ResponseClass) -> u64 {
        let classes = self.counts.get(outcome as usize);
        classes.and_then(|classes| classes.get(class as usize)).map_or(0, Counter::value)
    }

    /// The latency histogram as (bucket, count), without empty buckets.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = (u32, u64)> {
        (0u32..).zip(self.latency.iter().map(Counter::value)).filter(|(_, count)| *count > 0)
    }

    /// Sum of all latencies, in microseconds.
    pub(crate) fn latency_us_sum(&self) -> u64 {
        self.latency_us_sum.value()
    }
}

/// What is counted by words of closed sets and happens rarely: refusals and failures.
type Reasons = BTreeMap<(&'static str, &'static str), u64>;

/// All counters of one worker (and one more shard for the control thread).
#[derive(Debug, Default)]
pub(crate) struct Shard {
    edges: Mutex<HashMap<EdgeKey, Arc<Edge>>>,
    refusals: Mutex<Reasons>,
    handshakes: Mutex<Reasons>,
    audited: Mutex<Reasons>,
    dropped: Mutex<Reasons>,
    /// Connections accepted: inbound mesh, inbound plaintext, outbound.
    pub(crate) connections: [Counter; 3],
    /// Open inbound connections.
    pub(crate) inbound_open: AtomicU64,
    /// Open outbound connections.
    pub(crate) outbound_open: AtomicU64,
    /// Tasks that ended by a bug.
    pub(crate) panics: AtomicU64,
}

impl Shard {
    /// The edge's counters; the same ones for the same key.
    pub(crate) fn edge(&self, key: EdgeKey) -> Arc<Edge> {
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(edge) = edges.get(&key) {
            return Arc::clone(edge);
        }
        let key = if edges.len() < EDGES_MAX {
            key
        } else {
            EdgeKey { source: OVERFLOW.into(), destination: OVERFLOW.into(), service: OVERFLOW.into(), ..key }
        };
        Arc::clone(edges.entry(key.clone()).or_insert_with(|| Edge::new(key)))
    }

    /// All edges so far.
    pub(crate) fn edges(&self) -> Vec<Arc<Edge>> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
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
