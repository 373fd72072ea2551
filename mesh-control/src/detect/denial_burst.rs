//! Many refusals of one caller at one place: somebody tries what he may not, or a policy has just locked somebody out.
//!
//! **Statistic**: refusals by policy or identity of one caller at one service and port in the last ten seconds, as the
//! callee's proxy counts them (and as the caller's does, where no callee was reached).
//!
//! **Threshold**: [`FLOOR`], or three times what is usual on the edge plus the floor, whichever is more. The usual is a
//! mean that is half forgotten in an hour and begins at 0, so that a client that has always been refused once a second is not told every
//! day, and a burst that nobody ends is told for some hours.
//!
//! **False alarms**: refusals are events that should not happen. On an edge with a usual mean of m in ten seconds the
//! threshold 3m + 20 is passed by a Poisson count with a probability below 1e-10 for any m. No warm-up.
//!
//! **What it leaves to others**: refusals that are spread over many paths are a scan ([`super::scan`]).

use super::table::{Fading, Table, Window, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use crate::ledger::flow::FlowKey;
use mesh_proto::resource::alert::{Detector, Severity};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Refusals in the window that are a burst on any edge: more than a person causes who tries something twice.
const FLOOR: f64 = 20.0;
/// The window.
const WINDOW_MS: u64 = 10_000;
/// In which the usual is half forgotten.
const HALF_LIFE_MS: u64 = 3_600_000;
/// Edges remembered.
const EDGES_MAX: usize = 10_000;
/// A sample of paths by which a scan is told from a burst; a scan has more.
const PATHS_MAX: usize = 64;
/// Different paths from which on refusals may be a scan.
const PATHS_OF_SCAN: usize = 10;
/// This and more refusals a second of one edge weigh as an attack.
const CRITICAL: f64 = 1_000.0;

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Key {
    source: Arc<str>,
    destination: Arc<str>,
    service: Arc<str>,
    port: u16,
}

#[derive(Debug, Default)]
struct State {
    window: Window,
    usual: Fading,
}

/// What is known of the refusals between two identities beyond their number.
#[derive(Debug, Default)]
struct Seen {
    paths: BTreeSet<Arc<str>>,
    /// Refusals whose path is known, in the window.
    sighted: Window,
    reason: Arc<str>,
}

impl Seen {
    /// Whether hardly any path comes twice.
    fn is_scan(&self) -> bool {
        let paths = u64::try_from(self.paths.len()).unwrap_or(u64::MAX);
        self.paths.len() >= PATHS_OF_SCAN && self.sighted.sum() < paths.saturating_mul(2)
    }
}

/// The detector.
#[derive(Debug)]
pub(crate) struct DenialBurst {
    edges: Table<Key, State>,
    seen: Table<(Arc<str>, Arc<str>), Seen>,
}

impl Default for DenialBurst {
    fn default() -> Self {
        Self { edges: Table::new(EDGES_MAX), seen: Table::new(EDGES_MAX) }
    }
}

impl Detect for DenialBurst {
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        for (flow, counts) in slice.rows.iter().filter(|(_, counts)| counts.denied > 0) {
            self.edges.at(&key(flow), now).window.add(counts.denied, now, WINDOW_MS);
        }
        for sighting in slice.sightings.iter().filter(|sighting| !sighting.is_allowed) {
            let pair = (sighting.path.source.clone(), sighting.path.destination.clone());
            let seen = self.seen.at(&pair, now);
            seen.reason = sighting.reason.clone();
            seen.sighted.add(1, now, WINDOW_MS);
            if seen.paths.len() < PATHS_MAX {
                seen.paths.insert(sighting.path.template.clone());
            }
        }
        let span = now.saturating_sub(slice.from_ms);
        for (key, state) in self.edges.iter_mut() {
            state.window.add(0, now, WINDOW_MS);
            let value = float(state.window.sum());
            let threshold = FLOOR + 3.0 * state.usual.grown();
            let seen = self.seen.find(&(key.source.clone(), key.destination.clone()));
            if value >= threshold && !seen.is_some_and(Seen::is_scan) {
                say.push(signal(key, state, seen, threshold));
            }
            state.usual.add(value, span, HALF_LIFE_MS);
        }
        // Who was not refused for a day is as good as new.
        self.edges.forget_before(now.saturating_sub(24 * HALF_LIFE_MS));
        self.seen.forget_before(now.saturating_sub(WINDOW_MS));
    }
}

fn key(flow: &FlowKey) -> Key {
    Key {
        source: flow.source.clone(),
        destination: flow.destination.clone(),
        service: flow.service.clone(),
        port: flow.port,
    }
}

fn signal(key: &Key, state: &State, seen: Option<&Seen>, threshold: f64) -> Signal {
    let value = float(state.window.sum());
    let target =
        if key.service.is_empty() { words::short(&key.destination) } else { words::clean(&key.service) };
    let reason = seen.map(|seen| &seen.reason).filter(|reason| !reason.is_empty());
    let reason = reason.map(|reason| format!(", the last for the reason {}", words::clean(reason)));
    let from = words::account(&key.source);
    Signal {
        subject: Subject {
            detector: Detector::DenialBurst,
            source: key.source.clone(),
            destination: key.destination.clone(),
            service: key.service.clone(),
        },
        severity: if value >= CRITICAL { Severity::Critical } else { Severity::Warning },
        since_ms: state.window.since_ms().unwrap_or(0),
        value,
        threshold,
        sentence: format!(
            "{} was refused {} times in 10 s at {target} port {}{}; usual there are {}",
            words::short(&key.source),
            words::number(value),
            key.port,
            reason.unwrap_or_default(),
            words::number(state.usual.grown()),
        ),
        command: format!("meshctl edges --from {from} --denied"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::{Stage, WEB};

    #[test]
    fn a_burst_is_told_at_once_and_for_as_long_as_it_lasts() {
        let (mut stage, mut detector) = (Stage::new(), DenialBurst::default());
        assert_eq!(stage.after(2, &mut detector), [], "nothing happened");
        stage.refuse(WEB, "shop/pay", 15);
        assert_eq!(stage.after(2, &mut detector), [], "below the floor");
        stage.refuse(WEB, "shop/pay", 15);
        let said = stage.after(2, &mut detector);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].sentence.contains("shop/web was refused 30 times in 10 s at shop/pay port 80"),
            "{said:?}"
        );
        assert_eq!(stage.after(2, &mut detector).len(), 1, "still in the window");
        stage.after(10, &mut detector);
        assert_eq!(stage.after(2, &mut detector), [], "it is over");
    }

    #[test]
    fn what_is_always_refused_is_usual() {
        let (mut stage, mut detector) = (Stage::new(), DenialBurst::default());
        let mut said = Vec::new();
        for _ in 0..4 * 1_800 {
            stage.refuse(WEB, "shop/pay", 3);
            said = stage.after(2, &mut detector);
        }
        assert_eq!(said, [], "one and a half a second for four hours");
        stage.refuse(WEB, "shop/pay", 100);
        assert_eq!(stage.after(2, &mut detector).len(), 1, "a burst on top of it is still one");
    }
}
