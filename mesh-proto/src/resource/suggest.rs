//! "Did you mean …?": the word nearest to a mistyped one.

/// Names longer than this are not compared: no known word is.
const CHARS_MAX: usize = 64;
/// Three mistakes at most, each of a letter of at most four bytes.
const BYTES_APART: usize = 12;

/// The candidate that is at most a third of its length away from the word, if there is one; ties go to the first.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.chars().nth(CHARS_MAX).is_some() {
        return None;
    }
    let folded = word.to_ascii_lowercase();
    // Each letter more or less is a mistake of its own, so lengths alone rule most words out.
    let is_comparable = |candidate: &&str| {
        candidate.len() <= CHARS_MAX && candidate.len().abs_diff(folded.len()) <= BYTES_APART
    };
    let distances = candidates
        .into_iter()
        .filter(is_comparable)
        .map(|candidate| (distance(&folded, &candidate.to_ascii_lowercase()), candidate));
    let near = distances.filter(|(distance, candidate)| {
        // One mistake in a short word, two in one of six letters, and so on; a word of the same letters always.
        *distance <= candidate.len().div_ceil(3).min(3) && *distance < candidate.len()
    });
    near.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    let mut last = None;
    for (row, x) in a.chars().enumerate() {
        let mut current = vec![row.saturating_add(1)];
        for (column, y) in b.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX / 2);
            let after = column.saturating_add(1);
            let replaced = at(&previous, column).saturating_add(usize::from(x != *y));
            let inserted = at(&current, column).saturating_add(1);
            let deleted = at(&previous, after).saturating_add(1);
            let mut best = replaced.min(inserted).min(deleted);
            let swapped = column.checked_sub(1).filter(|left| b.get(*left) == Some(&x) && last == Some(*y));
            if let Some(left) = swapped {
                best = best.min(at(&before, left).saturating_add(1));
            }
            current.push(best);
        }
        before = std::mem::replace(&mut previous, current);
        last = Some(x);
    }
    previous.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_not() {
        let words = ["action", "from", "except", "to", "validUntil"];
        for (word, expected) in [
            ("actoin", Some("action")),
            ("form", Some("from")),
            ("validuntil", Some("validUntil")),
            ("exept", Some("except")),
            ("too", Some("to")),
            ("xyz", None),
            ("", None),
            ("completely-different", None),
        ] {
            assert_eq!(nearest(word, words), expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(10_000), words), None);
    }
}
