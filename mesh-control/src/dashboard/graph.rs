//! The graph and the table of services, cut to size.

use super::ask::Slice;
use super::model::{self, Call, Model, Node};
use mesh_proto::flows::Tally;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Services without any call that are shown beside the graph.
const LONELY_MAX: usize = 100;

/// What was counted in the span, for people.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub(crate) struct Figures {
    requests: u64,
    allowed: u64,
    denied: u64,
    limited: u64,
    failed: u64,
    errors: u64,
    /// A second.
    rate: f64,
    /// 0 to 1 of what was not refused; none without any.
    success: Option<f64>,
    p50_us: u64,
    p95_us: u64,
    p99_us: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people, exact enough above 2^53")]
    fn of(tally: &Tally, span_ms: u64) -> Self {
        // A span that has only begun is not taken for a second's traffic.
        let seconds = span_ms.max(1_000) as f64 / 1_000.0;
        Self {
            requests: tally.asked(),
            allowed: tally.allowed,
            denied: tally.denied,
            limited: tally.limited,
            failed: tally.failed,
            errors: tally.errors,
            rate: tally.asked() as f64 / seconds,
            success: tally.success(),
            p50_us: tally.latency.quantile(0.5),
            p95_us: tally.latency.quantile(0.95),
            p99_us: tally.latency.quantile(0.99),
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
        }
    }
}

#[derive(Serialize)]
struct Total {
    requests: u64,
    allowed: u64,
    denied: u64,
    limited: u64,
    failed: u64,
    errors: u64,
}

#[derive(Serialize)]
struct NodeOut {
    id: String,
    kind: &'static str,
    namespace: String,
    name: String,
    identities: Vec<String>,
    workloads: Vec<String>,
    proxies: usize,
    in_sync: usize,
    received: Figures,
    sent: Figures,
    alarms: Vec<String>,
}

#[derive(Serialize)]
struct EdgeOut {
    id: String,
    from: String,
    to: String,
    source: String,
    target: String,
    destinations: Vec<String>,
    protocols: Vec<String>,
    /// mutual, plaintext, mixed, none.
    lock: &'static str,
    tls: Vec<String>,
    exchange: String,
    figures: Figures,
    /// Since the control plane started.
    total: Total,
    last_seen_ms: u64,
    last_reason: String,
    last_rule: String,
    alarms: Vec<String>,
}

#[derive(Serialize)]
struct GapOut {
    from_ms: u64,
    to_ms: u64,
    reason: String,
}

/// The graph.
#[derive(Serialize)]
pub(crate) struct GraphOut {
    window_ms: u64,
    nodes: Vec<NodeOut>,
    edges: Vec<EdgeOut>,
    /// All edges that there are, and those that the filter takes.
    edges_total: usize,
    edges_matching: usize,
    nodes_total: usize,
    gaps: Vec<GapOut>,
}

/// The table of services.
#[derive(Serialize)]
pub(crate) struct ServicesOut {
    window_ms: u64,
    services: Vec<NodeOut>,
    total: usize,
    matching: usize,
}

/// What the ledger said of the span.
pub(crate) struct Span {
    /// How long it really is.
    pub(crate) span_ms: u64,
    /// What is not known of it.
    pub(crate) gaps: Vec<v1::Gap>,
}

/// The edges that tell most: those with alarms, with failures and refusals, then the busiest; with their nodes.
pub(crate) fn graph(model: &Model, slice: &Slice, span: Span) -> GraphOut {
    let names = |call: &Call| slice.takes([&*call.from, &*call.to, &*call.key.source, &*call.key.target]);
    let mut calls: Vec<&Call> = model.calls.iter().filter(|call| names(call)).collect();
    let edges_matching = calls.len();
    calls.sort_by_key(|call| Reverse(weight(call)));
    calls.truncate(slice.limit);
    let mut ids: BTreeSet<&str> = calls.iter().flat_map(|call| [&*call.from, &*call.to]).collect();
    let called: BTreeSet<&str> = model.calls.iter().flat_map(|call| [&*call.from, &*call.to]).collect();
    let lonely =
        model.nodes.keys().map(String::as_str).filter(|id| !called.contains(id) && slice.takes([*id]));
    ids.extend(lonely.take(LONELY_MAX));
    let nodes = ids.iter().filter_map(|id| model.nodes.get_key_value(*id));
    GraphOut {
        window_ms: slice.window_ms,
        nodes: nodes.map(|(id, node)| node_out(id, node, span.span_ms)).collect(),
        edges: calls.iter().map(|call| edge_out(call, span.span_ms)).collect(),
        edges_total: model.calls.len(),
        edges_matching,
        nodes_total: model.nodes.len(),
        gaps: span.gaps.into_iter().map(gap_out).collect(),
    }
}

