//! A limit refuses a large share of somebody's calls: a caller runs wild, or a limit is too tight.
//!
//! **Statistic**: of one caller's calls to a service in the last ten seconds, those that a limit refused.
//!
//! **Threshold**: [`FLOOR`] and three times what is usual on the edge (as for refusals), and a fifth of all its calls.
//!
//! **False alarms**: a caller that touches its limit in a burst loses a few calls; a fifth of more than a hundred in ten
//! seconds is not that. What a limit refuses every day becomes usual in some hours. No warm-up.

use super::table::{Fading, Table, Window, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use mesh_proto::resource::alert::{Detector, Severity};
use std::sync::Arc;

/// Calls refused by a limit in the window.
const FLOOR: f64 = 20.0;
/// Their share of all.
const SHARE: f64 = 0.2;
/// The window.
const WINDOW_MS: u64 = 10_000;
/// In which the usual is half forgotten.
const HALF_LIFE_MS: u64 = 3_600_000;
/// Edges remembered.
const EDGES_MAX: usize = 10_000;

/// Caller, callee's identity, service.
type Key = (Arc<str>, Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct State {
    limited: Window,
    calls: Window,
    usual: Fading,
}

/// The detector.
#[derive(Debug)]
pub(crate) struct RateLimitPressure {
    edges: Table<Key, State>,
}

impl Default for RateLimitPressure {
    fn default() -> Self {
        Self { edges: Table::new(EDGES_MAX) }
    }
}

impl Detect for RateLimitPressure {
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        for (flow, counts) in &slice.rows {
            let key = (flow.source.clone(), flow.destination.clone(), flow.service.clone());
            // Only who was limited before is of interest with what passed.
            if counts.limited > 0 || self.edges.find(&key).is_some() {
                let state = self.edges.at(&key, now);
                state.limited.add(counts.limited, now, WINDOW_MS);
                state.calls.add(counts.asked(), now, WINDOW_MS);
            }
        }
        let span = now.saturating_sub(slice.from_ms);
        for (key, state) in self.edges.iter_mut() {
            state.limited.add(0, now, WINDOW_MS);
            state.calls.add(0, now, WINDOW_MS);
            let value = float(state.limited.sum());
            let threshold = FLOOR + 3.0 * state.usual.grown();
            if value >= threshold && value >= SHARE * float(state.calls.sum()) {
                say.push(signal(key, state, threshold));
            }
            state.usual.add(value, span, HALF_LIFE_MS);
        }
        self.edges.forget_before(now.saturating_sub(24 * HALF_LIFE_MS));
    }
}

fn signal((source, destination, service): &Key, state: &State, threshold: f64) -> Signal {
    let (limited, calls) = (state.limited.sum(), state.calls.sum());
    let target = if service.is_empty() { words::short(destination) } else { words::clean(service) };
    Signal {
        subject: Subject {
            detector: Detector::RateLimitPressure,
            source: source.clone(),
            destination: destination.clone(),
            service: service.clone(),
        },
        severity: Severity::Warning,
        since_ms: state.limited.since_ms().unwrap_or(0),
        value: float(limited),
        threshold,
        sentence: format!(
            "limits of {target} refused {limited} of {calls} calls of {} in 10 s; usual are {}",
            words::short(source),
            words::number(state.usual.grown())
        ),
        command: format!("meshctl edges --from {} --denied", words::account(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::{Stage, WEB};
    use crate::ledger::flow::Counts;

    #[test]
    fn a_caller_that_runs_into_its_limit_is_told_and_one_that_touches_it_is_not() {
        let (mut stage, mut detector) = (Stage::new(), RateLimitPressure::default());
        let mut calls = |allowed, limited| {
            stage.count(WEB, "shop/pay", &Counts { allowed, limited, ..Counts::default() });
            stage.after(2, &mut detector)
        };
        assert_eq!(calls(1_000, 30), [], "three in a hundred");
        (0..5).for_each(|_| assert_eq!(calls(100, 0), []));
        let said = calls(100, 200);
        assert_eq!(said.len(), 1);
        assert!(said[0].sentence.contains("limits of shop/pay refused 200 of"), "{said:?}");
    }
}
