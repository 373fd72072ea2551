//! What people see of the authority.

use super::rotation::{Gate, ProxyTrust};
use super::state::{Core, RootEntry, RootState};
use super::{Authority, Phase};
use crate::x509::Facts;
use std::time::SystemTime;

/// The authority at one moment.
#[derive(Debug, Clone)]
pub struct AuthorityStatus {
    /// The active one first.
    pub roots: Vec<CaCertificate>,
    /// The intermediate that signs SVIDs.
    pub issuing: CaCertificate,
    /// The step of the rotation under way.
    pub phase: Option<Phase>,
    /// Whether it is paused.
    pub is_paused: bool,
    /// What the step waits for; empty when nothing.
    pub waiting_for: String,
    /// Connected proxies.
    pub proxies_total: usize,
    /// Of these, how many have acknowledged the present bundle.
    pub proxies_trusting: usize,
    /// SVIDs of connected proxies.
    pub svids_total: usize,
    /// Of these, how many chain to the active root.
    pub svids_on_active: usize,
    /// Certificates ever issued.
    pub issued_total: u64,
    /// Revocations in force.
    pub revoked: usize,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// A root or intermediate.
#[derive(Debug, Clone)]
pub struct CaCertificate {
    /// Its subject.
    pub subject: String,
    /// Its serial, big-endian.
    pub serial: Vec<u8>,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// What it is for.
    pub state: CaState,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
}

/// What a root or intermediate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaState {
    /// It signs.
    Active,
    /// It will sign.
    Next,
    /// It signs no more, but certificates in use chain to it.
    Retiring,
}

impl CaState {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Next => "next",
            Self::Retiring => "retiring",
        }
    }
}

impl Authority {
    /// The present state, with what the rotation waits for given these connected proxies.
    pub fn status(&self, fleet: &[ProxyTrust], now: SystemTime) -> AuthorityStatus {
        let inner = self.lock();
        let gate =
            Gate { core: &inner.core, records: &inner.records, fleet, now, opened_at: inner.opened_at };
        let core = &inner.core;
        let mut roots: Vec<CaCertificate> = core.roots.iter().map(root).collect();
        roots.sort_by_key(|root| root.state != CaState::Active);
        AuthorityStatus {
            roots,
            issuing: certificate(&core.issuing.signer.facts, core.issuing.signer.sha256, CaState::Active),
            phase: core.rotation.as_ref().map(|rotation| rotation.phase),
            is_paused: core.rotation.as_ref().is_some_and(|rotation| rotation.is_paused),
            waiting_for: gate.waiting_for(self.config.absent_grace).unwrap_or_default(),
            proxies_total: fleet.len(),
            proxies_trusting: fleet.iter().filter(|proxy| proxy.bundle_sequence >= core.sequence).count(),
            svids_total: fleet.len(),
            svids_on_active: fleet.iter().filter(|proxy| gate.is_on_active_root(proxy)).count(),
            issued_total: inner.records.total,
            revoked: core.revoked.count(),
            warnings: self.warnings(core, now),
        }
    }
}

fn root(entry: &RootEntry) -> CaCertificate {
    let state = match entry.state {
        RootState::Active => CaState::Active,
        RootState::Next => CaState::Next,
        RootState::Retiring => CaState::Retiring,
    };
    certificate(&entry.signer.facts, entry.signer.sha256, state)
}

fn certificate(facts: &Facts, sha256: [u8; 32], state: CaState) -> CaCertificate {
    CaCertificate {
        subject: facts.subject.clone(),
        serial: facts.serial.clone(),
        not_before: facts.not_before,
        not_after: facts.not_after,
        state,
        sha256,
    }
}

impl Authority {
    fn warnings(&self, core: &Core, now: SystemTime) -> Vec<String> {
        let mut warnings = warnings(core, now);
        let is_unused = |sha256: &[u8; 32]| core.roots.iter().all(|root| root.signer.sha256 != *sha256);
        if self.brought_sha256.as_ref().is_some_and(is_unused) {
            warnings.push(
                "the root that was given at the start is not in use; change to it with: meshctl ca rotate"
                    .to_owned(),
            );
        }
        warnings
    }
}

fn warnings(core: &Core, now: SystemTime) -> Vec<String> {
    let facts = &core.active_root().facts;
    let life = facts.not_after.duration_since(facts.not_before).unwrap_or_default();
    let mut warnings = Vec::new();
    match facts.not_after.duration_since(now) {
        Err(_) => warnings.push("the root has expired; replace it with: meshctl ca rotate".to_owned()),
        // A tenth of its life: five weeks of a year.
        Ok(left) if left < life / 10 => warnings.push(format!(
            "the root ends in {} days; replace it with: meshctl ca rotate",
            left.as_secs() / (24 * 3600)
        )),
        Ok(_) => {}
    }
    warnings
}
