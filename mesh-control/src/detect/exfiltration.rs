//! Far more bytes than usual flow on an edge: somebody copies what he may read.
//!
//! **Statistic**: bytes of an edge in the last ten seconds, either way (what the caller reads, what it sends).
//!
//! **Threshold**: [`TIMES`] the largest ten seconds that were usual at this hour ([`super::season`]), and at least
//! [`LEAST`].
//!
//! **False alarms**: the largest of a day's or week's ten-second sums at the same hour is passed by chance now and then, by
//! four times only if something has changed. Nightly jobs are usual at night; a job that is started by day is told, and
//! rightly. Warm-up: a day; an edge that is younger is told of as a new one.

use super::season::Season;
use super::table::{Table, Window, float};
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use crate::ledger::flow::{FlowKey, OTHERS, Side};
use crate::ledger::segment::Minute;
use mesh_proto::resource::alert::{Detector, Severity};
use std::sync::Arc;

/// How many times the usual.
const TIMES: f64 = 4.0;
/// Bytes in ten seconds below which nothing is said.
const LEAST: f64 = 4_194_304.0;
/// The window.
const WINDOW_MS: u64 = 10_000;
/// Edges remembered: up to some 8 KiB each.
const EDGES_MAX: usize = 4_000;
/// Four times as much again weighs as a theft.
const CRITICAL_TIMES: f64 = 16.0;

/// Caller, callee's identity, service.
type Key = (Arc<str>, Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Way {
    window: Window,
    season: Season,
}

#[derive(Debug, Default)]
struct State {
    /// What the caller reads, and what it sends.
    ways: [Way; 2],
}

/// The detector.
#[derive(Debug)]
pub(crate) struct Exfiltration {
    edges: Table<Key, State>,
}

impl Default for Exfiltration {
    fn default() -> Self {
        Self { edges: Table::new(EDGES_MAX) }
    }
}

impl Detect for Exfiltration {
    fn learn(&mut self, minute: &Minute) {
        for (flow, counts) in minute.rows.iter().filter(|(flow, _)| is_counted(flow)) {
            let state = self.edges.at(&key(flow), minute.to_ms);
            for (way, bytes) in state.ways.iter_mut().zip([counts.bytes_out, counts.bytes_in]) {
                // A sixth of the minute is its mean; its peak was more, by how much is not known any more.
                way.season.learn(float(bytes) / 3.0, minute.from_ms);
            }
        }
    }

    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        for (flow, counts) in slice.rows.iter().filter(|(flow, _)| is_counted(flow)) {
            let state = self.edges.at(&key(flow), now);
            for (way, bytes) in state.ways.iter_mut().zip([counts.bytes_out, counts.bytes_in]) {
                way.window.add(bytes, now, WINDOW_MS);
            }
        }
        for (key, state) in self.edges.iter_mut() {
            for (way, what) in state.ways.iter_mut().zip(["reads", "sends"]) {
                way.window.add(0, now, WINDOW_MS);
                let value = float(way.window.sum());
                if value <= 0.0 {
                    continue;
                }
                if let Some(usual) = way.season.usual(now)
                    && value >= LEAST.max(TIMES * usual)
                {
                    let since_ms = way.window.since_ms().unwrap_or(now);
                    say.push(signal(key, what, (value, usual), since_ms));
                }
                way.season.learn(value, now);
            }
        }
    }
}

fn is_counted(flow: &FlowKey) -> bool {
    flow.side == Side::Callee && &*flow.source != OTHERS && &*flow.destination != OTHERS
}

fn key(flow: &FlowKey) -> Key {
    (flow.source.clone(), flow.destination.clone(), flow.service.clone())
}

fn signal(key: &Key, what: &str, (value, usual): (f64, f64), since_ms: u64) -> Signal {
    let (source, destination, service) = key;
    let target = if service.is_empty() { words::short(destination) } else { words::clean(service) };
    let preposition = if what == "reads" { "from" } else { "to" };
    Signal {
        subject: Subject {
            detector: Detector::Exfiltration,
            source: source.clone(),
            destination: destination.clone(),
            service: service.clone(),
        },
        severity: if value >= CRITICAL_TIMES * usual.max(1.0) {
            Severity::Critical
        } else {
            Severity::Warning
        },
        since_ms,
        value,
        threshold: LEAST.max(TIMES * usual),
        sentence: format!(
            "{} {what} {} {preposition} {target} in 10 s; at this hour at most {} are usual",
            words::short(source),
            words::bytes(value),
            words::bytes(usual)
        ),
        command: format!("meshctl stat edge --from {}", words::account(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::{Stage, WEB};

    #[test]
    fn a_nightly_copy_is_usual_at_night_and_an_alarm_by_day() {
        let (mut stage, mut detector) = (Stage::new(), Exfiltration::default());
        let mib = 1 << 20;
        for look in 0..4 * 360_u64 * 24 {
            let hour = look / 360 % 24;
            let bytes = if hour == 2 { 50 * mib } else { mib / 10 + look % 7 * 1_000 };
            stage.call(WEB, "shop/db", 1, (1_000, bytes));
            let said = stage.after(10, &mut detector);
            assert!(said.is_empty(), "look {look}, hour {hour}: {said:?}");
        }
        // The fifth day, 00:00; half a day later.
        (0..12 * 360).for_each(|look: u64| {
            stage.call(WEB, "shop/db", 1, (1_000, if look / 360 == 2 { 50 * mib } else { mib / 10 }));
            stage.after(10, &mut detector);
        });
        stage.call(WEB, "shop/db", 1, (1_000, 50 * mib));
        let said = stage.after(10, &mut detector);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].sentence.contains("shop/web reads 50 MiB from shop/db in 10 s"), "{said:?}");
        assert_eq!(said[0].severity, Severity::Critical);
    }
}
