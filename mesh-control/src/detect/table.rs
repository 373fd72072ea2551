//! Bounded memory of detectors: a table that forgets, and a window that slides.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// State by key, for at most so many keys. Who was not seen for the longest time is forgotten first.
///
/// Forgetting means a new warm-up, never an alarm, so that whoever fills the table hides nobody for long and rouses nobody.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    entries: HashMap<K, (V, u64)>,
    max: usize,
}

impl<K: Eq + Hash + Clone, V: Default> Table<K, V> {
    /// For so many keys.
    pub(crate) fn new(max: usize) -> Self {
        Self { entries: HashMap::new(), max }
    }

    /// The state of a key, new if there was none.
    pub(crate) fn at(&mut self, key: &K, now_ms: u64) -> &mut V {
        if !self.entries.contains_key(key) && self.entries.len() >= self.max {
            self.forget();
        }
        let entry = self.entries.entry(key.clone()).or_insert_with(|| (V::default(), now_ms));
        entry.1 = now_ms;
        &mut entry.0
    }

    /// The state of a key, if there is one.
    pub(crate) fn find(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// All, in no order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.entries.iter_mut().map(|(key, (value, _))| (key, value))
    }

    /// Forgets who was not seen since a time.
    pub(crate) fn forget_before(&mut self, since_ms: u64) {
        self.entries.retain(|_, (_, seen)| *seen >= since_ms);
    }

    /// Makes room for an eighth of the table at once, so that a flood of keys does not sort it each time.
    fn forget(&mut self) {
        let mut seen: Vec<u64> = self.entries.values().map(|(_, seen)| *seen).collect();
        let rank = (self.max / 8).min(seen.len().saturating_sub(1));
        let (_, border, _) = seen.select_nth_unstable(rank);
        let border = *border;
        let mut left = rank.saturating_add(1);
        self.entries.retain(|_, (_, seen)| {
            let goes = *seen <= border && left > 0;
            left = left.saturating_sub(usize::from(goes));
            !goes
        });
    }
}

/// A sum over the last so many milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    parts: VecDeque<(u64, u64)>,
    sum: u64,
}

impl Window {
    /// Adds a count that came until `now_ms`, and lets go of what is older than `length_ms`.
    pub(crate) fn add(&mut self, count: u64, now_ms: u64, length_ms: u64) {
        if count > 0 {
            self.parts.push_back((now_ms, count));
            self.sum = self.sum.saturating_add(count);
        }
        let oldest = now_ms.saturating_sub(length_ms);
        while let Some((at, count)) = self.parts.front().copied().filter(|(at, _)| *at <= oldest) {
            debug_assert!(at <= oldest);
            self.sum = self.sum.saturating_sub(count);
            self.parts.pop_front();
        }
    }

    /// The sum.
    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }

    /// When the oldest count in it came.
    pub(crate) fn since_ms(&self) -> Option<u64> {
        self.parts.front().map(|(at, _)| *at)
    }
}

/// A mean that forgets exponentially, of a rate.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fading {
    value: f64,
    weight: f64,
}

impl Fading {
    /// Counts a value that held for `span_ms`; it is worth half after `half_life_ms`.
    pub(crate) fn add(&mut self, value: f64, span_ms: u64, half_life_ms: u64) {
        let keep = (-(float(span_ms) / float(half_life_ms.max(1)))).exp2();
        self.value = self.value * keep + value * (1.0 - keep);
        self.weight = self.weight * keep + (1.0 - keep);
    }

    /// The mean, if everything before the first value was 0: for what is not usual until it has lasted.
    pub(crate) fn grown(&self) -> f64 {
        self.value
    }

    /// The mean; 0 before anything was counted.
    pub(crate) fn mean(&self) -> f64 {
        if self.weight > 0.0 { self.value / self.weight } else { 0.0 }
    }
}

/// A count as a floating number.
pub(crate) fn float(count: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts above 2^53 do not occur, and would be near enough"
    )]
    let float = count as f64;
    float
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_forgets_who_was_not_seen_longest() {
        let mut table: Table<u32, u32> = Table::new(100);
        for key in 0..1_000 {
            *table.at(&key, u64::from(key)) = key;
            assert!(table.entries.len() <= 100);
            table.at(&0, u64::from(key));
        }
        assert_eq!(table.find(&0), Some(&0), "the first is seen all the time");
        assert_eq!(table.find(&999), Some(&999));
        assert_eq!(table.find(&500), None);
    }

    #[test]
    fn a_window_slides() {
        let mut window = Window::default();
        for second in 0..20 {
            window.add(1, second * 1_000, 10_000);
        }
        assert_eq!((window.sum(), window.since_ms()), (10, Some(10_000)));
        window.add(0, 60_000, 10_000);
        assert_eq!((window.sum(), window.since_ms()), (0, None));
    }

    #[test]
    fn a_mean_forgets() {
        let mut mean = Fading::default();
        mean.add(10.0, 1_000, 60_000);
        assert!((mean.mean() - 10.0).abs() < 1e-9, "the first value is the mean");
        (0..600).for_each(|_| mean.add(0.0, 1_000, 60_000));
        assert!(mean.mean() < 0.1);
    }
}
