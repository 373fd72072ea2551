//! Who called whom, and what was decided: totals of all edges, the last decisions by id, security events.
//!
//! Proxies report here about once a second; `admin` reads for `meshctl edges` and `meshctl explain <id>`. Everything is
//! bounded and in memory: a restart begins anew. It never influences a decision.
//!
//! A proxy may speak only for itself: of an inbound edge the destination must be the reporter, of an outbound one the
//! source. What claims otherwise is dropped and counted.

use mesh_proto::ops::histogram;
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Edges kept; one takes about 1 KiB with its histogram. What comes after is counted as overflow, never stored.
const EDGES_MAX: usize = 20_000;
/// Decisions kept for `explain`; one takes about 0.5 KiB.
const DECISIONS_MAX: usize = 10_000;
/// Security events kept.
const EVENTS_MAX: usize = 1_000;
/// Edges, decisions and events looked at in one report; a proxy sends fewer than a hundred of each.
const REPORT_ENTRIES_MAX: usize = 2_000;
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
    decisions: VecDeque<Arc<v1::Decision>>,
    by_id: HashMap<String, Arc<v1::Decision>>,
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
}

/// A security event with who reported it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
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

    /// Adds one report. Returns its security events, cut to size, for the log.
    pub(crate) fn add(&self, from: Reporter<'_>, report: v1::ProxyReport, now_ms: u64) -> Vec<Arc<Event>> {
        let v1::ProxyReport { edges, decisions, decisions_dropped, events } = report;
        let mut state = self.state();
        state.dropped.decisions = state.dropped.decisions.saturating_add(decisions_dropped);
        for edge in edges.into_iter().take(REPORT_ENTRIES_MAX) {
            state.add_edge(from, edge, now_ms);
        }
        for decision in decisions.into_iter().take(REPORT_ENTRIES_MAX) {
            state.add_decision(from, decision);
        }
        let mut added = Vec::new();
        for mut event in events.into_iter().take(REPORT_ENTRIES_MAX) {
            for text in [&mut event.kind, &mut event.peer, &mut event.detail] {
                cut(text);
            }
            let event = Arc::new(Event { reporter: from.instance.to_owned(), event });
            if state.events.len() >= EVENTS_MAX {
                state.events.pop_front();
            }
            state.events.push_back(event.clone());
            added.push(event);
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
        let state = self.state();
        let wanted = state.decisions.iter().rev().filter(|decision| which == Which::All || !decision.allowed);
        wanted.take(limit).map(|decision| (**decision).clone()).collect()
    }

    /// One decision, if it is still kept.
    pub(crate) fn decision(&self, id: &str) -> Option<Arc<v1::Decision>> {
        self.state().by_id.get(id).cloned()
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
    fn add_edge(&mut self, from: Reporter<'_>, mut edge: v1::EdgeStats, now_ms: u64) {
        let outbound = edge.direction == v1::Direction::Outbound as i32;
        let own = if outbound { &edge.source } else { &edge.destination };
        if own != from.id {
            self.dropped.foreign = self.dropped.foreign.saturating_add(1);
            return;
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
        let key = EdgeKey {
            outbound,
            source: edge.source.clone(),
            destination: edge.destination.clone(),
            service: edge.service.clone(),
            port: edge.port,
            protocol: edge.protocol.clone(),
        };
        if self.edges.len() >= EDGES_MAX && !self.edges.contains_key(&key) {
            self.dropped.edges = self.dropped.edges.saturating_add(1);
            return;
        }
        self.edges.entry(key).or_default().add(edge, now_ms);
    }

    fn add_decision(&mut self, from: Reporter<'_>, mut decision: v1::Decision) {
        if decision.destination != from.id && decision.source != from.id {
            self.dropped.foreign = self.dropped.foreign.saturating_add(1);
            return;
        }
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
        if decision.id.is_empty() || self.by_id.contains_key(&decision.id) {
            return;
        }
        if self.decisions.len() >= DECISIONS_MAX
            && let Some(oldest) = self.decisions.pop_front()
        {
            self.by_id.remove(&oldest.id);
        }
        let decision = Arc::new(decision);
        self.by_id.insert(decision.id.clone(), decision.clone());
        self.decisions.push_back(decision);
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
mod tests {
    use super::*;

    const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
    const PAY: &str = "spiffe://mesh.local/ns/shop/sa/payments";
    const FROM: Reporter<'_> = Reporter { id: PAY, instance: "payments-1" };

    #[test]
    fn what_was_cut_off_a_text_is_given_back() {
        let mut text = String::with_capacity(1 << 20);
        text.push_str(&"ä".repeat(5_000));
        cut_to(&mut text, HEADER_NAME_BYTES_MAX);
        assert_eq!((text.len(), text.capacity() < 2 * HEADER_NAME_BYTES_MAX), (HEADER_NAME_BYTES_MAX, true));
    }

    fn edge(source: &str, destination: &str) -> v1::EdgeStats {
        v1::EdgeStats {
            source: source.into(),
            destination: destination.into(),
            allowed: 2,
            latency_us: vec![v1::Bucket { index: 8, count: 2 }],
            ..Default::default()
        }
    }

    fn decision(id: &str) -> v1::Decision {
        v1::Decision { id: id.into(), source: WEB.into(), destination: PAY.into(), ..Default::default() }
    }

    #[test]
    fn reports_of_one_edge_add_up() {
        let traffic = Traffic::default();
        for now in [5, 9] {
            traffic.add(FROM, v1::ProxyReport { edges: vec![edge(WEB, PAY)], ..Default::default() }, now);
        }
        let edges = traffic.edges();
        assert_eq!(edges.len(), 1, "{edges:?}");
        let stats = edges[0].stats.as_ref().unwrap();
        assert_eq!((stats.allowed, edges[0].last_seen_ms), (4, 9));
        assert_eq!(stats.latency_us, [v1::Bucket { index: 8, count: 4 }]);
    }

    #[test]
    fn a_proxy_cannot_speak_for_others() {
        let traffic = Traffic::default();
        let lie = v1::Decision { destination: WEB.into(), source: WEB.into(), ..decision("x") };
        let report =
            v1::ProxyReport { edges: vec![edge(PAY, WEB)], decisions: vec![lie], ..Default::default() };
        traffic.add(FROM, report, 1);
        assert!(traffic.edges().is_empty() && traffic.decision("x").is_none());
        assert_eq!(traffic.dropped().foreign, 2);
    }

    #[test]
    fn the_oldest_decision_makes_room() {
        let traffic = Traffic::default();
        for n in 0..=DECISIONS_MAX {
            let report = v1::ProxyReport { decisions: vec![decision(&n.to_string())], ..Default::default() };
            traffic.add(FROM, report, 1);
        }
        assert!(traffic.decision("0").is_none());
        assert!(traffic.decision("1").is_some());
        assert_eq!(traffic.decisions(1, Which::Refused)[0].id, DECISIONS_MAX.to_string());
    }

    #[test]
    fn long_texts_are_cut_on_a_character() {
        let mut text = "ä".repeat(TEXT_BYTES_MAX);
        cut(&mut text);
        assert_eq!(text.len(), TEXT_BYTES_MAX);
    }
}
