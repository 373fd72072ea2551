//! The authority's state: roots, the issuing intermediate, the rotation under way, what is revoked, join tokens.
//!
//! A change is a changed copy that replaces the old one after it was saved (`Authority::commit`); keys are shared
//! between copies, never copied.

use super::attest::join_token::Token;
use super::keys::{CaKey, Signer, Span};
use super::revoke::Revoked;
use super::rotation::Rotation;
use super::{AuthorityConfig, AuthorityError, BroughtRoot};
use mesh_proto::config::Bundle;
use mesh_proto::identity::TrustDomain;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::SystemTime;
use zeroize::Zeroize;

/// All but the records of what was issued.
#[derive(Clone)]
pub(super) struct Core {
    pub(super) trust_domain: TrustDomain,
    /// One, or two while a rotation is under way. Exactly one is active.
    pub(super) roots: Vec<RootEntry>,
    pub(super) issuing: Issuing,
    pub(super) rotation: Option<Rotation>,
    /// Of the bundle.
    pub(super) sequence: u64,
    pub(super) reissue_epoch: u64,
    pub(super) revoked: Revoked,
    pub(super) tokens: Vec<Token>,
    /// SHA-256 of the public keys of roots that were replaced, oldest first.
    pub(super) retired: Vec<[u8; 32]>,
}

/// A root.
#[derive(Clone)]
pub(super) struct RootEntry {
    pub(super) signer: Arc<Signer>,
    pub(super) state: RootState,
    /// Whether it is in the bundle.
    pub(super) is_trusted: bool,
}

/// What a root is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RootState {
    /// The issuing intermediate is signed by it.
    Active,
    /// It becomes active.
    Next,
    /// It was active; SVIDs in use may still chain to it.
    Retiring,
}

/// The intermediate that signs SVIDs.
#[derive(Clone)]
pub(super) struct Issuing {
    pub(super) signer: Arc<Signer>,
    pub(super) root_sha256: [u8; 32],
}

impl Core {
    /// A new authority with the brought root, or one made here.
    pub(super) fn create(config: &AuthorityConfig, now: SystemTime) -> Result<Self, AuthorityError> {
        let root = Arc::new(next_root(config, now)?);
        let issuing = Issuing::below(&root, config, now)?;
        Ok(Self {
            trust_domain: config.trust_domain.clone(),
            roots: vec![RootEntry { signer: root, state: RootState::Active, is_trusted: true }],
            issuing,
            rotation: None,
            sequence: 1,
            reissue_epoch: 1,
            revoked: Revoked::default(),
            tokens: Vec::new(),
            retired: Vec::new(),
        })
    }

    /// The root that the issuing intermediate is signed by.
    #[expect(clippy::expect_used, reason = "decoding and every step keep exactly one active root")]
    pub(super) fn active_root(&self) -> &Arc<Signer> {
        self.roots
            .iter()
            .find(|root| root.state == RootState::Active)
            .map(|root| &root.signer)
            .expect("one root is active")
    }

    /// The bundle of our trust domain.
    pub(super) fn bundle(&self) -> Bundle {
        let trusted = self.roots.iter().filter(|root| root.is_trusted);
        Bundle {
            trust_domain: self.trust_domain.clone(),
            roots: trusted.map(|root| root.signer.certificate_der.clone()).collect(),
            sequence: self.sequence,
        }
    }

    /// Replaces the issuing intermediate with a new one below the active root.
    pub(super) fn renew_intermediate(
        &mut self,
        config: &AuthorityConfig,
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        self.issuing = Issuing::below(self.active_root(), config, now)?;
        Ok(())
    }

    /// Whether the issuing intermediate should be replaced now: a third of its life is left, or it is revoked.
    pub(super) fn intermediate_is_due(&self, config: &AuthorityConfig, now: SystemTime) -> bool {
        let facts = &self.issuing.signer.facts;
        if self.revoked.has_serial(&facts.serial) {
            return true;
        }
        let life = facts.not_after.duration_since(facts.not_before).unwrap_or_default();
        let left = facts.not_after.duration_since(now).unwrap_or_default();
        // Below a root that is about to end, a new one would end no later.
        let next =
            Span::new(now, config.backdate, config.intermediate_lifetime).within(&self.active_root().facts);
        left < life / 3 && next.not_after > facts.not_after
    }

    /// Whether certificates can be issued below the intermediate.
    pub(super) fn intermediate_is_usable(&self, now: SystemTime) -> bool {
        let facts = &self.issuing.signer.facts;
        now <= facts.not_after && !self.revoked.has_serial(&facts.serial)
    }

    pub(super) fn bump_sequence(&mut self) {
        self.sequence = self.sequence.saturating_add(1);
    }

    pub(super) fn bump_reissue_epoch(&mut self) {
        self.reissue_epoch = self.reissue_epoch.saturating_add(1);
    }
}

impl Issuing {
    fn below(root: &Arc<Signer>, config: &AuthorityConfig, now: SystemTime) -> Result<Self, AuthorityError> {
        if now > root.facts.not_after {
            return Err(AuthorityError::RootExpired);
        }
        let span = Span::new(now, config.backdate, config.intermediate_lifetime);
        let signer = Arc::new(root.make_intermediate(&config.trust_domain, span)?);
        Ok(Self { signer, root_sha256: root.sha256 })
    }
}

/// The brought root, or one made here.
pub(super) fn next_root(config: &AuthorityConfig, now: SystemTime) -> Result<Signer, AuthorityError> {
    match &config.brought_root {
        Some(brought) => {
            read_brought(brought, &config.trust_domain, now).map_err(AuthorityError::BroughtRoot)
        }
        None => make_root(config, now),
    }
}

/// SHA-256 of a brought root's certificate, if there is one in its file.
pub(super) fn brought_sha256(brought: &BroughtRoot) -> Option<[u8; 32]> {
    let certificate = CertificateDer::from_pem_slice(brought.certificate_pem.as_bytes()).ok()?;
    Some(crate::x509::sha256(&certificate))
}

/// A root made here.
fn make_root(config: &AuthorityConfig, now: SystemTime) -> Result<Signer, AuthorityError> {
    Signer::make_root(&config.trust_domain, Span::new(now, config.backdate, config.root_lifetime))
}

fn read_brought(brought: &BroughtRoot, domain: &TrustDomain, now: SystemTime) -> Result<Signer, String> {
    let certificate = CertificateDer::from_pem_slice(brought.certificate_pem.as_bytes())
        .map_err(|e| format!("no certificate in the PEM file ({e})"))?;
    let mut key = PrivateKeyDer::from_pem_slice(brought.key_pem.as_bytes())
        .map_err(|e| format!("no private key in the PEM file ({e})"))?;
    let ca_key = CaKey::from_der(key.secret_der());
    key.zeroize();
    let signer = Signer::new(certificate.to_vec(), ca_key?)?;
    signer.check_as_root(domain, now)?;
    Ok(signer)
}
