//! Peak-sensitive moving average of an endpoint's latency: up at once, down slowly.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How fast an old latency is forgotten: after this time it weighs 1/e (the value that Finagle and Linkerd use).
pub(crate) const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint counts as before its first answer, so that a new one is tried but not flooded.
pub(crate) const INITIAL: Duration = Duration::from_millis(1);
/// What a failed connect or exchange counts as: one second, the connect timeout.
pub(crate) const FAILURE: Duration = Duration::from_secs(1);

/// The load of one endpoint as one worker sees it. Single-threaded: each worker measures for itself.
#[derive(Debug)]
pub(crate) struct PeakEwma {
    nanos: Cell<f64>,
    stamp: Cell<Option<Instant>>,
    pending: Cell<u32>,
}

impl PeakEwma {
    /// An endpoint nobody has called yet.
    pub(crate) fn new() -> Self {
        Self { nanos: Cell::new(nanos(INITIAL)), stamp: Cell::new(None), pending: Cell::new(0) }
    }

    /// A request starts.
    pub(crate) fn begin(&self) {
        self.pending.set(self.pending.get().saturating_add(1));
    }

    /// A request ended; `latency` is `None` when it tells nothing (the caller went away).
    pub(crate) fn end(&self, latency: Option<Duration>, now: Instant) {
        self.pending.set(self.pending.get().saturating_sub(1));
        let Some(latency) = latency else { return };
        let old = self.decayed(now);
        let new = nanos(latency);
        // A peak counts at once; what is faster moves the average by the share of time that has passed.
        let value = if new > old { new } else { old + (new - old) * (1.0 - self.weight(now)).max(0.05) };
        self.nanos.set(value);
        self.stamp.set(Some(now));
    }

    /// The cost of sending one more request here; larger is worse.
    pub(crate) fn cost(&self, now: Instant) -> f64 {
        self.decayed(now) * f64::from(self.pending.get().saturating_add(1))
    }

    /// How much the last value still weighs, from 1 down to 0.
    fn weight(&self, now: Instant) -> f64 {
        let Some(stamp) = self.stamp.get() else { return 0.0 };
        (-now.saturating_duration_since(stamp).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    /// The average with the time since the last answer taken off, never below the initial value.
    fn decayed(&self, now: Instant) -> f64 {
        let floor = nanos(INITIAL).min(self.nanos.get());
        floor + (self.nanos.get() - floor) * self.weight(now)
    }
}

fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_counts_at_once_and_fades() {
        let start = crate::clock::now();
        let ewma = PeakEwma::new();
        ewma.begin();
        ewma.end(Some(Duration::from_millis(200)), start);
        let peak = ewma.cost(start);
        assert!(peak > 1.9e8, "{peak}");
        let later = ewma.cost(start + Duration::from_secs(30));
        assert!(later < peak / 10.0, "{later} after 30 s, {peak} at the peak");
    }

    #[test]
    fn requests_in_flight_multiply_the_cost() {
        let start = crate::clock::now();
        let ewma = PeakEwma::new();
        let idle = ewma.cost(start);
        for _ in 0..9 {
            ewma.begin();
        }
        assert!((ewma.cost(start) / idle - 10.0).abs() < 1e-6);
        ewma.end(None, start);
        assert!((ewma.cost(start) / idle - 9.0).abs() < 1e-6);
    }

    #[test]
    fn fast_answers_bring_the_average_down() {
        let start = crate::clock::now();
        let ewma = PeakEwma::new();
        ewma.begin();
        ewma.end(Some(Duration::from_millis(500)), start);
        for step in 1..200u32 {
            ewma.begin();
            ewma.end(Some(Duration::from_millis(2)), start + Duration::from_millis(50) * step);
        }
        let cost = ewma.cost(start + Duration::from_secs(10));
        assert!(cost < 1e7, "{cost}");
    }
}
