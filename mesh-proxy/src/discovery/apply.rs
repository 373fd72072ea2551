//! Turns snapshots and certificates into the form that the data path uses, and puts it to use in every worker.
//!
//! The [`Publisher`] is the only one that makes an [`Applied`]. What cannot be used is refused with a reason, and the one
//! before stays. A snapshot counts as applied when every worker judges by it.

use crate::Multiplexing;
use crate::clock;
use crate::http::canonical::judged_fields;
use crate::limit::Limits;
use mesh_ca::bundle::TrustBundles;
use mesh_ca::client::Identity;
use mesh_ca::tls::{Alpn, Credentials, TlsError};
use mesh_proto::config::{Bundle, MtlsMode, Revocations, Snapshot};
use mesh_proto::identity::{SpiffeId, TrustDomain};
use mesh_proto::policy::compile::PolicySet;
use rustls::{ClientConfig, ServerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How long the workers may take to put a snapshot to use; they only swap a pointer between two polls.
const IN_USE_WITHIN: Duration = Duration::from_secs(5);

/// Everything the data path works by. Immutable; a change is a new one.
#[derive(Debug)]
pub(crate) struct Applied {
    /// Grows by one with each; local to this process.
    pub(crate) generation: u64,
    /// What the control plane said.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Who may call the workload.
    pub(crate) policy: PolicySet,
    /// How much callers may ask.
    pub(crate) limits: Limits,
    /// Lower-case names of the header fields that policies and limits judge.
    pub(crate) judged: Vec<Arc<str>>,
    /// Whether any rule asks for the server name of an application's own TLS.
    pub(crate) names_sni: bool,
    /// Unix seconds at which a rule or permissive mode ends, ascending: judge again then.
    pub(crate) expiries: Vec<u64>,
    /// Who we are and whom we believe.
    pub(crate) trust: Arc<Trust>,
}

/// Who we are and whom we believe.
#[derive(Debug)]
pub(crate) struct Trust {
    credentials: Credentials,
    /// For the mesh listener.
    pub(crate) server: Arc<ServerConfig>,
    /// Our own identity.
    pub(crate) id: SpiffeId,
    /// The same as text, to be shared with records.
    pub(crate) id_text: Arc<str>,
    /// Its trust domain.
    pub(crate) domain: TrustDomain,
    /// When our certificate ends.
    pub(crate) not_after: SystemTime,
}

impl Trust {
    /// For a connection to `expected` that speaks one of these protocols.
    ///
    /// # Errors
    /// The library refused.
    pub(crate) fn client(&self, expected: &SpiffeId, offer: &[Alpn]) -> Result<Arc<ClientConfig>, TlsError> {
        self.credentials.client_config_for(expected, offer)
    }

    /// Whether a session that was made with this is as good as one that would be made with `other`: the same certificate
    /// of ours, the same roots believed. Revocations are asked of each session.
    pub(crate) fn is_as_good_as(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.credentials, &other.credentials);
        Arc::ptr_eq(&ours.svid, &theirs.svid) && ours.bundles == theirs.bundles
    }

    /// What is no longer accepted.
    pub(crate) fn revocations(&self) -> &Revocations {
        &self.credentials.revocations
    }

    /// Our own certificate's serial, hex.
    pub(crate) fn serial_hex(&self) -> String {
        self.credentials.svid.serial_hex()
    }
}

impl Applied {
    /// Whether plaintext is accepted inbound at `now` (Unix seconds).
    pub(crate) fn accepts_plaintext(&self, now: u64) -> bool {
        match self.snapshot.mesh.mtls {
            MtlsMode::Strict => false,
            MtlsMode::Permissive { until } => now < until,
        }
    }
}

/// A snapshot to apply; the answer says that every worker uses it, or why not.
pub(crate) struct Proposal {
    /// What to apply.
    pub(crate) snapshot: Snapshot,
    /// Told once.
    pub(crate) answer: oneshot::Sender<Result<(), String>>,
}

/// Which generation each worker judges by.
#[derive(Debug)]
pub(crate) struct InUse {
    generations: Vec<AtomicU64>,
    changed: Notify,
}

impl InUse {
    /// None in use yet.
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        let generations = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { generations, changed: Notify::new() })
    }

    /// A worker judges by this generation from now on.
    pub(crate) fn set(&self, worker: usize, generation: u64) {
        if let Some(of) = self.generations.get(worker) {
            of.store(generation, Ordering::Release);
            self.changed.notify_waiters();
        }
    }

    async fn reached(&self, generation: u64) {
        loop {
            // Registered before the check, so that a change between the two is not missed.
            let changed = self.changed.notified();
            if self.generations.iter().all(|of| of.load(Ordering::Acquire) >= generation) {
                return;
            }
            changed.await;
        }
    }
}

/// Owns what is applied.
pub(crate) struct Publisher {
    identity: Arc<Identity>,
    snapshot: Option<Arc<Snapshot>>,
    generation: u64,
    publish: watch::Sender<Option<Arc<Applied>>>,
    in_use: Arc<InUse>,
    learn: Learn,
    multiplexing: Multiplexing,
}

/// Tells the issuer of newer bundles.
pub(crate) type Learn = Box<dyn Fn(&BTreeMap<TrustDomain, Bundle>) + Send>;

impl Publisher {
    /// Starts with a certificate and without a snapshot: `publish` holds `None` until the first one.
    pub(crate) fn new(
        identity: Arc<Identity>,
        publish: watch::Sender<Option<Arc<Applied>>>,
        in_use: Arc<InUse>,
        learn: Learn,
        multiplexing: Multiplexing,
    ) -> Self {
        Self { identity, snapshot: None, generation: 0, publish, in_use, learn, multiplexing }
    }

