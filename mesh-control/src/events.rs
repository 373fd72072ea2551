//! Security events: one typed stream of what proxies report and the control plane itself knows.
//!
//! Whoever knows of something calls [`Events::tell`], which never waits. `meshctl events`, alarms and whatever else wants
//! them call [`Events::follow`]: what is still kept, and from there on everything new. Events live in memory; what must
//! outlast a restart is in the audit log.
//!
//! # Why
//! Anybody may cause most of them as often as he likes. So the first of a subject (kind, source, destination, reason) is
//! told at once, what repeats it once in each [`WINDOW`] with its exact count, and beyond [`SUBJECTS_MAX`] subjects all of
//! a kind together. The counts of what is told, with what still waits, add up to what was told to us, always. Writing each
//! of them was the alternative: a flood would then be as dear for us as it is cheap for the flooder.

pub(crate) mod from_reports;

use mesh_proto::ops::metrics::{EventKind, Severity};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

/// How long what repeats itself is gathered. A fifth of what an alarm may take.
pub(crate) const WINDOW: Duration = Duration::from_secs(2);
/// Subjects told apart at once; what is beyond is counted by kind alone.
const SUBJECTS_MAX: usize = 512;
/// Subjects of one reporter told apart at once, so that none takes the room of the others.
const SUBJECTS_EACH_MAX: usize = 32;
/// Events kept for who asks later; half a KiB each.
const KEPT_MAX: usize = 4_000;
/// Events kept of one reporter.
const KEPT_EACH_MAX: usize = 400;
/// Events that a follower may be behind; then it is told how many it has missed.
const BEHIND_MAX: usize = 1_024;
/// Bytes of one text. A SPIFFE ID may have 2,048.
const TEXT_BYTES_MAX: usize = 2_048;
/// What source and destination are called where many are counted together.
pub(crate) const OTHERS: &str = "others";

/// Something that whoever watches over the mesh may want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    /// When it happened, or the last of what is counted together.
    pub(crate) at: SystemTime,
    /// What happened.
    pub(crate) kind: EventKind,
    /// How much it asks for a person.
    pub(crate) severity: Severity,
    /// Who did it: a SPIFFE ID, `unmeshed`, a user, `authority`, [`OTHERS`]; empty when nobody knows.
    pub(crate) source: String,
    /// To whom or what: a SPIFFE ID, an object; empty when there is none.
    pub(crate) destination: String,
    /// Why, as a word of a closed set.
    pub(crate) reason: String,
    /// How often; never 0.
    pub(crate) count: u64,
    /// More for people: one sentence.
    pub(crate) detail: String,
}

impl Event {
    /// One event of the usual weight of its kind, without source, destination and detail.
    pub(crate) fn new(kind: EventKind, at: SystemTime, reason: &str) -> Self {
        Self {
            at,
            kind,
            severity: kind.severity(),
            source: String::new(),
            destination: String::new(),
            reason: reason.to_owned(),
            count: 1,
            detail: String::new(),
        }
    }
}

/// What makes two events the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Subject {
    by: String,
    kind: EventKind,
    source: String,
    destination: String,
    reason: String,
}

#[derive(Debug, Default)]
struct State {
    /// Subjects of this window, with what waits for its end.
    open: BTreeMap<Subject, Option<Event>>,
    /// What found no room there.
    others: BTreeMap<EventKind, Event>,
    kept: VecDeque<(String, Arc<Event>)>,
    totals: BTreeMap<EventKind, u64>,
}

/// The stream.
#[derive(Debug)]
pub(crate) struct Events {
    state: Mutex<State>,
    news: broadcast::Sender<Arc<Event>>,
    told: Notify,
}

impl Default for Events {
    fn default() -> Self {
        Self { state: Mutex::default(), news: broadcast::channel(BEHIND_MAX).0, told: Notify::new() }
    }
}

