//! A path that nobody used on this edge before, on an edge whose paths are known.
//!
//! **Statistic**: the age of a method and path template on an edge.
//!
//! **Threshold**: the edge has been seen [`SIGHTINGS`] times, has at most [`TEMPLATES_MAX`] templates, and none of them is
//! younger than a day ([`SETTLED_MS`]): such an edge is an interface with a fixed set of calls. Others are open (a web
//! site, a proxy), and of them nothing is said.
//!
//! **False alarms**: rare calls of a fixed interface, once each. What passed is recorded in samples only (`accessLog.sample`
//! of the `MeshConfig`), so that a rare call may be seen late and a new one not at once; what was refused is seen always.
//! Hence a warning for what was refused, and a note for what passed.

use super::table::{Table, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::{PathKey, Sighting, Slice};
use mesh_proto::resource::alert::{Detector, Severity};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Sightings from which on an edge is known.
const SIGHTINGS: u64 = 200;
/// Templates of an edge with a fixed interface.
const TEMPLATES_MAX: usize = 50;
/// How long no template may have been new.
const SETTLED_MS: u64 = 24 * 3_600_000;
/// Edges remembered: up to some 10 KiB each.
const EDGES_MAX: usize = 2_000;

#[derive(Debug, Default)]
struct State {
    templates: BTreeSet<(Arc<str>, Arc<str>)>,
    sightings: u64,
    newest_ms: u64,
    is_open: bool,
}

/// The detector.
#[derive(Debug)]
pub(crate) struct NewPath {
    edges: Table<(Arc<str>, Arc<str>), State>,
}

impl Default for NewPath {
    fn default() -> Self {
        Self { edges: Table::new(EDGES_MAX) }
    }
}

impl Detect for NewPath {
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        for sighting in slice.sightings.iter().filter(|sighting| !sighting.path.method.is_empty()) {
            let PathKey { source, destination, method, template } = &sighting.path;
            let state = self.edges.at(&(source.clone(), destination.clone()), slice.to_ms);
            state.sightings = state.sightings.saturating_add(1);
            let call = (method.clone(), template.clone());
            if state.is_open || state.templates.contains(&call) {
                continue;
            }
            let settled_ms = slice.to_ms.saturating_sub(state.newest_ms);
            if state.sightings > SIGHTINGS && settled_ms >= SETTLED_MS {
                say.push(signal(sighting, state, slice.to_ms));
            }
            state.templates.insert(call);
            state.newest_ms = slice.to_ms;
            state.is_open = state.templates.len() > TEMPLATES_MAX;
        }
    }
}

fn signal(sighting: &Sighting, state: &State, now: u64) -> Signal {
    let PathKey { source, destination, method, template } = &sighting.path;
    let fate = if sighting.is_allowed { "allowed" } else { "refused" };
    let call = format!("{} {}", words::clean(method), words::clean(template));
    Signal {
        subject: Subject {
            detector: Detector::NewPath,
            source: source.clone(),
            destination: destination.clone(),
            service: call.clone().into(),
        },
        severity: if sighting.is_allowed { Severity::Info } else { Severity::Warning },
        since_ms: now,
        value: float(state.sightings),
        threshold: float(SIGHTINGS),
        sentence: format!(
            "{} calls {call} of {} for the first time in {} recorded calls to {} known paths; it was {fate}",
            words::short(source),
            words::short(destination),
            state.sightings,
            state.templates.len()
        ),
        command: format!("meshctl edges --from {}", words::account(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::{Stage, WEB};

    #[test]
    fn a_new_call_of_a_fixed_interface_is_told_and_one_of_an_open_one_is_not() {
        let (mut stage, mut detector) = (Stage::new(), NewPath::default());
        for hour in 0..50 {
            for n in 0..10 {
                stage.sight(WEB, "shop/pay", &format!("/v1/{}", ["pay", "refund"][n % 2]));
                stage.sight(WEB, "shop/site", &format!("/{hour}x{n}"));
            }
            assert_eq!(stage.after(3_600, &mut detector), [], "hour {hour}");
        }
        stage.sight_refused(WEB, "shop/pay", "/admin/keys");
        stage.sight_refused(WEB, "shop/site", "/admin/keys");
        let said = stage.after(2, &mut detector);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].sentence.contains("GET /admin/keys of shop/pay for the first time"), "{said:?}");
        assert_eq!(said[0].severity, Severity::Warning);
    }
}
