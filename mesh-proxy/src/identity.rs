//! This workload's certificate: from whom it comes, the first one, and its replacement.
//!
//! The work is `mesh_ca::client`'s; here stands which issuer is asked and what a failure means for the start.

use crate::{Config, IssuerConfig, ProxyError};
use mesh_ca::client::{Identity, IssueError, Issuer, JoinIssuer, PodIssuer, UnixIssuer};
use mesh_proto::config::Bundle;
use mesh_proto::identity::TrustDomain;
use mesh_proto::name::InstanceName;
use mesh_proto::wire::v1;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// First pause before the control plane is asked again; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a missing control plane is mentioned at most, in attempts.
const MENTION_EVERY: u32 = 5;

/// Whoever issues this workload's certificate.
pub(crate) enum WorkloadIssuer {
    /// The control plane on this machine.
    Unix(UnixIssuer),
    /// The control plane on another one.
    Join(JoinIssuer),
    /// The control plane of the Kubernetes cluster.
    Pod(PodIssuer),
}

impl WorkloadIssuer {
    /// As configured.
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        let instance = config.instance.clone();
        let lifetime = config.svid_lifetime;
        Arc::new(match config.issuer.clone() {
            IssuerConfig::Unix { socket } => Self::Unix(UnixIssuer {
                socket,
                namespace: config.namespace.clone(),
                account: config.account.clone(),
                instance,
                lifetime,
            }),
            IssuerConfig::Join { address, root_sha256, token } => {
                Self::Join(JoinIssuer::new(address, root_sha256, token, instance).with_lifetime(lifetime))
            }
            IssuerConfig::Pod { address, trust_domain, roots_file, token_file } => {
                Self::Pod(PodIssuer { address, trust_domain, roots_file, token_file, instance, lifetime })
            }
        })
    }
}

impl Issuer for WorkloadIssuer {
    async fn issue(&self, csr_der: Vec<u8>) -> Result<v1::IssueResponse, IssueError> {
        match self {
            Self::Unix(issuer) => issuer.issue(csr_der).await,
            Self::Join(issuer) => issuer.issue(csr_der).await,
            Self::Pod(issuer) => issuer.issue(csr_der).await,
        }
    }

    fn accepted(&self, identity: &Arc<Identity>) {
        match self {
            Self::Unix(issuer) => issuer.accepted(identity),
            Self::Join(issuer) => issuer.accepted(identity),
            Self::Pod(issuer) => issuer.accepted(identity),
        }
    }

    fn learn(&self, bundles: &BTreeMap<TrustDomain, Bundle>) {
        match self {
            Self::Unix(issuer) => issuer.learn(bundles),
            Self::Join(issuer) => issuer.learn(bundles),
            Self::Pod(issuer) => issuer.learn(bundles),
        }
    }
}

/// The first certificate. Waits for a control plane that is not there; a refusal is final.
///
/// # Errors
/// [`ProxyError::Identity`] with the control plane's words.
pub(crate) async fn first(
    issuer: &Arc<WorkloadIssuer>,
    instance: &InstanceName,
) -> Result<Arc<Identity>, ProxyError> {
    let mut pause = PAUSE_MIN;
    let mut attempt = 0u32;
    loop {
        match mesh_ca::client::first(issuer, instance).await {
            Ok(identity) => {
                let identity = Arc::new(identity);
                issuer.accepted(&identity);
                return Ok(identity);
            }
            Err(error @ (IssueError::Refused { .. } | IssueError::Impostor { .. })) => {
                return Err(ProxyError::Identity { problem: error.to_string() });
            }
            Err(error) => {
                if attempt.is_multiple_of(MENTION_EVERY) {
                    tracing::warn!(%error, "no certificate yet; asking again");
                }
            }
        }
        attempt = attempt.saturating_add(1);
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}
