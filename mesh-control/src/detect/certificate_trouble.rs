//! Certificates are refused: expired, revoked, of somebody else, or none.
//!
//! **Statistic**: failed handshakes for such a reason at one workload in the last ten seconds.
//!
//! **Threshold**: [`FLOOR`], or three times what is usual there plus the floor; one that was revoked is told at once, since
//! somebody uses what was taken from him.
//!
//! **False alarms**: a rotation or a clock that is a little off fails a handshake or two, which are tried again. Strangers
//! that knock all the time become usual in some hours. No warm-up.

use super::table::{Fading, Table, Window, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use mesh_proto::ops::metrics::EventKind;
use mesh_proto::resource::alert::{Detector, Severity};
use std::sync::Arc;

/// Failures in the window.
const FLOOR: f64 = 5.0;
/// The window.
const WINDOW_MS: u64 = 10_000;
/// In which the usual is half forgotten.
const HALF_LIFE_MS: u64 = 3_600_000;
/// Workloads and reasons remembered.
const PLACES_MAX: usize = 10_000;
/// The reason that needs no second.
const REVOKED: &str = "revoked";

/// Source, destination and reason, as the event has them.
type Key = (Arc<str>, Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct State {
    failures: Window,
    usual: Fading,
}

/// The detector.
#[derive(Debug)]
pub(crate) struct CertificateTrouble {
    places: Table<Key, State>,
}

impl Default for CertificateTrouble {
    fn default() -> Self {
        Self { places: Table::new(PLACES_MAX) }
    }
}

impl Detect for CertificateTrouble {
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        let troubles = slice
            .events
            .iter()
            .filter(|event| matches!(event.kind, EventKind::Certificate | EventKind::Unauthenticated));
        for event in troubles {
            let key = (
                event.source.as_str().into(),
                event.destination.as_str().into(),
                event.reason.as_str().into(),
            );
            self.places.at(&key, now).failures.add(event.count, now, WINDOW_MS);
        }
        let span = now.saturating_sub(slice.from_ms);
        for (key, state) in self.places.iter_mut() {
            state.failures.add(0, now, WINDOW_MS);
            let value = float(state.failures.sum());
            let is_revoked = &*key.2 == REVOKED;
            let threshold = if is_revoked { 1.0 } else { FLOOR + 3.0 * state.usual.grown() };
            if value >= threshold {
                say.push(signal(key, state, threshold));
            }
            state.usual.add(value, span, HALF_LIFE_MS);
        }
        self.places.forget_before(now.saturating_sub(24 * HALF_LIFE_MS));
    }
}

fn signal((source, destination, reason): &Key, state: &State, threshold: f64) -> Signal {
    let failures = state.failures.sum();
    let place = if destination.is_empty() { source } else { destination };
    Signal {
        subject: Subject {
            detector: Detector::CertificateTrouble,
            source: source.clone(),
            destination: destination.clone(),
            service: reason.clone(),
        },
        severity: if &**reason == REVOKED { Severity::Critical } else { Severity::Warning },
        since_ms: state.failures.since_ms().unwrap_or(0),
        value: float(failures),
        threshold,
        sentence: format!(
            "{failures} handshakes of {} with {} failed in 10 s for the reason {}; usual are {}",
            words::short(source),
            words::short(destination),
            words::clean(reason),
            words::number(state.usual.grown())
        ),
        command: format!("meshctl identity {}", words::account(place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::detect::staged::{PAY, Stage};
    use crate::events::Event;

    #[test]
    fn refused_certificates_are_told_and_a_revoked_one_at_once() {
        let (mut stage, mut detector) = (Stage::new(), CertificateTrouble::default());
        let mut fail = |reason: &str, count| {
            let mut event = Event::new(EventKind::Certificate, clock::of_unix_ms(stage.now()), reason);
            event.destination = PAY.to_owned();
            event.count = count;
            stage.slice.events.push(event);
            stage.after(2, &mut detector)
        };
        assert_eq!(fail("expired", 4), []);
        assert_eq!(fail("expired", 4).len(), 1);
        let said = fail("revoked", 1);
        assert_eq!(said.iter().filter(|signal| signal.severity == Severity::Critical).count(), 1, "{said:?}");
    }
}
