//! Revocation: what is no longer believed although it has not expired.
//!
//! The list goes to every proxy with its snapshot and is asked in each handshake (`verify`) and of live connections.
//! Entries end when the certificate does; identities stay until taken back.
//!
//! # Why
//! Whoever stole a key can renew its certificate before the theft is seen. So revoking one certificate revokes everything
//! that its instance holds and has not expired, and voids the join token that the instance came with: what is left to it is to be
//! attested anew, by the kernel or by a new token.

use super::attest::Origin;
use super::audit::Event;
use super::keys::SERIAL_BYTES;
use super::record::{IssuedRecord, Records};
use super::serial::SerialError;
use super::state::Core;
use super::{Authority, AuthorityError, SVID_LIFETIME_MAX};
use crate::tls::control_identity;
use crate::x509::{hex, strip_zeros};
use mesh_proto::config::Revocations;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use std::time::SystemTime;

/// The most entries of each kind: some 300 KiB in each proxy's snapshot. Beyond it, revoke the identity or the intermediate.
const REVOKED_MAX: usize = 10_000;

/// What can be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocable {
    /// One certificate in use, by its serial (big-endian): a leaf with all others of its instance, or an intermediate with
    /// everything below it.
    Serial(Vec<u8>),
    /// A certificate that nothing is known of, because its record was lost; by its whole serial.
    LostSerial(Vec<u8>),
    /// Everything of one identity, and nothing new is issued for it.
    Identity(SpiffeId),
    /// The issuing intermediate in use, with everything below it; a new one takes its place at once.
    Intermediate,
}

/// What a revocation, or taking one back, has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocation {
    /// Serials that it listed, or took off the list.
    pub serials: Vec<Vec<u8>>,
    /// The instance whose certificates these are.
    pub holder: Option<(SpiffeId, InstanceName)>,
    /// On what evidence that instance got the newest of them.
    pub origin: Option<Origin>,
    /// Join tokens that are void now.
    pub tokens: usize,
    /// Instances that joined with a token and cannot renew any more: each needs a new one.
    pub locked_out: Vec<(SpiffeId, InstanceName)>,
}

