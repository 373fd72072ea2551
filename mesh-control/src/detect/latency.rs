//! Calls to a service take longer than usual.
//!
//! **Statistic**: of the calls in the last ten seconds, the share that took longer than 95 of 100 usually do; usual is the
//! service's own histogram, half forgotten in an hour.
//!
//! **Threshold**: half of at least [`CALLS`] calls, which is to say that the median is where the slowest twentieth was; a
//! median at least twice the usual and [`LEAST_US`] more; two looks in a row.
//!
//! **False alarms**: of thirty independent calls fifteen in the slowest twentieth happen once in 10¹¹. Calls are not
//! independent: rollouts, cold caches and garbage collection slow many at once, by less than twice in the median or for less
//! than two looks. Warm-up: [`WARM_UP`] calls. Load that grows over hours is learnt as it comes.

use super::table::{Table, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use crate::ledger::flow::{OTHERS, Side};
use mesh_proto::ops::histogram::{self, BUCKETS, Sketch};
use mesh_proto::resource::alert::{Detector, Severity};
use std::collections::VecDeque;
use std::sync::Arc;

/// Calls in the window from which on a share means something.
const CALLS: u64 = 30;
/// By how much the median must have grown at the least: what nobody notices is no alarm.
const LEAST_US: u64 = 5_000;
/// The share of calls beyond the usual 95 %.
const SHARE: f64 = 0.5;
/// How many times the usual median.
const TIMES: f64 = 2.0;
/// Calls that are learnt first.
const WARM_UP: f64 = 1_000.0;
/// The window.
const WINDOW_MS: u64 = 10_000;
/// In which the usual is half forgotten.
const HALF_LIFE_MS: u64 = 3_600_000;
/// The weight from which on counts are scaled down again.
const WEIGHT_MAX: f64 = 1e9;
/// How long the marks of the usual hold: they move by a hundredth in a minute.
const MARKS_MS: u64 = 60_000;
/// Services remembered: some 3 KiB each.
const SERVICES_MAX: usize = 2_000;
/// Looks in a row.
const LOOKS: u32 = 2;

#[derive(Debug, Default)]
struct State {
    recent: VecDeque<(u64, Sketch)>,
    usual: Usual,
    looks: u32,
    since_ms: u64,
    destination: Arc<str>,
}

/// A histogram that forgets: newer counts weigh more, which is the same as older ones weighing less, and touches no old one.
#[derive(Debug, Default)]
struct Usual {
    counts: Vec<f64>,
    sum: f64,
    weight: f64,
    /// The buckets of the median and of 95 in 100, and when they were looked up.
    marks: Option<(u64, u32, u32)>,
}

impl Usual {
    fn add(&mut self, sketch: &Sketch, span: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0.0; usize::try_from(BUCKETS).unwrap_or(0)];
            self.weight = 1.0;
        }
        self.weight *= (float(span) / float(HALF_LIFE_MS)).exp2();
        if self.weight > WEIGHT_MAX {
            let weight = self.weight;
            self.counts.iter_mut().for_each(|count| *count /= weight);
            self.sum /= weight;
            self.weight = 1.0;
        }
        for (bucket, count) in sketch.buckets() {
            let known = usize::try_from(bucket).ok().and_then(|bucket| self.counts.get_mut(bucket));
            if let Some(known) = known {
                *known += float(count) * self.weight;
                self.sum += float(count) * self.weight;
            }
        }
    }

    /// How many calls it has, those of an hour ago worth half.
    fn learnt(&self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { 0.0 }
    }

    /// The buckets of the median and of 95 in 100.
    fn marks(&mut self, now: u64) -> (u32, u32) {
        if let Some((_, half, most)) = self.marks.filter(|(at, ..)| now.saturating_sub(*at) < MARKS_MS) {
            return (half, most);
        }
        let (half, most) = (self.bucket(0.5), self.bucket(0.95));
        self.marks = Some((now, half, most));
        (half, most)
    }

    fn bucket(&self, share: f64) -> u32 {
        let (rank, mut sum) = (self.sum * share, 0.0);
        let found = self.counts.iter().position(|count| {
            sum += count;
            sum >= rank
        });
        found.and_then(|at| u32::try_from(at).ok()).unwrap_or(BUCKETS.saturating_sub(1))
    }
}

