//! Reports to the control plane about each second, and the writing of the access log. Runs on the control thread.

use crate::clock;
use crate::connections::Direction;
use crate::observe::access_log::AccessLog;
use crate::observe::edges::Retired;
use crate::observe::record::Worth;
use crate::observe::trace::export;
use crate::observe::{Edge, EdgeKey, Outcome, Record, Shard};
use mesh_proto::ops::metrics::ResponseClass;
use mesh_proto::wire::v1;
use opentelemetry_sdk::trace::SpanData;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// An edge on which nothing was counted for so long is let go, once all of it is told.
const IDLE: Duration = Duration::from_secs(600);
/// Edges in one report; the rest is told by the next. Half of what the control plane looks at.
const EDGES_MAX: usize = 1_000;
/// How often the access log is written and a report is made.
const EVERY: Duration = Duration::from_secs(1);
/// Decisions in one report; the rest is counted as dropped.
pub(crate) const DECISIONS_MAX: usize = 500;
/// Security events of different kinds and peers in one report.
const EVENTS_MAX: usize = 100;
/// Reports that wait for the control plane. Older ones give way to nobody: a full queue drops the new one, and what it
/// counted stays in the counters for the next.
pub(crate) const REPORTS_MAX: usize = 4;

/// Collects from all workers.
pub(crate) struct Reporter {
    shards: Vec<Arc<Shard>>,
    told: HashMap<EdgeKey, Told>,
    log: AccessLog,
    reports: mpsc::Sender<v1::ProxyReport>,
    traces: mpsc::Sender<Vec<SpanData>>,
    own: Arc<Shard>,
    reasons_sent: HashMap<(&'static str, &'static str, &'static str), u64>,
}

/// What the control plane has been told of an edge.
struct Told {
    sums: Sums,
    /// When something new was last seen.
    changed: Instant,
}

/// What an edge has counted, summed over all workers.
#[derive(Clone, Default)]
struct Sums {
    outcomes: [u64; Outcome::ALL.len()],
    errors: u64,
    bytes_in: u64,
    bytes_out: u64,
    latency: HashMap<u32, u64>,
}

impl Reporter {
    /// `own` is the shard that losses are counted into.
    pub(crate) fn new(
        shards: Vec<Arc<Shard>>,
        own: Arc<Shard>,
        log: AccessLog,
        (reports, traces): (mpsc::Sender<v1::ProxyReport>, mpsc::Sender<Vec<SpanData>>),
    ) -> Self {
        Self { shards, told: HashMap::new(), log, reports, traces, own, reasons_sent: HashMap::new() }
    }

    /// Writes and reports until `drained`, then once more: what was recorded until then is in the last report.
    pub(crate) async fn run(mut self, mut records: mpsc::Receiver<Record>, drained: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Both branches are cancel safe.
            let ends = tokio::select! {
                () = drained.cancelled() => true,
                _ = ticks.tick() => false,
            };
            self.round(&mut records, clock::now());
            if ends {
                return;
            }
        }
    }

    fn round(&mut self, records: &mut mpsc::Receiver<Record>, now: Instant) {
        let mut batch = Vec::new();
        while let Ok(record) = records.try_recv() {
            batch.push(record);
        }
        for _ in 0..self.log.write(&batch) {
            self.own.dropped("access_log");
        }
        self.trace(&batch);
        // What was sampled for its trace comes last: of too many it is what is left out.
        batch.sort_by_key(|record| record.worth == Worth::Span);
        let Ok(place) = self.reports.clone().try_reserve_owned() else {
            if !batch.is_empty() {
                self.own.dropped("reports");
            }
            return;
        };
        let report = self.report(batch, now);
        let is_empty = report.edges.is_empty() && report.decisions.is_empty() && report.events.is_empty();
        if !is_empty {
            place.send(report);
        }
    }

    /// Hands spans to the exporter; what it has no room for is counted.
    fn trace(&self, records: &[Record]) {
        let spans: Vec<SpanData> = records.iter().filter_map(export::span).collect();
        for batch in spans.chunks(export::BATCH_MAX) {
            if self.traces.try_send(batch.to_vec()).is_err() {
                batch.iter().for_each(|_| self.own.dropped("traces"));
            }
        }
    }

    fn report(&mut self, mut records: Vec<Record>, now: Instant) -> v1::ProxyReport {
        let lines = records.iter().filter(|record| record.worth == Worth::Line).count();
        let dropped = lines.saturating_sub(DECISIONS_MAX);
        records.truncate(DECISIONS_MAX);
        v1::ProxyReport {
            edges: self.edges(now),
            decisions: records.into_iter().map(decision).collect(),
            decisions_dropped: u64::try_from(dropped).unwrap_or(u64::MAX),
            events: self.events(),
        }
    }

    fn edges(&mut self, now: Instant) -> Vec<v1::EdgeStats> {
        let mut by_key: HashMap<EdgeKey, Vec<Arc<Edge>>> = HashMap::new();
        for edge in self.shards.iter().flat_map(|shard| shard.edges()) {
            by_key.entry(edge.key.clone()).or_default().push(edge);
        }
        let mut changed = Vec::new();
        let mut idle = Vec::new();
        for (key, edges) in by_key {
            if changed.len() >= EDGES_MAX {
                break;
            }
            let sums = Sums::of(&edges);
            let told = Told { sums: Sums::default(), changed: now };
            let told = self.told.entry(key.clone()).or_insert(told);
            if let Some(stats) = difference(&key, &told.sums, &sums, &edges) {
                *told = Told { sums, changed: now };
                changed.push(stats);
            } else if now.saturating_duration_since(told.changed) >= IDLE {
                told.changed = now;
                idle.push(key);
            }
        }
        changed.extend(idle.iter().filter_map(|key| self.retire(key)));
        changed
    }

