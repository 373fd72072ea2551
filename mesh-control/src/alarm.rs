//! Alarms: what the detectors say, kept, told apart, sent to sinks, acknowledged and silenced.
//!
//! The lookout brings [`Signal`]s to [`Alarms::take`]; [`book`] makes alarms of them, [`route`] decides by the mesh's
//! `AlertRule`s whom to tell, and each message is on the disk ([`queue`]) before anybody is told that it was sent. The
//! couriers ([`courier`]) send, one task for each sink, so that a sink that is down or slow keeps nobody waiting.
//! `admin` shows, acknowledges and silences. Nothing here detects anything.
//!
//! ```text
//!  signals ── book (alarms, silences) ── route (AlertRule) ── queue of each sink ── courier ── format ── the sink
//! ```
//!
//! # Why a queue of our own
//! "At least once" needs a place that outlives us and has a bound, for a few messages an hour. A file of frames for each
//! sink does that and can be read by hand; the store would make alarms wait for policy and policy for alarms.

pub(crate) mod book;
pub(crate) mod courier;
pub(crate) mod format;
pub(crate) mod queue;
pub(crate) mod route;
pub(crate) mod send;

use crate::detect::words;
use crate::detect::{Signal, Subject};
use book::Book;
use mesh_proto::name::ObjectName;
use mesh_proto::resource::Catalog;
use mesh_proto::resource::alert::{Detector, Severity};
use mesh_proto::wire::v1;
use prost::Message as _;
use queue::Queue;
use route::Router;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A sink that has failed for so long is told of.
const SINK_DOWN_MS: u64 = 30_000;

/// How it goes with a sink.
#[derive(Clone, Debug, Default)]
pub(crate) struct SinkState {
    /// What kind it is, and where: for people.
    pub(crate) kind: String,
    /// Host and port.
    pub(crate) target: String,
    /// Notices that it has taken since the start.
    pub(crate) delivered: u64,
    /// Why the last attempt failed; empty when it did not.
    pub(crate) problem: String,
    /// Since when it fails.
    pub(crate) failing_since_ms: Option<u64>,
}

#[derive(Debug)]
struct State {
    book: Book,
    router: Router,
    sinks: BTreeMap<ObjectName, SinkState>,
}

/// All alarms, and the way to the sinks.
#[derive(Debug)]
pub(crate) struct Alarms {
    state: Mutex<State>,
    queues: Mutex<BTreeMap<ObjectName, Arc<Queue>>>,
    dir: PathBuf,
    changed: watch::Sender<u64>,
}

