//! Who called whom, and what was decided: totals of all edges, the last decisions by id, security events.
//!
//! Proxies report here about once a second; `admin` reads for `meshctl edges` and `meshctl explain <id>`. Everything is
//! bounded and in memory: a restart begins anew. It never influences a decision.
//!
//! A proxy may speak only for itself: of an inbound edge the destination must be the reporter, of an outbound one the
//! source, and of a decision see [`decisions`]. What claims otherwise is dropped and counted, and [`Traffic::add`] says
//! so, for the audit log. No identity can take the room of the others.

mod decisions;

pub(crate) use decisions::Found;

use decisions::{Decisions, Taken};
use mesh_proto::ops::histogram;
use mesh_proto::ops::metrics::ReportFault;
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Edges kept; one takes about 1 KiB with its histogram. What comes after is counted as overflow, never stored.
const EDGES_MAX: usize = 20_000;
/// Edges kept of what one identity reports, all its instances together: it calls or is called by some hundreds.
const EDGES_EACH_MAX: usize = 2_000;
/// Security events kept.
const EVENTS_MAX: usize = 1_000;
/// Security events kept of one identity.
const EVENTS_EACH_MAX: usize = 100;
/// Edges looked at in one report; a proxy sends fewer than a hundred.
const REPORT_EDGES_MAX: usize = 2_000;
/// Decisions looked at in one report: as many as a proxy ever sends.
const REPORT_DECISIONS_MAX: usize = 500;
/// Security events looked at in one report: as many as a proxy ever sends.
const REPORT_EVENTS_MAX: usize = 100;
/// Bytes kept of any text in a report. A SPIFFE ID may have 2,048.
const TEXT_BYTES_MAX: usize = 2_048;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct EdgeKey {
    outbound: bool,
    source: String,
    destination: String,
    service: String,
    port: u32,
    protocol: String,
}

#[derive(Clone, Debug, Default)]
struct Totals {
    stats: v1::EdgeStats,
    latency: BTreeMap<u32, u64>,
    last_seen_ms: u64,
}

#[derive(Debug, Default)]
struct State {
    edges: BTreeMap<EdgeKey, Totals>,
    /// How many of them each identity has reported.
    edges_of: HashMap<String, usize>,
    decisions: Decisions,
    events: VecDeque<Arc<Event>>,
    dropped: Dropped,
}

/// What was not kept, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Edges for which there was no room.
    pub(crate) edges: u64,
    /// Decisions that a proxy could not send.
    pub(crate) decisions: u64,
    /// Entries in which a proxy spoke for somebody else.
    pub(crate) foreign: u64,
    /// Decisions under an id that is another proxy's.
    pub(crate) forged: u64,
}

/// What one report brought.
#[derive(Debug, Default)]
pub(crate) struct Added {
    /// Its security events, cut to size, for the log.
    pub(crate) events: Vec<Arc<Event>>,
    /// Its edges that are about the reporter itself, cut to size, whether or not there was room for them here.
    pub(crate) edges: Vec<v1::EdgeStats>,
    /// Its decisions that are about the reporter itself, cut to size.
    pub(crate) decisions: Vec<v1::Decision>,
    /// What a proxy cannot honestly have sent, with how often: by fault and by who did it.
    pub(crate) faults: BTreeMap<(ReportFault, String), u64>,
}

impl Added {
    fn fault(&mut self, fault: ReportFault, by: &str) {
        let count = self.faults.entry((fault, by.to_owned())).or_default();
        *count = count.saturating_add(1);
    }
}

/// A security event with who reported it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// The reporting identity.
    pub(crate) id: String,
    /// The reporting instance.
    pub(crate) reporter: String,
    /// What happened.
    pub(crate) event: v1::SecurityEvent,
}

/// Who sends a report, proven by its certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reporter<'a> {
    /// Its identity.
    pub(crate) id: &'a str,
    /// Its instance.
    pub(crate) instance: &'a str,
}

impl fmt::Display for Reporter<'_> {
    /// As the audit log has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, instance } = self;
        write!(f, "{id} ({instance})")
    }
}

/// Which decisions are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    /// All that are kept.
    All,
    /// Refusals only.
    Refused,
}

