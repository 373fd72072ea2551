//! The wiring diagram: what a control plane is made of, who owns it, how it ends.

use crate::config::Config;
use mesh_proto::identity::TrustDomain;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Where a started control plane can be reached.
#[derive(Clone, Debug)]
pub struct Running {
    /// The Unix socket of the identity and the admin API.
    pub socket: PathBuf,
    /// The mutual-TLS port for proxies.
    pub address: SocketAddr,
    /// Where metrics are served, if they are.
    pub metrics: Option<SocketAddr>,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
}

/// Why a control plane did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The state directory cannot be used.
    #[error("the state directory {path} cannot be used: {problem}")]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
}

/// Runs a control plane until `shutdown` is cancelled. `ready` is told the addresses once everything is served.
///
/// # Errors
/// When it cannot start: each error says what to do about it.
pub async fn run(
    config: Config,
    ready: oneshot::Sender<Running>,
    shutdown: CancellationToken,
) -> Result<(), ControlError> {
    drop((ready, shutdown));
    Err(ControlError::StateDir {
        path: config.state_dir,
        problem: "the control plane is not complete yet".into(),
    })
}
