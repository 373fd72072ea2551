//! A workload's side of issuance: the first SVID, and a fresh one for as long as the process lives.
//!
//! The proxy calls [`first`] before it serves and runs [`keep_fresh`] until it stops; the control plane does the same for
//! its own SVID. [`schedule`] says when, `fetch` talks to the authority.
//!
//! Renewal never needs the old SVID where the evidence is of another kind (Unix peer), so a workload recovers by itself
//! however long the control plane was away. It never gives up and never ends the process.

use crate::bundle::{BundleError, TrustBundles};
use crate::csr::{KeyError, WorkloadKey};
use crate::svid::{Svid, SvidError};
use crate::verify::{Judge, PeerError, Role};
use mesh_proto::config::{Bundle, Revocations};
use mesh_proto::identity::{SpiffeId, TrustDomain};
use mesh_proto::name::InstanceName;
use mesh_proto::wire::v1;
use rustls::pki_types::UnixTime;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

mod fetch;
mod keeper;
mod pod;
pub mod schedule;

pub use fetch::{JoinIssuer, UnixIssuer};
pub use pod::PodIssuer;

/// How long one attempt may take: several round trips, a slow disk at the authority, and a busy machine.
pub const ATTEMPT_MAX: Duration = Duration::from_secs(15);

/// In a cluster the control plane has the address of a service there, and nobody starts it by hand.
fn advice(at: &str) -> &'static str {
    if at.contains(".svc:") {
        "look at it with: kubectl get pods --namespace mesh-system"
    } else {
        "start it with: meshctl up"
    }
}

