//! Revocation: what is no longer believed although it has not expired.
//!
//! The list goes to every proxy with its snapshot and is asked in each handshake (`verify`) and of live connections.
//! Entries end when the certificate does; identities stay until taken back.

use super::audit::Event;
use super::state::Core;
use super::{Authority, AuthorityError, Inner, SVID_LIFETIME_MAX};
use crate::tls::control_identity;
use crate::x509::{hex, strip_zeros};
use mesh_proto::config::Revocations;
use mesh_proto::identity::SpiffeId;
use std::time::SystemTime;

/// The most entries of each kind: some 300 KiB in each proxy's snapshot. Beyond it, revoke the identity or the intermediate.
const REVOKED_MAX: usize = 10_000;

/// What can be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocable {
    /// One certificate, leaf or intermediate, by its serial (big-endian).
    Serial(Vec<u8>),
    /// Everything of one identity, and nothing new is issued for it.
    Identity(SpiffeId),
    /// The issuing intermediate in use, with everything below it; a new one takes its place at once.
    Intermediate,
}

/// What is revoked.
#[derive(Clone, Default)]
pub(super) struct Revoked {
    pub(super) serials: Vec<RevokedSerial>,
    pub(super) identities: Vec<RevokedIdentity>,
}

#[derive(Clone, Debug)]
pub(super) struct RevokedSerial {
    pub(super) serial: Vec<u8>,
    /// When the certificate ends and the entry with it.
    pub(super) until: SystemTime,
    pub(super) is_intermediate: bool,
    pub(super) reason: String,
}

#[derive(Clone, Debug)]
pub(super) struct RevokedIdentity {
    pub(super) id: SpiffeId,
    pub(super) reason: String,
}

impl Revoked {
    pub(super) fn has_serial(&self, serial: &[u8]) -> bool {
        self.serials.iter().any(|revoked| revoked.serial == serial)
    }

    pub(super) fn has_identity(&self, id: &SpiffeId) -> bool {
        self.identities.iter().any(|revoked| revoked.id == *id)
    }

    pub(super) fn count(&self) -> usize {
        self.serials.len().saturating_add(self.identities.len())
    }

    /// Forgets serials whose certificates have ended. Says whether there were any.
    pub(super) fn prune(&mut self, now: SystemTime) -> bool {
        let before = self.serials.len();
        self.serials.retain(|revoked| revoked.until >= now);
        self.serials.len() != before
    }
}

impl Core {
    /// As proxies get it: sorted.
    pub(super) fn revocations(&self) -> Revocations {
        let mut serials: Vec<Vec<u8>> = self.revoked.serials.iter().map(|r| r.serial.clone()).collect();
        let mut identities: Vec<SpiffeId> = self.revoked.identities.iter().map(|r| r.id.clone()).collect();
        serials.sort();
        identities.sort();
        Revocations { serials, identities }
    }
}

impl Authority {
    /// Revokes; `reason` is for the record. Revoking twice changes nothing.
    ///
    /// Revoking an intermediate raises the reissue epoch, since everything below it must be replaced.
    ///
    /// # Errors
    /// The list is full, the identity is not ours, or the state could not be saved.
    pub fn revoke(&self, what: &Revocable, reason: &str, now: SystemTime) -> Result<(), AuthorityError> {
        let mut inner = self.lock();
        let mut core = inner.core.clone();
        match what {
            Revocable::Identity(id) => {
                check_identity(id, &core)?;
                if core.revoked.has_identity(id) {
                    return Ok(());
                }
                core.revoked.identities.push(RevokedIdentity { id: id.clone(), reason: reason.to_owned() });
            }
            Revocable::Intermediate | Revocable::Serial(_) => {
                let revoked = self.describe(what, reason, &inner, now)?;
                if core.revoked.has_serial(&revoked.serial) {
                    return Ok(());
                }
                if revoked.is_intermediate {
                    core.bump_reissue_epoch();
                }
                core.revoked.serials.push(revoked);
            }
        }
        if core.revoked.count() > REVOKED_MAX {
            return Err(AuthorityError::Unacceptable(format!(
                "{REVOKED_MAX} revocations are in force already; revoke whole identities or the intermediate instead"
            )));
        }
        if core.revoked.has_serial(&core.issuing.signer.facts.serial) {
            core.renew_intermediate(&self.config, now)?;
        }
        self.commit(&mut inner, core, now)?;
        inner.journal.push(now, Event::Revoked { what: what.to_string(), reason: reason.to_owned() });
        Ok(())
    }

    /// The entry for a serial: until when it is needed, and whether others hang on it.
    fn describe(
        &self,
        what: &Revocable,
        reason: &str,
        inner: &Inner,
        now: SystemTime,
    ) -> Result<RevokedSerial, AuthorityError> {
        let issuing = &inner.core.issuing.signer.facts;
        let serial = match what {
            Revocable::Serial(serial) => strip_zeros(serial).to_vec(),
            _ => issuing.serial.clone(),
        };
        if serial.is_empty() {
            return Err(AuthorityError::Unacceptable("a serial of zero is nobody's".to_owned()));
        }
        let is_issuing = issuing.serial == serial;
        let is_intermediate = is_issuing || inner.records.all().any(|record| record.issuer_serial == serial);
        // An older intermediate, or a certificate whose record is gone: as long as any may live.
        let longest = SVID_LIFETIME_MAX.max(self.config.intermediate_lifetime);
        let until = match inner.records.by_serial(&serial) {
            Some(record) => record.not_after,
            None if is_issuing => issuing.not_after,
            None => now.checked_add(longest).unwrap_or(now),
        };
        Ok(RevokedSerial { serial, until, is_intermediate, reason: reason.to_owned() })
    }

    /// Takes a revocation back; for an intermediate, the last one that was revoked. Says whether there was one.
    ///
    /// # Errors
    /// The state could not be saved.
    pub fn undo_revocation(&self, what: &Revocable, now: SystemTime) -> Result<bool, AuthorityError> {
        let mut inner = self.lock();
        let mut core = inner.core.clone();
        let before = core.revoked.count();
        match what {
            Revocable::Identity(id) => core.revoked.identities.retain(|revoked| revoked.id != *id),
            Revocable::Serial(serial) => {
                let serial = strip_zeros(serial);
                core.revoked.serials.retain(|revoked| revoked.serial != serial);
            }
            Revocable::Intermediate => {
                if let Some(at) = core.revoked.serials.iter().rposition(|revoked| revoked.is_intermediate) {
                    core.revoked.serials.remove(at);
                }
            }
        }
        if core.revoked.count() == before {
            return Ok(false);
        }
        self.commit(&mut inner, core, now)?;
        inner.journal.push(now, Event::RevocationUndone { what: what.to_string() });
        Ok(true)
    }
}

fn check_identity(id: &SpiffeId, core: &Core) -> Result<(), AuthorityError> {
    if id.trust_domain() != core.trust_domain {
        return Err(AuthorityError::Unacceptable(format!("{id} is not an identity of this mesh")));
    }
    if *id == control_identity(&core.trust_domain) {
        return Err(AuthorityError::Unacceptable(format!(
            "{id} is the control plane's own; revoke its certificate by serial, or the intermediate"
        )));
    }
    Ok(())
}

impl std::fmt::Display for Revocable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "the certificate {}", hex(serial)),
            Self::Identity(id) => write!(f, "the identity {id}"),
            Self::Intermediate => f.write_str("the issuing intermediate"),
        }
    }
}
