//! Plaintext, or a peer without an identity, where there was none before.
//!
//! **Statistic**: connections without an identity at one workload: those that were let in (permissive mode), and those that
//! were refused, in the last ten seconds.
//!
//! **Threshold**: one that was let in; [`REFUSED`] that were refused. Where it has been seen in the last week already it is
//! known: it is shown by `meshctl posture`, not told again and again.
//!
//! **False alarms**: one for each monitor or probe from outside the mesh that begins. No warm-up: in a mesh nothing is meant
//! to speak plaintext.

use super::table::{Table, Window, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use crate::ledger::flow::{Side, UNMESHED};
use mesh_proto::ops::metrics::EventKind;
use mesh_proto::resource::alert::{Detector, Severity};
use std::sync::Arc;

/// Refused connections that are no mistake of a person who tries something.
const REFUSED: u64 = 3;
/// The window.
const WINDOW_MS: u64 = 10_000;
/// How long it is known.
const KNOWN_MS: u64 = 7 * 24 * 3_600_000;
/// For how long it is told when it begins.
const NEWS_MS: u64 = 600_000;
/// Workloads remembered.
const PLACES_MAX: usize = 10_000;

#[derive(Debug, Default)]
struct State {
    accepted: Window,
    refused: Window,
    /// When it was first told.
    told_ms: Option<u64>,
}

/// The detector.
#[derive(Debug)]
pub(crate) struct Plaintext {
    places: Table<Arc<str>, State>,
}

impl Default for Plaintext {
    fn default() -> Self {
        Self { places: Table::new(PLACES_MAX) }
    }
}

impl Detect for Plaintext {
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        let strangers =
            slice.rows.iter().filter(|(flow, _)| flow.side == Side::Callee && &*flow.source == UNMESHED);
        for (flow, counts) in strangers {
            let state = self.places.at(&flow.destination, now);
            state.accepted.add(counts.allowed, now, WINDOW_MS);
            state.refused.add(counts.denied, now, WINDOW_MS);
        }
        for event in slice.events.iter().filter(|event| event.kind == EventKind::Plaintext) {
            let place: Arc<str> = event.destination.as_str().into();
            self.places.at(&place, now).refused.add(event.count, now, WINDOW_MS);
        }
        for (place, state) in self.places.iter_mut() {
            state.accepted.add(0, now, WINDOW_MS);
            state.refused.add(0, now, WINDOW_MS);
            let is_seen = state.accepted.sum() > 0 || state.refused.sum() >= REFUSED;
            if is_seen && now.saturating_sub(*state.told_ms.get_or_insert(now)) < NEWS_MS {
                say.push(signal(place, state, now));
            }
        }
        self.places.forget_before(now.saturating_sub(KNOWN_MS));
    }
}

fn signal(place: &Arc<str>, state: &State, now: u64) -> Signal {
    let (accepted, refused) = (state.accepted.sum(), state.refused.sum());
    let (value, threshold, what) = if accepted > 0 {
        (accepted, 1, format!("{accepted} connections without an identity were let in at"))
    } else {
        (refused, REFUSED, format!("{refused} connections without an identity were refused at"))
    };
    let since = [&state.accepted, &state.refused].iter().filter_map(|window| window.since_ms()).min();
    Signal {
        subject: Subject {
            detector: Detector::Plaintext,
            source: UNMESHED.into(),
            destination: place.clone(),
            service: "".into(),
        },
        severity: Severity::Warning,
        since_ms: since.unwrap_or(now),
        value: float(value),
        threshold: float(threshold),
        sentence: format!("{what} {} within 10 s, where none were seen for a week", words::short(place)),
        command: format!("meshctl edges --to {}", words::account(place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::Stage;
    use crate::ledger::flow::Counts;

    #[test]
    fn strangers_are_told_when_they_begin() {
        let (mut stage, mut detector) = (Stage::new(), Plaintext::default());
        stage.refuse(UNMESHED, "shop/pay", 2);
        assert_eq!(stage.after(2, &mut detector), []);
        stage.refuse(UNMESHED, "shop/pay", 2);
        let said = stage.after(2, &mut detector);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].sentence.contains("4 connections without an identity were refused at shop/pay"),
            "{said:?}"
        );
        stage.after(3_600, &mut detector);
        stage.refuse(UNMESHED, "shop/pay", 20);
        assert_eq!(stage.after(2, &mut detector), [], "known by now");
        stage.count(UNMESHED, "shop/cart", &Counts { allowed: 1, ..Counts::default() });
        assert_eq!(stage.after(2, &mut detector).len(), 1, "one that was let in");
    }
}
