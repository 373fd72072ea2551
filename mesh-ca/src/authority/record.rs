//! What has been issued and is not expired: who may be out there with which certificate.
//!
//! `issue` adds, `rotation` asks who still depends on an old root, the admin API lists. Kept in memory, saved by
//! [`tick`](super::Authority::tick) a little later.

use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

/// The most records: a day of 5,000 workloads that renew every half hour, some 100 MiB. Beyond it nothing is issued.
pub(super) const RECORDS_MAX: usize = 250_000;

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

/// All records, by order of issue, with two ways to find one.
#[derive(Default)]
pub(super) struct Records {
    by_order: BTreeMap<u64, IssuedRecord>,
    by_serial: HashMap<Vec<u8>, u64>,
    newest: BTreeMap<Holder, u64>,
    /// When an instance was last known to be connected.
    seen: BTreeMap<InstanceName, SystemTime>,
    next: u64,
    unsaved: bool,
    /// All that were ever issued.
    pub(super) total: u64,
}

impl Records {
    /// Adds one, newest.
    pub(super) fn add(&mut self, record: IssuedRecord) {
        let order = self.next;
        self.next = self.next.saturating_add(1);
        self.by_serial.insert(record.serial.clone(), order);
        self.newest.insert((record.id.clone(), record.instance.clone()), order);
        self.by_order.insert(order, record);
        self.total = self.total.saturating_add(1);
        self.unsaved = true;
    }

    pub(super) fn len(&self) -> usize {
        self.by_order.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= RECORDS_MAX
    }

    /// In the order of issue.
    pub(super) fn all(&self) -> impl Iterator<Item = &IssuedRecord> {
        self.by_order.values()
    }

    pub(super) fn by_serial(&self, serial: &[u8]) -> Option<&IssuedRecord> {
        self.by_order.get(self.by_serial.get(serial)?)
    }

    /// The newest record of one holder.
    pub(super) fn newest_of(&self, id: &SpiffeId, instance: &InstanceName) -> Option<&IssuedRecord> {
        self.by_order.get(self.newest.get(&(id.clone(), instance.clone()))?)
    }

    /// The newest record of each holder.
    pub(super) fn newest(&self) -> impl Iterator<Item = &IssuedRecord> {
        self.newest.values().filter_map(|order| self.by_order.get(order))
    }

    /// Forgets what has expired.
    pub(super) fn prune(&mut self, now: SystemTime) {
        let expired = |record: &IssuedRecord| record.not_after < now;
        if !self.by_order.values().any(expired) {
            return;
        }
        let (by_serial, newest) = (&mut self.by_serial, &mut self.newest);
        self.by_order.retain(|order, record| {
            if !expired(record) {
                return true;
            }
            by_serial.remove(&record.serial);
            let holder = (record.id.clone(), record.instance.clone());
            if newest.get(&holder) == Some(order) {
                newest.remove(&holder);
            }
            false
        });
        let holders: BTreeSet<&InstanceName> = newest.keys().map(|(_, instance)| instance).collect();
        self.seen.retain(|instance, _| holders.contains(instance));
        self.unsaved = true;
    }

    /// Notes that an instance is connected.
    pub(super) fn saw(&mut self, instance: &InstanceName, now: SystemTime) {
        self.seen.insert(instance.clone(), now);
    }

    pub(super) fn last_seen(&self, instance: &InstanceName) -> Option<SystemTime> {
        self.seen.get(instance).copied()
    }

    pub(super) fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    pub(super) fn mark_saved(&mut self) {
        self.unsaved = false;
    }
}
