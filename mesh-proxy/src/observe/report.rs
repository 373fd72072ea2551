//! Reports to the control plane about each second, and the writing of the access log. Runs on the control thread.

use crate::clock;
use crate::connections::Direction;
use crate::observe::access_log::AccessLog;
use crate::observe::{Edge, EdgeKey, Outcome, Record, Shard};
use mesh_proto::ops::metrics::ResponseClass;
use mesh_proto::wire::v1;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

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
    sent: HashMap<EdgeKey, Sent>,
    log: AccessLog,
    reports: mpsc::Sender<v1::ProxyReport>,
    own: Arc<Shard>,
    reasons_sent: HashMap<(&'static str, &'static str, &'static str), u64>,
}

/// What the control plane has been told of an edge, summed over all workers.
#[derive(Clone, Default)]
struct Sent {
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
        reports: mpsc::Sender<v1::ProxyReport>,
    ) -> Self {
        Self { shards, sent: HashMap::new(), log, reports, own, reasons_sent: HashMap::new() }
    }

    /// Writes and reports until `shutdown`, then once more.
    pub(crate) async fn run(mut self, mut records: mpsc::Receiver<Record>, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Both branches are cancel safe.
            let ends = tokio::select! {
                () = shutdown.cancelled() => true,
                _ = ticks.tick() => false,
            };
            self.round(&mut records);
            if ends {
                return;
            }
        }
    }

    fn round(&mut self, records: &mut mpsc::Receiver<Record>) {
        let mut batch = Vec::new();
        while let Ok(record) = records.try_recv() {
            batch.push(record);
        }
        for _ in 0..self.log.write(&batch) {
            self.own.dropped("access_log");
        }
        let Ok(place) = self.reports.clone().try_reserve_owned() else {
            if !batch.is_empty() {
                self.own.dropped("reports");
            }
            return;
        };
        let report = self.report(batch);
        let is_empty = report.edges.is_empty() && report.decisions.is_empty() && report.events.is_empty();
        if !is_empty {
            place.send(report);
        }
    }

    fn report(&mut self, mut records: Vec<Record>) -> v1::ProxyReport {
        let dropped = records.len().saturating_sub(DECISIONS_MAX);
        records.truncate(DECISIONS_MAX);
        v1::ProxyReport {
            edges: self.edges(),
            decisions: records.into_iter().map(decision).collect(),
            decisions_dropped: u64::try_from(dropped).unwrap_or(u64::MAX),
            events: self.events(),
        }
    }

    fn edges(&mut self) -> Vec<v1::EdgeStats> {
        let mut by_key: HashMap<EdgeKey, Vec<Arc<Edge>>> = HashMap::new();
        for edge in self.shards.iter().flat_map(|shard| shard.edges()) {
            by_key.entry(edge.key.clone()).or_default().push(edge);
        }
        let mut changed = Vec::new();
        for (key, edges) in by_key {
            let now = total(&edges);
            let before = self.sent.entry(key.clone()).or_default();
            let stats = difference(&key, before, &now, &edges);
            *before = now;
            changed.extend(stats);
        }
        changed
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

fn total(edges: &[Arc<Edge>]) -> Sent {
    let mut sum = Sent::default();
    for edge in edges {
        for (to, outcome) in sum.outcomes.iter_mut().zip(Outcome::ALL) {
            *to += edge.outcome(outcome);
        }
        sum.errors += edge.count_of(Outcome::Allowed, ResponseClass::ServerError);
        sum.bytes_in += edge.bytes_in.value();
        sum.bytes_out += edge.bytes_out.value();
        for (bucket, count) in edge.latencies() {
            *sum.latency.entry(bucket).or_default() += count;
        }
    }
    sum
}

/// What is new since the last report; `None` when nothing is.
fn difference(key: &EdgeKey, before: &Sent, now: &Sent, edges: &[Arc<Edge>]) -> Option<v1::EdgeStats> {
    let of = |outcome: Outcome| {
        let at = |sums: &Sent| sums.outcomes.get(outcome as usize).copied().unwrap_or(0);
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
