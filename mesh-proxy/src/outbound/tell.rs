//! What became of a request or tunnel of the workload, told to counters, access log and control plane.

use super::pool::Lane;
use super::{Client, Outbound};
use crate::clock;
use crate::connections::Direction;
use crate::discovery::Applied;
use crate::http::Meter;
use crate::http::canonical::Canonical;
use crate::observe::record::Worth;
use crate::observe::trace::{self, Span};
use crate::observe::{Edge, EdgeKey, Outcome, Record};
use crate::refusal::Refusal;
use crate::transport::TlsFacts;
use mesh_proto::name::Port;
use mesh_proto::policy::model::Protocol;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// Most edges that one connection keeps at hand; with more endpoints than that the oldest give way.
const EDGES_MAX: usize = 16;

/// What became of one request or tunnel.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    /// What was spoken.
    pub(crate) protocol: Protocol,
    /// The request, if there was one with a single reading.
    pub(crate) request: Option<&'a Canonical<'a>>,
    /// Why it was refused or failed.
    pub(crate) refusal: Option<Refusal>,
    /// What was moved, and the status.
    pub(crate) meter: Meter,
    /// How long it took.
    pub(crate) duration: Duration,
    /// The id that the caller was told, if any.
    pub(crate) id: String,
    /// What the handshake with the endpoint agreed on.
    pub(crate) tls: TlsFacts,
    /// Its part of a trace.
    pub(crate) span: Option<Box<Span>>,
}

impl<'a> Told<'a> {
    /// Nothing yet.
    pub(crate) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            request: None,
            refusal: None,
            meter: Meter::default(),
            duration: Duration::ZERO,
            id: String::new(),
            tls: TlsFacts::default(),
            span: None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self.refusal {
            None => Outcome::Allowed,
            Some(Refusal::BadRequest(_) | Refusal::HeaderTooLarge | Refusal::ConnectMethod) => {
                Outcome::Malformed
            }
            Some(Refusal::TooManyConnections | Refusal::TooManyConcurrent | Refusal::Limited { .. }) => {
                Outcome::Limited
            }
            Some(_) => Outcome::Failed,
        }
    }

    /// Counts it, and writes a line where it is worth one.
    pub(crate) fn record(self, outbound: &Outbound, client: &Client, lane: Option<&Lane>) {
        let worker = &outbound.worker;
        let applied = worker.applied();
        let outcome = self.outcome();
        client.edges.with((outbound, client, &applied), (self.protocol, lane, self.tls), |edge| {
            edge.bytes_in.add(self.meter.request_bytes);
            edge.bytes_out.add(self.meter.response_bytes);
            edge.count(outcome, self.meter.status, self.duration);
            if let Some(refusal) = self.refusal {
                edge.set_last(refusal.label(), "");
            }
        });
        if let Some(refusal) = self.refusal {
            worker.shard.refused(Direction::Outbound, refusal.label());
        }
        let is_plain = outcome == Outcome::Allowed && self.meter.status < 500 && !worker.samples(&applied);
        if is_plain && self.span.is_none() {
            return;
        }
        let text = |of: fn(&Canonical<'_>) -> String| self.request.map(of).unwrap_or_default();
        worker.recorder.record(Record {
            time_ms: clock::unix_ms(),
            direction: Direction::Outbound,
            source: Arc::clone(&applied.trust.id_text),
            source_instance: worker.facts.instance.to_string(),
            source_ip: client.from.ip().to_string(),
            destination: destination(lane),
            destination_instance: lane.map(Lane::instance_text).unwrap_or_default(),
            service: Arc::clone(&client.service),
            port: port(client, lane),
            protocol: Some(self.protocol),
            sni: String::new(),
            host: text(|request| request.host.authority().to_owned()),
            method: text(|request| request.method.to_owned()),
            path: text(|request| request.path.to_string()),
            outcome,
            reason: self.refusal.map_or("", Refusal::label),
            rule: String::new(),
            status: self.meter.status,
            bytes_in: self.meter.request_bytes,
            bytes_out: self.meter.response_bytes,
            duration_us: clock::micros(self.duration),
            revision: applied.snapshot.revision.0,
            header_names: Vec::new(),
            trace_id: trace::id_text(self.span.as_deref(), self.request),
            span: trace::end(self.span, self.meter.grpc_status),
            worth: if is_plain { Worth::Span } else { Worth::Line },
            id: if self.id.is_empty() { worker.recorder.decision_id() } else { self.id },
        });
    }
}

fn destination(lane: Option<&Lane>) -> Arc<str> {
    lane.and_then(Lane::identity_text).unwrap_or_else(|| "".into())
}

/// The port at the endpoint where one was chosen, as the called side reports it; else the one asked for.
fn port(client: &Client, lane: Option<&Lane>) -> u16 {
    let target = lane.and_then(|lane| lane.key.name.as_ref()).map(|(_, port)| *port);
    target.or(client.intent.port).map_or(0, Port::number)
}

/// The edges of one connection.
#[derive(Debug, Default)]
pub(crate) struct Edges(RefCell<Vec<Arc<Edge>>>);

impl Edges {
    fn with(
        &self,
        (outbound, client, applied): (&Outbound, &Client, &Applied),
        (protocol, lane, tls): (Protocol, Option<&Lane>, TlsFacts),
        count: impl FnOnce(&Edge),
    ) {
        let to = lane.and_then(Lane::identity_text);
        let to = to.as_deref().unwrap_or_default();
        let port = port(client, lane);
        let is_it = |edge: &&Arc<Edge>| {
            let key = &edge.key;
            key.protocol == protocol
                && key.port == port
                && key.tls_version == tls.version
                && *key.destination == *to
        };
        if let Some(edge) = self.0.borrow().iter().find(is_it) {
            return count(edge);
        }
        let edge = outbound.worker.shard.edge(EdgeKey {
            direction: Direction::Outbound,
            source: Arc::clone(&applied.trust.id_text),
            destination: destination(lane),
            service: Arc::clone(&client.service),
            port,
            protocol,
            tls_version: tls.version,
            key_exchange: tls.key_exchange,
        });
        count(&edge);
        let mut kept = self.0.borrow_mut();
        if kept.len() >= EDGES_MAX {
            kept.remove(0);
        }
        kept.push(edge);
    }
}
