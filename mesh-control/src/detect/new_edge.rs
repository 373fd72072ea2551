//! Somebody calls a service that it never called before.
//!
//! **Statistic**: the age of the pair of caller and callee, against the age of the caller.
//!
//! **Threshold**: the caller has been known for a day ([`WARM_UP_MS`]) and the pair for none. A pair is forgotten
//! after [`FORGET_MS`] without a call. Held back for [`HOLD_MS`], so that a scan can be told as one.
//!
//! **False alarms**: one for each new dependency of a release, which is what it is for; none for a new workload, since its
//! caller is learnt first, and none for nightly jobs, which are their own callers and have called within that day.

use super::table::Table;
use super::{Detect, Signal, Subject, words};
use crate::ledger::Slice;
use crate::ledger::flow::{Counts, FlowKey, OTHERS, UNMESHED};
use crate::ledger::segment::Minute;
use mesh_proto::resource::alert::{Detector, Severity};
use std::sync::Arc;

/// How long a caller is learnt.
pub(crate) const WARM_UP_MS: u64 = 24 * 3_600_000;
/// After which a pair is new again.
const FORGET_MS: u64 = 30 * 24 * 3_600_000;
/// How long a finding is held back.
const HOLD_MS: u64 = 3_000;
/// Callers remembered.
const CALLERS_MAX: usize = 10_000;
/// Pairs remembered: some 200 bytes each.
const PAIRS_MAX: usize = 50_000;

type Pair = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Known {
    since_ms: u64,
}

#[derive(Debug)]
struct Pending {
    pair: Pair,
    destination: Arc<str>,
    port: u16,
    since_ms: u64,
    allowed: u64,
    refused: u64,
}

/// The detector.
#[derive(Debug)]
pub(crate) struct NewEdge {
    callers: Table<Arc<str>, Known>,
    pairs: Table<Pair, Known>,
    pending: Vec<Pending>,
}

impl Default for NewEdge {
    fn default() -> Self {
        Self { callers: Table::new(CALLERS_MAX), pairs: Table::new(PAIRS_MAX), pending: Vec::new() }
    }
}

impl Detect for NewEdge {
    fn learn(&mut self, minute: &Minute) {
        for flow in minute.rows.keys().filter(|flow| is_meshed(flow)) {
            since(&mut self.callers, &flow.source, minute.from_ms);
            since(&mut self.pairs, &pair(flow), minute.from_ms);
        }
    }

    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>) {
        let now = slice.to_ms;
        for (flow, counts) in slice.rows.iter().filter(|(flow, _)| is_meshed(flow)) {
            self.see(flow, counts, now);
        }
        let ripe = self.pending.extract_if(.., |pending| now.saturating_sub(pending.since_ms) >= HOLD_MS);
        say.extend(ripe.map(|pending| signal(&pending, now)));
        self.pairs.forget_before(now.saturating_sub(FORGET_MS));
        self.callers.forget_before(now.saturating_sub(FORGET_MS));
    }
}

impl NewEdge {
    fn see(&mut self, flow: &FlowKey, counts: &Counts, now: u64) {
        let pair = pair(flow);
        let refused = counts.denied.saturating_add(counts.limited);
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.pair == pair) {
            pending.allowed = pending.allowed.saturating_add(counts.allowed);
            pending.refused = pending.refused.saturating_add(refused);
        }
        let known_ms = now.saturating_sub(since(&mut self.callers, &flow.source, now));
        let is_new = self.pairs.find(&pair).is_none();
        since(&mut self.pairs, &pair, now);
        if is_new && known_ms >= WARM_UP_MS && self.pending.len() < CALLERS_MAX {
            self.pending.push(Pending {
                pair,
                destination: flow.destination.clone(),
                port: flow.port,
                since_ms: now,
                allowed: counts.allowed,
                refused,
            });
        }
    }
}

