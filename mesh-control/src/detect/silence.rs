//! An edge that always had traffic has none: the caller is stuck, cut off, or was ended.
//!
//! **Statistic**: the time since the last call on an edge.
//!
//! **Threshold**: four times the longest pause that was usual at this hour ([`super::season`], pauses in place of peaks), at
//! least [`LEAST_MS`], and at least [`EXPECTED`] calls that should have come meanwhile at the edge's rate (half forgotten in
//! ten minutes).
//!
//! **False alarms**: at a constant rate thirty expected calls fail to come with a probability of e⁻³⁰; rates are not
//! constant, which is what the longest pause is for. Jobs that end have long pauses and are never told of. Warm-up: a day.

use super::season::Season;
use super::table::{Fading, Table, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use crate::ledger::flow::{FlowKey, OTHERS, Side};
use mesh_proto::resource::alert::{Detector, Severity};
use std::sync::Arc;

/// The shortest pause that is told.
const LEAST_MS: u64 = 6_000;
/// How many times the longest usual pause.
const TIMES: f64 = 4.0;
/// Calls that should have come.
const EXPECTED: f64 = 30.0;
/// In which the rate is half forgotten.
const HALF_LIFE_MS: u64 = 600_000;
/// After so long it is no news any more.
const NEWS_MS: u64 = 3_600_000;
/// Edges remembered.
const EDGES_MAX: usize = 4_000;

/// Caller, callee's identity, service.
type Key = (Arc<str>, Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct State {
    last_ms: u64,
    /// Calls in a second, while there are some.
    rate: Fading,
    pauses: Season,
}

/// The detector.
#[derive(Debug)]
pub(crate) struct Silence {
    edges: Table<Key, State>,
}

impl Default for Silence {
    fn default() -> Self {
        Self { edges: Table::new(EDGES_MAX) }
    }
}

impl Detect for Silence {
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        let span = now.saturating_sub(slice.from_ms);
        for (flow, counts) in slice.rows.iter().filter(|(flow, _)| is_counted(flow)) {
            let calls = counts.asked();
            // A long connection speaks by its bytes.
            if calls == 0 && counts.bytes_in == 0 && counts.bytes_out == 0 {
                continue;
            }
            let key = (flow.source.clone(), flow.destination.clone(), flow.service.clone());
            let state = self.edges.at(&key, now);
            if state.last_ms > 0 {
                // From the end of one slice with calls to the beginning of the next.
                let pause = now.saturating_sub(span).saturating_sub(state.last_ms);
                state.pauses.learn(float(pause), now);
            }
            state.last_ms = now;
            state.rate.add(float(calls) * 1_000.0 / float(span.max(1)), span, HALF_LIFE_MS);
        }
        for (key, state) in self.edges.iter_mut() {
            let pause = now.saturating_sub(state.last_ms);
            if pause < LEAST_MS {
                continue;
            }
            // A pause teaches its hour while it grows: a job that ends is silent in every hour until it comes again.
            state.pauses.learn(float(pause), now);
            // The rate fades while nothing comes, so that it is that of a few minutes, not of the best of them.
            state.rate.add(0.0, span, HALF_LIFE_MS);
            let expected = state.rate.mean() * float(pause) / 1_000.0;
            let Some(usual) = state.pauses.usual(now) else { continue };
            // A pause shorter than a slice cannot be seen.
            let threshold = TIMES * usual.max(float(span));
            if expected >= EXPECTED && float(pause) >= threshold && pause <= NEWS_MS {
                say.push(signal(key, state, (pause, usual, expected)));
            }
        }
    }
}

fn is_counted(flow: &FlowKey) -> bool {
    flow.side == Side::Callee && &*flow.source != OTHERS && &*flow.destination != OTHERS
}

fn signal(key: &Key, state: &State, (pause, usual, expected): (u64, f64, f64)) -> Signal {
    let (source, destination, service) = key;
    let target = if service.is_empty() { words::short(destination) } else { words::clean(service) };
    Signal {
        subject: Subject {
            detector: Detector::Silence,
            source: source.clone(),
            destination: destination.clone(),
            service: service.clone(),
        },
        severity: Severity::Warning,
        since_ms: state.last_ms,
        value: float(pause) / 1_000.0,
        threshold: TIMES * usual / 1_000.0,
        sentence: format!(
            "{} has not called {target} for {} s, in which {} calls are usual; the longest usual pause is {} s",
            words::short(source),
            words::number(float(pause) / 1_000.0),
            words::number(expected),
            words::number(usual / 1_000.0)
        ),
        command: format!("meshctl stat edge --from {}", words::account(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::{Stage, WEB};

    #[test]
    fn an_edge_that_falls_silent_is_told_and_a_job_that_ends_is_not() {
        let (mut stage, mut detector) = (Stage::new(), Silence::default());
        for look in 0..25 * 1_800_u64 {
            stage.call(WEB, "shop/pay", 10, (1_000, 100));
            if look % 1_800 < 300 {
                stage.call(WEB, "shop/report", 10, (1_000, 100));
            }
            assert_eq!(stage.after(2, &mut detector), [], "look {look}");
        }
        let mut said = Vec::new();
        for _ in 0..5 {
            said = stage.after(2, &mut detector);
        }
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].sentence.contains("shop/web has not called shop/pay for 10 s"), "{said:?}");
    }
}
