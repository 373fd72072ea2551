//! The flow ledger: who called whom, minute by minute, for a week.
//!
//! `telemetry` adds what proxies report, the lookout cuts a [`Slice`] every two seconds (detectors look at it) and lets
//! closed minutes be written, `admin` sums spans of time for `meshctl stat`, `top` and `graph`. It decides nothing, and a
//! report never waits for the disk.
//!
//! | kept | how long | where |
//! |---|---|---|
//! | slices of two seconds | [`RING_MS`] | memory |
//! | minutes | [`RETAIN_MS`] or [`BYTES_MAX`], whichever is less | `ledger/`, a file for each hour: see [`segment`] |
//!
//! Both are bounded in rows and bytes: what finds no room is counted on a row called `others`, so that totals are always
//! those of the proxies. A kill loses the minute that was open; the span is told as a gap ([`history`]).

pub(crate) mod flow;
pub(crate) mod history;
pub(crate) mod segment;
pub(crate) mod template;

use crate::events::Event;
use flow::{Counts, FlowKey, OTHERS, row_of};
use mesh_proto::wire::v1;
use segment::{Entry, Minute, Segments};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How far back slices are kept: spans up to this are summed to two seconds, longer ones to a minute.
pub(crate) const RING_MS: u64 = 5 * 60_000;
/// How long minutes are kept.
pub(crate) const RETAIN_MS: u64 = 7 * 24 * segment::HOUR_MS;
/// Bytes of all files; the oldest hour goes first. A mesh of 1,000 busy edges writes some 60 KiB a minute, 600 MiB a week.
pub(crate) const BYTES_MAX: u64 = 1 << 30;
/// Milliseconds of a minute.
pub(crate) const MINUTE_MS: u64 = 60_000;
/// Rows of a slice or a minute.
const ROWS_MAX: usize = 4_096;
/// Bytes of the names in them: with the longest possible names there are fewer rows.
const NAME_BYTES_MAX: usize = 2 << 20;
/// Path templates of a minute.
const PATHS_MAX: usize = 4_096;
/// Path templates of one edge in a minute: who asks for ever new paths takes no room of others.
const PATHS_EACH_MAX: usize = 256;
/// What finds no room among the paths of its edge, or of the minute.
const OTHER_PATHS: &str = "/…";
/// Sightings of a slice; a proxy sends at most 500 a second.
const SIGHTINGS_MAX: usize = 20_000;
/// Events of a slice.
const EVENTS_MAX: usize = 2_000;
/// Rows of all slices in the ring; the oldest slices go first.
const RING_ROWS_MAX: usize = 65_536;
/// Sightings and events of all slices in the ring, some 400 bytes each; the oldest slices go first.
const RING_SIGHTINGS_MAX: usize = 65_536;
/// Closed minutes that wait for a disk that takes none; then the oldest are lost and told as a gap.
const UNWRITTEN_MAX: usize = 60;

/// A path template on an edge.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PathKey {
    /// The caller's identity.
    pub(crate) source: Arc<str>,
    /// The callee's.
    pub(crate) destination: Arc<str>,
    /// The method.
    pub(crate) method: Arc<str>,
    /// See [`template::template`].
    pub(crate) template: Arc<str>,
}

/// How often a template was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PathCounts {
    /// In records: all refusals, samples of what passed.
    pub(crate) seen: u64,
    /// Of those, refused.
    pub(crate) refused: u64,
}

impl PathCounts {
    fn merge(&mut self, other: Self) {
        self.seen = self.seen.saturating_add(other.seen);
        self.refused = self.refused.saturating_add(other.refused);
    }
}

/// One recorded decision, as detectors need it.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    /// Where, as far as HTTP was spoken.
    pub(crate) path: PathKey,
    /// The caller's instance; empty without one.
    pub(crate) instance: Arc<str>,
    /// The caller's address.
    pub(crate) address: Arc<str>,
    /// Whether it passed.
    pub(crate) is_allowed: bool,
    /// Why not.
    pub(crate) reason: Arc<str>,
    /// When, by the clock of the proxy that tells it.
    pub(crate) time_ms: u64,
    /// The instance that tells it.
    pub(crate) reporter: Arc<str>,
    /// When it was told, by ours.
    pub(crate) told_ms: u64,
}

/// What was reported in about two seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slice {
    /// Its beginning, milliseconds since the epoch.
    pub(crate) from_ms: u64,
    /// Its end.
    pub(crate) to_ms: u64,
    /// Who called whom.
    pub(crate) rows: BTreeMap<FlowKey, Counts>,
    /// Recorded decisions.
    pub(crate) sightings: Vec<Sighting>,
    /// Security events.
    pub(crate) events: Vec<Event>,
}

/// What one report brought, after `traffic` has judged it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    /// The reporting instance.
    pub(crate) reporter: &'a str,
    /// Its edges.
    pub(crate) edges: &'a [v1::EdgeStats],
    /// Its decisions.
    pub(crate) decisions: &'a [v1::Decision],
    /// Its events.
    pub(crate) events: &'a [Event],
}

