//! Security events that a proxy's report tells of: refusals by its counters, which are exact, and what happened before
//! there was an edge to count on.

use super::Event;
use crate::clock;
use mesh_proto::ops::metrics::{EventKind, Severity};
use mesh_proto::wire::v1;
use std::time::SystemTime;

/// Edges and events looked at in one report; an honest proxy sends no more.
const ENTRIES_MAX: usize = 2_000;
/// Reasons of refusals by which a limit refuses, as `mesh_proxy::refusal` calls them.
const LIMIT_REASONS: [&str; 4] = ["limited", "too_many_concurrent", "too_many_connections", "body_too_large"];
/// Reasons of failed handshakes that are about a certificate, not about who shows it.
const CERTIFICATE_REASONS: [&str; 6] =
    ["expired", "not_yet_valid", "revoked", "certificate_expired", "peer_expired", "endpoint_expired"];

/// What the report of the identity `id` tells; of what is not about itself nothing.
pub(crate) fn told(id: &str, report: &v1::ProxyReport, now: SystemTime) -> Vec<Event> {
    let own = report.edges.iter().take(ENTRIES_MAX).filter(|edge| {
        let outbound = edge.direction == v1::Direction::Outbound as i32;
        id == if outbound { &edge.source } else { &edge.destination }
    });
    let seen = report.events.iter().take(ENTRIES_MAX).map(|event| seen(id, event, now));
    own.flat_map(|edge| counted(edge, now)).chain(seen).filter(|event| event.count > 0).collect()
}

fn counted(edge: &v1::EdgeStats, now: SystemTime) -> [Event; 2] {
    let is_limit = LIMIT_REASONS.contains(&edge.last_reason.as_str());
    let event = |kind: EventKind, count: u64, is_known: bool| {
        let known = is_known && !edge.last_reason.is_empty();
        let reason = if known { edge.last_reason.as_str() } else { kind.as_str() };
        let rule = if known && !edge.last_rule.is_empty() {
            format!(", by {}", edge.last_rule)
        } else {
            String::new()
        };
        let mut event = Event::new(kind, now, reason);
        // Somebody uses what was taken from him.
        if reason == "quarantined" {
            event.severity = Severity::Critical;
        }
        event.source.clone_from(&edge.source);
        event.destination.clone_from(&edge.destination);
        event.detail = format!("{} port {} over {}{rule}", edge.service, edge.port, edge.protocol);
        event.count = count;
        event
    };
    [event(EventKind::Refused, edge.denied, !is_limit), event(EventKind::Limited, edge.limited, is_limit)]
}

fn seen(id: &str, event: &v1::SecurityEvent, now: SystemTime) -> Event {
    let reason = event.kind.as_str();
    let kind = match reason {
        "plaintext" => EventKind::Plaintext,
        reason if CERTIFICATE_REASONS.contains(&reason) => EventKind::Certificate,
        _ => EventKind::Unauthenticated,
    };
    let at = if event.time_ms == 0 { now } else { clock::of_unix_ms(event.time_ms).min(now) };
    let peer = if event.peer.is_empty() { "unmeshed" } else { event.peer.as_str() };
    let mut told = Event::new(kind, at, reason);
    let is_outbound = event.detail.starts_with("outbound");
    let (source, destination) = if is_outbound { (id, event.peer.as_str()) } else { (peer, id) };
    told.source = source.to_owned();
    told.destination = destination.to_owned();
    told.detail.clone_from(&event.detail);
    told.count = event.count;
    told
}
