//! Power of two choices: draw two candidates, take the cheaper.

/// Picks one of `candidates` by `cost`, smaller is better; `draw(n)` gives a random number below `n`.
///
/// `None` when there are no candidates.
pub(crate) fn pick<T>(
    candidates: &[T],
    mut draw: impl FnMut(usize) -> usize,
    cost: impl Fn(&T) -> f64,
) -> Option<&T> {
    match candidates.len() {
        0 | 1 => candidates.first(),
        n => {
            let first = draw(n) % n;
            // A second one that differs from the first: one of the others, counted from the first's successor.
            let second = (first + 1 + draw(n - 1) % (n - 1)) % n;
            let (first, second) = (candidates.get(first)?, candidates.get(second)?);
            Some(if cost(second) < cost(first) { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_many_is_never_picked() {
        let costs = [1.0, 2.0, 3.0, 1000.0];
        let mut seed = 7usize;
        let mut draw = |n: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let mut seen = [0u32; 4];
        for _ in 0..1000 {
            let picked = pick(&costs, &mut draw, |cost| *cost).unwrap();
            seen[costs.iter().position(|cost| cost == picked).unwrap()] += 1;
        }
        assert_eq!(seen[3], 0, "{seen:?}");
        assert!(seen[..3].iter().all(|count| *count > 100), "{seen:?}");
    }

    #[test]
    fn one_or_none() {
        assert_eq!(pick(&[5], |_| 0, |_| 0.0), Some(&5));
        assert_eq!(pick::<u8>(&[], |_| 0, |_| 0.0), None);
    }
}
