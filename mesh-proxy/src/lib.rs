//! The data plane: one proxy beside one workload.
//!
//! Called by the program `mesh-proxy` and by `meshctl run`, `join` and `demo`. It gets a certificate for its workload,
//! learns from the control plane whom the workload may talk to, and carries the traffic: outbound through mutual TLS to
//! the proven peer, inbound only what the peer's identity is allowed. It never decides what a rule means (that is
//! `mesh_proto::policy`), never holds a key but its own workload's, and never serves anything without a certificate.
//!
//! The stages in the order a request meets them: `accept` → `outbound` → `balance` → the wire → `inbound` → `limit` →
//! the application. `app` wires the threads, `discovery` and `identity` feed them, `observe` and `admin` tell about it.

pub mod accept;
mod admin;
mod app;
pub mod args;
mod balance;
mod caller;
pub mod capture;
mod clock;
mod config;
mod connections;
mod control;
mod data;
pub mod descriptors;
mod discovery;
mod facts;
pub mod http;
mod identity;
mod inbound;
mod limit;
mod listen;
pub mod mux;
mod observe;
mod outbound;
pub mod ports;
pub mod probe;
pub mod refusal;
mod standing;
mod transport;
mod tunnel;
mod worker;

pub use config::{
    AccessLogTarget, Config, ExplicitListener, InboundPort, IssuerConfig, Multiplexing, PodConfig,
};
pub use standing::CERTIFICATE_GRACE;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What [`run`] tells when the proxy has its certificate, its first whole snapshot and its listeners.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where other proxies reach this one with mesh TLS.
    pub mesh_address: SocketAddr,
    /// Where health, metrics and the configuration dump are served; `None` when switched off.
    pub admin_address: Option<SocketAddr>,
    /// The explicit listeners in the order of the configuration, with the ports they really got.
    pub outbound: Vec<SocketAddr>,
}

/// Why a proxy could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A socket could not be opened.
    #[error("cannot listen on {address} for {purpose}: {source}; choose another address or port 0")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What it is for: `mesh traffic`, `admin`, `calls to shop/payments`.
        purpose: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file of the access log could not be opened.
    #[error("cannot write the access log to {path}: {source}")]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No certificate, and asking again cannot help.
    #[error("the control plane gives this workload no certificate: {problem}")]
    Identity {
        /// What the control plane or the client said.
        problem: String,
    },
    /// The workload's connections cannot be caught.
    #[error(transparent)]
    Capture(#[from] capture::namespace::CaptureError),
    /// A thread could not be started.
    #[error("cannot start a data thread: {source}")]
    Thread {
        /// The system's answer.
        source: std::io::Error,
    },
    /// A data thread ended by a bug; the others were drained.
    #[error("data thread {worker} ended unexpectedly; its log says why")]
    Worker {
        /// Which one, from 0.
        worker: usize,
    },
}

/// Runs a proxy until `shutdown`, then drains for at most [`Config::drain`].
///
/// `ready` is told once, when calls can be carried. The calling runtime does the control work (certificates, discovery,
/// admin, telemetry); the traffic runs on threads of its own.
///
/// # Errors
/// See [`ProxyError`]. An absent control plane is not an error: it is waited for.
pub async fn run(
    config: Config,
    ready: oneshot::Sender<Ready>,
    shutdown: CancellationToken,
) -> Result<(), ProxyError> {
    run_until(config, ready, Stops { leaving: CancellationToken::new(), shutdown }).await
}

/// How a proxy is told to end.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    /// The workload is going away: other proxies stop choosing it, while everything that comes is still served. After
    /// [`LEAVE_AFTER`] nothing new comes, and the application can be told to end without failing a request.
    pub leaving: CancellationToken,
    /// Drain and end. Without `leaving` before it, the proxy announces its leave and waits by itself.
    pub shutdown: CancellationToken,
}

/// How long after a workload's leave was announced every other proxy has stopped choosing it.
pub const LEAVE_AFTER: Duration = app::LEAVE_AFTER;

/// Like [`run`], with an announced leave before the end.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    config: Config,
    ready: oneshot::Sender<Ready>,
    stops: Stops,
) -> Result<(), ProxyError> {
    app::run(config, ready, stops).await
}
