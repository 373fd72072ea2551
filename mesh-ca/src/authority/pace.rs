//! How fast one caller may ask: a bucket for each key, by the generic cell rate algorithm.
//!
//! `issue` has one for each identity, `attest` one for guesses at join tokens. The clock may step back; then the bucket
//! is as full as it was.

use mesh_proto::identity::SpiffeId;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Certificates that one identity may get at once: all replicas of a large deployment starting together.
const BURST: u32 = 1000;
/// One more after each of these: a thousand replicas may renew about once in 20 seconds.
const INTERVAL: Duration = Duration::from_millis(20);
/// Identities whose pace is remembered; full buckets are forgotten first, so only as many as ask within 20 s matter.
const IDENTITIES_MAX: usize = 50_000;

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

/// Buckets of identities.
#[derive(Default)]
pub(super) struct Pace {
    buckets: BTreeMap<SpiffeId, Bucket>,
}

impl Pace {
    /// Counts one certificate for `id`, or says how long it has to wait.
    pub(super) fn take(&mut self, id: &SpiffeId, now: SystemTime) -> Result<(), Duration> {
        if self.buckets.len() >= IDENTITIES_MAX {
            self.buckets.retain(|_, bucket| bucket.paid_until > now);
        }
        self.buckets.entry(id.clone()).or_insert(Bucket::FULL).take(INTERVAL, BURST, now)
    }
}