    /// Lets go of an edge wherever nobody holds it; returns what was counted meanwhile.
    fn retire(&mut self, key: &EdgeKey) -> Option<v1::EdgeStats> {
        let (mut gone, mut held) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            match shard.retire(key) {
                Retired::Gone(edge) => gone.push(edge),
                Retired::Held(edge) => held.push(edge),
                Retired::Absent => {}
            }
        }
        let told = self.told.remove(key)?;
        let kept = Sums::of(&held);
        let mut sums = Sums::of(&gone);
        sums.add(&kept);
        if !held.is_empty() {
            self.told.insert(key.clone(), Told { sums: kept, changed: told.changed });
        }
        gone.extend(held);
        difference(key, &told.sums, &sums, &gone)
    }

    /// Handshakes that failed and plaintext that was refused: counted by reason, for who watches over the mesh.
    fn events(&mut self) -> Vec<v1::SecurityEvent> {
        let mut totals: HashMap<(&'static str, &'static str, &'static str), u64> = HashMap::new();
        for shard in &self.shards {
            for ((direction, reason), count) in shard.handshakes() {
                *totals.entry(("handshake", direction, reason)).or_default() += count;
            }
            for ((direction, reason), count) in shard.refusals() {
                if reason == "plaintext_refused" {
                    *totals.entry(("plaintext", direction, reason)).or_default() += count;
                }
            }
        }
        let mut events = Vec::new();
        for (key, count) in totals {
            let before = self.reasons_sent.insert(key, count).unwrap_or(0);
            if count > before && events.len() < EVENTS_MAX {
                let (kind, direction, reason) = key;
                events.push(v1::SecurityEvent {
                    time_ms: clock::unix_ms(),
                    kind: if kind == "plaintext" { kind } else { reason }.to_owned(),
                    peer: String::new(),
                    detail: format!("{direction} {kind}: {reason}"),
                    count: count.saturating_sub(before),
                });
            }
        }
        events
    }
}

impl Sums {
    fn of(edges: &[Arc<Edge>]) -> Self {
        let mut sums = Self::default();
        for edge in edges {
            sums.add(&Self {
                outcomes: Outcome::ALL.map(|outcome| edge.outcome(outcome)),
                errors: edge.count_of(Outcome::Allowed, ResponseClass::ServerError),
                bytes_in: edge.bytes_in.value(),
                bytes_out: edge.bytes_out.value(),
                latency: edge.latencies().collect(),
            });
        }
        sums
    }

    fn add(&mut self, other: &Self) {
        for (to, count) in self.outcomes.iter_mut().zip(other.outcomes) {
            *to = to.saturating_add(count);
        }
        self.errors = self.errors.saturating_add(other.errors);
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        for (bucket, count) in &other.latency {
            let sum = self.latency.entry(*bucket).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
}

/// What is new since the last report; `None` when nothing is.
fn difference(key: &EdgeKey, before: &Sums, now: &Sums, edges: &[Arc<Edge>]) -> Option<v1::EdgeStats> {
    let of = |outcome: Outcome| {
        let at = |sums: &Sums| sums.outcomes.get(outcome as usize).copied().unwrap_or(0);
        at(now).saturating_sub(at(before))
    };
    let bytes_in = now.bytes_in.saturating_sub(before.bytes_in);
    let bytes_out = now.bytes_out.saturating_sub(before.bytes_out);
    if Outcome::ALL.into_iter().all(|outcome| of(outcome) == 0) && bytes_in == 0 && bytes_out == 0 {
        return None;
    }
    let last = edges.iter().map(|edge| edge.last()).find(|(reason, _)| !reason.is_empty());
    let (last_reason, last_rule) = last.unwrap_or_default();
    let latency_us = now
        .latency
        .iter()
        .map(|(bucket, count)| {
            (*bucket, count.saturating_sub(before.latency.get(bucket).copied().unwrap_or(0)))
        })
        .filter(|(_, count)| *count > 0)
        .map(|(index, count)| v1::Bucket { index, count })
        .collect();
    Some(v1::EdgeStats {
        direction: match key.direction {
            Direction::Inbound => v1::Direction::Inbound.into(),
            Direction::Outbound => v1::Direction::Outbound.into(),
        },
        source: key.source.to_string(),
        destination: key.destination.to_string(),
        service: key.service.to_string(),
        port: key.port.into(),
        protocol: key.protocol.as_str().to_owned(),
        tls_version: key.tls_version.to_owned(),
        key_exchange: key.key_exchange.to_owned(),
        allowed: of(Outcome::Allowed),
        denied: of(Outcome::Denied).saturating_add(of(Outcome::Malformed)),
        limited: of(Outcome::Limited),
        failed: of(Outcome::Failed),
        errors: now.errors.saturating_sub(before.errors),
        bytes_in,
        bytes_out,
        latency_us,
        last_reason: last_reason.to_owned(),
        last_rule,
    })
}

fn decision(record: Record) -> v1::Decision {
    v1::Decision {
        id: record.id,
        time_ms: record.time_ms,
        source: record.source.to_string(),
        source_instance: record.source_instance,
        source_ip: record.source_ip,
        destination: record.destination.to_string(),
        destination_instance: record.destination_instance,
        port: record.port.into(),
        protocol: record.protocol.map_or("", |protocol| protocol.as_str()).to_owned(),
        sni: record.sni,
        host: record.host,
        method: record.method,
        path: record.path,
        allowed: record.outcome == Outcome::Allowed,
        reason: record.reason.to_owned(),
        rule: record.rule,
        revision: record.revision,
        header_names: record.header_names,
    }
}

#[cfg(test)]
mod tests;
