//! The metrics endpoint: Prometheus text, liveness and readiness over plain HTTP, meant for loopback or a
//! cluster's own network.

use crate::admin::Control;
use crate::clock;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_proto::ops::admin::{HEALTHZ, METRICS, READYZ};
use mesh_proto::ops::metrics::EventKind;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Scrapers at once.
const CONNECTIONS_MAX: usize = 32;
/// Who has not sent its request by then is not a scraper.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// The longest life of a connection: scrapers come back.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);

/// What is scraped.
#[derive(Clone)]
pub(super) struct Scraped {
    /// What is counted.
    pub(super) control: Arc<Control>,
    /// Whether everything is known that proxies may ask for.
    pub(super) is_ready: watch::Receiver<bool>,
}

/// Serves until `shutdown`.
pub(super) async fn serve(listener: TcpListener, scraped: Scraped, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
            continue;
        }
        // Cancel safe: `accept` loses no connection.
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let scraped = scraped.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = respond(&scraped, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_DEADLINE)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            // A scraper that goes away is no event.
            let _ = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
        });
    }
}

fn respond<B>(scraped: &Scraped, request: &Request<B>) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, METRICS) => (StatusCode::OK, metrics(&scraped.control)),
        (&Method::GET, READYZ) if !*scraped.is_ready.borrow() => {
            (StatusCode::SERVICE_UNAVAILABLE, "the cluster's objects have not all been read yet\n".to_owned())
        }
        (&Method::GET, HEALTHZ | READYZ) => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, _) => {
            (StatusCode::NOT_FOUND, format!("there are {METRICS}, {HEALTHZ} and {READYZ}\n"))
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn metrics(control: &Control) -> String {
    let now = clock::wall();
    let status = control.authority.inner().status(&[], now);
    let left = status.issuing.not_after.duration_since(now).unwrap_or_default();
    control.metrics.set(control.mesh.world().revision, &control.store.health(), left);
    // All kinds, also those that never happened: an alert on the first one needs the zero before it.
    let totals = control.events.totals();
    for kind in EventKind::ALL {
        control.metrics.security_events(*kind, totals.get(kind).copied().unwrap_or(0));
    }
    control.metrics.text()
}
