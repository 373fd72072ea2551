//! The admin endpoint: health, readiness, metrics, configuration without secrets, open connections. Reads only.
//!
//! Served on loopback by the control thread, never on the mesh listener and never on the data path. It changes nothing,
//! whatever is sent to it. In a pod a second door stands open to the platform: health, metrics and the application's own
//! probes, and nothing else.
//!
//! # Why
//! hyper is good enough here: only this machine reaches it. A request whose `Host` is a name other than `localhost` is
//! refused, so that a page in a browser cannot read it by rebinding a name to 127.0.0.1.

use crate::clock;
use crate::connections::Description;
use crate::control::LinkState;
use crate::discovery::Applied;
use crate::facts::Facts;
use crate::observe::Shard;
use crate::observe::text::{ControlCounts, render, workload};
use crate::probe::Probes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_proto::ops::admin::{ALL, CONFIG, CONNECTIONS, HEALTHZ, METRICS, READYZ};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What stands before `<container>/<kind>` in the path of a probe.
pub(crate) const PROBE: &str = "/probe/";
/// Connections at the same time; more wait in the backlog.
const CONNECTIONS_MAX: usize = 32;
/// Time for a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a data thread to list its connections.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections listed for each data thread.
const LISTED_MAX: usize = 10_000;

/// Where a request came in.
#[derive(Debug)]
pub(crate) enum Door {
    /// On loopback: everything may be seen.
    Loopback,
    /// On the pod's address: only what the platform needs.
    Platform {
        /// The pod's address.
        ip: IpAddr,
        /// What the platform may ask the application through us.
        probes: Probes,
    },
}

/// Asks a data thread for its connections.
pub(crate) type Ask = mpsc::Sender<oneshot::Sender<Vec<Description>>>;

/// What the endpoint tells of.
pub(crate) struct Admin {
    /// What does not change.
    pub(crate) facts: Arc<Facts>,
    /// All counters.
    pub(crate) shards: Vec<Arc<Shard>>,
    /// The configuration in use.
    pub(crate) applied: watch::Receiver<Option<Arc<Applied>>>,
    /// The control plane connection.
    pub(crate) link: Arc<LinkState>,
    /// One for each data thread.
    pub(crate) asks: Vec<Ask>,
}

impl Admin {
    async fn answer<B>(&self, door: &Door, request: &Request<B>) -> Response<Full<Bytes>> {
        match door {
            Door::Loopback => self.answer_here(request).await,
            Door::Platform { ip, probes } => self.answer_platform(request, *ip, probes).await,
        }
    }

