//! The log-linear latency histogram that proxies report and the control plane adds up.
//!
//! Values below 8 µs have a bucket each; above, every power of two is cut into 8 equal parts, so that a bucket is at most
//! one eighth of its value wide. Values from 2^36 µs (19 hours) on fall into the last bucket.
//!
//! # Why
//! Fixed buckets merge by adding, travel as sparse pairs, and need neither a library nor a configuration on both sides.
//! An error of 12.5 % is below the noise of any latency worth an alarm; HDR histograms of two digits are ten times larger.

/// Parts of each power of two, as a power of two.
const SUB_BITS: u32 = 3;
/// Parts of each power of two.
const SUB: u32 = 1 << SUB_BITS;
/// Values of this power of two and above fall into the last bucket.
const TOP_BITS: u32 = 36;

/// How many buckets there are.
pub const BUCKETS: u32 = (TOP_BITS - SUB_BITS + 1) * SUB;

/// The bucket of a value in microseconds.
pub fn index(us: u64) -> u32 {
    let us = us.min((1 << TOP_BITS) - 1);
    // The position of the highest bit, at most 35; below 8 each value is its own bucket.
    let shift = us.checked_ilog2().unwrap_or(0).saturating_sub(SUB_BITS);
    // Below 16, since at most four bits are left.
    let part = u32::try_from(us >> shift).unwrap_or(0);
    shift.saturating_mul(SUB).saturating_add(part)
}

/// The largest value in microseconds that falls into a bucket; `u64::MAX` for the last one and beyond.
pub fn upper_bound(index: u32) -> u64 {
    if index >= BUCKETS - 1 {
        return u64::MAX;
    }
    if index < SUB {
        return index.into();
    }
    let shift = (index / SUB).saturating_sub(1);
    let next_part = u64::from(index % SUB).saturating_add(u64::from(SUB) + 1);
    (next_part << shift).saturating_sub(1)
}

/// The value in microseconds that a share `q` (0 to 1) of the counted values does not exceed; 0 when nothing was counted.
///
/// `buckets` are pairs of index and count, in any order. The answer is the upper bound of a bucket, hence at most 12.5 %
/// too high; values beyond the range are given as 2^36.
pub fn quantile(buckets: &[(u32, u64)], q: f64) -> u64 {
    let mut sorted = buckets.to_vec();
    sorted.sort_unstable();
    let total = sorted.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank is a share of a count: not negative, at most the count, and exact enough above 2^53"
    )]
    let rank = ((total as f64) * q.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
    let mut seen = 0_u64;
    for (index, count) in sorted {
        seen = seen.saturating_add(count);
        if seen >= rank {
            return upper_bound(index).min(1 << TOP_BITS);
        }
    }
    0
}

/// A mergeable latency histogram: (bucket of this module, count), by bucket, without empty ones.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sketch(Vec<(u16, u64)>);

impl Sketch {
    /// Adds so many values of a bucket; a bucket that does not exist is ignored.
    pub fn add(&mut self, bucket: u32, count: u64) {
        let Some(bucket) = u16::try_from(bucket).ok().filter(|_| bucket < BUCKETS && count > 0) else {
            return;
        };
        match self.0.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => {
                if let Some((_, known)) = self.0.get_mut(at) {
                    *known = known.saturating_add(count);
                }
            }
            Err(at) => self.0.insert(at, (bucket, count)),
        }
    }

    /// Adds another sketch.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.buckets() {
            self.add(bucket, count);
        }
    }

    /// The pairs, by bucket.
    pub fn buckets(&self) -> impl Iterator<Item = (u32, u64)> {
        self.0.iter().map(|(bucket, count)| (u32::from(*bucket), *count))
    }

    /// How many values it has.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }

    /// The value in microseconds that a share of the values does not exceed; 0 without any.
    pub fn quantile(&self, q: f64) -> u64 {
        quantile(&self.buckets().collect::<Vec<_>>(), q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_meet_without_gap_or_overlap() {
        for bucket in 0..BUCKETS - 1 {
            let last = upper_bound(bucket);
            assert_eq!(index(last), bucket, "upper bound {last}");
            assert_eq!(index(last + 1), bucket + 1, "after {last}");
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
        assert_eq!(index(0), 0);
    }

    #[test]
    fn quantiles_of_known_values() {
        let buckets: Vec<_> = (1..=100).map(|ms| (index(ms * 1000), 1)).collect();
        for (q, ms) in [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)] {
            let found = quantile(&buckets, q);
            assert!(found >= ms * 1000 && found <= ms * 1125, "q {q}: {found}");
        }
        assert_eq!(quantile(&[], 0.5), 0);
        assert_eq!(quantile(&[(BUCKETS - 1, 3)], 0.5), 1 << 36);
    }

    proptest! {
        #[test]
        fn a_bucket_is_at_most_an_eighth_wide(us in 0_u64..1 << 35) {
            let bound = upper_bound(index(us));
            prop_assert!(bound >= us && bound <= us + us / 8, "{us} -> {bound}");
        }

        #[test]
        fn an_index_is_a_bucket(us: u64) {
            prop_assert!(index(us) < BUCKETS);
        }
    }
}
