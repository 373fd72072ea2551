//! One identity is used from two places at once: a certificate with its key was copied.
//!
//! **Statistic**: the addresses from which one instance (a certificate names one) calls.
//!
//! **Threshold**: calls from a first address, then from a second, then from the first again, all within two minutes. An
//! instance that moves is seen at the second and never again at the first.
//!
//! **False alarms**: an instance behind an address translation with several outer addresses; within a mesh there is none.
//! Addresses come with recorded decisions, of which calls that passed are a sample, so that a thief who calls rarely is
//! seen late; one who is refused is seen at once. No warm-up.

use super::table::{Table, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use mesh_proto::resource::alert::{Detector, Severity};
use std::collections::VecDeque;
use std::sync::Arc;

/// Within which the first address must come again.
const WINDOW_MS: u64 = 120_000;
/// Changes of address within it: there and back.
const CHANGES: usize = 2;
/// Instances remembered.
const INSTANCES_MAX: usize = 10_000;

#[derive(Debug, Default)]
struct State {
    /// The address that was seen last, and the changes: when, and from which.
    address: Arc<str>,
    changes: VecDeque<(u64, Arc<str>)>,
}

/// The detector.
#[derive(Debug)]
pub(crate) struct TwoPlaces {
    instances: Table<(Arc<str>, Arc<str>), State>,
}

impl Default for TwoPlaces {
    fn default() -> Self {
        Self { instances: Table::new(INSTANCES_MAX) }
    }
}

impl Detect for TwoPlaces {
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        let placed = slice
            .sightings
            .iter()
            .filter(|sighting| !sighting.instance.is_empty() && !sighting.address.is_empty());
        for sighting in placed {
            let state = self.instances.at(&(sighting.path.source.clone(), sighting.instance.clone()), now);
            if state.address == sighting.address {
                continue;
            }
            let before = std::mem::replace(&mut state.address, sighting.address.clone());
            if !before.is_empty() {
                state.changes.push_back((now, before));
            }
            if state.changes.len() > 2 * CHANGES {
                state.changes.pop_front();
            }
        }
        for ((source, instance), state) in self.instances.iter_mut() {
            while state.changes.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW_MS) {
                state.changes.pop_front();
            }
            let is_back = state.changes.iter().any(|(_, address)| *address == state.address);
            if state.changes.len() >= CHANGES && is_back {
                say.push(signal(source, instance, state));
            }
        }
    }
}

fn signal(source: &Arc<str>, instance: &Arc<str>, state: &State) -> Signal {
    let other =
        state.changes.iter().rev().map(|(_, address)| address).find(|address| **address != state.address);
    let changes = u64::try_from(state.changes.len()).unwrap_or(u64::MAX);
    Signal {
        subject: Subject {
            detector: Detector::TwoPlaces,
            source: source.clone(),
            destination: "".into(),
            service: instance.clone(),
        },
        severity: Severity::Critical,
        since_ms: state.changes.front().map_or(0, |(at, _)| *at),
        value: float(changes),
        threshold: float(u64::try_from(CHANGES).unwrap_or(0)),
        sentence: format!(
            "the certificate of {} ({}) is used from {} and from {} at the same time",
            words::short(source),
            words::clean(instance),
            words::clean(&state.address),
            other.map(|address| words::clean(address)).unwrap_or_default()
        ),
        command: format!("meshctl identity {}", words::account(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::{Stage, WEB};

    fn sight(stage: &mut Stage, address: &str) {
        stage.sight(WEB, "shop/pay", "/");
        stage.slice.sightings.last_mut().unwrap().address = address.into();
    }

    #[test]
    fn there_and_back_is_two_places_and_a_move_is_none() {
        let (mut stage, mut detector) = (Stage::new(), TwoPlaces::default());
        for address in ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"] {
            sight(&mut stage, address);
            assert_eq!(stage.after(2, &mut detector), [], "moved to {address}");
        }
        sight(&mut stage, "10.0.0.1");
        let said = stage.after(2, &mut detector);
        assert_eq!(said.len(), 1);
        assert!(said[0].sentence.contains("is used from 10.0.0.1 and from 10.0.0.2"), "{said:?}");
        stage.after(130, &mut detector);
        sight(&mut stage, "10.0.0.2");
        assert_eq!(stage.after(2, &mut detector), [], "minutes later it is a move");
    }
}
