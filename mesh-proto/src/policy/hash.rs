//! The hash of the evaluator's tables.
//!
//! # Why
//! A decision looks up about ten short keys; with SipHash that alone costs more than the whole decision may. Tenants write
//! the keys and callers choose what is looked up, so the hash is seeded for each table; multiply-and-fold is enough,
//! since a caller learns nothing of the seed from an allow or a deny.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A map with the evaluator's hash.
pub(super) type FoldMap<K, V> = HashMap<K, V, FoldState>;

/// Makes hashers with the secrets of one table.
#[derive(Clone, Debug)]
pub(super) struct FoldState {
    seed: u64,
    key: u64,
}

impl Default for FoldState {
    fn default() -> Self {
        let random = RandomState::new();
        Self { seed: random.hash_one(0_u64), key: random.hash_one(1_u64) }
    }
}

impl BuildHasher for FoldState {
    type Hasher = FoldHasher;

    #[inline]
    fn build_hasher(&self) -> FoldHasher {
        FoldHasher { state: self.seed, key: self.key }
    }
}

/// The state while hashing one key.
pub(super) struct FoldHasher {
    state: u64,
    key: u64,
}

impl FoldHasher {
    /// Multiplies two halves that nobody outside can choose, and folds the product.
    #[inline]
    fn add(&mut self, low: u64, high: u64) {
        let product = u128::from(self.state ^ low).wrapping_mul(u128::from(self.key ^ high));
        #[expect(clippy::cast_possible_truncation, reason = "folding the halves is the point")]
        let folded = (product as u64) ^ ((product >> 64) as u64);
        self.state = folded.wrapping_add(low.rotate_left(32));
    }
}

impl Hasher for FoldHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<16>();
        for block in blocks {
            let (low, high) = halves(block);
            self.add(low, high);
        }
        // The ends of what is left overlap instead of being padded; its length tells apart what they cannot.
        let (low, high) = match (rest.first_chunk::<8>(), rest.last_chunk::<8>()) {
            (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
            _ => match (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
                (Some(first), Some(last)) => {
                    (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into())
                }
                _ => (rest.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte)), 0),
            },
        };
        self.add(low, high ^ (bytes.len() as u64).rotate_left(48));
    }

    #[inline]
    fn write_u8(&mut self, byte: u8) {
        self.state ^= u64::from(byte);
    }

    #[inline]
    fn write_u16(&mut self, word: u16) {
        self.add(u64::from(word), 0);
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.add(u64::from(word), 0);
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.add(word, 0);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.state ^ (self.state >> 29)
    }
}

#[inline]
fn halves(block: &[u8; 16]) -> (u64, u64) {
    let word = u128::from_le_bytes(*block);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a block")]
    let halves = (word as u64, (word >> 64) as u64);
    halves
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_that_differ_in_little_hash_apart() {
        let state = FoldState::default();
        let mut texts: Vec<String> = (0..40).map(|length| "a".repeat(length)).collect();
        for at in 0..40 {
            for byte in ["b", "/", "-", "1"] {
                texts.push(format!("{}{byte}{}", "a".repeat(at), "a".repeat(39 - at)));
            }
        }
        texts.extend((0..2_000).map(|number| format!("spiffe://mesh.local/ns/shop/sa/caller-{number}")));
        let hashes: HashSet<u64> = texts.iter().map(|text| state.hash_one(text.as_str())).collect();
        assert_eq!(hashes.len(), texts.len());
        let pairs: HashSet<u64> = (0..300_u32)
            .flat_map(|a| (0..300_u32).map(move |b| (a, b)))
            .map(|pair| state.hash_one(pair))
            .collect();
        assert_eq!(pairs.len(), 90_000);
    }
}
