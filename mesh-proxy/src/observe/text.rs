//! All counters as Prometheus text (exposition format 0.0.4). Written by hand: the sums are made here anyway, and a
//! registry would have to be told of each series.

use crate::connections::Direction;
use crate::discovery::Applied;
use crate::observe::{Edge, Outcome, Shard};
use mesh_proto::name::ServiceRef;
use mesh_proto::ops::histogram;
use mesh_proto::ops::metrics::{ResponseClass, proxy};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// Upper bounds of the latency buckets shown, in microseconds: each falls on a power of two times 1.25 or less, so that
/// no recorded bucket is split badly.
const SHOWN_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// What does not come from the workers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ControlCounts {
    /// Whether the control plane is connected.
    pub(crate) connected: bool,
    /// Snapshots applied and refused.
    pub(crate) updates: (u64, u64),
    /// Certificates replaced.
    pub(crate) renewals: u64,
}

/// Everything, as `/metrics` shows it.
pub(crate) fn render(
    shards: &[Arc<Shard>],
    applied: Option<&Applied>,
    counts: ControlCounts,
    now: SystemTime,
) -> String {
    let mut out = String::with_capacity(8 * 1024);
    requests(&mut out, shards);
    reasons(&mut out, shards);
    connections(&mut out, shards);
    let (ok, error) = counts.updates;
    head(&mut out, &total(proxy::UPDATES), "counter", "Snapshot updates.");
    sample(&mut out, &total(proxy::UPDATES), &[("result", "ok")], ok);
    sample(&mut out, &total(proxy::UPDATES), &[("result", "error")], error);
    head(&mut out, &total(proxy::CERTIFICATE_RENEWALS), "counter", "Certificates replaced.");
    sample(&mut out, &total(proxy::CERTIFICATE_RENEWALS), &[("result", "ok")], counts.renewals);
    head(&mut out, proxy::CONTROL_CONNECTED, "gauge", "1 while the control plane is connected.");
    sample(&mut out, proxy::CONTROL_CONNECTED, &[], u64::from(counts.connected));
    if let Some(applied) = applied {
        head(&mut out, proxy::REVISION, "gauge", "Revision of the snapshot in use.");
        sample(&mut out, proxy::REVISION, &[], applied.snapshot.revision.0);
        let left = applied.trust.not_after.duration_since(now).map(|left| left.as_secs()).unwrap_or(0);
        head(&mut out, proxy::CERTIFICATE_EXPIRES_SECONDS, "gauge", "Seconds until the certificate expires.");
        sample(&mut out, proxy::CERTIFICATE_EXPIRES_SECONDS, &[], left);
    }
    out
}

/// What the workload is called, to join the rest with. Names of services are DNS labels, so there is nothing to escape.
pub(crate) fn workload(service: &ServiceRef) -> String {
    let mut out = String::new();
    head(&mut out, proxy::WORKLOAD_INFO, "gauge", "1, with what the workload is called.");
    let labels = [("namespace", service.namespace.as_str()), ("workload", service.name.as_str())];
    sample(&mut out, proxy::WORKLOAD_INFO, &labels, 1);
    out
}

/// By direction and protocol: counts by bucket, and the sum in microseconds.
type Latencies<'a> = BTreeMap<(&'a str, &'a str), (BTreeMap<u32, u64>, u64)>;

fn requests(out: &mut String, shards: &[Arc<Shard>]) {
    let edges: Vec<Arc<Edge>> = shards.iter().flat_map(|shard| shard.counted()).collect();
    let mut counts: BTreeMap<(&str, &str, &str, &str), u64> = BTreeMap::new();
    let mut latency: Latencies<'_> = BTreeMap::new();
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    for edge in &edges {
        let (direction, protocol) = (edge.key.direction.as_str(), edge.key.protocol.as_str());
        for outcome in Outcome::ALL {
            for class in ResponseClass::ALL {
                let count = edge.count_of(outcome, *class);
                if count > 0 {
                    let labels = (direction, protocol, outcome.as_str(), class.as_str());
                    *counts.entry(labels).or_default() += count;
                }
            }
        }
        let (buckets, sum) = latency.entry((direction, protocol)).or_default();
        for (bucket, count) in edge.latencies() {
            *buckets.entry(bucket).or_default() += count;
        }
        *sum += edge.latency_us_sum();
        // What callers send is received by the called workload, and what they get by the calling one.
        let (received, sent) = match edge.key.direction {
            Direction::Inbound => (edge.bytes_in.value(), edge.bytes_out.value()),
            Direction::Outbound => (edge.bytes_out.value(), edge.bytes_in.value()),
        };
        *bytes.entry("inbound").or_default() += received;
        *bytes.entry("outbound").or_default() += sent;
    }
    let name = total(proxy::REQUESTS);
    head(out, &name, "counter", "Requests and opaque connections, by what became of them.");
    for ((direction, protocol, outcome, class), count) in counts {
        let labels =
            [("direction", direction), ("protocol", protocol), ("outcome", outcome), ("class", class)];
        sample(out, &name, &labels, count);
    }
    histograms(out, &latency);
    let name = total(proxy::BYTES);
    head(out, &name, "counter", "Payload bytes; inbound is what the workload received.");
    for (direction, count) in bytes {
        sample(out, &name, &[("direction", direction)], count);
    }
}