/// The detector.
#[derive(Debug)]
pub(crate) struct Latency {
    services: Table<Arc<str>, State>,
}

impl Default for Latency {
    fn default() -> Self {
        Self { services: Table::new(SERVICES_MAX) }
    }
}

impl Detect for Latency {
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        let callee = slice.rows.iter().filter(|(flow, _)| flow.side == Side::Callee);
        for (flow, counts) in callee.filter(|(flow, _)| !flow.service.is_empty() && &*flow.service != OTHERS)
        {
            // An opaque connection's latency is its life, which says nothing about the service.
            if counts.latency.count() == 0 || matches!(&*flow.protocol, "tcp" | "tls") {
                continue;
            }
            let state = self.services.at(&flow.service, now);
            state.destination = flow.destination.clone();
            match state.recent.back_mut().filter(|(at, _)| *at == now) {
                Some((_, sketch)) => sketch.merge(&counts.latency),
                None => state.recent.push_back((now, counts.latency.clone())),
            }
        }
        let span = now.saturating_sub(slice.from_ms);
        for (service, state) in self.services.iter_mut() {
            while state.recent.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW_MS) {
                state.recent.pop_front();
            }
            if let Some(signal) = judge(service, state, now) {
                say.push(signal);
            }
            if let Some((_, sketch)) = state.recent.back().filter(|(at, _)| *at == now) {
                state.usual.add(sketch, span);
            }
        }
    }
}

fn judge(service: &Arc<str>, state: &mut State, now: u64) -> Option<Signal> {
    let calls = state.recent.iter().fold(0_u64, |sum, (_, sketch)| sum.saturating_add(sketch.count()));
    if state.usual.learnt() < WARM_UP {
        return None;
    }
    if calls < CALLS {
        state.looks = 0;
        return None;
    }
    let (half, most) = state.usual.marks(now);
    let all = state.recent.iter().flat_map(|(_, sketch)| sketch.buckets());
    let slow =
        all.filter(|(bucket, _)| *bucket > most).fold(0_u64, |sum, (_, count)| sum.saturating_add(count));
    if float(slow) < SHARE * float(calls) {
        state.looks = 0;
        return None;
    }
    let mut window = Sketch::default();
    state.recent.iter().for_each(|(_, sketch)| window.merge(sketch));
    let (median, usual) = (window.quantile(0.5), histogram::upper_bound(half));
    let is_slow = float(median) >= TIMES * float(usual) && median.saturating_sub(usual) >= LEAST_US;
    if !is_slow {
        state.looks = 0;
        return None;
    }
    if state.looks == 0 {
        state.since_ms = state.recent.front().map_or(now, |(at, _)| *at);
    }
    state.looks = state.looks.saturating_add(1);
    if state.looks < LOOKS {
        return None;
    }
    Some(Signal {
        subject: Subject {
            detector: Detector::Latency,
            source: "".into(),
            destination: state.destination.clone(),
            service: service.clone(),
        },
        severity: Severity::Warning,
        since_ms: state.since_ms,
        value: float(median) / float(usual.max(1)),
        threshold: TIMES,
        sentence: format!(
            "half of {calls} calls to {} in 10 s took {} or longer; usual is {}",
            words::clean(service),
            words::micros(median),
            words::micros(usual)
        ),
        command: format!("meshctl stat service --to {}", words::account(service)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::{Stage, WEB};

    #[test]
    fn calls_that_take_longer_are_told_after_two_looks() {
        let (mut stage, mut detector) = (Stage::new(), Latency::default());
        for look in 0..600_u64 {
            stage.call(WEB, "shop/pay", 20, (8_000 + look % 7 * 500, 100));
            // A slow one now and then is usual.
            stage.call(WEB, "shop/pay", 1, (40_000, 100));
            assert_eq!(stage.after(2, &mut detector), [], "look {look}");
        }
        for slower in [12_000, 14_000] {
            stage.call(WEB, "shop/pay", 100, (slower, 100));
            assert_eq!(stage.after(2, &mut detector), [], "half as long again is no alarm");
        }
        let mut said = Vec::new();
        for _ in 0..4 {
            stage.call(WEB, "shop/pay", 100, (90_000, 100));
            said = stage.after(2, &mut detector);
        }
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].sentence.contains("calls to shop/pay in 10 s took 9"), "{said:?}");
    }
}