impl Events {
    /// Something happened. `by` is the identity that reports it, empty for the control plane itself. Never waits.
    pub(crate) fn tell(&self, by: &str, mut event: Event) {
        if event.count == 0 {
            return;
        }
        for text in [&mut event.source, &mut event.destination, &mut event.reason, &mut event.detail] {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
        let mut state = self.state();
        let total = state.totals.entry(event.kind).or_default();
        *total = total.saturating_add(event.count);
        if let Some(event) = state.admit(by, event) {
            self.publish(&mut state, by, event);
        }
        drop(state);
        self.told.notify_one();
    }

    /// What is kept, oldest first, and a receiver of everything after that.
    pub(crate) fn follow(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let state = self.state();
        (state.kept.iter().map(|(_, event)| event.clone()).collect(), self.news.subscribe())
    }

    /// How many of each kind there were since the start.
    pub(crate) fn totals(&self) -> BTreeMap<EventKind, u64> {
        self.state().totals.clone()
    }

    /// Tells what repeated itself when its window is over, until `shutdown`; then the rest.
    pub(crate) async fn keep(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            // Cancel safe: a notification that is not received is kept.
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.told.notified() => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(WINDOW) => {}
            }
            if self.end_window() {
                // What was told in this window is still told apart in the next.
                self.told.notify_one();
            }
        }
        self.end_window();
    }

    /// Ends a window; says whether another must follow.
    fn end_window(&self) -> bool {
        let mut state = self.state();
        let open = std::mem::take(&mut state.open);
        for (subject, waits) in open {
            if let Some(event) = waits {
                let by = subject.by.clone();
                state.open.insert(subject, None);
                self.publish(&mut state, &by, event);
            }
        }
        for (_, event) in std::mem::take(&mut state.others) {
            self.publish(&mut state, "", event);
        }
        !state.open.is_empty()
    }

    fn publish(&self, state: &mut State, by: &str, event: Event) {
        let event = Arc::new(event);
        state.keep(by, event.clone());
        // Without a follower nobody is told.
        let _ = self.news.send(event);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it is held leaves one event uncounted.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The event, if it is to be told at once; otherwise it waits for the end of the window.
    fn admit(&mut self, by: &str, event: Event) -> Option<Event> {
        let subject = Subject {
            by: by.to_owned(),
            kind: event.kind,
            source: event.source.clone(),
            destination: event.destination.clone(),
            reason: event.reason.clone(),
        };
        if let Some(waits) = self.open.get_mut(&subject) {
            match waits {
                Some(earlier) => add(earlier, event),
                None => *waits = Some(event),
            }
            return None;
        }
        let own = self.open.keys().filter(|known| known.by == by).count();
        if self.open.len() < SUBJECTS_MAX && own < SUBJECTS_EACH_MAX {
            self.open.insert(subject, None);
            return Some(event);
        }
        let event = Event {
            source: OTHERS.to_owned(),
            destination: OTHERS.to_owned(),
            reason: OTHERS.to_owned(),
            detail: String::new(),
            ..event
        };
        match self.others.get_mut(&event.kind) {
            Some(earlier) => add(earlier, event),
            None => {
                self.others.insert(event.kind, event);
            }
        }
        None
    }

    fn keep(&mut self, by: &str, event: Arc<Event>) {
        if self.kept.iter().filter(|(known, _)| known == by).count() >= KEPT_EACH_MAX {
            let oldest = self.kept.iter().position(|(known, _)| known == by);
            oldest.and_then(|at| self.kept.remove(at));
        } else if self.kept.len() >= KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back((by.to_owned(), event));
    }
}

/// Counts a later event of the same subject into an earlier one; the later one's words stay.
fn add(earlier: &mut Event, later: Event) {
    let count = earlier.count.saturating_add(later.count);
    let severity = earlier.severity.max(later.severity);
    *earlier = Event { count, severity, ..later };
}

#[cfg(test)]
mod tests;
