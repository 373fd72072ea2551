//! Sums over spans of time, and what is missing in them.

use super::flow::{Counts, FlowKey};
use super::segment::{Entry, HOUR_MS, Minute, Segments};
use super::{PathCounts, PathKey, Slice};
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Gaps told in one answer.
const GAPS_MAX: usize = 100;

/// What was counted in a span.
#[derive(Clone, Debug)]
pub(crate) struct Sum {
    /// What was asked for.
    asked: (u64, u64),
    /// The span that was really summed: whole slices or minutes. Empty until something was added.
    pub(crate) span: Option<(u64, u64)>,
    /// Who called whom.
    pub(crate) rows: BTreeMap<FlowKey, Counts>,
    /// Which paths were seen.
    pub(crate) paths: BTreeMap<PathKey, PathCounts>,
    /// Of what nothing is known.
    pub(crate) gaps: Vec<v1::Gap>,
    /// Beginnings of minutes that were added from memory: the disk may have them meanwhile.
    in_memory: BTreeSet<u64>,
}

/// What is to be read from the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// Rows and gaps.
    All,
    /// Gaps alone; the rows came from memory.
    Gaps,
}

impl Sum {
    pub(super) fn new(from_ms: u64, to_ms: u64) -> Self {
        Self {
            asked: (from_ms, to_ms),
            span: None,
            rows: BTreeMap::new(),
            paths: BTreeMap::new(),
            gaps: Vec::new(),
            in_memory: BTreeSet::new(),
        }
    }

    /// Whether more than half of a part lies in the asked span: a part is never cut.
    fn takes(&mut self, from_ms: u64, to_ms: u64) -> bool {
        let (from, to) = self.asked;
        let middle = from_ms.midpoint(to_ms);
        if middle < from || middle > to {
            return false;
        }
        let (first, last) = self.span.unwrap_or((from_ms, to_ms));
        self.span = Some((first.min(from_ms), last.max(to_ms)));
        true
    }

    pub(super) fn add_slice(&mut self, slice: &Slice, now_ms: u64) {
        let to_ms = if slice.to_ms == 0 { now_ms } else { slice.to_ms };
        if !self.takes(slice.from_ms, to_ms.max(slice.from_ms)) {
            return;
        }
        for (key, counts) in &slice.rows {
            self.rows.entry(key.clone()).or_default().merge(counts);
        }
        for sighting in slice.sightings.iter().filter(|sighting| !sighting.path.method.is_empty()) {
            let counts = PathCounts { seen: 1, refused: u64::from(!sighting.is_allowed) };
            self.paths.entry(sighting.path.clone()).or_default().merge(counts);
        }
    }

    pub(super) fn add_minute(&mut self, minute: &Minute) {
        if !self.takes(minute.from_ms, minute.to_ms.max(minute.from_ms)) {
            return;
        }
        for (key, counts) in &minute.rows {
            self.rows.entry(key.clone()).or_default().merge(counts);
        }
        for (key, counts) in &minute.paths {
            self.paths.entry(key.clone()).or_default().merge(*counts);
        }
    }

    /// Adds a minute that may be on its way to the disk, or there already.
    pub(super) fn add_in_memory(&mut self, minute: &Minute) {
        self.in_memory.insert(minute.from_ms);
        self.add_minute(minute);
    }

    fn gap(&mut self, from_ms: u64, to_ms: u64, reason: &str) {
        let (from, to) = self.asked;
        if to_ms > from && from_ms < to && to_ms > from_ms && self.gaps.len() < GAPS_MAX {
            self.gaps.push(v1::Gap { from_ms, to_ms, reason: reason.to_owned() });
        }
    }
}

/// Adds what is on the disk.
pub(super) fn add_stored(sum: &mut Sum, segments: &Segments, wanted: Wanted) -> io::Result<()> {
    let (from, to) = sum.asked;
    let mut trail = Trail::default();
    for (hour, _) in segments.hours()? {
        // One hour more in front: a gap that begins before the span is told, too.
        if hour.saturating_add(1) < from / HOUR_MS || hour > to / HOUR_MS {
            continue;
        }
        for entry in segments.read(hour)? {
            if let Some((from_ms, to_ms, reason)) = trail.step(&entry) {
                sum.gap(from_ms, to_ms, reason);
            }
            if let Entry::Rows(minute) = &entry
                && wanted == Wanted::All
                && !sum.in_memory.contains(&minute.from_ms)
            {
                sum.add_minute(minute);
            }
        }
    }
    sum.gaps.sort_by_key(|gap| gap.from_ms);
    Ok(())
}

/// How the last process left off, as one reads on.
#[derive(Debug, Default)]
struct Trail {
    /// Until when everything is known.
    known_until: Option<u64>,
    has_ended: bool,
    is_torn: bool,
}

impl Trail {
    fn step(&mut self, entry: &Entry) -> Option<(u64, u64, &'static str)> {
        match entry {
            Entry::Rows(minute) => {
                let gap = self.is_torn.then_some((self.known_until?, minute.from_ms, TORN));
                (self.known_until, self.has_ended, self.is_torn) = (Some(minute.to_ms), false, false);
                gap
            }
            Entry::End(at) => {
                (self.known_until, self.has_ended) = (Some(*at), true);
                None
            }
            Entry::Start(at) => {
                let reason = match (self.is_torn, self.has_ended) {
                    (true, _) => TORN,
                    (false, true) => "the control plane was stopped",
                    (false, false) => "the control plane was killed: its open minute is lost",
                };
                let gap = self.known_until.map(|until| (until, *at, reason));
                (self.known_until, self.has_ended, self.is_torn) = (Some(*at), false, false);
                gap
            }
            Entry::Torn => {
                self.is_torn = true;
                None
            }
        }
    }
}

const TORN: &str = "the ledger's file is damaged from here on";