/// The tables.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    state: Mutex<State>,
}

impl Traffic {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic while holding it would leave at worst one half-added report.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one report, of which only so much is looked at as an honest proxy sends.
    pub(crate) fn add(&self, from: Reporter<'_>, report: v1::ProxyReport, now_ms: u64) -> Added {
        let v1::ProxyReport { edges, decisions, decisions_dropped, events } = report;
        let mut added = Added::default();
        let mut state = self.state();
        state.dropped.decisions = state.dropped.decisions.saturating_add(decisions_dropped);
        for edge in edges.into_iter().take(REPORT_EDGES_MAX) {
            if let Some(fault) = state.add_edge(from, edge, now_ms, &mut added.edges) {
                added.fault(fault, &from.to_string());
            }
        }
        for decision in decisions.into_iter().take(REPORT_DECISIONS_MAX) {
            state.add_decision(from, decision, &mut added);
        }
        for event in events.into_iter().take(REPORT_EVENTS_MAX) {
            added.events.push(state.add_event(from, event));
        }
        added
    }

    /// All edges with their totals, in the order of their names.
    pub(crate) fn edges(&self) -> Vec<v1::Edge> {
        let state = self.state();
        let edge = |totals: &Totals| {
            let buckets: Vec<(u32, u64)> =
                totals.latency.iter().map(|(index, count)| (*index, *count)).collect();
            let mut stats = totals.stats.clone();
            stats.latency_us = buckets.iter().map(|&(index, count)| v1::Bucket { index, count }).collect();
            v1::Edge {
                stats: Some(stats),
                last_seen_ms: totals.last_seen_ms,
                p50_us: histogram::quantile(&buckets, 0.5),
                p99_us: histogram::quantile(&buckets, 0.99),
            }
        };
        state.edges.values().map(edge).collect()
    }

    /// The newest decisions first.
    pub(crate) fn decisions(&self, limit: usize, which: Which) -> Vec<v1::Decision> {
        self.state().decisions.newest(limit, which)
    }

    /// One decision, if it is still kept.
    pub(crate) fn decision(&self, id: &str) -> Option<Found> {
        self.state().decisions.find(id)
    }

    /// Security events since a time, oldest first.
    pub(crate) fn events_since(&self, since_ms: u64) -> Vec<Arc<Event>> {
        self.state().events.iter().filter(|event| event.event.time_ms >= since_ms).cloned().collect()
    }

    /// What was not kept.
    pub(crate) fn dropped(&self) -> Dropped {
        self.state().dropped
    }
}

impl State {
    fn add_edge(
        &mut self,
        from: Reporter<'_>,
        mut edge: v1::EdgeStats,
        now_ms: u64,
        taken: &mut Vec<v1::EdgeStats>,
    ) -> Option<ReportFault> {
        let outbound = edge.direction == v1::Direction::Outbound as i32;
        let own = if outbound { &edge.source } else { &edge.destination };
        if own != from.id {
            self.dropped.foreign = self.dropped.foreign.saturating_add(1);
            return Some(ReportFault::Foreign);
        }
        for text in [
            &mut edge.source,
            &mut edge.destination,
            &mut edge.service,
            &mut edge.protocol,
            &mut edge.tls_version,
            &mut edge.key_exchange,
            &mut edge.last_reason,
            &mut edge.last_rule,
        ] {
            cut(text);
        }
        taken.push(edge.clone());
        let key = EdgeKey {
            outbound,
            source: edge.source.clone(),
            destination: edge.destination.clone(),
            service: edge.service.clone(),
            port: edge.port,
            protocol: edge.protocol.clone(),
        };
        if !self.edges.contains_key(&key) {
            let own = self.edges_of.get(from.id).copied().unwrap_or_default();
            if self.edges.len() >= EDGES_MAX || own >= EDGES_EACH_MAX {
                self.dropped.edges = self.dropped.edges.saturating_add(1);
                return Some(ReportFault::NoRoom);
            }
            self.edges_of.insert(from.id.to_owned(), own.saturating_add(1));
        }
        self.edges.entry(key).or_default().add(edge, now_ms);
        None
    }

