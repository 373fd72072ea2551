//! One authority in several processes: replicas of a control plane share what is saved.
//!
//! The store refuses to replace what another replica has saved meanwhile, so that no change is lost; whoever was refused, or
//! is told of something newer, reads it with the next tick and goes on from there. Records of issued certificates are put
//! together, since each replica issues its own: a certificate that one has issued can be revoked at any other.

use super::record::{Records, ToSave};
use super::state::Core;
use super::{Authority, AuthorityError, SEAL_CONTEXT, Turn, stored};
use crate::seal::OVERHEAD_BYTES;
use std::time::SystemTime;
use zeroize::Zeroizing;

impl Authority {
    /// Takes over what another process has saved. Nothing saved any more means nothing new: what is in memory stays, and
    /// is saved with the next change.
    ///
    /// # Errors
    /// It cannot be loaded or read; then what is in memory stays.
    pub(super) fn take_over(&self, _turn: &Turn<'_>, now: SystemTime) -> Result<(), AuthorityError> {
        let loaded =
            self.store.load().map_err(|problem| AuthorityError::Store { tried: "loaded", problem })?;
        let Some(sealed) = loaded else { return Ok(()) };
        let (core, saved) = stored::decode(&self.seal.open(SEAL_CONTEXT, &sealed)?)?;
        if core.trust_domain != self.config.trust_domain {
            let (saved, told) = (core.trust_domain, self.config.trust_domain.clone());
            return Err(AuthorityError::OtherTrustDomain { saved, told });
        }
        let mut inner = self.lock();
        inner.core = core;
        inner.records.join(&saved, now);
        Ok(())
    }

    /// The state as it is written: as many records as the store has room for, the newest first to stay.
    pub(super) fn plain(&self, core: &Core, records: &mut ToSave) -> Zeroizing<Vec<u8>> {
        let room = self.store.bytes_max().saturating_sub(OVERHEAD_BYTES);
        loop {
            let plain = stored::encode(core, records);
            if plain.len() <= room || records.records.is_empty() {
                return plain;
            }
            let older = records.records.len().div_ceil(2);
            records.records.drain(..older);
        }
    }
}

impl Records {
    /// Adds what another process has issued.
    fn join(&mut self, saved: &Self, now: SystemTime) {
        let is_ours_saved = self.all().all(|record| saved.by_serial(&record.serial).is_some());
        let news =
            saved.all().filter(|record| record.not_after >= now && self.by_serial(&record.serial).is_none());
        for record in news.cloned().collect::<Vec<_>>() {
            self.add(super::IssuedRecord::clone(&record));
        }
        if is_ours_saved {
            self.mark_all_saved();
        }
    }
}
