//! A proxy's clock is not ours: certificates and the order of events depend on it.
//!
//! **Statistic**: the difference between when a proxy says that it decided and when we were told, its smallest amount in
//! a minute.
//!
//! **Threshold**: [`AHEAD_MS`] ahead, which no delay explains; [`BEHIND_MS`] behind in each of at least [`SIGHTINGS`]
//! records of the last minute, since a single record may have waited.
//!
//! **False alarms**: reports that wait for half a minute (a control plane that was away) tell of records of different ages,
//! of which the youngest counts. No warm-up.

use super::table::{Table, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use mesh_proto::resource::alert::{Detector, Severity};
use std::collections::VecDeque;
use std::sync::Arc;

/// How far ahead a clock may be: an SVID is dated back by more.
const AHEAD_MS: u64 = 5_000;
/// How far behind.
const BEHIND_MS: u64 = 30_000;
/// Records that must agree on it.
const SIGHTINGS: usize = 3;
/// The window.
const WINDOW_MS: u64 = 60_000;
/// Records remembered of a proxy.
const RECORDS_MAX: usize = 64;
/// Proxies remembered.
const PROXIES_MAX: usize = 10_000;

#[derive(Debug, Default)]
struct State {
    /// When a record came, by how much it was ahead, and by how much behind.
    records: VecDeque<(u64, u64, u64)>,
}

/// The detector.
#[derive(Debug)]
pub(crate) struct ClockSkew {
    proxies: Table<Arc<str>, State>,
}

impl Default for ClockSkew {
    fn default() -> Self {
        Self { proxies: Table::new(PROXIES_MAX) }
    }
}

impl Detect for ClockSkew {
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        for sighting in slice.sightings.iter().filter(|sighting| sighting.time_ms > 0) {
            let state = self.proxies.at(&sighting.reporter, now);
            let ahead = sighting.time_ms.saturating_sub(sighting.told_ms);
            let behind = sighting.told_ms.saturating_sub(sighting.time_ms);
            state.records.push_back((now, ahead, behind));
            if state.records.len() > RECORDS_MAX {
                state.records.pop_front();
            }
        }
        for (proxy, state) in self.proxies.iter_mut() {
            while state.records.front().is_some_and(|(at, ..)| now.saturating_sub(*at) >= WINDOW_MS) {
                state.records.pop_front();
            }
            let ahead = state.records.iter().map(|(_, ahead, _)| *ahead).max().unwrap_or(0);
            let behind = state.records.iter().map(|(_, _, behind)| *behind).min().unwrap_or(0);
            if ahead >= AHEAD_MS {
                say.push(signal(proxy, ("ahead of", ahead, AHEAD_MS), state));
            } else if behind >= BEHIND_MS && state.records.len() >= SIGHTINGS {
                say.push(signal(proxy, ("behind", behind, BEHIND_MS), state));
            }
        }
    }
}

fn signal(proxy: &Arc<str>, (word, by_ms, threshold_ms): (&str, u64, u64), state: &State) -> Signal {
    Signal {
        subject: Subject {
            detector: Detector::ClockSkew,
            source: "".into(),
            destination: proxy.clone(),
            service: "".into(),
        },
        severity: Severity::Warning,
        since_ms: state.records.front().map_or(0, |(at, ..)| *at),
        value: float(by_ms) / 1_000.0,
        threshold: float(threshold_ms) / 1_000.0,
        sentence: format!(
            "the clock of {} is {} s {word} the control plane's, by {} records of the last minute",
            words::clean(proxy),
            words::number(float(by_ms) / 1_000.0),
            state.records.len()
        ),
        command: "meshctl status".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::{Stage, WEB};

    fn sight(stage: &mut Stage, ahead: i64) {
        stage.sight(WEB, "shop/pay", "/");
        let sighting = stage.slice.sightings.last_mut().unwrap();
        sighting.time_ms = sighting.told_ms.saturating_add_signed(ahead);
    }

    #[test]
    fn a_clock_that_is_off_is_told_and_a_late_record_is_not() {
        let (mut stage, mut detector) = (Stage::new(), ClockSkew::default());
        sight(&mut stage, -1_000);
        sight(&mut stage, -45_000);
        sight(&mut stage, -45_000);
        assert_eq!(stage.after(2, &mut detector), []);
        stage.after(60, &mut detector);
        (0..3).for_each(|_| sight(&mut stage, -45_000));
        let said = stage.after(2, &mut detector);
        assert!(said.len() == 1 && said[0].sentence.contains("45 s behind"), "{said:?}");
        sight(&mut stage, 8_000);
        let said = stage.after(2, &mut detector);
        assert!(said.len() == 1 && said[0].sentence.contains("8 s ahead of"), "{said:?}");
    }
}
