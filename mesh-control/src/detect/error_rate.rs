//! More calls of a service fail than usual.
//!
//! **Statistic**: the share of calls in the last ten seconds that failed (server errors of the application; not reached,
//! timed out, cut off), against the service's own share, half forgotten in an hour.
//!
//! **Threshold**: at least [`CALLS`] calls, a share at least [`MARGIN`] above the usual, and a deviation that chance does
//! not explain: the binomial likelihood ratio n · KL(share ‖ usual) is at least [`RATIO`], that is, one in a hundred
//! million. Two looks in a row.
//!
//! **False alarms**: independent failures reach the ratio once in centuries; failures come in bursts, and of those the
//! margin keeps out the small ones, two looks the short ones (a rollout, one broken connection). Warm-up: [`WARM_UP`] calls.

use super::table::{Fading, Table, Window, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use crate::ledger::flow::{OTHERS, Side};
use mesh_proto::resource::alert::{Detector, Severity};
use std::sync::Arc;

/// Calls in the window from which on a share means something.
const CALLS: u64 = 20;
/// By how much the share must exceed the usual.
const MARGIN: f64 = 0.1;
/// The least likelihood ratio, in nats.
const RATIO: f64 = 18.0;
/// A service without failures has at least this share: nothing is perfect.
const LEAST_USUAL: f64 = 0.005;
/// Calls that are learnt first.
const WARM_UP: u64 = 500;
/// The window.
const WINDOW_MS: u64 = 10_000;
/// In which the usual is half forgotten.
const HALF_LIFE_MS: u64 = 3_600_000;
/// Services remembered.
const SERVICES_MAX: usize = 4_000;
/// Looks in a row.
const LOOKS: u32 = 2;
/// From this share on the service is as good as down.
const CRITICAL: f64 = 0.5;

#[derive(Debug, Default)]
struct State {
    calls: Window,
    bad: Window,
    /// Means of calls and failures in a window, of which the ratio is the usual share.
    usual_calls: Fading,
    usual_bad: Fading,
    learnt: u64,
    looks: u32,
    since_ms: u64,
    destination: Arc<str>,
}

/// The detector.
#[derive(Debug)]
pub(crate) struct ErrorRate {
    services: Table<Arc<str>, State>,
}

impl Default for ErrorRate {
    fn default() -> Self {
        Self { services: Table::new(SERVICES_MAX) }
    }
}

impl Detect for ErrorRate {
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        for (flow, counts) in slice.rows.iter().filter(|(flow, _)| is_service(&flow.service)) {
            let state = self.services.at(&flow.service, now);
            // The callee's proxy counts what arrived, the caller's what did not.
            let (calls, bad) = match flow.side {
                Side::Callee => (
                    counts.allowed.saturating_add(counts.failed),
                    counts.errors.saturating_add(counts.failed),
                ),
                Side::Caller => (counts.failed, counts.failed),
            };
            if calls > 0 {
                state.calls.add(calls, now, WINDOW_MS);
                state.bad.add(bad, now, WINDOW_MS);
                state.destination = flow.destination.clone();
            }
        }
        let span = now.saturating_sub(slice.from_ms);
        for (service, state) in self.services.iter_mut() {
            state.calls.add(0, now, WINDOW_MS);
            state.bad.add(0, now, WINDOW_MS);
            if let Some(signal) = judge(service, state, now) {
                say.push(signal);
            }
            if state.calls.sum() > 0 {
                state.usual_calls.add(float(state.calls.sum()), span, HALF_LIFE_MS);
                state.usual_bad.add(float(state.bad.sum()), span, HALF_LIFE_MS);
                state.learnt = state.learnt.saturating_add(state.calls.sum());
            }
        }
    }
}

fn is_service(service: &str) -> bool {
    !service.is_empty() && service != OTHERS
}

fn judge(service: &Arc<str>, state: &mut State, now: u64) -> Option<Signal> {
    let (calls, bad) = (state.calls.sum(), state.bad.sum());
    let usual = (state.usual_bad.mean() / state.usual_calls.mean().max(1.0)).clamp(LEAST_USUAL, 0.99);
    let share = float(bad) / float(calls.max(1));
    let is_shift = state.learnt >= WARM_UP
        && calls >= CALLS
        && share >= usual + MARGIN
        && float(calls) * divergence(share, usual) >= RATIO;
    if !is_shift {
        state.looks = 0;
        return None;
    }
    if state.looks == 0 {
        state.since_ms = state.bad.since_ms().unwrap_or(now);
    }
    state.looks = state.looks.saturating_add(1);
    if state.looks < LOOKS {
        return None;
    }
    Some(Signal {
        subject: Subject {
            detector: Detector::ErrorRate,
            source: "".into(),
            destination: state.destination.clone(),
            service: service.clone(),
        },
        severity: if share >= CRITICAL { Severity::Critical } else { Severity::Warning },
        since_ms: state.since_ms,
        value: share,
        threshold: usual + MARGIN,
        sentence: format!(
            "{} % of calls to {} fail ({bad} of {calls} in 10 s); usual are {} %",
            words::number(share * 100.0),
            words::clean(service),
            words::number(state.usual_bad.mean() / state.usual_calls.mean().max(1.0) * 100.0),
        ),
        command: format!("meshctl stat service --to {}", words::account(service)),
    })
}

/// Kullback–Leibler divergence of two Bernoulli distributions, in nats.
fn divergence(share: f64, usual: f64) -> f64 {
    let part = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    part(share, usual) + part(1.0 - share, 1.0 - usual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::{Stage, WEB};
    use crate::ledger::flow::Counts;

    fn calls(stage: &mut Stage, calls: u64, errors: u64) {
        stage.count(WEB, "shop/pay", &Counts { allowed: calls, errors, ..Counts::default() });
    }

    #[test]
    fn failures_beyond_the_usual_are_told_after_two_looks() {
        let (mut stage, mut detector) = (Stage::new(), ErrorRate::default());
        for look in 0..600 {
            calls(&mut stage, 20, u64::from(look % 10 == 0));
            assert_eq!(stage.after(2, &mut detector), [], "look {look}");
        }
        calls(&mut stage, 20, 20);
        let first = stage.after(2, &mut detector);
        calls(&mut stage, 20, 20);
        let said = [first, stage.after(2, &mut detector)].concat();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].sentence.contains("of calls to shop/pay fail"), "{said:?}");
        (0..10).for_each(|_| {
            calls(&mut stage, 20, 0);
            stage.after(2, &mut detector);
        });
        assert_eq!(stage.after(2, &mut detector), [], "it is over");
    }

    #[test]
    fn few_calls_prove_nothing() {
        let (mut stage, mut detector) = (Stage::new(), ErrorRate::default());
        (0..600).for_each(|_| {
            calls(&mut stage, 20, 0);
            stage.after(2, &mut detector);
        });
        stage.after(20, &mut detector);
        for _ in 0..3 {
            calls(&mut stage, 2, 2);
            assert_eq!(stage.after(2, &mut detector), []);
        }
    }
}
