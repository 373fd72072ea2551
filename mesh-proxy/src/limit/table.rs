//! The buckets of one limit: one for each key, bounded, the least recently used one gives way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Most keys of one limit: 64 bytes each, so at most about 1 MiB for a limit under attack by invented header values.
pub(crate) const KEYS_MAX: usize = 16_384;
/// How far from the least recently used end a key is looked for that loses nothing when it goes.
const SCAN_MAX: usize = 32;

/// A caller, as a keyed hash of 128 bits: bounded in size whatever the header held, and not to be collided on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key(pub(crate) [u64; 2]);

/// What is kept for one key.
#[derive(Debug)]
pub(crate) struct Slot {
    /// State of the rate's bucket.
    pub(crate) bucket: Arc<AtomicU64>,
    /// Requests or connections in flight.
    pub(crate) in_flight: u32,
    key: Key,
    older: usize,
    newer: usize,
}

/// No neighbour.
const NONE: usize = usize::MAX;

/// Slots by key, linked in the order of their last use.
#[derive(Debug)]
pub(crate) struct Table {
    index: HashMap<Key, usize>,
    slots: Vec<Slot>,
    oldest: usize,
    newest: usize,
    keys_max: usize,
}

impl Table {
    /// Empty; grows with its callers.
    pub(crate) fn new() -> Self {
        Self::bounded(KEYS_MAX)
    }

    fn bounded(keys_max: usize) -> Self {
        Self { index: HashMap::new(), slots: Vec::new(), oldest: NONE, newest: NONE, keys_max }
    }

    /// The slot of a key, made if need be, and now the most recently used.
    ///
    /// When full, an old key whose bucket `is_idle` and that has nothing in flight gives way, since forgetting it changes
    /// nothing; failing that the oldest with nothing in flight. `None` when every old one has something in flight.
    pub(crate) fn slot(&mut self, key: Key, is_idle: impl Fn(&AtomicU64) -> bool) -> Option<&mut Slot> {
        let at = match self.index.get(&key) {
            Some(at) => *at,
            None if self.slots.len() < self.keys_max => {
                let bucket = Arc::new(AtomicU64::new(0));
                self.slots.push(Slot { bucket, in_flight: 0, key, older: NONE, newer: NONE });
                let at = self.slots.len() - 1;
                self.index.insert(key, at);
                self.link(at);
                at
            }
            None => {
                let at = self.victim(is_idle)?;
                let slot = self.slots.get_mut(at)?;
                self.index.remove(&slot.key);
                slot.key = key;
                slot.bucket = Arc::new(AtomicU64::new(0));
                self.index.insert(key, at);
                at
            }
        };
        if self.newest != at {
            self.unlink(at);
            self.link(at);
        }
        self.slots.get_mut(at)
    }

    /// One request or connection of a key has ended.
    pub(crate) fn release(&mut self, key: Key) {
        let slot = self.index.get(&key).and_then(|at| self.slots.get_mut(*at));
        if let Some(slot) = slot {
            slot.in_flight = slot.in_flight.saturating_sub(1);
        }
    }

    fn victim(&self, is_idle: impl Fn(&AtomicU64) -> bool) -> Option<usize> {
        let mut fallback = None;
        let mut at = self.oldest;
        for _ in 0..SCAN_MAX {
            let Some(slot) = self.slots.get(at) else { break };
            if slot.in_flight == 0 {
                if is_idle(&slot.bucket) {
                    return Some(at);
                }
                fallback = fallback.or(Some(at));
            }
            at = slot.newer;
        }
        fallback
    }

    fn link(&mut self, at: usize) {
        let newest = std::mem::replace(&mut self.newest, at);
        if let Some(slot) = self.slots.get_mut(at) {
            (slot.older, slot.newer) = (newest, NONE);
        }
        match self.slots.get_mut(newest) {
            Some(slot) => slot.newer = at,
            None => self.oldest = at,
        }
    }

    fn unlink(&mut self, at: usize) {
        let Some((older, newer)) = self.slots.get(at).map(|slot| (slot.older, slot.newer)) else { return };
        match self.slots.get_mut(older) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    fn key(n: u64) -> Key {
        Key([n, n])
    }

    #[test]
    fn the_least_recently_used_gives_way() {
        let mut table = Table::bounded(3);
        for n in 0..3 {
            table.slot(key(n), |_| false).unwrap().bucket.store(n + 1, Ordering::Relaxed);
        }
        table.slot(key(0), |_| false).unwrap();
        table.slot(key(9), |_| false).unwrap();
        assert!(table.index.contains_key(&key(0)), "it was used after 1 and 2");
        assert!(!table.index.contains_key(&key(1)), "it was the oldest");
        assert_eq!(table.slots.len(), 3);
        assert_eq!(table.slot(key(0), |_| false).unwrap().bucket.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn one_with_nothing_owed_goes_before_an_older_one() {
        let mut table = Table::bounded(3);
        for n in 0..3 {
            table.slot(key(n), |_| false).unwrap().bucket.store(n, Ordering::Relaxed);
        }
        table.slot(key(9), |bucket| bucket.load(Ordering::Relaxed) == 1).unwrap();
        assert!(!table.index.contains_key(&key(1)));
        assert!(table.index.contains_key(&key(0)));
    }

    #[test]
    fn what_is_in_flight_never_goes() {
        let mut table = Table::bounded(2);
        table.slot(key(0), |_| true).unwrap().in_flight = 1;
        table.slot(key(1), |_| true).unwrap().in_flight = 1;
        assert!(table.slot(key(2), |_| true).is_none());
        table.release(key(1));
        assert!(table.slot(key(2), |_| true).is_some());
        assert!(table.index.contains_key(&key(0)));
    }
}