/// What is revoked.
#[derive(Clone, Default)]
pub(super) struct Revoked {
    pub(super) serials: Vec<RevokedSerial>,
    pub(super) identities: Vec<RevokedIdentity>,
    /// Counts the changes made by people since the start.
    pub(super) revision: u64,
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
    /// Revoking an intermediate raises the reissue epoch, since everything below it must be replaced; so does revoking the
    /// control plane's own certificate.
    ///
    /// # Errors
    /// The serial is unknown or a root's, the list is full, the identity is not ours, or the state could not be saved.
    pub fn revoke(
        &self,
        what: &Revocable,
        reason: &str,
        now: SystemTime,
    ) -> Result<Revocation, AuthorityError> {
        let turn = self.turn();
        let mut inner = self.lock();
        let mut core = inner.core.clone();
        let done = match what {
            Revocable::Identity(id) => {
                check_identity(id, &core)?;
                if core.revoked.has_identity(id) {
                    return Ok(Revocation::default());
                }
                core.revoked.identities.push(RevokedIdentity { id: id.clone(), reason: reason.to_owned() });
                Revocation::default()
            }
            Revocable::Intermediate => {
                let serial = core.issuing.signer.facts.serial.clone();
                self.revoke_serial(&mut core, &inner.records, &serial, now)?
            }
            Revocable::Serial(serial) => {
                self.revoke_serial(&mut core, &inner.records, strip_zeros(serial), now)?
            }
            Revocable::LostSerial(serial) => self.revoke_lost(&mut core, strip_zeros(serial), now)?,
        };
        for revoked in &mut core.revoked.serials {
            if done.serials.contains(&revoked.serial) {
                reason.clone_into(&mut revoked.reason);
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
        let is_news = !done.serials.is_empty() || matches!(what, Revocable::Identity(_));
        if !is_news {
            return Ok(done);
        }
        core.revoked.revision = core.revoked.revision.saturating_add(1);
        // What it would get while this is being saved would not be on the list.
        inner.barred.clone_from(&done.holder);
        drop(inner);
        let saved = self.commit(&turn, core, now);
        self.lock().barred = None;
        saved?;
        self.note(now, Event::Revoked { what: what.to_string(), reason: reason.to_owned() });
        Ok(done)
    }

    /// Lists a serial in use, with everything that hangs on it.
    fn revoke_serial(
        &self,
        core: &mut Core,
        records: &Records,
        serial: &[u8],
        now: SystemTime,
    ) -> Result<Revocation, AuthorityError> {
        if core.roots.iter().any(|root| root.signer.facts.serial == serial) {
            return Err(AuthorityError::Unacceptable(SerialError::Root(hex(serial)).to_string()));
        }
        if core.revoked.has_serial(serial) {
            return Ok(Revocation::default());
        }
        if let Some(record) = records.by_serial(serial) {
            return Ok(revoke_holder(core, records, record));
        }
        let issuing = &core.issuing.signer.facts;
        let is_issuing = issuing.serial == serial;
        if !is_issuing && !records.all().any(|record| record.issuer_serial == serial) {
            return Err(AuthorityError::Unacceptable(SerialError::Unknown(hex(serial)).to_string()));
        }
        let until = if is_issuing { issuing.not_after } else { self.longest_from(now) };
        core.revoked.serials.push(RevokedSerial {
            serial: serial.to_vec(),
            until,
            is_intermediate: true,
            reason: String::new(),
        });
        core.bump_reissue_epoch();
        let below = records.newest().filter(|record| record.issuer_serial == serial);
        let joined = below.filter(|record| record.origin() == Origin::JoinToken);
        Ok(Revocation {
            serials: vec![serial.to_vec()],
            locked_out: joined.map(|record| (record.id.clone(), record.instance.clone())).collect(),
            ..Revocation::default()
        })
    }

    /// Lists a serial that nothing is known of, for as long as any certificate may live.
    fn revoke_lost(
        &self,
        core: &mut Core,
        serial: &[u8],
        now: SystemTime,
    ) -> Result<Revocation, AuthorityError> {
        if serial.len() != SERIAL_BYTES {
            return Err(AuthorityError::Unacceptable(format!(
                "a serial whose record was lost must be whole: {} hexadecimal digits",
                SERIAL_BYTES * 2
            )));
        }
        if core.revoked.has_serial(serial) {
            return Ok(Revocation::default());
        }
        core.revoked.serials.push(RevokedSerial {
            serial: serial.to_vec(),
            until: self.longest_from(now),
            is_intermediate: false,
            reason: String::new(),
        });
        Ok(Revocation { serials: vec![serial.to_vec()], ..Revocation::default() })
    }

    /// When everything that may be in use now has ended.
    fn longest_from(&self, now: SystemTime) -> SystemTime {
        now.checked_add(SVID_LIFETIME_MAX.max(self.config.intermediate_lifetime)).unwrap_or(now)
    }

    /// Takes a revocation back; for a leaf, of all certificates of its instance; for an intermediate, the last one that was
    /// revoked. `None` when there was none. A join token that became void stays so.
    ///
    /// # Errors
    /// The state could not be saved.
    pub fn undo_revocation(
        &self,
        what: &Revocable,
        now: SystemTime,
    ) -> Result<Option<Revocation>, AuthorityError> {
        let turn = self.turn();
        let inner = self.lock();
        let mut core = inner.core.clone();
        let before = core.revoked.count();
        let mut done = Revocation::default();
        match what {
            Revocable::Identity(id) => core.revoked.identities.retain(|revoked| revoked.id != *id),
            Revocable::Serial(serial) | Revocable::LostSerial(serial) => {
                let serial = strip_zeros(serial);
                let mut serials = vec![serial.to_vec()];
                if let Some(record) = inner.records.by_serial(serial) {
                    let all = inner.records.of_holder(&record.id, &record.instance);
                    serials = all.map(|record| record.serial.clone()).collect();
                    done.holder = Some((record.id.clone(), record.instance.clone()));
                }
                if core.revoked.has_serial(serial) {
                    serials.retain(|serial| core.revoked.has_serial(serial));
                    core.revoked.serials.retain(|revoked| !serials.contains(&revoked.serial));
                    done.serials = serials;
                }
            }
            Revocable::Intermediate => {
                if let Some(at) = core.revoked.serials.iter().rposition(|revoked| revoked.is_intermediate) {
                    done.serials.push(core.revoked.serials.remove(at).serial);
                }
            }
        }
        if core.revoked.count() == before {
            return Ok(None);
        }
        drop(inner);
        core.revoked.revision = core.revoked.revision.saturating_add(1);
        self.commit(&turn, core, now)?;
        self.note(now, Event::RevocationUndone { what: what.to_string() });
        Ok(Some(done))
    }
}

/// Lists everything that the holder of a certificate has, and voids its join token.
fn revoke_holder(core: &mut Core, records: &Records, record: &IssuedRecord) -> Revocation {
    let IssuedRecord { id, instance, .. } = record;
    let mut serials = Vec::new();
    for held in records.of_holder(id, instance) {
        if !core.revoked.has_serial(&held.serial) {
            serials.push(held.serial.clone());
            core.revoked.serials.push(RevokedSerial {
                serial: held.serial.clone(),
                until: held.not_after,
                is_intermediate: false,
                reason: String::new(),
            });
        }
    }
    if *id == control_identity(&core.trust_domain) {
        // Whoever renews must be able to reach it: it has to have a new one at once.
        core.bump_reissue_epoch();
    }
    let newest = records.newest_of(id, instance);
    Revocation {
        serials,
        holder: Some((id.clone(), instance.clone())),
        origin: newest.map(|record| record.origin()),
        tokens: core.void_tokens(id, instance),
        locked_out: Vec::new(),
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
            Self::LostSerial(serial) => write!(f, "the unknown certificate {}", hex(serial)),
            Self::Identity(id) => write!(f, "the identity {id}"),
            Self::Intermediate => f.write_str("the issuing intermediate"),
        }
    }
}
