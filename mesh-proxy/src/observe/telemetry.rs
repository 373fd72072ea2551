//! Sends reports to the control plane, over a connection of its own, so that a slow report never delays a snapshot.

use crate::control::Link;
use mesh_proto::wire::v1;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Pause after a failure. Reports are lost meanwhile, which the counters say.
const PAUSE: Duration = Duration::from_secs(2);

/// Sends what comes until `ends`, or until all is sent and nobody can report any more.
pub(crate) async fn run(link: Link, mut reports: mpsc::Receiver<v1::ProxyReport>, ends: CancellationToken) {
    loop {
        // A report in hand when the stream breaks is lost: it is statistics.
        let result = tokio::select! {
            () = ends.cancelled() => return,
            result = stream(&link, &mut reports) => result,
        };
        if let Err(problem) = result {
            tracing::debug!(%problem, "cannot report");
        }
        if reports.is_closed() && reports.is_empty() {
            return;
        }
        tokio::select! {
            () = ends.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn stream(link: &Link, reports: &mut mpsc::Receiver<v1::ProxyReport>) -> Result<(), String> {
    let Some(first) = reports.recv().await else { return Ok(()) };
    let channel = link.channel().await.map_err(|error| error.to_string())?;
    let mut telemetry = v1::telemetry_client::TelemetryClient::new(channel);
    let (send, outgoing) = mpsc::channel(1);
    // There is room for one.
    let _ = send.try_send(first);
    // Ends the stream with the last report, and is polled no more then.
    let mut forward = std::pin::pin!(async move {
        while let Some(report) = reports.recv().await {
            if send.send(report).await.is_err() {
                break;
            }
        }
    });
    let mut sending = std::pin::pin!(telemetry.report(ReceiverStream::new(outgoing)));
    let mut has_more = true;
    loop {
        tokio::select! {
            result = &mut sending => return result.map(drop).map_err(|status| status.message().to_owned()),
            () = &mut forward, if has_more => has_more = false,
        }
    }
}