#[derive(Debug, Default)]
struct State {
    open: Slice,
    name_bytes: usize,
    ring: VecDeque<Arc<Slice>>,
    ring_rows: usize,
    ring_sightings: usize,
    minute: Minute,
    unwritten: VecDeque<Arc<Minute>>,
    lost: Vec<v1::Gap>,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    segments: Segments,
}

impl Ledger {
    /// Begins at a time, with what is in the directory.
    ///
    /// # Errors
    /// The system's, when the directory cannot be used.
    pub(crate) fn open(dir: std::path::PathBuf, now_ms: u64) -> io::Result<Self> {
        let segments = Segments::open(dir)?;
        segments.mend(now_ms / segment::HOUR_MS)?;
        if let Err(error) = segments.append(&Entry::Start(now_ms)) {
            // A full disk must not keep the mesh from starting: minutes wait in memory, as they do later.
            tracing::warn!(%error, "the flow ledger could not be written");
        }
        let state = State {
            open: Slice { from_ms: now_ms, ..Slice::default() },
            minute: Minute { from_ms: now_ms, ..Minute::default() },
            ..State::default()
        };
        Ok(Self { state: Mutex::new(state), segments })
    }

    /// Adds one report. Never waits for the disk.
    pub(crate) fn add(&self, told: Told<'_>, now_ms: u64) {
        let mut state = self.state();
        for edge in told.edges {
            let (key, counts) = row_of(edge);
            state.add(key, &counts);
        }
        let reporter: Arc<str> = told.reporter.into();
        for decision in told.decisions {
            if state.open.sightings.len() >= SIGHTINGS_MAX {
                break;
            }
            state.open.sightings.push(sighting(decision, reporter.clone(), now_ms));
        }
        let room = EVENTS_MAX.saturating_sub(state.open.events.len());
        state.open.events.extend(told.events.iter().take(room).cloned());
    }

    /// Ends the open slice and gives it. When a minute has passed it is put up for [`Self::write`].
    pub(crate) fn cut(&self, now_ms: u64) -> Arc<Slice> {
        self.state().cut(now_ms)
    }

    /// Writes the minutes that are closed. Waits for the disk.
    ///
    /// # Errors
    /// The system's; what was not written is kept for the next call, an hour at most.
    pub(crate) fn write(&self, now_ms: u64) -> io::Result<()> {
        loop {
            let Some(minute) = self.state().unwritten.front().cloned() else { break };
            self.segments.append(&Entry::Rows((*minute).clone()))?;
            let mut state = self.state();
            if state.unwritten.front().is_some_and(|front| Arc::ptr_eq(front, &minute)) {
                state.unwritten.pop_front();
            }
        }
        self.segments.retain(now_ms.saturating_sub(RETAIN_MS) / segment::HOUR_MS, BYTES_MAX)
    }

