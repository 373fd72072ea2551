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

/// Makes hashers with one seed.
#[derive(Clone, Debug)]
pub(super) struct FoldState(u64);

impl Default for FoldState {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0_u64))
    }
}

impl BuildHasher for FoldState {
    type Hasher = FoldHasher;

    fn build_hasher(&self) -> FoldHasher {
        FoldHasher(self.0)
    }
}

/// The state while hashing one key.
pub(super) struct FoldHasher(u64);

/// An odd number without pattern (the golden ratio in 64 bits).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl FoldHasher {
    fn add(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word).wrapping_mul(u128::from(MULTIPLIER));
        #[expect(clippy::cast_possible_truncation, reason = "folding the halves is the point")]
        let folded = (product as u64) ^ ((product >> 64) as u64);
        self.0 = folded.rotate_left(23).wrapping_add(word);
    }
}

impl Hasher for FoldHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let mut tail = [0; 8];
        for (to, from) in tail.iter_mut().zip(rest) {
            *to = *from;
        }
        self.add(u64::from_le_bytes(tail) ^ (bytes.len() as u64).rotate_left(56));
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 ^= u64::from(byte);
    }

    fn write_u16(&mut self, word: u16) {
        self.add(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.add(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}