fn is_meshed(flow: &FlowKey) -> bool {
    let names = [&flow.source, &flow.destination, &flow.service];
    &*flow.source != UNMESHED && names.iter().all(|name| &***name != OTHERS) && !flow.target().is_empty()
}

fn pair(flow: &FlowKey) -> Pair {
    let target = if flow.service.is_empty() { flow.destination.clone() } else { flow.service.clone() };
    (flow.source.clone(), target)
}

/// Since when something is known; from now on, if it was not.
fn since<K: Eq + std::hash::Hash + Clone>(table: &mut Table<K, Known>, key: &K, now: u64) -> u64 {
    let known = table.at(key, now);
    if known.since_ms == 0 {
        known.since_ms = now.max(1);
    }
    known.since_ms
}

fn signal(pending: &Pending, now: u64) -> Signal {
    let (source, target) = &pending.pair;
    let Pending { allowed, refused, .. } = pending;
    let fate = match (allowed, refused) {
        (0, 0) => "it did not get through".to_owned(),
        (0, refused) => format!("all {refused} calls were refused"),
        (allowed, 0) => format!("{allowed} calls were allowed"),
        (allowed, refused) => format!("{allowed} calls were allowed and {refused} refused"),
    };
    Signal {
        subject: Subject {
            detector: Detector::NewEdge,
            source: source.clone(),
            destination: pending.destination.clone(),
            service: target.clone(),
        },
        severity: Severity::Warning,
        since_ms: pending.since_ms.min(now),
        value: 1.0,
        threshold: 1.0,
        sentence: format!(
            "{} calls {} port {} for the first time in 30 days; {fate} so far",
            words::short(source),
            words::short(target),
            pending.port
        ),
        command: format!("meshctl edges --from {}", words::account(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::staged::{Stage, WEB};

    #[test]
    fn a_known_caller_at_a_new_place_is_told_once() {
        let (mut stage, mut detector) = (Stage::new(), NewEdge::default());
        for hour in 0..25 {
            stage.call(WEB, "shop/pay", 10, (1_000, 100));
            // Within its first day a caller may go anywhere.
            stage.call(WEB, &format!("shop/s{}", hour % 5), 1, (1_000, 100));
            assert_eq!(stage.after(3_600, &mut detector), [], "hour {hour}");
        }
        stage.call(WEB, "shop/vault", 3, (1_000, 100));
        assert_eq!(stage.after(2, &mut detector), [], "held back");
        stage.call(WEB, "shop/vault", 3, (1_000, 100));
        stage.after(2, &mut detector);
        let said = stage.after(2, &mut detector);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].sentence.contains("shop/web calls shop/vault port 80 for the first time"),
            "{said:?}"
        );
        assert!(said[0].sentence.contains("6 calls were allowed"), "{said:?}");
        stage.call(WEB, "shop/vault", 3, (1_000, 100));
        assert_eq!(stage.after(10, &mut detector), []);
        stage.call("spiffe://mesh.local/ns/shop/sa/fresh", "shop/vault", 3, (1_000, 100));
        stage.after(2, &mut detector);
        assert_eq!(stage.after(10, &mut detector), [], "a new caller is learnt first");
    }

    #[test]
    fn what_was_known_before_a_restart_is_known() {
        let stage = Stage::new();
        let now = stage.now();
        let mut detector = NewEdge::default();
        let flow = crate::detect::staged::flow(WEB, "shop/pay");
        let minute = Minute {
            from_ms: now - 2 * WARM_UP_MS,
            to_ms: now - 2 * WARM_UP_MS + 60_000,
            rows: [(flow, Counts::default())].into(),
            ..Minute::default()
        };
        detector.learn(&minute);
        let mut stage = stage;
        stage.call(WEB, "shop/pay", 1, (1_000, 100));
        stage.call(WEB, "shop/vault", 1, (1_000, 100));
        stage.after(2, &mut detector);
        let said = stage.after(4, &mut detector);
        assert_eq!(said.iter().map(|signal| &*signal.subject.service).collect::<Vec<_>>(), ["shop/vault"]);
    }
}