/// Why no SVID was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Nobody answered.
    #[error("no control plane answers at {at} ({problem}); is it running? {}", advice(at))]
    Unreachable {
        /// Socket or address.
        at: String,
        /// What the system said.
        problem: String,
    },
    /// Whoever answered is not the control plane that we were told of.
    #[error("the control plane at {at} was refused: {reason}")]
    Impostor {
        /// The address.
        at: String,
        /// Which rule it broke.
        reason: PeerError,
    },
    /// The authority said no; asking again with the same evidence will not help.
    #[error("the control plane at {at} refuses an identity: {reason}")]
    Refused {
        /// Socket or address.
        at: String,
        /// Its words.
        reason: String,
    },
    /// It and the control plane no longer believe each other, since roots or certificates were replaced or revoked.
    #[error(
        "the control plane at {at} and this machine no longer believe each other: {reason}; on the control plane's machine make a new token with `meshctl ca token`, and join again"
    )]
    LockedOut {
        /// The address.
        at: String,
        /// What the handshake said.
        reason: PeerError,
    },
    /// The authority could not at the moment.
    #[error("the control plane at {at} cannot issue now: {reason}")]
    Unavailable {
        /// Socket or address.
        at: String,
        /// Its words.
        reason: String,
    },
    /// A file that the platform delivers, and without which nobody can be asked, cannot be used.
    #[error("{path} cannot be used: {problem}; is it mounted? compare the pod with: meshctl inject -f -")]
    Evidence {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No answer in time.
    #[error("no answer to the certificate request within {0:?}")]
    Timeout(Duration),
    /// The answer is not one.
    #[error("the control plane's answer cannot be used: {0}")]
    Answer(String),
    /// What it issued would be refused by peers.
    #[error("the issued certificate would be refused by peers: {0}")]
    WouldBeRefused(PeerError),
    /// The bundles it sent cannot be used.
    #[error(transparent)]
    Bundles(#[from] BundleError),
    /// The key could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The chain and the key are not an SVID.
    #[error(transparent)]
    Svid(#[from] SvidError),
}

/// Whoever turns a certificate request into a chain, given evidence it has for this workload.
pub trait Issuer: Send + Sync {
    /// Sends one request.
    ///
    /// # Errors
    /// See [`IssueError`]; every error may be tried again later.
    fn issue(&self, csr_der: Vec<u8>) -> impl Future<Output = Result<v1::IssueResponse, IssueError>> + Send;

    /// Told of each identity made from an answer, so that an issuer may prove itself with it next time.
    fn accepted(&self, _identity: &Arc<Identity>) {}

    /// Told of newer bundles than came with the last answer (a snapshot), so that a rotated root is believed in time.
    fn learn(&self, _bundles: &BTreeMap<TrustDomain, Bundle>) {}
}

impl<T: Issuer> Issuer for Arc<T> {
    fn issue(&self, csr_der: Vec<u8>) -> impl Future<Output = Result<v1::IssueResponse, IssueError>> + Send {
        T::issue(self, csr_der)
    }

    fn accepted(&self, identity: &Arc<Identity>) {
        T::accepted(self, identity);
    }

    fn learn(&self, bundles: &BTreeMap<TrustDomain, Bundle>) {
        T::learn(self, bundles);
    }
}

/// What a workload gets: its SVID, whom to believe, and where the control plane is.
#[derive(Debug)]
pub struct Identity {
    /// The chain and the key.
    pub svid: Arc<Svid>,
    /// Roots by trust domain.
    pub bundles: BTreeMap<TrustDomain, Bundle>,
    /// `host:port` of the control plane's mutual-TLS port.
    pub control_address: String,
    /// Who must answer there.
    pub control_identity: SpiffeId,
    /// Compare with the mesh's: when the mesh's is greater, renew now.
    pub reissue_epoch: u64,
}

/// Gets an SVID, in one attempt; the caller decides whether to try again.
///
/// Cancel safe: an issued but unused SVID simply expires.
///
/// # Errors
/// See [`IssueError`].
pub async fn first(issuer: &impl Issuer, instance: &InstanceName) -> Result<Identity, IssueError> {
    let attempt = async {
        let key = WorkloadKey::generate()?;
        let response = issuer.issue(key.csr_der(instance)?).await?;
        Identity::assemble(response, key)
    };
    tokio::time::timeout(ATTEMPT_MAX, attempt).await.unwrap_or(Err(IssueError::Timeout(ATTEMPT_MAX)))
}

/// Replaces the published identity whenever its time has come, or `renew_now` is notified, until `shutdown`.
///
/// Starts from the identity that `publish` holds. Failures are retried for ever with growing pauses.
pub async fn keep_fresh(
    issuer: impl Issuer,
    instance: InstanceName,
    publish: watch::Sender<Arc<Identity>>,
    renew_now: Arc<Notify>,
    shutdown: CancellationToken,
) {
    #[expect(clippy::disallowed_methods, reason = "this loop owns the timer of renewal")]
    let clock = SystemTime::now;
    let keeper = keeper::Keeper { issuer, instance, publish, renew_now, clock };
    tokio::select! {
        // Cancel safe: an attempt cut short leaves the old identity in place.
        () = keeper.run() => {}
        () = shutdown.cancelled() => {}
    }
}

impl Identity {
    /// Joins an answer with the key it was asked for, and checks that peers would accept it.
    fn assemble(response: v1::IssueResponse, key: WorkloadKey) -> Result<Self, IssueError> {
        let v1::IssueResponse {
            chain_der,
            bundles,
            spiffe_id,
            control_address,
            control_identity,
            reissue_epoch,
        } = response;
        let answer = |problem: &dyn std::fmt::Display| IssueError::Answer(problem.to_string());
        let svid = Svid::new(chain_der, key)?;
        if svid.id().as_str() != spiffe_id {
            return Err(answer(&format_args!("it names {spiffe_id:?} but certifies {}", svid.id())));
        }
        let mut by_domain = BTreeMap::new();
        for v1::Bundle { trust_domain, roots_der, sequence } in bundles {
            let trust_domain: TrustDomain = trust_domain.parse().map_err(|e| answer(&e))?;
            let bundle = Bundle { trust_domain: trust_domain.clone(), roots: roots_der, sequence };
            by_domain.insert(trust_domain, bundle);
        }
        let identity = Self {
            svid: Arc::new(svid),
            bundles: by_domain,
            control_address,
            control_identity: control_identity.parse().map_err(|e| answer(&e))?,
            reissue_epoch,
        };
        identity.check_by_peers_rules()?;
        Ok(identity)
    }

    /// Judges our own chain as a peer would. The time is the certificate's own, since our clock may be off.
    fn check_by_peers_rules(&self) -> Result<(), IssueError> {
        let bundles = TrustBundles::from_config(&self.bundles)?;
        let since_epoch = self.svid.not_before().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for role in [Role::Client, Role::Server] {
            let judge = Judge {
                bundles: &bundles,
                revocations: &Revocations::default(),
                role,
                expected: Some(self.svid.id()),
            };
            judge
                .verify(self.svid.chain(), UnixTime::since_unix_epoch(since_epoch))
                .map_err(IssueError::WouldBeRefused)?;
        }
        Ok(())
    }
}
