//! What must be in the audit log although anybody can cause it as often as he likes: refused admin calls, reports that a
//! proxy cannot honestly have sent.
//!
//! `admin` and `telemetry` say what happened, the keeper writes it: the first of a kind at once, what repeats it once in
//! each [`WINDOW`] with its exact count. The counts in the log add up to what happened; a kill loses at most what
//! repeated itself in the last window, an orderly end loses nothing. Nothing that was asked for waits for it.

use crate::clock;
use crate::store::write::{Verb, Write};
use crate::store::{Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often what repeats itself is written: a flood that never ends costs 1,440 records a day.
const WINDOW: Duration = Duration::from_secs(60);
/// Records in a window for what is new in it; further kinds wait for its end.
const FRESH_MAX: u32 = 10;
/// Kinds that are told apart in a window; what is beyond is counted together.
const SUBJECTS_MAX: usize = 64;
/// Characters of a name.
const NAME_CHARS_MAX: usize = 200;
/// Bytes of one record's text, with some room below what the store takes.
const LINE_BYTES: usize = 3_500;
/// How long what comes together is gathered.
const GATHER: Duration = Duration::from_millis(20);
/// How long to wait while the store takes no writes.
const RETRY: Duration = Duration::from_secs(1);

/// A kind of thing that happened.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Subject {
    actor: String,
    verb: &'static str,
    what: String,
}

/// Whether there is a later time to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    Usual,
    Last,
}

/// What is to be written, counted. Pure.
#[derive(Debug, Default)]
struct Tally {
    waiting: BTreeMap<Subject, u64>,
    /// What found no room in `waiting`.
    others: u64,
    /// Named in this window already: what repeats them waits for its end.
    named: BTreeSet<Subject>,
    fresh: u32,
    since: Option<Instant>,
}

/// One record to be written, with what goes back if that fails.
#[derive(Debug, Default)]
struct Line {
    verb: Option<Verb>,
    actors: BTreeSet<String>,
    text: String,
    holds: Vec<(Subject, u64)>,
    others: u64,
}

impl Tally {
    fn add(&mut self, subject: Subject, count: u64) {
        if self.waiting.len() >= SUBJECTS_MAX && !self.waiting.contains_key(&subject) {
            self.others = self.others.saturating_add(count);
            return;
        }
        let known = self.waiting.entry(subject).or_default();
        *known = known.saturating_add(count);
    }

    /// When the window ends, if anything waits for that.
    fn window_ends(&self) -> Option<Instant> {
        if self.waiting.is_empty() && self.others == 0 {
            return None;
        }
        self.since.and_then(|since| since.checked_add(WINDOW))
    }

    /// Takes out what is to be written now.
    fn due(&mut self, now: Instant, turn: Turn) -> Vec<Line> {
        let is_over = self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW);
        let due = if is_over || turn == Turn::Last {
            self.since = None;
            self.fresh = 0;
            self.named.clear();
            std::mem::take(&mut self.waiting)
        } else if self.fresh < FRESH_MAX {
            let named = &self.named;
            self.waiting.extract_if(.., |subject, _| !named.contains(subject)).collect()
        } else {
            BTreeMap::new()
        };
        let others = if is_over || turn == Turn::Last { std::mem::take(&mut self.others) } else { 0 };
        if due.is_empty() && others == 0 {
            return Vec::new();
        }
        self.since.get_or_insert(now);
        self.fresh = self.fresh.saturating_add(1);
        if self.named.len() < SUBJECTS_MAX {
            self.named.extend(due.keys().cloned());
        }
        lines(due, others)
    }

    fn put_back(&mut self, line: Line) {
        for (subject, count) in line.holds {
            self.add(subject, count);
        }
        self.others = self.others.saturating_add(line.others);
    }
}

/// Several subjects to a record, each verb for itself.
fn lines(due: BTreeMap<Subject, u64>, others: u64) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (subject, count) in due {
        let times = if count == 1 { String::new() } else { format!(", {count} times") };
        let text = format!("{}: {}{times}", subject.actor, subject.what);
        let verb = subject.verb.parse().unwrap_or(Verb::System);
        let fits =
            |line: &Line| line.verb == Some(verb) && line.text.len().saturating_add(text.len()) < LINE_BYTES;
        if !lines.last().is_some_and(fits) {
            lines.push(Line { verb: Some(verb), ..Line::default() });
        }
        if let Some(line) = lines.last_mut() {
            let semicolon = if line.text.is_empty() { "" } else { "; " };
            line.text.push_str(semicolon);
            line.text.push_str(&text);
            line.actors.insert(subject.actor.clone());
            line.holds.push((subject, count));
        }
    }
    if others > 0 {
        let text = format!("{others} more by others");
        lines.push(Line { verb: Some(Verb::Denied), text, others, ..Line::default() });
    }
    lines
}

/// Where it is said, and from where it is written.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    tally: Mutex<Tally>,
    added: Notify,
}

impl Notices {
    /// Something happened `count` times. Never waits.
    pub(crate) fn add(&self, actor: &str, verb: Verb, what: &str, count: u64) {
        let cut = |text: &str| text.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
        let subject = Subject { actor: cut(actor), verb: verb.as_str(), what: cut(what) };
        self.tally().add(subject, count);
        self.added.notify_one();
    }

    /// Writes until `shutdown`, then the rest.
    pub(crate) async fn keep(self: Arc<Self>, store: Arc<dyn Store>, shutdown: CancellationToken) {
        let mut wait: Option<Duration> = None;
        loop {
            // Cancel safe: a notification that is not received is kept.
            let ends = tokio::select! {
                () = shutdown.cancelled() => true,
                () = self.added.notified(), if wait != Some(RETRY) => false,
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => false,
            };
            if !ends {
                tokio::time::sleep(GATHER).await;
            }
            let turn = if ends { Turn::Last } else { Turn::Usual };
            let written = self.write(&*store, turn).await;
            if ends {
                return;
            }
            let left = || {
                let end = self.tally().window_ends();
                end.map(|end| end.saturating_duration_since(clock::monotonic()).max(GATHER))
            };
            wait = if written.is_ok() { left() } else { Some(RETRY) };
        }
    }

    async fn write(&self, store: &dyn Store, turn: Turn) -> Result<(), StoreError> {
        let due = self.tally().due(clock::monotonic(), turn);
        let mut result = Ok(());
        for line in due {
            let actor = match line.actors.first() {
                Some(actor) if line.actors.len() == 1 => actor.clone(),
                _ => "several".to_owned(),
            };
            let write = Write {
                actor,
                verb: line.verb.unwrap_or(Verb::Denied),
                time_ms: clock::unix_ms(clock::wall()),
                changes: Vec::new(),
                detail: line.text.clone(),
            };
            // After the first failure the rest fails, too; all of it goes back.
            if result.is_ok() {
                result = store.commit(write).await.map(drop);
            }
            if result.is_err() {
                self.tally().put_back(line);
            }
        }
        if let Err(error) = &result {
            tracing::warn!(%error, "refusals could not be written to the audit log yet");
        }
        result
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        // A panic while it is held leaves one count undone.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
