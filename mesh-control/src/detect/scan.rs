//! One caller tries many ports, services or paths: somebody looks for what is open.
//!
//! **Statistic**: of one caller in the last thirty seconds, the different places (service and port) at which it was
//! refused and got nothing, and the different paths at which it was refused.
//!
//! **Threshold**: [`PLACES`] places, or [`PATHS`] paths. A wrong policy refuses a caller at the places it knows, of which
//! workloads have a handful; a scan has to try more than that to be of any use, however slowly it goes about it in the
//! window. A slower one is still a new edge at each place.
//!
//! **False alarms**: a caller whose whole policy is removed, and which calls eight services within half a minute. That is
//! worth an alarm, too. Failures to reach are not counted, since an outage of many services would look like a scan of all
//! their callers. No warm-up.

use super::table::{Table, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use crate::ledger::flow::OTHERS;
use mesh_proto::resource::alert::{Detector, Severity};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Different places that are a scan.
const PLACES: usize = 8;
/// Different paths that are a scan.
const PATHS: usize = 20;
/// The window.
const WINDOW_MS: u64 = 30_000;
/// Callers remembered.
const CALLERS_MAX: usize = 4_000;
/// Places and paths remembered of one.
const TRACES_MAX: usize = 256;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Trace {
    Place(Arc<str>, u16),
    Path(Arc<str>, Arc<str>),
}

#[derive(Debug, Default)]
struct State {
    /// When each was last refused.
    traces: BTreeMap<Trace, u64>,
    since_ms: u64,
}

/// The detector.
#[derive(Debug)]
pub(crate) struct Scan {
    callers: Table<Arc<str>, State>,
}

impl Default for Scan {
    fn default() -> Self {
        Self { callers: Table::new(CALLERS_MAX) }
    }
}

impl Detect for Scan {
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        for (flow, _) in slice.rows.iter().filter(|(_, counts)| counts.denied > 0 && counts.allowed == 0) {
            let target = if flow.service.is_empty() { &flow.destination } else { &flow.service };
            if &*flow.source != OTHERS {
                self.trace(&flow.source, Trace::Place(target.clone(), flow.port), now);
            }
        }
        let refused = slice.sightings.iter().filter(|sighting| !sighting.is_allowed);
        for sighting in refused.filter(|sighting| !sighting.path.method.is_empty()) {
            let trace = Trace::Path(sighting.path.destination.clone(), sighting.path.template.clone());
            self.trace(&sighting.path.source, trace, now);
        }
        for (source, state) in self.callers.iter_mut() {
            state.traces.retain(|_, seen| now.saturating_sub(*seen) < WINDOW_MS);
            let places = state.traces.keys().filter(|trace| matches!(trace, Trace::Place(..))).count();
            let paths = state.traces.len().saturating_sub(places);
            if places >= PLACES || paths >= PATHS {
                say.push(signal(source, state, places, paths));
            }
        }
        self.callers.forget_before(now.saturating_sub(WINDOW_MS));
    }
}

impl Scan {
    fn trace(&mut self, source: &Arc<str>, trace: Trace, now: u64) {
        let state = self.callers.at(source, now);
        if state.traces.is_empty() {
            state.since_ms = now;
        }
        if state.traces.len() < TRACES_MAX || state.traces.contains_key(&trace) {
            state.traces.insert(trace, now);
        }
    }
}

fn signal(source: &Arc<str>, state: &State, places: usize, paths: usize) -> Signal {
    let (value, threshold, what) =
        if places >= PLACES { (places, PLACES, "services and ports") } else { (paths, PATHS, "paths") };
    let example =
        state.traces.keys().filter(|trace| matches!(trace, Trace::Place(..)) == (places >= PLACES)).take(3);
    let example: Vec<String> = example
        .map(|trace| match trace {
            Trace::Place(target, port) => format!("{}:{port}", words::short(target)),
            Trace::Path(target, path) => format!("{}{}", words::short(target), words::clean(path)),
        })
        .collect();
    let count = |n: usize| float(u64::try_from(n).unwrap_or(u64::MAX));
    Signal {
        subject: Subject {
            detector: Detector::Scan,
            source: source.clone(),
            destination: "".into(),
            service: "".into(),
        },
        severity: Severity::Critical,
        since_ms: state.since_ms,
        value: count(value),
        threshold: count(threshold),
        sentence: format!(
            "{} was refused at {value} different {what} within 30 s, among them {}",
            words::short(source),
            example.join(", ")
        ),
        command: format!("meshctl edges --from {} --denied", words::account(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::{Stage, WEB};

    #[test]
    fn many_places_are_a_scan_and_a_few_are_not() {
        let (mut stage, mut detector) = (Stage::new(), Scan::default());
        for n in 0..7 {
            stage.refuse(WEB, &format!("shop/s{n}"), 50);
            assert_eq!(stage.after(2, &mut detector), [], "{n}");
        }
        stage.refuse(WEB, "shop/s7", 1);
        let said = stage.after(2, &mut detector);
        assert_eq!(said.len(), 1);
        assert!(said[0].sentence.contains("8 different services"), "{said:?}");
        stage.after(30, &mut detector);
        assert_eq!(stage.after(2, &mut detector), []);
    }

    #[test]
    fn many_paths_are_a_scan() {
        let (mut stage, mut detector) = (Stage::new(), Scan::default());
        (0..20).for_each(|n| stage.sight_refused(WEB, "shop/pay", &format!("/{n}x")));
        (0..50).for_each(|n| stage.sight(WEB, "shop/cart", &format!("/{n}x")));
        let said = stage.after(2, &mut detector);
        assert_eq!(said.len(), 1);
        assert!(said[0].sentence.contains("20 different paths"), "{said:?}");
    }
}