/// Services and workloads, those with alarms first, then the busiest.
pub(crate) fn services(model: &Model, slice: &Slice, span: &Span) -> ServicesOut {
    let takes = |(id, node): &(&String, &Node)| {
        slice.takes([id.as_str()].into_iter().chain(node.identities.iter().map(String::as_str)))
    };
    let mut found: Vec<(&String, &Node)> = model.nodes.iter().filter(takes).collect();
    let matching = found.len();
    found.sort_by_key(|(_, node)| {
        Reverse((!node.alarms.is_empty(), node.received.asked(), node.sent.asked()))
    });
    found.truncate(slice.limit);
    ServicesOut {
        window_ms: slice.window_ms,
        services: found.into_iter().map(|(id, node)| node_out(id, node, span.span_ms)).collect(),
        total: model.nodes.len(),
        matching,
    }
}

fn weight(call: &Call) -> (bool, bool, u64, u64) {
    let Tally { failed, errors, .. } = &call.now.tally;
    let is_ill = call.now.tally.refused() > 0 || *failed > 0 || *errors > 0;
    (!call.alarms.is_empty(), is_ill, call.now.tally.asked(), call.last_seen_ms)
}

fn node_out(id: &str, node: &Node, span_ms: u64) -> NodeOut {
    let Node { kind, identities, workloads, proxies, received, sent, alarms } = node;
    let (namespace, name) = model::parts_of(id);
    NodeOut {
        id: id.to_owned(),
        kind: kind.as_str(),
        namespace,
        name,
        identities: identities.iter().cloned().collect(),
        workloads: workloads.iter().cloned().collect(),
        proxies: proxies.0,
        in_sync: proxies.1,
        received: Figures::of(received, span_ms),
        sent: Figures::of(sent, span_ms),
        alarms: alarms.clone(),
    }
}

fn edge_out(call: &Call, span_ms: u64) -> EdgeOut {
    let Call { from, to, key, now, ever, last_seen_ms, last, alarms } = call;
    // An edge at rest keeps the lock that it had.
    let seen = if now.tally.asked() > 0 { now } else { ever };
    let Tally { allowed, denied, limited, failed, errors, .. } = &ever.tally;
    EdgeOut {
        id: format!("{}|{}", key.source, key.target),
        from: from.clone(),
        to: to.clone(),
        source: key.source.clone(),
        target: key.target.clone(),
        destinations: ever.destinations.iter().cloned().collect(),
        protocols: ever.protocols.iter().cloned().collect(),
        lock: match (seen.tls.is_empty(), seen.plaintext > 0) {
            (false, false) => "mutual",
            (false, true) => "mixed",
            (true, true) => "plaintext",
            (true, false) => "none",
        },
        tls: seen.tls.iter().cloned().collect(),
        exchange: last.exchange.clone(),
        figures: Figures::of(&now.tally, span_ms),
        total: Total {
            requests: ever.tally.asked(),
            allowed: *allowed,
            denied: *denied,
            limited: *limited,
            failed: *failed,
            errors: *errors,
        },
        last_seen_ms: *last_seen_ms,
        last_reason: last.reason.clone(),
        last_rule: last.rule.clone(),
        alarms: alarms.clone(),
    }
}

fn gap_out(gap: v1::Gap) -> GapOut {
    let v1::Gap { from_ms, to_ms, reason } = gap;
    GapOut { from_ms, to_ms, reason }
}