    /// Writes everything and says that nothing is missing: the orderly end.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn close(&self, now_ms: u64) -> io::Result<()> {
        {
            let mut state = self.state();
            state.cut(now_ms);
            state.close_minute(now_ms);
        }
        self.write(now_ms)?;
        self.segments.append(&Entry::End(now_ms))
    }

    /// Sums a span: from slices when it is short and recent, else from minutes. Waits for the disk.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn sum(&self, from_ms: u64, to_ms: u64, now_ms: u64) -> io::Result<history::Sum> {
        let (mut sum, is_recent) = {
            let state = self.state();
            let mut sum = history::Sum::new(from_ms, to_ms);
            let oldest = state.ring.front().map_or(state.open.from_ms, |slice| slice.from_ms);
            let is_recent = from_ms >= now_ms.saturating_sub(RING_MS) && oldest <= from_ms;
            if is_recent {
                let slices = state.ring.iter().map(|slice| &**slice).chain([&state.open]);
                slices.for_each(|slice| sum.add_slice(slice, now_ms));
            } else {
                sum.add_slice(&state.open, now_ms);
                sum.add_minute(&Minute { to_ms: state.open.from_ms, ..state.minute.clone() });
                state.unwritten.iter().for_each(|minute| sum.add_in_memory(minute));
            }
            sum.gaps.extend(state.lost.iter().cloned());
            (sum, is_recent)
        };
        history::add_stored(
            &mut sum,
            &self.segments,
            if is_recent { history::Wanted::Gaps } else { history::Wanted::All },
        )?;
        Ok(sum)
    }

    /// All stored minutes since a time, oldest first, one at a time: how detectors learn what was known before a restart.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn replay(&self, since_ms: u64, mut tell: impl FnMut(&Minute)) -> io::Result<()> {
        for (hour, _) in self.segments.hours()? {
            if hour < since_ms / segment::HOUR_MS {
                continue;
            }
            for entry in self.segments.read(hour)? {
                if let Entry::Rows(minute) = entry {
                    tell(&minute);
                }
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it is held leaves at worst one half-added report.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, key: FlowKey, counts: &Counts) {
        let names = [&key.source, &key.destination, &key.service, &key.protocol, &key.tls];
        let bytes = names.iter().fold(0_usize, |sum, name| sum.saturating_add(name.len()));
        if !self.open.rows.contains_key(&key) {
            let is_full =
                self.open.rows.len() >= ROWS_MAX || self.name_bytes.saturating_add(bytes) > NAME_BYTES_MAX;
            if is_full && &*key.source != OTHERS {
                return self.open.rows.entry(key.overflow()).or_default().merge(counts);
            }
            self.name_bytes = self.name_bytes.saturating_add(bytes);
        }
        self.open.rows.entry(key).or_default().merge(counts);
    }

    fn cut(&mut self, now_ms: u64) -> Arc<Slice> {
        let mut slice = std::mem::take(&mut self.open);
        slice.to_ms = now_ms.max(slice.from_ms);
        self.open.from_ms = slice.to_ms;
        self.name_bytes = 0;
        for (key, counts) in &slice.rows {
            let has_room = self.minute.rows.len() < ROWS_MAX || self.minute.rows.contains_key(key);
            let key = if has_room { key.clone() } else { key.overflow() };
            self.minute.rows.entry(key).or_default().merge(counts);
        }
        for sighting in slice.sightings.iter().filter(|sighting| !sighting.path.method.is_empty()) {
            let counts = PathCounts { seen: 1, refused: u64::from(!sighting.is_allowed) };
            let key = self.minute.place_of(&sighting.path);
            self.minute.paths.entry(key).or_default().merge(counts);
        }
        let slice = Arc::new(slice);
        self.ring.push_back(slice.clone());
        self.ring_rows = self.ring_rows.saturating_add(slice.rows.len());
        self.ring_sightings = self.ring_sightings.saturating_add(slice.seen());
        let oldest = now_ms.saturating_sub(RING_MS);
        while self.ring_rows > RING_ROWS_MAX
            || self.ring_sightings > RING_SIGHTINGS_MAX
            || self.ring.front().is_some_and(|front| front.to_ms < oldest)
        {
            let Some(gone) = self.ring.pop_front() else { break };
            self.ring_rows = self.ring_rows.saturating_sub(gone.rows.len());
            self.ring_sightings = self.ring_sightings.saturating_sub(gone.seen());
        }
        if now_ms / MINUTE_MS != self.minute.from_ms / MINUTE_MS {
            self.close_minute(now_ms);
        }
        slice
    }

    fn close_minute(&mut self, now_ms: u64) {
        let mut minute = std::mem::take(&mut self.minute);
        minute.to_ms = now_ms.max(minute.from_ms);
        self.minute.from_ms = minute.to_ms;
        self.unwritten.push_back(Arc::new(minute));
        if self.unwritten.len() > UNWRITTEN_MAX
            && let Some(minute) = self.unwritten.pop_front()
        {
            let reason = "the disk took no minute for an hour".to_owned();
            self.lost.push(v1::Gap { from_ms: minute.from_ms, to_ms: minute.to_ms, reason });
            let surplus = self.lost.len().saturating_sub(UNWRITTEN_MAX);
            self.lost.drain(..surplus);
        }
    }
}

impl Slice {
    /// Sightings and events in it.
    fn seen(&self) -> usize {
        self.sightings.len().saturating_add(self.events.len())
    }
}

impl Minute {
    /// Where a path is counted: as itself, or where there is no room among the others of its edge, or of all edges.
    fn place_of(&self, path: &PathKey) -> PathKey {
        if self.paths.contains_key(path) {
            return path.clone();
        }
        let first = PathKey { method: "".into(), template: "".into(), ..path.clone() };
        let of_edge = self.paths.range(first..).take_while(|(known, _)| {
            (&known.source, &known.destination) == (&path.source, &path.destination)
        });
        if self.paths.len() < PATHS_MAX && of_edge.take(PATHS_EACH_MAX).count() < PATHS_EACH_MAX {
            return path.clone();
        }
        let rest = PathKey { method: "*".into(), template: OTHER_PATHS.into(), ..path.clone() };
        if self.paths.len() < PATHS_MAX || self.paths.contains_key(&rest) {
            return rest;
        }
        PathKey { source: OTHERS.into(), destination: OTHERS.into(), ..rest }
    }
}

fn sighting(decision: &v1::Decision, reporter: Arc<str>, now_ms: u64) -> Sighting {
    let is_http = !decision.method.is_empty();
    let template = if is_http { template::template(&decision.path) } else { String::new() };
    Sighting {
        path: PathKey {
            source: decision.source.as_str().into(),
            destination: decision.destination.as_str().into(),
            method: decision.method.as_str().into(),
            template: template.into(),
        },
        instance: decision.source_instance.as_str().into(),
        address: decision.source_ip.as_str().into(),
        is_allowed: decision.allowed,
        reason: decision.reason.as_str().into(),
        time_ms: decision.time_ms,
        reporter,
        told_ms: now_ms,
    }
}

#[cfg(test)]
mod tests;