    async fn answer_platform<B>(
        &self,
        request: &Request<B>,
        ip: IpAddr,
        probes: &Probes,
    ) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "this endpoint is only read, with GET\n");
        }
        let nothing = || text(StatusCode::NOT_FOUND, "not here\n");
        match request.uri().path() {
            HEALTHZ => text(StatusCode::OK, "ok\n"),
            READYZ => self.readiness(),
            METRICS => self.metrics(),
            path => {
                let Some(name) = path.strip_prefix(PROBE) else { return nothing() };
                let Some(finding) = probes.ask(name, ip).await else { return nothing() };
                let status = if finding.is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                text(status, &finding.said)
            }
        }
    }

    async fn answer_here<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !is_local(request) {
            return text(StatusCode::FORBIDDEN, "the Host of this endpoint is an address or localhost\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "this endpoint is only read, with GET\n");
        }
        match request.uri().path() {
            HEALTHZ => text(StatusCode::OK, "ok\n"),
            READYZ => self.readiness(),
            METRICS => self.metrics(),
            CONFIG => json_text(&self.config()),
            CONNECTIONS => json_text(&self.connections().await),
            "/" => text(StatusCode::OK, &(ALL.join("\n") + "\n")),
            _ => text(StatusCode::NOT_FOUND, &format!("not here; there are: {}\n", ALL.join(" "))),
        }
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        let now = clock::wall();
        match &*self.applied.borrow() {
            None => text(StatusCode::SERVICE_UNAVAILABLE, "no certificate and snapshot yet\n"),
            Some(applied) if applied.trust.not_after <= now => {
                text(StatusCode::SERVICE_UNAVAILABLE, "the certificate has expired; it is being renewed\n")
            }
            Some(_) => text(StatusCode::OK, "ready\n"),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let applied = self.applied.borrow().clone();
        let counts = ControlCounts {
            connected: self.link.connected.load(Ordering::Relaxed),
            updates: (self.link.applied.load(Ordering::Relaxed), self.link.refused.load(Ordering::Relaxed)),
            renewals: self.link.renewals.load(Ordering::Relaxed),
        };
        let mut rendered = render(&self.shards, applied.as_deref(), counts, clock::wall());
        rendered.push_str(&workload(&self.facts.service));
        let mut response = text(StatusCode::OK, &rendered);
        let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    /// What the proxy works by. Identities and serials are public; keys and tokens are not in reach here.
    fn config(&self) -> Value {
        let ports = self.facts.ports.iter().map(|port| {
            json!({
                "port": port.port.number(),
                "protocol": port.protocol.map(|protocol| protocol.as_str()),
                "app": port.app.to_string(),
            })
        });
        let applied = self.applied.borrow().clone();
        json!({
            "instance": self.facts.instance.as_str(),
            "service": self.facts.service.to_string(),
            "ports": ports.collect::<Vec<_>>(),
            "control_connected": self.link.connected.load(Ordering::Relaxed),
            "applied": applied.as_deref().map(describe),
        })
    }

    async fn connections(&self) -> Value {
        let mut listed = Vec::new();
        for ask in &self.asks {
            let (answer, answered) = oneshot::channel();
            if ask.try_send(answer).is_err() {
                continue;
            }
            if let Ok(Ok(descriptions)) = tokio::time::timeout(ASK_TIMEOUT, answered).await {
                listed.extend(descriptions.into_iter().take(LISTED_MAX).map(|connection| {
                    json!({
                        "direction": connection.direction.as_str(),
                        "peer": &*connection.peer,
                        "protocol": connection.protocol.map(|protocol| protocol.as_str()),
                        "port": connection.port,
                        "opened_ms": connection.opened_ms,
                    })
                }));
            }
        }
        json!({ "connections": listed })
    }
}

fn describe(applied: &Applied) -> Value {
    let snapshot = &applied.snapshot;
    let policies = snapshot.policy.policies.iter().map(|policy| {
        json!({ "name": policy.name.to_string(), "rules": policy.rules.len(), "file": &*policy.file })
    });
    let destinations = snapshot.destinations.values().map(|destination| {
        let endpoints = destination.endpoints.iter().map(|endpoint| {
            json!({
                "address": endpoint.address.to_string(),
                "identity": endpoint.identity.as_ref().map(ToString::to_string),
                "instance": endpoint.instance.as_str(),
            })
        });
        json!({
            "service": destination.service.to_string(),
            "ports": destination.ports.iter().map(|port| port.port.number()).collect::<Vec<_>>(),
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    });
    let bundles = snapshot.bundles.values().map(|bundle| {
        json!({ "trust_domain": bundle.trust_domain.as_str(), "sequence": bundle.sequence, "roots": bundle.roots.len() })
    });
    json!({
        "revision": snapshot.revision.0,
        "generation": applied.generation,
        "identity": applied.trust.id.as_str(),
        "serial": applied.trust.serial_hex(),
        "default_allow": snapshot.mesh.default_allow,
        "mtls": format!("{:?}", snapshot.mesh.mtls),
        "policies": policies.collect::<Vec<_>>(),
        "limits": snapshot.limits.iter().map(|limit| limit.name.to_string()).collect::<Vec<_>>(),
        "destinations": destinations.collect::<Vec<_>>(),
        "bundles": bundles.collect::<Vec<_>>(),
    })
}

/// Whether the request was meant for an address of this machine, not for a name that was bent to it.
fn is_local<B>(request: &Request<B>) -> bool {
    let Some(host) = request.headers().get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host();
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn json_text(value: &Value) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, &format!("{value:#}\n"));
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Serves until `ends`.
pub(crate) async fn serve(
    (admin, door): (Arc<Admin>, Arc<Door>),
    listener: std::net::TcpListener,
    ends: CancellationToken,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "no admin endpoint"),
    };
    let mut connections = JoinSet::new();
    loop {
        // All branches are cancel safe.
        tokio::select! {
            () = ends.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                let Ok((stream, _)) = accepted else { continue };
                let (admin, door) = (Arc::clone(&admin), Arc::clone(&door));
                connections.spawn(async move {
                    let service = service_fn(|request: Request<Incoming>| {
                        let (admin, door) = (Arc::clone(&admin), Arc::clone(&door));
                        async move { Ok::<_, Infallible>(admin.answer(&door, &request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADER_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service);
                    // A client that went away is nobody's problem.
                    let _ = connection.await;
                });
            }
        }
    }
}
