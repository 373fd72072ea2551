//! The edges of one worker: who talked to whom through which service, in a table that cannot grow without end.
//!
//! An edge is looked up once for each connection ([`Table::edge`]), not for each request. There are never more than
//! [`EDGES_MAX`]; what comes when the table is full is counted on an edge whose other side is called [`OVERFLOW`]. An
//! edge that nobody counts on any more leaves the table ([`Table::retire`]) when `report` has told of all of it.
//!
//! # Why
//! No sum may ever go backwards: whoever scrapes would take it for a restart and count everything twice. So what leaves
//! is added, in the same instant, to a sum of its direction and protocol, the only labels that metrics take of an edge;
//! and an edge that somebody holds, be it a scrape, does not leave. Counters in the table without an `Arc` were the
//! alternative; then each request locks it.

use crate::connections::Direction;
use crate::observe::Outcome;
use crate::observe::metrics::Counter;
use mesh_proto::ops::histogram;
use mesh_proto::ops::metrics::ResponseClass;
use mesh_proto::policy::model::Protocol;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most edges of a worker; 2.6 KiB each. Beyond, all others are counted as one for each direction and protocol.
pub(crate) const EDGES_MAX: usize = 1_000;
/// What the other side of that one and its service are called.
pub(crate) const OVERFLOW: &str = "others";

/// What every caller without an identity is called: an address costs its owner nothing, so it names no edge. Records of
/// decisions have it.
pub(crate) const UNMESHED: &str = "unmeshed";

/// Who talked to whom through which service.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct EdgeKey {
    /// Inbound or outbound.
    pub(crate) direction: Direction,
    /// SPIFFE ID, or [`UNMESHED`].
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

    /// Adds what another has counted. Nobody else may write this one.
    fn absorb(&self, other: &Self) {
        let own = self.counts.iter().flatten().chain(&self.latency);
        for (own, other) in own.zip(other.counts.iter().flatten().chain(&other.latency)) {
            own.add(other.value());
        }
        self.bytes_in.add(other.bytes_in.value());
        self.bytes_out.add(other.bytes_out.value());
        self.latency_us_sum.add(other.latency_us_sum.value());
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

/// Edges with their counters.
#[derive(Debug, Default)]
pub(crate) struct Table {
    live: HashMap<EdgeKey, Arc<Edge>>,
    /// The sums of what has left. A protocol has two of them at most.
    gone: HashMap<(Direction, Protocol), Arc<Edge>>,
}

/// What became of an edge that should leave.
#[derive(Debug)]
pub(crate) enum Retired {
    /// It has left; these are its last counts.
    Gone(Arc<Edge>),
    /// Somebody still holds it, so it stays.
    Held(Arc<Edge>),
    /// It was not there.
    Absent,
}

impl Table {
    /// The edge's counters; the same ones for the same key, as long as somebody holds them.
    pub(crate) fn edge(&mut self, key: EdgeKey) -> Arc<Edge> {
        if let Some(edge) = self.live.get(&key) {
            return Arc::clone(edge);
        }
        let key = if self.live.len() < EDGES_MAX { key } else { overflow(key) };
        Arc::clone(self.live.entry(key.clone()).or_insert_with(|| Edge::new(key)))
    }

    /// All that are in the table.
    pub(crate) fn live(&self) -> Vec<Arc<Edge>> {
        self.live.values().cloned().collect()
    }

    /// Those and the sums of what has left: everything ever counted, once.
    pub(crate) fn counted(&self) -> Vec<Arc<Edge>> {
        self.live.values().chain(self.gone.values()).cloned().collect()
    }

    /// Takes an edge out of the table, unless somebody holds it.
    pub(crate) fn retire(&mut self, key: &EdgeKey) -> Retired {
        let Some(edge) = self.live.get_mut(key) else { return Retired::Absent };
        // Nobody can get hold of it meanwhile, since the table is ours; and what its last holder counted is seen.
        if Arc::get_mut(edge).is_none() {
            return Retired::Held(Arc::clone(edge));
        }
        let Some(edge) = self.live.remove(key) else { return Retired::Absent };
        let sum = self.gone.entry((key.direction, key.protocol));
        sum.or_insert_with(|| Edge::new(nobody(key))).absorb(&edge);
        Retired::Gone(edge)
    }
}

/// The edge that counts what finds no room. Its own side stays, since a proxy reports of itself alone.
fn overflow(key: EdgeKey) -> EdgeKey {
    let EdgeKey {
        direction,
        source,
        destination,
        service: _,
        port: _,
        protocol,
        tls_version: _,
        key_exchange: _,
    } = key;
    let (source, destination) = match direction {
        Direction::Inbound => (OVERFLOW.into(), destination),
        Direction::Outbound => (source, OVERFLOW.into()),
    };
    EdgeKey { source, destination, service: OVERFLOW.into(), ..blank(direction, protocol) }
}

/// What the sum of those who left is called, which no report ever shows.
fn nobody(key: &EdgeKey) -> EdgeKey {
    blank(key.direction, key.protocol)
}

fn blank(direction: Direction, protocol: Protocol) -> EdgeKey {
    EdgeKey {
        direction,
        source: "".into(),
        destination: "".into(),
        service: "".into(),
        port: 0,
        protocol,
        tls_version: "",
        key_exchange: "",
    }
}

#[cfg(test)]
mod tests;
