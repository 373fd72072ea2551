//! From a state directory to everything that was in it: before anything is served.

use super::ControlError;
use crate::audit::AuditKey;
use crate::authority::StoredAuthority;
use crate::clock;
use crate::config::Config;
use crate::discovery::fanout::Beginning;
use crate::index::Trust;
use crate::local::registry::Registry;
use crate::state_dir::StateDir;
use crate::store::view::StoredResource;
use crate::store::{self, Store};
use mesh_ca::authority::{
    Authority, AuthorityConfig, AuthorityError, AuthorityStore, BroughtRoot, Phase, RotateRoot,
};
use mesh_ca::seal::{Missing, SealKey};
use mesh_proto::identity::TrustDomain;
use mesh_proto::name::InstanceName;
use mesh_proto::resource::{self, Catalog, Resource, SourceDocument};
use std::sync::Arc;
use std::time::SystemTime;

/// The name of the registry in the store.
pub(super) const REGISTRY: &str = "registry";
/// The name of the trust domain in the store.
const TRUST_DOMAIN: &str = "trust-domain";
/// The trust domain of a mesh that was not told another.
const TRUST_DOMAIN_DEFAULT: &str = "mesh.local";

/// A state directory with everything that was in it.
pub(super) struct Opened {
    pub(super) state_dir: StateDir,
    pub(super) store: Arc<dyn Store>,
    pub(super) authority: Arc<Authority>,
    pub(super) audit_key: Arc<AuditKey>,
    pub(super) beginning: Beginning,
    /// Documents that this version cannot read, as sentences.
    pub(super) unreadable: Vec<String>,
}

/// What all replicas of a cluster have in common.
pub(super) struct Shared {
    /// Where the authority's state is.
    pub(super) kept: Arc<dyn AuthorityStore>,
    /// The sealing key, where no file has it.
    pub(super) seal: Option<SealKey>,
}

/// Opens everything, off the runtime's threads.
///
/// # Errors
/// Something is not usable; each error says what to do.
pub(super) async fn open(config: &Config, shared: Option<Shared>) -> Result<Opened, ControlError> {
    let config = config.clone();
    let opened = tokio::task::spawn_blocking(move || open_blocking(&config, shared)).await;
    opened.unwrap_or_else(|error| {
        Err(ControlError::Task { task: "opening the state directory", problem: error.to_string() })
    })
}

fn open_blocking(config: &Config, shared: Option<Shared>) -> Result<Opened, ControlError> {
    let state_dir = StateDir::claim(&config.state_dir)?;
    let store_dir = state_dir.store()?;
    let key_file = config.seal_key_file.clone().unwrap_or_else(|| state_dir.seal_key());
    // A store without its key cannot be opened; a new key beside it would only hide what is missing.
    let is_first = std::fs::read_dir(&store_dir).is_ok_and(|mut entries| entries.next().is_none());
    let missing = if is_first { Missing::Create } else { Missing::Refuse };
    let (kept, told) = shared.map_or((None, None), |shared| (Some(shared.kept), shared.seal));
    let seal = Arc::new(told.map_or_else(|| SealKey::from_file(&key_file, missing), Ok)?);
    let store: Arc<dyn Store> = Arc::new(store::disk::open(&store_dir, seal.clone())?);
    let trust_domain = trust_domain(config, &*store)?;
    let authority = match kept {
        None => authority(config, &trust_domain, Arc::new(StoredAuthority(store.clone())), &seal)?,
        Some(shared) => shared_authority(config, &trust_domain, &shared, &seal)?,
    };
    let audit_key = Arc::new(AuditKey::open(&*store, &seal)?);
    let view = store.read();
    let (catalog, unreadable) = catalog(view.resources().values().map(|stored| &**stored));
    let registry = match view.meta(REGISTRY) {
        Some(json) => {
            let (registry, unread) = Registry::from_json(&json);
            if unread > 0 {
                tracing::warn!(
                    unread,
                    "workloads of before the restart could not be read; they register anew"
                );
            }
            registry
        }
        None => Registry::default(),
    };
    let trust = Trust {
        bundles: authority.bundles(),
        revocations: authority.revocations(),
        reissue_epoch: authority.reissue_epoch(),
    };
    let beginning = Beginning {
        trust_domain,
        revision: view.revision(),
        catalog: Arc::new(catalog),
        trust: Arc::new(trust),
        registry,
    };
    Ok(Opened { state_dir, store, authority: Arc::new(authority), audit_key, beginning, unreadable })
}

/// The trust domain of the mesh in this directory; at the first start the one that was asked for, and kept.
fn trust_domain(config: &Config, store: &dyn Store) -> Result<TrustDomain, ControlError> {
    let kept = store.read().meta(TRUST_DOMAIN).and_then(|kept| String::from_utf8(kept).ok());
    let kept: Option<TrustDomain> = kept.and_then(|kept| kept.parse().ok());
    match (kept, config.trust_domain.clone()) {
        (Some(saved), Some(told)) if saved != told => {
            Err(AuthorityError::OtherTrustDomain { saved, told }.into())
        }
        (Some(saved), _) => Ok(saved),
        (None, told) => {
            let domain = match told {
                Some(told) => told,
                None => {
                    TRUST_DOMAIN_DEFAULT.parse().map_err(|error| ControlError::Keep(format!("{error}")))?
                }
            };
            let kept = store.put_meta(TRUST_DOMAIN, domain.as_str().as_bytes().to_vec());
            kept.map_err(|error| ControlError::Keep(error.to_string()))?;
            Ok(domain)
        }
    }
}

