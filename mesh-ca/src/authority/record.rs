//! What has been issued and is not expired: who may be out there with which certificate.
//!
//! `issue` adds, `rotation` asks who still depends on an old root, `revoke` asks what one instance holds, the admin API lists.
//! Kept in memory, saved by [`tick`](super::Authority::tick) a little later.
//!
//! # Why
//! A certificate without a record could be neither found nor revoked, so nothing is forgotten before it expires; what does
//! not fit is refused instead. The limits are nested, so that one instance cannot use up its identity's room, nor one
//! identity that of the mesh; and a fifth of each is kept for instances that hold a certificate already, since a
//! workload that cannot renew fails, while one that cannot start is seen at once.

use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How many unexpired certificates there may be. Renewals by instances that hold one already may use all of it, new
/// instances four fifths. The control plane's own certificates are never refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordLimits {
    /// Of the whole mesh.
    pub mesh: usize,
    /// Of one identity.
    pub identity: usize,
    /// Of one instance of one identity.
    pub instance: usize,
}

impl Default for RecordLimits {
    /// The mesh: 5,000 workloads that renew every half hour for a day, some 100 MiB. An identity: a tenth, that is 5,000
    /// replicas with five certificates each, or one that ends and starts again every five seconds. An instance: a renewal every
    /// three minutes of a day; all of them fit into one revocation.
    fn default() -> Self {
        Self { mesh: 250_000, identity: 25_000, instance: 500 }
    }
}

/// How long a holder without records is remembered after it was seen: some ticks.
const SEEN_KEPT: Duration = Duration::from_secs(10);

/// Which limit leaves no room for one more certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The instance's own.
    #[error(
        "the instance {instance} of {id} has {most} certificates that have not expired, the most for one instance; wait until some have, or give it another name (--instance)"
    )]
    Instance {
        /// Whose.
        id: SpiffeId,
        /// Which.
        instance: InstanceName,
        /// The limit.
        most: usize,
    },
    /// The identity's.
    #[error(
        "{id} has {most} certificates that have not expired, the most for {whom} of one identity; wait until some have, or shorten their life with: meshctl up --svid-lifetime"
    )]
    Identity {
        /// Whose.
        id: SpiffeId,
        /// The limit.
        most: usize,
        /// New instances or known ones.
        whom: Whom,
    },
    /// The mesh's.
    #[error(
        "the mesh has {most} certificates that have not expired, the most for {whom}; wait until some have, or shorten their life with: meshctl up --svid-lifetime"
    )]
    Mesh {
        /// The limit.
        most: usize,
        /// New instances or known ones.
        whom: Whom,
    },
}

/// Whether an instance holds an unexpired certificate already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// It holds none.
    New,
    /// It renews.
    Known,
}

impl std::fmt::Display for Whom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New => "new instances",
            Self::Known => "instances",
        })
    }
}

/// One issued certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedRecord {
    /// Big-endian, without leading zeros.
    pub serial: Vec<u8>,
    /// Whose identity.
    pub id: SpiffeId,
    /// To which instance.
    pub instance: InstanceName,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// When it was signed.
    pub issued_at: SystemTime,
    /// The intermediate's serial.
    pub issuer_serial: Vec<u8>,
    /// The root it chains to.
    pub root_sha256: [u8; 32],
    /// What proved that the identity was due, in words.
    pub attestor: String,
}

/// Who holds certificates: one instance of one identity.
pub(super) type Holder = (SpiffeId, InstanceName);

/// What one holder has.
#[derive(Default)]
struct Held {
    /// In the order of issue; empty for one that is connected although a crash has lost its records.
    orders: Vec<u64>,
    /// When it was first issued a certificate, or seen to be connected.
    first: Option<SystemTime>,
    /// When it was last known to be connected, and the newest bundle that it has acknowledged.
    seen: Option<(SystemTime, u64)>,
}

/// All records, by order of issue, with two ways to find one.
#[derive(Default)]
pub(super) struct Records {
    by_order: BTreeMap<u64, Arc<IssuedRecord>>,
    by_serial: HashMap<Vec<u8>, u64>,
    holders: BTreeMap<Holder, Held>,
    /// How many each identity has.
    of_identity: BTreeMap<SpiffeId, usize>,
    next: u64,
    /// Counts changes; compared with `saved`, so that what is added while the store is at work counts as unsaved.
    version: u64,
    saved: u64,
    /// All that were ever issued.
    pub(super) total: u64,
}

/// The records at one moment; cheap to make, so that nobody waits while it is written.
pub(super) struct ToSave {
    pub(super) records: Vec<Arc<IssuedRecord>>,
    pub(super) total: u64,
    version: u64,
}

impl ToSave {
    /// For [`Records::mark_saved`].
    pub(super) fn version(&self) -> u64 {
        self.version
    }
}

impl Records {
    /// Adds one, newest.
    pub(super) fn add(&mut self, record: IssuedRecord) {
        let order = self.next;
        self.next = self.next.saturating_add(1);
        self.by_serial.insert(record.serial.clone(), order);
        let held = self.holders.entry((record.id.clone(), record.instance.clone())).or_default();
        held.orders.push(order);
        held.first.get_or_insert(record.issued_at);
        let count = self.of_identity.entry(record.id.clone()).or_default();
        *count = count.saturating_add(1);
        self.by_order.insert(order, Arc::new(record));
        self.total = self.total.saturating_add(1);
        self.version = self.version.saturating_add(1);
    }

