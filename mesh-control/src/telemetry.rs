//! Takes in what proxies report about traffic, and passes security events to the log.
//!
//! A proxy's pace is its own, whatever number of streams it opens: see [`pace`]. What it cannot honestly have sent is counted
//! and, once in a while, audited.

pub(crate) mod pace;

use crate::clock;
use crate::discovery::fanout::Mesh;
use crate::discovery::server::proven_peer;
use crate::events::{Event, Events, from_reports};
use crate::ledger::{Ledger, Told};
use crate::metrics::Metrics;
use crate::notices::Notices;
use crate::store::write::Verb;
use crate::traffic::{Added, Reporter, Traffic};
use mesh_proto::ops::metrics::{EventKind, ReportFault};
use mesh_proto::wire::v1::telemetry_server::Telemetry;
use mesh_proto::wire::v1::{ProxyReport, ReportAck};
use pace::Pace;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// The largest report; a proxy with 1,000 edges sends some 300 KiB.
pub(crate) const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Security events of one report that are logged one by one; the rest is counted in a line.
const EVENTS_LOGGED_MAX: usize = 10;

/// The service.
pub(crate) struct TelemetryService {
    /// Who is revoked.
    pub(crate) mesh: Arc<Mesh>,
    /// Where reports go.
    pub(crate) traffic: Arc<Traffic>,
    /// Where they are counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Where what cannot be honest goes.
    pub(crate) notices: Arc<Notices>,
    /// Where what proxies refused goes, for the audit log.
    pub(crate) denials: Arc<Notices>,
    /// Where security events go.
    pub(crate) events: Arc<Events>,
    /// Where traffic is kept by the minute.
    pub(crate) ledger: Arc<Ledger>,
    /// How fast each proxy may report.
    pub(crate) pace: Pace,
    /// Ends all streams.
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    async fn report(&self, request: Request<Streaming<ProxyReport>>) -> Result<Response<ReportAck>, Status> {
        let (peer, _) = proven_peer(&request)?;
        let instance = peer.instance.as_ref().map_or("", |instance| instance.as_str());
        let from = Reporter { id: peer.id.as_str(), instance };
        let Some(paced) = self.pace.enter(from, clock::monotonic()) else {
            self.metrics.report_fault(ReportFault::TooManyStreams, 1);
            return Err(Status::resource_exhausted(format!(
                "{instance} reports on {} streams already",
                pace::STREAMS_MAX
            )));
        };
        let mut reports = request.into_inner();
        loop {
            // The turn before the reading: what comes faster waits in the connection.
            let next = async {
                tokio::time::sleep(paced.turn(clock::monotonic())).await;
                reports.message().await
            };
            // Cancel safe: shutdown ends the stream, and with it all that was under way.
            let report = tokio::select! {
                () = self.shutdown.cancelled() => return Err(Status::unavailable("the control plane is going down")),
                report = next => report,
            };
            let Ok(Some(report)) = report else { return Ok(Response::new(ReportAck {})) };
            if peer.is_revoked(&self.mesh.world().trust.revocations) {
                return Err(Status::permission_denied(format!(
                    "{} or its certificate has been revoked",
                    peer.id
                )));
            }
            self.metrics.reported();
            let now = clock::wall();
            let events = from_reports::told(from.id, &report, now);
            let added = self.traffic.add(from, report, clock::unix_ms(now));
            let (edges, decisions) = (&added.edges[..], &added.decisions[..]);
            let told = Told { reporter: instance, edges, decisions, events: &events };
            self.ledger.add(told, clock::unix_ms(now));
            for event in events {
                self.audit(from, &event);
                self.events.tell(from.id, event);
            }
            self.tell(from, &added);
        }
    }
}

impl TelemetryService {
    /// What a proxy refused is in the audit log, counted together.
    fn audit(&self, from: Reporter<'_>, event: &Event) {
        let Event { kind, source, destination, reason, count, .. } = event;
        let to = if destination.is_empty() { from.id } else { destination };
        let who = if source.is_empty() { "somebody" } else { source };
        match kind {
            EventKind::Refused
            | EventKind::Unauthenticated
            | EventKind::Plaintext
            | EventKind::Certificate => {
                let what = format!("was refused by {to}: {reason}");
                self.denials.add(who, Verb::Denied, &what, *count);
            }
            _ => {}
        }
    }

    /// Logs security events, counts and audits what cannot be honest.
    fn tell(&self, from: Reporter<'_>, added: &Added) {
        for found in added.events.iter().take(EVENTS_LOGGED_MAX) {
            tracing::warn!(
                target: "security",
                reporter = found.reporter, kind = found.event.kind, peer = found.event.peer,
                detail = found.event.detail, count = found.event.count, "security event"
            );
        }
        let more = added.events.len().saturating_sub(EVENTS_LOGGED_MAX);
        if more > 0 {
            tracing::warn!(target: "security", reporter = from.instance, more, "more security events");
        }
        for ((fault, by), count) in &added.faults {
            self.metrics.report_fault(*fault, *count);
            let what = match fault {
                ReportFault::Foreign => "reports traffic in which it has no part",
                ReportFault::Forged => "reports a decision under another proxy's id",
                ReportFault::NoRoom | ReportFault::TooManyStreams => continue,
            };
            self.notices.add(by, Verb::Denied, what, *count);
            let mut event = Event::new(EventKind::Dishonest, clock::wall(), fault.as_str());
            event.source.clone_from(by);
            event.count = *count;
            event.detail = format!("{by} {what}");
            self.events.tell(from.id, event);
        }
    }
}