    /// Applies certificates and snapshots as they come, until `shutdown`.
    pub(crate) async fn run(
        mut self,
        mut identity: watch::Receiver<Arc<Identity>>,
        mut proposals: mpsc::Receiver<Proposal>,
        shutdown: CancellationToken,
    ) {
        loop {
            // All branches are cancel safe: nothing is taken out by one that does not win.
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = identity.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let renewed = Arc::clone(&identity.borrow_and_update());
                    self.renew(renewed);
                }
                proposal = proposals.recv() => {
                    let Some(Proposal { snapshot, answer }) = proposal else { return };
                    let result = self.propose(snapshot).await;
                    // Whoever asked may be gone: the stream broke meanwhile.
                    let _ = answer.send(result);
                }
            }
        }
    }

    /// A new certificate: for new handshakes; connections made with the old one live on.
    fn renew(&mut self, identity: Arc<Identity>) {
        let before = std::mem::replace(&mut self.identity, identity);
        let Some(snapshot) = self.snapshot.clone() else { return };
        if let Err(problem) = self.publish(snapshot) {
            tracing::error!(%problem, "the renewed certificate cannot be used; the one before stays");
            self.identity = before;
        }
    }

    async fn propose(&mut self, snapshot: Snapshot) -> Result<(), String> {
        let snapshot = Arc::new(snapshot);
        self.publish(Arc::clone(&snapshot))?;
        (self.learn)(&snapshot.bundles);
        self.snapshot = Some(snapshot);
        let generation = self.generation;
        tokio::time::timeout(IN_USE_WITHIN, self.in_use.reached(generation))
            .await
            .map_err(|_| "a data thread did not take the snapshot in time".to_owned())
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) -> Result<(), String> {
        let before = self.publish.borrow().clone();
        let trust = trust(&self.identity, &snapshot, self.multiplexing)?;
        let limits =
            Limits::compile(&snapshot.limits, before.as_deref().map(|applied| &applied.limits), clock::now());
        let applied = Applied {
            generation: self.generation.saturating_add(1),
            policy: PolicySet::compile(&snapshot.policy),
            limits,
            judged: judged_fields(&snapshot.policy, &snapshot.limits),
            names_sni: names_sni(&snapshot),
            expiries: expiries(&snapshot),
            trust: Arc::new(trust),
            snapshot,
        };
        self.generation = applied.generation;
        self.publish.send_replace(Some(Arc::new(applied)));
        Ok(())
    }
}

/// Certificate and snapshot each bring bundles; for each trust domain the newer one counts.
fn trust(identity: &Identity, snapshot: &Snapshot, multiplexing: Multiplexing) -> Result<Trust, String> {
    let credentials = credentials(identity, Some(snapshot))?;
    let mut protocols = Alpn::ALL.to_vec();
    protocols.retain(|alpn| multiplexing == Multiplexing::On || *alpn != Alpn::MeshMux);
    let id = identity.svid.id().clone();
    Ok(Trust {
        server: credentials.server_config_for(&protocols).map_err(|error| error.to_string())?,
        domain: id.trust_domain(),
        id_text: id.as_str().into(),
        id,
        not_after: identity.svid.not_after(),
        credentials,
    })
}

/// For a connection to the control plane: with what is known now, be there a snapshot or not.
///
/// # Errors
/// Bundle or certificate cannot be used.
pub(crate) fn control_client(
    identity: &Identity,
    snapshot: Option<&Snapshot>,
) -> Result<Arc<ClientConfig>, String> {
    let credentials = credentials(identity, snapshot)?;
    credentials.control_client_config(&identity.control_identity).map_err(|error| error.to_string())
}

fn credentials(identity: &Identity, snapshot: Option<&Snapshot>) -> Result<Credentials, String> {
    let mut bundles = identity.bundles.clone();
    for (domain, bundle) in snapshot.iter().flat_map(|snapshot| &snapshot.bundles) {
        let known = bundles.get(domain).map(|known| known.sequence);
        if known.is_none_or(|known| known <= bundle.sequence) {
            bundles.insert(domain.clone(), bundle.clone());
        }
    }
    // A domain that is no longer federated is no longer believed.
    if let Some(snapshot) = snapshot {
        let own = identity.svid.id().trust_domain();
        bundles.retain(|domain, _| *domain == own || snapshot.bundles.contains_key(domain));
    }
    Ok(Credentials {
        svid: Arc::clone(&identity.svid),
        bundles: Arc::new(TrustBundles::from_config(&bundles).map_err(|error| error.to_string())?),
        revocations: snapshot.map(|snapshot| Arc::clone(&snapshot.revocations)).unwrap_or_default(),
    })
}

fn names_sni(snapshot: &Snapshot) -> bool {
    let rules = snapshot.policy.policies.iter().flat_map(|policy| &policy.rules);
    rules.flat_map(|rule| &rule.to).any(|operation| !operation.sni.is_empty())
}

fn expiries(snapshot: &Snapshot) -> Vec<u64> {
    let rules = snapshot.policy.policies.iter().flat_map(|policy| &policy.rules);
    let mut times: BTreeSet<u64> = rules.filter_map(|rule| rule.valid_until).collect();
    if let MtlsMode::Permissive { until } = snapshot.mesh.mtls {
        times.insert(until);
    }
    times.into_iter().collect()
}