    pub(super) fn len(&self) -> usize {
        self.by_order.len()
    }

    /// Whether a holder has an unexpired certificate.
    pub(super) fn knows(&self, id: &SpiffeId, instance: &InstanceName) -> Whom {
        if self.of_holder(id, instance).next().is_some() { Whom::Known } else { Whom::New }
    }

    /// Whether one more certificate of this holder fits.
    pub(super) fn room_for(
        &self,
        id: &SpiffeId,
        instance: &InstanceName,
        limits: &RecordLimits,
    ) -> Result<(), Full> {
        let whom = self.knows(id, instance);
        let most = |all: usize| match whom {
            Whom::Known => all,
            Whom::New => all.saturating_sub(all / 5),
        };
        let of_instance = self.of_holder(id, instance).count();
        let of_identity = self.of_identity.get(id).copied().unwrap_or_default();
        if of_instance >= limits.instance {
            return Err(Full::Instance { id: id.clone(), instance: instance.clone(), most: limits.instance });
        }
        if of_identity >= most(limits.identity) {
            return Err(Full::Identity { id: id.clone(), most: most(limits.identity), whom });
        }
        if self.len() >= most(limits.mesh) {
            return Err(Full::Mesh { most: most(limits.mesh), whom });
        }
        Ok(())
    }

    /// In the order of issue.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<IssuedRecord>> {
        self.by_order.values()
    }

    pub(super) fn by_serial(&self, serial: &[u8]) -> Option<&Arc<IssuedRecord>> {
        self.by_order.get(self.by_serial.get(serial)?)
    }

    /// All records of one holder, in the order of issue.
    pub(super) fn of_holder(
        &self,
        id: &SpiffeId,
        instance: &InstanceName,
    ) -> impl Iterator<Item = &Arc<IssuedRecord>> {
        let held = self.holders.get(&(id.clone(), instance.clone()));
        held.into_iter().flat_map(|held| &held.orders).filter_map(|order| self.by_order.get(order))
    }

    /// The newest record of one holder.
    pub(super) fn newest_of(&self, id: &SpiffeId, instance: &InstanceName) -> Option<&Arc<IssuedRecord>> {
        let held = self.holders.get(&(id.clone(), instance.clone()))?;
        self.by_order.get(held.orders.last()?)
    }

    /// The newest record of each holder.
    pub(super) fn newest(&self) -> impl Iterator<Item = &IssuedRecord> {
        let newest = self.holders.values().filter_map(|held| held.orders.last());
        newest.filter_map(|order| self.by_order.get(order)).map(|record| &**record)
    }

    /// Forgets what has expired.
    pub(super) fn prune(&mut self, now: SystemTime) {
        let expired = |record: &IssuedRecord| record.not_after < now;
        if !self.by_order.values().any(|record| expired(record)) {
            return;
        }
        let Self { by_order, by_serial, holders, of_identity, .. } = self;
        by_order.retain(|_, record| {
            if !expired(record) {
                return true;
            }
            by_serial.remove(&record.serial);
            if let Some(count) = of_identity.get_mut(&record.id) {
                *count = count.saturating_sub(1);
            }
            false
        });
        of_identity.retain(|_, count| *count > 0);
        holders.retain(|_, held| {
            held.orders.retain(|order| by_order.contains_key(order));
            let is_connected =
                held.seen.is_some_and(|(at, _)| now.duration_since(at).unwrap_or_default() < SEEN_KEPT);
            is_connected || !held.orders.is_empty()
        });
        self.version = self.version.saturating_add(1);
    }

    /// Notes that a holder is connected, with the newest bundle that it has acknowledged.
    pub(super) fn saw(&mut self, id: &SpiffeId, instance: &InstanceName, seen: (SystemTime, u64)) {
        let held = self.holders.entry((id.clone(), instance.clone())).or_default();
        held.first.get_or_insert(seen.0);
        held.seen = Some(seen);
    }

    /// When a holder was last connected, and the bundle that it had acknowledged then.
    pub(super) fn last_seen(&self, id: &SpiffeId, instance: &InstanceName) -> Option<(SystemTime, u64)> {
        self.holders.get(&(id.clone(), instance.clone()))?.seen
    }

    /// When a holder was first issued a certificate or seen, as far as known.
    pub(super) fn first_known(&self, id: &SpiffeId, instance: &InstanceName) -> Option<SystemTime> {
        self.holders.get(&(id.clone(), instance.clone()))?.first
    }

    pub(super) fn is_unsaved(&self) -> bool {
        self.version != self.saved
    }

    /// Everything that is to be saved, as it is now.
    pub(super) fn to_save(&self) -> ToSave {
        ToSave { records: self.all().cloned().collect(), total: self.total, version: self.version }
    }

    /// Notes that this was saved.
    pub(super) fn mark_saved(&mut self, version: u64) {
        self.saved = self.saved.max(version);
    }

    /// Notes that all there is was saved, by whomever.
    pub(super) fn mark_all_saved(&mut self) {
        self.saved = self.version;
    }

    /// Notes that everything was read from the store.
    pub(super) fn mark_loaded(&mut self, total: u64) {
        self.total = total;
        self.saved = self.version;
    }
}

#[cfg(test)]
mod tests;