    fn add_event(&mut self, from: Reporter<'_>, mut event: v1::SecurityEvent) -> Arc<Event> {
        for text in [&mut event.kind, &mut event.peer, &mut event.detail] {
            cut(text);
        }
        let event = Arc::new(Event { id: from.id.to_owned(), reporter: from.instance.to_owned(), event });
        let is_own = |known: &&Arc<Event>| known.id == from.id;
        if self.events.iter().filter(is_own).count() >= EVENTS_EACH_MAX {
            let oldest = self.events.iter().position(|known| is_own(&known));
            oldest.and_then(|at| self.events.remove(at));
        } else if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
        event
    }

    fn add_decision(&mut self, from: Reporter<'_>, mut decision: v1::Decision, added: &mut Added) {
        for text in [
            &mut decision.id,
            &mut decision.source,
            &mut decision.source_instance,
            &mut decision.source_ip,
            &mut decision.destination,
            &mut decision.destination_instance,
            &mut decision.protocol,
            &mut decision.sni,
            &mut decision.host,
            &mut decision.method,
            &mut decision.path,
            &mut decision.reason,
            &mut decision.rule,
        ] {
            cut(text);
        }
        // A cut list keeps the room it had, and ten thousand of them are kept.
        decision.header_names.truncate(HEADER_NAMES_MAX);
        decision.header_names.shrink_to_fit();
        decision.header_names.iter_mut().for_each(|name| cut_to(name, HEADER_NAME_BYTES_MAX));
        let copy = decision.clone();
        match self.decisions.add(from, decision) {
            Taken::Kept => added.decisions.push(copy),
            Taken::Foreign => {
                self.dropped.foreign = self.dropped.foreign.saturating_add(1);
                added.fault(ReportFault::Foreign, &from.to_string());
            }
            Taken::Forged(by) => {
                self.dropped.forged = self.dropped.forged.saturating_add(1);
                added.fault(ReportFault::Forged, &by);
            }
            Taken::Contested(other) => {
                self.dropped.forged = self.dropped.forged.saturating_add(1);
                added.fault(ReportFault::Forged, &format!("{from} or {other}"));
            }
        }
    }
}

impl Totals {
    fn add(&mut self, edge: v1::EdgeStats, now_ms: u64) {
        let v1::EdgeStats {
            direction,
            source,
            destination,
            service,
            port,
            protocol,
            tls_version,
            key_exchange,
            allowed,
            denied,
            limited,
            failed,
            errors,
            bytes_in,
            bytes_out,
            latency_us,
            last_reason,
            last_rule,
        } = edge;
        for bucket in latency_us.into_iter().filter(|bucket| bucket.index < histogram::BUCKETS) {
            let count = self.latency.entry(bucket.index).or_default();
            *count = count.saturating_add(bucket.count);
        }
        let old = std::mem::take(&mut self.stats);
        let later = |new: String, old: String| if new.is_empty() { old } else { new };
        self.stats = v1::EdgeStats {
            direction,
            source,
            destination,
            service,
            port,
            protocol,
            tls_version: later(tls_version, old.tls_version),
            key_exchange: later(key_exchange, old.key_exchange),
            allowed: old.allowed.saturating_add(allowed),
            denied: old.denied.saturating_add(denied),
            limited: old.limited.saturating_add(limited),
            failed: old.failed.saturating_add(failed),
            errors: old.errors.saturating_add(errors),
            bytes_in: old.bytes_in.saturating_add(bytes_in),
            bytes_out: old.bytes_out.saturating_add(bytes_out),
            latency_us: Vec::new(),
            last_reason: later(last_reason, old.last_reason),
            last_rule: later(last_rule, old.last_rule),
        };
        self.last_seen_ms = self.last_seen_ms.max(now_ms);
    }
}

/// Cuts a text at [`TEXT_BYTES_MAX`], on a character's border.
fn cut(text: &mut String) {
    cut_to(text, TEXT_BYTES_MAX);
}

/// Cuts a text on a character's border and gives back the room it had beyond that.
fn cut_to(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
    text.shrink_to_fit();
}

/// Names of judged fields that a decision keeps; a policy judges a handful.
const HEADER_NAMES_MAX: usize = 32;
/// The longest such name that is kept.
const HEADER_NAME_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests;
