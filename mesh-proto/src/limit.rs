//! Rate limits: what they say, and the arithmetic of one bucket.
//!
//! The proxy takes from buckets after authorization; which bucket a request belongs to, and when one is forgotten, is its
//! affair. Nothing here reads a clock or keeps a bucket.
//!
//! # Why
//! A bucket is one atomic number, so that workers share it without a lock and ten thousand callers cost 80 KiB. A counter
//! for each time window was the alternative; it lets twice the rate pass around the border of two windows. Costs are rounded
//! up to whole nanoseconds, so a limit errs by less than a nanosecond for each take, to the strict side.

use crate::policy::model::{Mode, Operation, PolicyName};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A limit that applies to a workload's inbound traffic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// Its name.
    pub name: PolicyName,
    /// Whether it refuses, or only counts.
    pub mode: Mode,
    /// What gets a bucket of its own.
    pub key: LimitKey,
    /// Which requests it counts; empty: all.
    pub to: Vec<Operation>,
    /// How much in which time; `None`: only the bounds below.
    pub rate: Option<Rate>,
    /// Requests (or connections) in flight for one key.
    pub concurrent: Option<u32>,
    /// The largest request body, in bytes.
    pub body_bytes_max: Option<u64>,
}

/// What a bucket belongs to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum LimitKey {
    /// The caller's proven identity; unmeshed callers share one bucket for each address.
    SourceIdentity,
    /// The caller's address.
    Address,
    /// The value of a header (its absence is a value too).
    Header(Arc<str>),
    /// One bucket for all callers.
    Target,
}

/// An amount per time, with a burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// What is counted.
    pub unit: Unit,
    /// How many in `per`; at least 1.
    pub amount: u64,
    /// The time; at least a millisecond.
    pub per: Duration,
    /// How many may come at once; at least 1.
    pub burst: u64,
}

/// What a rate counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unit {
    /// HTTP requests and gRPC calls. A connection to a port that is declared tcp or tls counts as one; bytes on an undeclared
    /// port, which may be requests, are refused where requests are limited.
    Requests,
    /// Connections.
    Connections,
    /// Bytes in both directions.
    Bytes,
}

/// The arithmetic of one bucket: the generic cell rate algorithm (ITU-T I.371, annex A), whose whole state is the time at
/// which the bucket will be full again.
///
/// A bucket is an [`AtomicU64`], full when it is 0. Times are nanoseconds on a clock that does not go backwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gcra {
    /// The time that `amount` takes to come back, in nanoseconds; at least 1.
    per_ns: u64,
    /// At least 1.
    amount: u64,
    /// The time that a whole burst takes to come back.
    burst_ns: u64,
    /// The time that one takes to come back: nearly every take asks for it, and a division costs more than all else.
    one_ns: u64,
}

impl Rate {
    /// The arithmetic of this rate.
    pub fn gcra(&self) -> Gcra {
        let per_ns = u64::try_from(self.per.as_nanos()).unwrap_or(u64::MAX).max(1);
        let amount = self.amount.max(1);
        let bare = Gcra { per_ns, amount, burst_ns: 0, one_ns: per_ns.div_ceil(amount) };
        let burst = self.burst.max(1);
        let burst_ns = match self.unit {
            // What is taken one by one takes a whole number of nanoseconds each: rounded once, the last of a burst has no room.
            Unit::Requests | Unit::Connections => burst.saturating_mul(bare.one_ns),
            Unit::Bytes => bare.time_for(burst),
        };
        Gcra { burst_ns, ..bare }
    }
}

impl Gcra {
    /// Takes `cost` from the bucket, or says how long until that would work; then nothing is taken.
    ///
    /// A cost above the burst passes when the bucket is full, and is paid for afterwards: no chunk is too large to ever
    /// pass, and the rate still holds over time.
    ///
    /// # Errors
    /// How long until `cost` is free, if nobody else takes meanwhile.
    pub fn take(&self, state: &AtomicU64, now_ns: u64, cost: u64) -> Result<(), Duration> {
        let cost_ns = self.time_for(cost);
        let needed_ns = cost_ns.min(self.burst_ns);
        let mut full_at = state.load(Ordering::Relaxed);
        loop {
            let owed_ns = full_at.saturating_sub(now_ns);
            let over_ns = owed_ns.saturating_add(needed_ns).saturating_sub(self.burst_ns);
            if over_ns > 0 {
                return Err(Duration::from_nanos(over_ns));
            }
            let after = full_at.max(now_ns).saturating_add(cost_ns);
            match state.compare_exchange_weak(full_at, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(current) => full_at = current,
            }
        }
    }

    /// Takes `cost` for something that has already happened, into debt if need be. The answer is how long until the bucket
    /// is out of debt; zero while it is not in debt.
    pub fn charge(&self, state: &AtomicU64, now_ns: u64, cost: u64) -> Duration {
        let cost_ns = self.time_for(cost);
        let after = |full_at: u64| full_at.max(now_ns).saturating_add(cost_ns);
        let mut full_at = state.load(Ordering::Relaxed);
        loop {
            let charged = after(full_at);
            match state.compare_exchange_weak(full_at, charged, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    break Duration::from_nanos(charged.saturating_sub(now_ns).saturating_sub(self.burst_ns));
                }
                Err(current) => full_at = current,
            }
        }
    }

    /// Whether the bucket is full, so that forgetting it changes nothing.
    pub fn is_full(&self, state: &AtomicU64, now_ns: u64) -> bool {
        state.load(Ordering::Relaxed) <= now_ns
    }

    /// The time that `cost` takes to come back, rounded up.
    fn time_for(&self, cost: u64) -> u64 {
        if cost == 1 {
            return self.one_ns;
        }
        if let Some(product) = cost.checked_mul(self.per_ns) {
            return product.div_ceil(self.amount);
        }
        let exact =
            u128::from(cost).saturating_mul(u128::from(self.per_ns)).div_ceil(u128::from(self.amount.max(1)));
        u64::try_from(exact).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