fn histograms(out: &mut String, latency: &Latencies<'_>) {
    let name = proxy::REQUEST_SECONDS;
    head(out, name, "histogram", "Seconds from request head to response end.");
    for ((direction, protocol), (buckets, sum_us)) in latency {
        let count: u64 = buckets.values().sum();
        for shown in SHOWN_US {
            let below: u64 = buckets
                .iter()
                .filter(|(bucket, _)| histogram::upper_bound(**bucket) <= shown)
                .map(|(_, count)| count)
                .sum();
            let le = seconds(shown);
            let labels = [("direction", *direction), ("protocol", *protocol), ("le", le.as_str())];
            sample(out, "mesh_request_duration_seconds_bucket", &labels, below);
        }
        let labels = [("direction", *direction), ("protocol", *protocol), ("le", "+Inf")];
        sample(out, "mesh_request_duration_seconds_bucket", &labels, count);
        let labels = [("direction", *direction), ("protocol", *protocol)];
        sample_text(out, "mesh_request_duration_seconds_sum", &labels, &seconds(*sum_us));
        sample(out, "mesh_request_duration_seconds_count", &labels, count);
    }
}

fn reasons(out: &mut String, shards: &[Arc<Shard>]) {
    type Read = fn(&Shard) -> BTreeMap<(&'static str, &'static str), u64>;
    let families: [(&str, &str, &str, Read); 4] = [
        (proxy::REFUSALS, "reason", "Refused requests and connections.", |shard| shard.refusals()),
        (proxy::HANDSHAKE_FAILURES, "reason", "TLS handshakes that failed.", |shard| shard.handshakes()),
        (proxy::AUDITED, "reason", "What audit mode would have refused.", |shard| shard.audits()),
        (proxy::DROPPED, "queue", "What full queues did not take.", |shard| shard.drops()),
    ];
    for (name, label, help, read) in families {
        let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (key, count) in shards.iter().flat_map(|shard| read(shard)) {
            *sums.entry(key).or_default() += count;
        }
        let name = total(name);
        head(out, &name, "counter", help);
        for ((direction, reason), count) in sums {
            if direction.is_empty() {
                sample(out, &name, &[(label, reason)], count);
            } else {
                sample(out, &name, &[("direction", direction), (label, reason)], count);
            }
        }
    }
}

fn connections(out: &mut String, shards: &[Arc<Shard>]) {
    let name = total(proxy::CONNECTIONS);
    head(out, &name, "counter", "Connections accepted.");
    let kinds = [("inbound", "mutual"), ("inbound", "plaintext"), ("outbound", "plaintext")];
    for (at, (direction, tls)) in kinds.into_iter().enumerate() {
        let count = shards.iter().filter_map(|shard| shard.connections.get(at)).map(|c| c.value()).sum();
        sample(out, &name, &[("direction", direction), ("tls", tls)], count);
    }
    let name = total(proxy::SESSIONS);
    head(
        out,
        &name,
        "counter",
        "TLS sessions accepted that carry many streams, each a connection by itself.",
    );
    sample(out, &name, &[], shards.iter().map(|shard| shard.sessions.value()).sum());
    head(out, proxy::CONNECTIONS_OPEN, "gauge", "Connections open now.");
    let inbound = shards.iter().map(|shard| shard.inbound_open.load(Ordering::Relaxed)).sum();
    let outbound = shards.iter().map(|shard| shard.outbound_open.load(Ordering::Relaxed)).sum();
    sample(out, proxy::CONNECTIONS_OPEN, &[("direction", "inbound")], inbound);
    sample(out, proxy::CONNECTIONS_OPEN, &[("direction", "outbound")], outbound);
    let panics = shards.iter().map(|shard| shard.panics.load(Ordering::Relaxed)).sum();
    head(out, "mesh_task_panics_total", "counter", "Connections that ended by a bug of the proxy.");
    sample(out, "mesh_task_panics_total", &[], panics);
}

fn total(name: &str) -> String {
    format!("{name}_total")
}

fn seconds(us: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "exact enough above 2^53 microseconds")]
    let seconds = us as f64 / 1e6;
    seconds.to_string()
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    sample_text(out, name, labels, &value.to_string());
}

/// Label values here are words of closed sets, so there is nothing to escape.
fn sample_text(out: &mut String, name: &str, labels: &[(&str, &str)], value: &str) {
    out.push_str(name);
    for (at, (label, of)) in labels.iter().enumerate() {
        let _ = write!(out, "{}{label}=\"{of}\"", if at == 0 { '{' } else { ',' });
    }
    out.push_str(if labels.is_empty() { " " } else { "} " });
    out.push_str(value);
    out.push('\n');
}

#[cfg(test)]
mod tests;
