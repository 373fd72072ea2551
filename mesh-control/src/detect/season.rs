//! What is usual at this hour: the largest values of an edge by hour of the week, in UTC.
//!
//! With less than a week of history the same hour of other days stands in; with it, the same hour of days of the same kind
//! (working day or weekend). Peaks fade by a tenth with each visit, so that one odd day is forgotten in some weeks.
//!
//! # Why peaks and not means
//! Traffic between services is bursty: its variance says little about its next burst, its largest burst says much. A
//! threshold above the largest that was ever seen at this hour needs no distribution.

/// Milliseconds of an hour.
const HOUR_MS: u64 = 3_600_000;
/// Hours of a week.
const WEEK: u64 = 168;
/// What is left of a peak when its hour comes again.
const FADE: f64 = 0.9;

/// The hour of the week from Monday 00:00 UTC (the epoch was a Thursday).
pub(crate) fn hour_of_week(ms: u64) -> u8 {
    u8::try_from((ms / HOUR_MS).wrapping_add(72) % WEEK).unwrap_or(0)
}

#[derive(Clone, Copy, Debug)]
struct Peak {
    value: f64,
    /// Hours since the epoch when it was last visited.
    hour: u64,
}

/// The peaks of one series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Season {
    /// By hour of the week; empty until something was learnt.
    peaks: Vec<Option<Peak>>,
    first_hour: Option<u64>,
    /// What is usual in an hour: past hours do not change.
    known: Option<(u64, Option<f64>)>,
}

impl Season {
    /// Learns a value.
    pub(crate) fn learn(&mut self, value: f64, now_ms: u64) {
        let hour = now_ms / HOUR_MS;
        self.first_hour.get_or_insert(hour);
        if self.peaks.is_empty() {
            self.peaks = vec![None; usize::try_from(WEEK).unwrap_or(0)];
        }
        if let Some(slot) = self.peaks.get_mut(usize::from(hour_of_week(now_ms))) {
            let old = match *slot {
                Some(peak) if peak.hour == hour => peak.value,
                Some(peak) => peak.value * FADE,
                None => value,
            };
            *slot = Some(Peak { value: old.max(value), hour });
        }
    }

    /// The largest that is usual now: of this hour and its neighbours, and of the last two hours. `None` before a day of
    /// history, and where no day has anything to say.
    pub(crate) fn usual(&mut self, now_ms: u64) -> Option<f64> {
        let hour = now_ms / HOUR_MS;
        if let Some((_, usual)) = self.known.filter(|(known, _)| *known == hour) {
            return usual;
        }
        let usual = self.look_up(now_ms, hour);
        self.known = Some((hour, usual));
        usual
    }

    fn look_up(&self, now_ms: u64, hour: u64) -> Option<f64> {
        let age = hour.saturating_sub(self.first_hour?);
        if age < 24 {
            return None;
        }
        let now = u64::from(hour_of_week(now_ms));
        let counts = |(slot, peak): &(u64, Peak)| {
            let apart = (slot % 24).abs_diff(now % 24);
            let is_near = apart <= 1 || apart == 23;
            let is_alike = age < WEEK || is_weekend(*slot) == is_weekend(now);
            // What this very visit has taught does not excuse itself.
            let is_past = peak.hour < hour;
            is_past && ((is_near && is_alike) || hour.saturating_sub(peak.hour) <= 2)
        };
        let peaks = (0_u64..).zip(&self.peaks).filter_map(|(slot, peak)| Some((slot, (*peak)?)));
        peaks.filter(counts).map(|(_, peak)| peak.value).fold(None, |largest: Option<f64>, value| {
            Some(largest.map_or(value, |largest| largest.max(value)))
        })
    }
}

fn is_weekend(slot: u64) -> bool {
    slot >= 5 * 24
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_counted_from_monday() {
        assert_eq!(hour_of_week(0), 72, "the epoch was a Thursday");
        assert_eq!(hour_of_week(1_699_833_600_000), 0, "2023-11-13T00:00Z was a Monday");
    }

    #[test]
    fn the_usual_is_that_of_the_hour() {
        let monday = 1_699_833_600_000;
        let at = |day: u64, hour: u64| monday + (day * 24 + hour) * HOUR_MS;
        let mut season = Season::default();
        for day in 0..10 {
            for hour in 0..24 {
                let value = match (day % 7, hour) {
                    (_, 2) => 1_000.0,
                    (5 | 6, _) => 5.0,
                    _ => 50.0,
                };
                season.learn(value, at(day, hour));
            }
            if day == 0 {
                assert_eq!(season.usual(at(0, 23)), None, "a day is learnt first");
            }
        }
        assert_eq!(season.usual(at(10, 12)).map(f64::round), Some(50.0));
        assert_eq!(season.usual(at(10, 2)), Some(1_000.0), "the nightly job is usual at night");
        assert!(season.usual(at(12, 12)).is_some_and(|usual| usual <= 5.0), "weekends are their own");
    }
}
