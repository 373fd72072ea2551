//! Takes in what proxies report about traffic, and passes security events to the log.

use crate::clock;
use crate::discovery::fanout::Mesh;
use crate::discovery::server::proven_peer;
use crate::metrics::Metrics;
use crate::traffic::{Reporter, Traffic};
use mesh_proto::wire::v1::telemetry_server::Telemetry;
use mesh_proto::wire::v1::{ProxyReport, ReportAck};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// The largest report; a proxy with 1,000 edges sends some 300 KiB.
pub(crate) const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Reports are looked at at most this often for each proxy; what comes faster waits in the connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The service.
pub(crate) struct TelemetryService {
    /// Who is revoked.
    pub(crate) mesh: Arc<Mesh>,
    /// Where reports go.
    pub(crate) traffic: Arc<Traffic>,
    /// Where they are counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Ends all streams.
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    async fn report(&self, request: Request<Streaming<ProxyReport>>) -> Result<Response<ReportAck>, Status> {
        let peer = proven_peer(&request)?;
        let instance = peer.instance.as_ref().map_or("", |instance| instance.as_str());
        let from = Reporter { id: peer.id.as_str(), instance };
        let mut reports = request.into_inner();
        loop {
            // Cancel safe: `message` keeps what it has decoded in the stream.
            let report = tokio::select! {
                () = self.shutdown.cancelled() => return Err(Status::unavailable("the control plane is going down")),
                report = reports.message() => report,
            };
            let Ok(Some(report)) = report else { return Ok(Response::new(ReportAck {})) };
            if peer.is_revoked(&self.mesh.world().trust.revocations) {
                return Err(Status::permission_denied(format!(
                    "{} or its certificate has been revoked",
                    peer.id
                )));
            }
            self.metrics.reported();
            for found in self.traffic.add(from, report, clock::unix_ms(clock::wall())) {
                tracing::warn!(
                    target: "security",
                    reporter = found.reporter, kind = found.event.kind, peer = found.event.peer,
                    detail = found.event.detail, count = found.event.count, "security event"
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