impl Alarms {
    /// Opens the directory, with the alarms of before the last end.
    ///
    /// # Errors
    /// The system's. A book that cannot be read is set aside and begun anew.
    pub(crate) fn open(dir: PathBuf, now_ms: u64) -> io::Result<Self> {
        for dir in [dir.clone(), dir.join("queue"), dir.join("secrets")] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let path = dir.join(BOOK);
        let book = match fs::read(&path) {
            Ok(bytes) => v1::AlarmsResponse::decode(&bytes[..]).unwrap_or_else(|_| {
                tracing::error!(file = %path.display(), "the kept alarms cannot be read and are set aside");
                let _ = fs::rename(&path, path.with_extension("damaged"));
                v1::AlarmsResponse::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => v1::AlarmsResponse::default(),
            Err(error) => return Err(error),
        };
        let router = Router::resumed(&book.alarms, now_ms);
        let state = State { book: Book::of_wire(book, now_ms), router, sinks: BTreeMap::new() };
        Ok(Self { state: Mutex::new(state), queues: Mutex::default(), dir, changed: watch::channel(0).0 })
    }

    /// Takes in what the detectors say, and puts what follows from it into the queues. Waits for the disk.
    ///
    /// # Errors
    /// The system's, when the book could not be kept; messages that found no place are counted as lost.
    pub(crate) fn take(&self, mut signals: Vec<Signal>, catalog: &Catalog, now_ms: u64) -> io::Result<()> {
        signals.extend(self.sinks_down(now_ms));
        let (messages, is_changed) = {
            let mut state = self.state();
            let is_changed = state.book.take(signals, now_ms);
            let State { book, router, .. } = &mut *state;
            let messages = router.due(book, catalog.alert_rules(), now_ms);
            for message in &messages {
                let ids = message.message.notices.iter().filter_map(|notice| notice.alarm.as_ref());
                ids.for_each(|alarm| book.sent(&alarm.id, &message.sink));
            }
            (messages, is_changed)
        };
        let has_news = is_changed || !messages.is_empty();
        for message in messages {
            self.queue(&message.sink)?.push(message.message)?;
        }
        if has_news { self.keep() } else { Ok(()) }
    }

    /// Everything, for `meshctl alerts`.
    pub(crate) fn all(&self) -> v1::AlarmsResponse {
        let queues = self.queues().clone();
        let state = self.state();
        let mut all = state.book.to_wire();
        all.sinks = state
            .sinks
            .iter()
            .map(|(name, sink)| {
                let (waiting, lost) = queues.get(name).map_or((0, 0), |queue| queue.waiting());
                v1::SinkStatus {
                    name: name.to_string(),
                    kind: sink.kind.clone(),
                    target: sink.target.clone(),
                    delivered: sink.delivered,
                    waiting,
                    lost,
                    problem: sink.problem.clone(),
                    failing_since_ms: sink.failing_since_ms.unwrap_or(0),
                }
            })
            .collect();
        all
    }

    /// Changes with every change of what [`Self::all`] shows, but for counts of what goes on.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Acknowledges an alarm: it is not told again unless it gets heavier.
    ///
    /// # Errors
    /// A sentence: no such alarm, or several.
    pub(crate) fn ack(&self, id: &str, by: &str, comment: &str, now_ms: u64) -> Result<v1::Alarm, String> {
        let acked = self.state().book.ack(id, by, comment, now_ms)?;
        self.keep().map_err(|error| format!("it could not be kept: {error}"))?;
        Ok(acked)
    }

    /// Silences what matches: alarms are raised and shown, and told to nobody.
    ///
    /// # Errors
    /// A sentence: too many, or an end that is none.
    pub(crate) fn silence(&self, silence: v1::Silence, now_ms: u64) -> Result<v1::Silence, String> {
        let silence = self.state().book.silence(silence, now_ms)?;
        self.keep().map_err(|error| format!("it could not be kept: {error}"))?;
        Ok(silence)
    }

    /// Ends a silence.
    ///
    /// # Errors
    /// A sentence: no such silence, or several.
    pub(crate) fn unsilence(&self, id: &str) -> Result<v1::Silence, String> {
        let ended = self.state().book.unsilence(id)?;
        self.keep().map_err(|error| format!("it could not be kept: {error}"))?;
        Ok(ended)
    }

    /// The queue of a sink.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn queue(&self, sink: &ObjectName) -> io::Result<Arc<Queue>> {
        let mut queues = self.queues();
        if let Some(queue) = queues.get(sink) {
            return Ok(queue.clone());
        }
        let queue = Arc::new(Queue::open(&self.dir.join("queue"), sink)?);
        queues.insert(sink.clone(), queue.clone());
        Ok(queue)
    }

    /// The file of a secret.
    pub(crate) fn secret(&self, name: &ObjectName) -> PathBuf {
        self.dir.join("secrets").join(name.as_str())
    }

    /// Says how an attempt ended.
    pub(crate) fn attempted(
        &self,
        sink: &ObjectName,
        notices: usize,
        result: Result<(), String>,
        now_ms: u64,
    ) {
        let mut state = self.state();
        let Some(sink) = state.sinks.get_mut(sink) else { return };
        match result {
            Ok(()) => {
                sink.delivered = sink.delivered.saturating_add(u64::try_from(notices).unwrap_or(0));
                sink.problem.clear();
                sink.failing_since_ms = None;
            }
            Err(problem) => {
                sink.problem = words::clean(&problem);
                sink.failing_since_ms.get_or_insert(now_ms);
            }
        }
        drop(state);
        self.tell_change();
    }

    /// A sink that exists, with what it is.
    fn known(&self, name: &ObjectName, kind: &str, target: String) {
        let mut state = self.state();
        let sink = state.sinks.entry(name.clone()).or_default();
        (sink.kind, sink.target) = (kind.to_owned(), target);
    }

    /// A sink that exists no more: what waited for it goes with it.
    fn removed(&self, name: &ObjectName) {
        self.state().sinks.remove(name);
        let queue = self.queues().remove(name);
        if let Some(queue) = queue {
            queue.remove();
        }
    }

    /// Sinks that have failed for a while, as signals like any other.
    fn sinks_down(&self, now_ms: u64) -> Vec<Signal> {
        let state = self.state();
        let down = state.sinks.iter().filter_map(|(name, sink)| {
            let since_ms =
                sink.failing_since_ms.filter(|since| now_ms.saturating_sub(*since) >= SINK_DOWN_MS)?;
            let seconds = now_ms.saturating_sub(since_ms) / 1_000;
            Some(Signal {
                subject: Subject {
                    detector: Detector::SinkDown,
                    source: "".into(),
                    destination: name.as_str().into(),
                    service: "".into(),
                },
                severity: Severity::Warning,
                since_ms,
                value: crate::detect::table::float(seconds),
                threshold: crate::detect::table::float(SINK_DOWN_MS / 1_000),
                sentence: format!(
                    "AlertSink {name} ({} at {}) takes no alarms: {}; they wait on the disk",
                    sink.kind, sink.target, sink.problem
                ),
                command: format!("meshctl get alertsink/{name}"),
            })
        });
        down.collect()
    }

    /// Writes the book, so that it is there after a kill.
    fn keep(&self) -> io::Result<()> {
        let bytes = self.state().book.to_wire().encode_to_vec();
        self.tell_change();
        replace(&self.dir.join(BOOK), &bytes)
    }

    fn tell_change(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it is held leaves at worst one signal unused.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<ObjectName, Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file of alarms and silences.
const BOOK: &str = "book";

/// Replaces a file at once, or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests;