/// As [`authority`], where other replicas may be doing the same in this moment: of two that make the first state one is
/// refused, and opens what the other has made.
fn shared_authority(
    config: &Config,
    trust_domain: &TrustDomain,
    kept: &Arc<dyn AuthorityStore>,
    seal: &SealKey,
) -> Result<Authority, ControlError> {
    let first = authority(config, trust_domain, kept.clone(), seal);
    match first {
        Err(ControlError::Authority(AuthorityError::Store { tried: "saved", .. })) => {
            authority(config, trust_domain, kept.clone(), seal)
        }
        opened => opened,
    }
}

fn authority(
    config: &Config,
    trust_domain: &TrustDomain,
    kept: Arc<dyn AuthorityStore>,
    seal: &SealKey,
) -> Result<Authority, ControlError> {
    let brought_root = config.brought_root.as_ref().map(|root| BroughtRoot {
        certificate_pem: root.certificate_pem.clone(),
        key_pem: zeroize::Zeroizing::new(root.key_pem.clone()),
    });
    let authority = AuthorityConfig {
        svid_lifetime: config.svid_lifetime,
        intermediate_lifetime: config.intermediate_lifetime,
        root_lifetime: config.root_lifetime,
        brought_root,
        absent_grace: config.absent_grace,
        ..AuthorityConfig::new(trust_domain.clone())
    };
    let now = clock::wall();
    let authority = Authority::open(authority, kept, seal, now)?;
    revive(&authority, now)?;
    Ok(authority)
}

/// Replaces a root that has expired while the control plane was away. Nothing below it is valid any more, so there is nobody
/// to be considerate of, and without a root there would be no certificate to serve `meshctl ca rotate` with.
fn revive(authority: &Authority, now: SystemTime) -> Result<(), AuthorityError> {
    let status = authority.status(&[], now);
    if status.roots.iter().any(|root| root.not_after > now) {
        return Ok(());
    }
    tracing::error!("the root has expired; it is replaced now, and every workload renews");
    if status.phase.is_none() {
        authority.rotate_root(RotateRoot::Start, now)?;
    }
    // The steps of a rotation, each taken by one tick at the latest, and one to see that it is over.
    for _ in 0..=Phase::ALL.len() {
        authority.tick(now, &[])?;
    }
    Ok(())
}

/// All documents that can be read, and sentences about those that cannot: one bad object never blocks the others.
fn catalog<'a>(stored: impl Iterator<Item = &'a StoredResource>) -> (Catalog, Vec<String>) {
    let mut resources: Vec<Resource> = Vec::new();
    let mut unreadable = Vec::new();
    for StoredResource { key, file, line, yaml, revision } in stored {
        let document = SourceDocument { file: file.clone(), line: *line, yaml: yaml.clone() };
        match resource::parse(&document) {
            Ok(resource) => resources.push(resource),
            Err(problems) => {
                let first = problems.first().map(ToString::to_string).unwrap_or_default();
                let text = format!(
                    "{key} (revision {revision}) cannot be read by this version and is not in force: {first}"
                );
                tracing::error!(%key, revision, problem = first, "a stored object cannot be read and is not in force");
                unreadable.push(text);
            }
        }
    }
    (Catalog::from_resources(resources), unreadable)
}

/// What the control plane calls itself in its certificate.
#[expect(clippy::expect_used, reason = "a literal that is a DNS label")]
pub(super) fn own_instance() -> InstanceName {
    "mesh-control".parse().expect("a DNS label")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use mesh_ca::client::first;
    use std::time::Duration;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    /// Two years after the beginning that every test shares.
    fn much_later() -> SystemTime {
        clock::wall() + YEAR * 2
    }

    #[tokio::test]
    async fn an_expired_root_is_replaced_at_the_start() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let seal = SealKey::from_bytes(&[7; 32]);
        let open = |now| {
            let config = AuthorityConfig::new("mesh.local".parse().unwrap());
            Authority::open(config, Arc::new(StoredAuthority(store.clone())), &seal, now).unwrap()
        };
        let old = open(clock::wall()).root_sha256();
        let authority = open(much_later());
        revive(&authority, much_later()).unwrap();
        assert_ne!(authority.root_sha256(), old);
        assert_eq!(authority.bundles()[0].roots.len(), 1, "the expired one is gone");
        let issuer = mesh_ca::authority::server::SelfIssuer {
            authority: Arc::new(authority),
            instance: own_instance(),
            control_address: String::new(),
            clock: much_later,
        };
        first(&issuer, &issuer.instance).await.unwrap();
    }
}
