//! How fast one caller may ask: a bucket for each key, by the generic cell rate algorithm.
//!
//! `issue` has one for the new instances of each identity and one for each instance that renews, so that a crowd of new ones
//! does not keep those that run from renewing; `attest` has one for guesses at join tokens. The clock may step back; then
//! the bucket is as full as it was.

use super::record::Holder;
use mesh_proto::identity::SpiffeId;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// New instances of one identity at once: all replicas of a large deployment starting together.
const BURST: u32 = 1000;
/// One more after each of these: the replicas of a large deployment start again within some 20 seconds.
const INTERVAL: Duration = Duration::from_millis(20);
/// Renewals of one instance at once: answers that were lost, and the calls to renew of a rotation.
const RENEWAL_BURST: u32 = 60;
/// One more after each of these: the shortest certificates are renewed every two seconds.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);
/// Buckets that are kept at least; beyond it full ones are forgotten whenever their number has doubled.
const BUCKETS_MIN: usize = 10_000;

/// One bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    paid_until: SystemTime,
}

impl Bucket {
    pub(super) const FULL: Self = Self { paid_until: SystemTime::UNIX_EPOCH };

    /// Takes one, or says how long until one is free.
    pub(super) fn take(&mut self, interval: Duration, burst: u32, now: SystemTime) -> Result<(), Duration> {
        let debt = self.paid_until.duration_since(now).unwrap_or_default();
        let most = interval.saturating_mul(burst.saturating_sub(1));
        if debt > most {
            return Err(debt.saturating_sub(most));
        }
        let paid = self.paid_until.max(now);
        self.paid_until = paid.checked_add(interval).unwrap_or(paid);
        Ok(())
    }
}

/// Buckets of all who ask for certificates. Only who has got one lately has a bucket, so that the limits of
/// [`RecordLimits`](super::RecordLimits) bound these too.
#[derive(Default)]
pub(super) struct Pace {
    new: Buckets<SpiffeId>,
    renewals: Buckets<Holder>,
}

impl Pace {
    /// Counts one certificate for a new instance of `id`, or says how long it has to wait.
    pub(super) fn take_new(&mut self, id: &SpiffeId, now: SystemTime) -> Result<(), Duration> {
        self.new.of(id.clone(), now).take(INTERVAL, BURST, now)
    }

    /// Counts one renewal, or says how long it has to wait.
    pub(super) fn take_renewal(&mut self, holder: Holder, now: SystemTime) -> Result<(), Duration> {
        self.renewals.of(holder, now).take(RENEWAL_INTERVAL, RENEWAL_BURST, now)
    }
}

struct Buckets<K> {
    buckets: BTreeMap<K, Bucket>,
    /// How many there may be before full ones are looked for.
    look_at: usize,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { buckets: BTreeMap::new(), look_at: BUCKETS_MIN }
    }
}

impl<K: Ord> Buckets<K> {
    fn of(&mut self, key: K, now: SystemTime) -> &mut Bucket {
        if self.buckets.len() >= self.look_at {
            self.buckets.retain(|_, bucket| bucket.paid_until > now);
            self.look_at = self.buckets.len().saturating_mul(2).max(BUCKETS_MIN);
        }
        self.buckets.entry(key).or_insert(Bucket::FULL)
    }
}
