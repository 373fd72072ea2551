//! The one thread that writes: it gathers what waits, makes it durable at once, and then tells everyone.
//!
//! [`SledStore`](super::disk::SledStore) owns it and sends it [`Job`]s; it ends when the store is dropped. The exports
//! run on a thread of their own, at most one at a time, from a picture of the state. It never takes a batch half: what
//! cannot be made durable is undone, and until that succeeded nothing else is written.
//!
//! # Why
//! - Group commit: fsyncs cost the same for one write as for a hundred that wait while they run. On a busy two-core
//!   machine with an ext4 disk whose fsync took 1.8 to 3.2 ms (median), a debug build of ours: one writer 4.9 ms median,
//!   19 ms p99; 4 writers 450 writes a second, 32 writers 1,350, 128 writers 1,400. A value of 4 KB by `put_meta`: 1.1 ms
//!   median, of 1 MB: 33 ms.
//! - The manifest's *name* is made durable after the answer, when nothing waits or after 16 batches. Doing it before made
//!   the same figures 11.2 ms, 25 ms, and 200, 700, 1,320 writes a second. What that risks: a power cut within these
//!   milliseconds leaves the manifest before, and the newest writes, which are in the database, are not accounted for
//!   beside it until the next start has read them. No kill can do that, and nothing acknowledged is lost by it.
//! - Space is taken *before* sled is touched, for its file and for the next manifest. A full disk then refuses a batch
//!   while nothing has changed yet. Without it sled poisons itself, and may wait for ever for a writer that failed.
//! - After a failure in the middle (an I/O error, not a full disk) sled's own state is unknown. It is dropped and opened
//!   again, and what it holds beyond the acknowledged is removed: a write that was refused must not come into force
//!   later. Only if the process dies before that succeeds, the next start may find it and keep it.

use super::StoreError;
use super::durable::{Replacement, reserve, sync_name};
use super::engine::{DatabaseId, Engine, EngineError};
use super::export;
use super::faults::{Faults, Point};
use super::ledger::{self, Batch, Ledger, Step};
use super::manifest::{self, Manifest};
use super::place::{Place, make_directory};
use super::view::{AuditReport, ReadView};
use super::write::{Committed, Write};
use mesh_ca::seal::SealKey;
use std::io::{self, BufWriter};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Writes in one batch. More brought nothing: 32 writers and 128 differ by 4 %, see the module's head.
pub(super) const BATCH_MAX: usize = 128;
/// Batches after which the manifest's name is made durable even if more wait.
const UNNAMED_MAX: u32 = 16;
/// How often a store that refuses writes looks whether it can take them again.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Exports kept: the newest, and three in case it is damaged too.
const EXPORTS_KEPT: usize = 4;
/// What a batch costs sled whatever is in it: two fresh segments of 512 KiB.
const BATCH_BYTES: u64 = 1 << 20;
/// What a piece of 4 KiB can cost sled: itself, and its share of the leaf that is written anew after ten changes or
/// when it is split (17 pieces, twice).
const PIECE_COST_BYTES: u64 = 24 << 10;

/// What the thread is asked to do.
pub(super) enum Job {
    /// Commit a write. The permit bounds what waits.
    Write {
        write: Write,
        reply: oneshot::Sender<Result<Committed, StoreError>>,
        permit: OwnedSemaphorePermit,
    },
    /// Keep a value of another part.
    Meta { key: String, value: Vec<u8>, reply: SyncSender<Result<(), StoreError>> },
    /// Read the audit chain again.
    Verify { reply: SyncSender<Result<AuditReport, StoreError>> },
    /// Export now, and wait for it.
    Export { reply: SyncSender<Result<PathBuf, StoreError>> },
}

/// What the thread and the readers share.
pub(super) struct Shared {
    pub(super) ledger: RwLock<Ledger>,
    /// Why writes are refused, while they are.
    pub(super) refused: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn view(&self) -> ReadView {
        self.ledger.read().unwrap_or_else(PoisonError::into_inner).view()
    }

    fn refuse(&self, reason: Option<&str>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match (refused.as_deref(), reason) {
            (None, Some(reason)) => tracing::error!(reason, "the store refuses writes; reads go on"),
            (Some(_), None) => tracing::info!("the store takes writes again"),
            _ => {}
        }
        *refused = reason.map(str::to_owned);
    }

    fn is_refusing(&self) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// The state of the thread.
pub(super) struct Writer {
    pub(super) place: Place,
    pub(super) id: DatabaseId,
    pub(super) seal: Arc<SealKey>,
    pub(super) faults: Arc<dyn Faults>,
    pub(super) shared: Arc<Shared>,
    /// `None` after a failure, until it could be opened again.
    pub(super) engine: Option<Engine>,
    /// What is acknowledged.
    pub(super) manifest: Manifest,
    /// Batches since the manifest's name was last made durable.
    pub(super) unnamed: u32,
    pub(super) exporter: Exporter,
}

/// Whom to tell about a step of a batch.
enum Reply {
    Write(oneshot::Sender<Result<Committed, StoreError>>, Committed, OwnedSemaphorePermit),
    Meta(SyncSender<Result<(), StoreError>>),
}

/// Why a batch failed, and whether it may have left traces.
enum Failure {
    Clean(String),
    Broken(String),
}

impl Writer {
    /// Works until all senders are gone; then exports what is not exported yet.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let first = if self.shared.is_refusing() {
                match jobs.recv_timeout(PROBE_EVERY) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        self.probe();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            } else {
                let Ok(job) = jobs.recv() else { break };
                job
            };
            let mut next = Some(first);
            while let Some(first) = next {
                let mut batch = vec![first];
                batch.extend(jobs.try_iter().take(BATCH_MAX.saturating_sub(1)));
                self.serve(batch);
                next = jobs.try_recv().ok();
                if next.is_none() || self.unnamed >= UNNAMED_MAX {
                    self.sync_name();
                }
            }
        }
        self.exporter.finish(&self.shared.view());
    }

    fn serve(&mut self, jobs: Vec<Job>) {
        let mut writes = Vec::with_capacity(jobs.len());
        for job in jobs {
            match job {
                Job::Verify { reply } => {
                    self.commit(std::mem::take(&mut writes));
                    let _ = reply.send(self.verify());
                }
                Job::Export { reply } => {
                    self.commit(std::mem::take(&mut writes));
                    let _ = reply.send(self.exporter.now(&self.shared.view()));
                }
                write => writes.push(write),
            }
        }
        self.commit(writes);
    }

    /// Commits all that can be, and answers each.
    fn commit(&mut self, jobs: Vec<Job>) {
        let mut steps = Vec::with_capacity(jobs.len());
        let mut replies = Vec::with_capacity(jobs.len());
        let batch = {
            let ledger = self.shared.ledger.read().unwrap_or_else(PoisonError::into_inner);
            let mut batch = Batch::after(ledger.tip());
            for job in jobs {
                plan(&mut batch, &ledger, job, &mut steps, &mut replies);
            }
            batch
        };
        if steps.is_empty() {
            return;
        }
        let count = u64::try_from(steps.len()).unwrap_or(u64::MAX);
        match self.store(&batch, &steps) {
            Ok(manifest) => {
                self.manifest = manifest;
                self.unnamed = self.unnamed.saturating_add(1);
                self.publish(steps);
                self.shared.refuse(None);
                // An error here is a test's; the batch is durable, so the answer stays what it is.
                let _ = self.faults.reach(Point::Acknowledge);
                replies.into_iter().for_each(Reply::done);
                self.exporter.changed(count, || self.shared.view());
            }
            Err(failure) => {
                let reason = match failure {
                    Failure::Clean(reason) => reason,
                    Failure::Broken(reason) => {
                        self.engine = None;
                        reason
                    }
                };
                self.shared.refuse(Some(&reason));
                replies.into_iter().for_each(|reply| reply.refused(&reason));
            }
        }
    }

    /// Makes the manifest's name durable; see the module's head.
    fn sync_name(&mut self) {
        if self.unnamed == 0 {
            return;
        }
        match sync_name(&self.place.manifest(), &manifest::POINTS, &*self.faults) {
            Ok(()) => self.unnamed = 0,
            // What is acknowledged is in the database; the next batch or look tries again.
            Err(error) => self.shared.refuse(Some(&self.said(&error))),
        }
    }

    fn publish(&self, steps: Vec<Step>) {
        let mut ledger = self.shared.ledger.write().unwrap_or_else(PoisonError::into_inner);
        steps.into_iter().for_each(|step| ledger.publish(step));
    }

    /// Makes a batch durable; what is returned is the manifest that now stands beside the database.
    fn store(&mut self, batch: &Batch, steps: &[Step]) -> Result<Manifest, Failure> {
        if self.engine.is_none() {
            self.reopen().map_err(Failure::Clean)?;
        }
        if self.unnamed >= UNNAMED_MAX {
            let named = sync_name(&self.place.manifest(), &manifest::POINTS, &*self.faults);
            named.map_err(|e| Failure::Clean(self.said(&e)))?;
            self.unnamed = 0;
        }
        let Some(engine) = &self.engine else {
            return Err(Failure::Clean("the database is closed".to_owned()));
        };
        let mut next = self.manifest.clone();
        next.after(batch, steps);
        let mut replacement =
            self.prepare(engine, steps, &next).map_err(|e| Failure::Clean(self.said(&e)))?;
        let broken = |error: EngineError| Failure::Broken(format!("{}: {error}", self.place.dir().display()));
        let io_broken = |error: io::Error| broken(EngineError::Io(error));
        for step in steps {
            self.faults.reach(Point::Transaction).map_err(io_broken)?;
            engine.apply(step).map_err(broken)?;
        }
        self.faults.reach(Point::Flush).map_err(io_broken)?;
        engine.flush().map_err(broken)?;
        self.faults.reach(Point::SyncDatabase).map_err(io_broken)?;
        engine.sync().map_err(io_broken)?;
        let sealed = next.seal(&self.seal).map_err(io_broken)?;
        io::Write::write_all(&mut replacement, &sealed).map_err(io_broken)?;
        replacement.finish().map_err(io_broken)?;
        Ok(next)
    }

    /// Takes all the space that a batch can need. Nothing has changed if it fails.
    fn prepare(&self, engine: &Engine, steps: &[Step], next: &Manifest) -> io::Result<Replacement<'_>> {
        self.faults.reach(Point::Reserve)?;
        let needed = steps.iter().map(cost_bytes).fold(BATCH_BYTES, u64::saturating_add);
        let length = engine.file().metadata()?.len();
        reserve(engine.file(), length.saturating_add(needed))?;
        Replacement::prepare(&self.place.manifest(), next.bytes_max(), &manifest::POINTS, &*self.faults)
    }

    /// Opens the database again after a failure and removes what was not acknowledged.
    fn reopen(&mut self) -> Result<(), String> {
        self.engine = None;
        // First the manifest: it may name the batch that failed. From here on a crash finds the database ahead of it.
        write_manifest(&self.place, &self.manifest, &self.seal, &*self.faults).map_err(|e| self.said(&e))?;
        let wrong = |e: EngineError| format!("{}: {e}", self.place.dir().display());
        let engine = Engine::open(&self.place.database(), self.id, Arc::clone(&self.seal)).map_err(wrong)?;
        let loaded = engine.load().map_err(wrong)?;
        let damaged =
            |e| format!("{}: {e}; restart the control plane for advice", self.place.dir().display());
        self.manifest.check(&loaded).map_err(damaged)?;
        let kept = self.shared.ledger.read().unwrap_or_else(PoisonError::into_inner);
        if loaded.tip() != kept.tip() {
            let length = engine.file().metadata().map_err(|e| self.said(&e))?.len();
            reserve(engine.file(), length.saturating_add(BATCH_BYTES)).map_err(|e| self.said(&e))?;
            engine.undo(&loaded, &kept).map_err(wrong)?;
            engine.flush().map_err(wrong)?;
            engine.sync().map_err(|e| self.said(&e))?;
        }
        drop(kept);
        self.engine = Some(engine);
        Ok(())
    }

    /// Looks whether a batch could be written now.
    fn probe(&mut self) {
        let ready = match self.engine {
            Some(_) => Ok(()),
            None => self.reopen(),
        };
        let named = |()| match self.unnamed {
            0 => Ok(()),
            _ => {
                sync_name(&self.place.manifest(), &manifest::POINTS, &*self.faults).map_err(|e| self.said(&e))
            }
        };
        let ready = ready.and_then(named).and_then(|()| match &self.engine {
            Some(engine) => self.prepare(engine, &[], &self.manifest).map(drop).map_err(|e| self.said(&e)),
            None => Err("the database is closed".to_owned()),
        });
        if ready.is_ok() {
            self.unnamed = 0;
        }
        self.shared.refuse(ready.err().as_deref());
    }

    fn verify(&self) -> Result<AuditReport, StoreError> {
        let unreadable = |problem| StoreError::Unreadable { path: self.place.database(), problem };
        let engine =
            self.engine.as_ref().ok_or_else(|| unreadable("it is closed after a failure".to_owned()))?;
        let records = engine.audit().map_err(|e| unreadable(e.to_string()))?;
        Ok(ledger::verify(records, self.manifest.tip))
    }

    /// What the system said, and where.
    fn said(&self, error: &io::Error) -> String {
        let dir = self.place.dir().display();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!("no space left for {dir}"),
            io::ErrorKind::ReadOnlyFilesystem => format!("{dir} is on a read-only file system"),
            _ => format!("{dir}: {error}"),
        }
    }
}

/// Writes a manifest on its own.
pub(super) fn write_manifest(
    place: &Place,
    manifest: &Manifest,
    seal: &SealKey,
    faults: &dyn Faults,
) -> io::Result<()> {
    let sealed = manifest.seal(seal)?;
    let mut file = Replacement::prepare(&place.manifest(), manifest.bytes_max(), &manifest::POINTS, faults)?;
    io::Write::write_all(&mut file, &sealed)?;
    file.finish()?;
    sync_name(&place.manifest(), &manifest::POINTS, faults)
}

/// Turns a job into a step with someone to answer; a job that is itself at fault is answered at once.
fn plan(batch: &mut Batch, ledger: &Ledger, job: Job, steps: &mut Vec<Step>, replies: &mut Vec<Reply>) {
    match job {
        Job::Write { write, reply, permit } => match batch.plan(ledger, write) {
            Ok(planned) => {
                let (revision, audit_sequence) = (planned.record.revision, planned.record.sequence);
                steps.push(Step::Write(planned));
                replies.push(Reply::Write(reply, Committed { revision, audit_sequence }, permit));
            }
            Err(problem) => drop(reply.send(Err(problem.into()))),
        },
        Job::Meta { key, value, reply } => match batch.plan_meta(ledger, key, value) {
            Ok(planned) => {
                steps.push(Step::Meta(planned));
                replies.push(Reply::Meta(reply));
            }
            Err(problem) => drop(reply.send(Err(problem.into()))),
        },
        Job::Verify { .. } | Job::Export { .. } => {}
    }
}

/// What a step can cost sled.
fn cost_bytes(step: &Step) -> u64 {
    let pieces = |bytes: usize| u64::try_from(bytes / 4096).unwrap_or(u64::MAX).saturating_add(1);
    let pieces = match step {
        Step::Meta(planned) => pieces(planned.stored.len()),
        Step::Write(planned) => {
            let record = pieces(planned.record_stored.len());
            let revision = planned.revision.as_ref().map_or(0, |(revision, stored)| {
                let documents = revision.changes.iter().filter_map(|change| change.after.as_ref());
                let resources = documents.map(|r| pieces(r.yaml.len().saturating_add(r.file.len())));
                pieces(stored.len()).saturating_add(resources.fold(0, u64::saturating_add))
            });
            record.saturating_add(revision)
        }
    };
    pieces.saturating_mul(PIECE_COST_BYTES)
}

impl Reply {
    // A receiver that is gone does not want to know; the write stands or falls all the same.
    fn done(self) {
        match self {
            Self::Write(reply, committed, permit) => {
                drop(permit);
                let _ = reply.send(Ok(committed));
            }
            Self::Meta(reply) => drop(reply.send(Ok(()))),
        }
    }

    fn refused(self, reason: &str) {
        let error = StoreError::WritesRefused { reason: reason.to_owned() };
        match self {
            Self::Write(reply, _, permit) => {
                drop(permit);
                let _ = reply.send(Err(error));
            }
            Self::Meta(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// Makes the periodic exports.
pub(super) struct Exporter {
    pub(super) place: Place,
    pub(super) id: DatabaseId,
    pub(super) seal: Arc<SealKey>,
    pub(super) faults: Arc<dyn Faults>,
    /// Export after so many writes.
    pub(super) every: u64,
    /// Writes since the last one.
    pub(super) since: u64,
    pub(super) running: Option<JoinHandle<()>>,
}

impl Exporter {
    /// `count` writes were made: starts an export if it is time and none is running.
    fn changed(&mut self, count: u64, view: impl FnOnce() -> ReadView) {
        self.since = self.since.saturating_add(count);
        if self.since < self.every || self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        self.wait();
        let export = self.task(view());
        let spawned = std::thread::Builder::new().name("store-export".to_owned()).spawn(move || {
            if let Err(error) = export() {
                tracing::warn!(%error, "the store's periodic export failed; the next one is tried as usual");
            }
        });
        match spawned {
            Ok(running) => {
                self.since = 0;
                self.running = Some(running);
            }
            Err(error) => tracing::warn!(%error, "no thread for the store's periodic export"),
        }
    }

    fn now(&mut self, view: &ReadView) -> Result<PathBuf, StoreError> {
        self.wait();
        let path = self.task(view.clone())().map_err(|source| StoreError::Backup { source })?;
        self.since = 0;
        Ok(path)
    }

    fn finish(&mut self, view: &ReadView) {
        self.wait();
        if self.since == 0 {
            return;
        }
        if let Err(error) = self.now(view) {
            tracing::warn!(%error, "the store's last export failed; nothing is lost by that");
        }
    }

    fn wait(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }

    fn task(&self, view: ReadView) -> impl FnOnce() -> io::Result<PathBuf> + Send + 'static {
        let (place, id) = (self.place.clone(), self.id);
        let (seal, faults) = (Arc::clone(&self.seal), Arc::clone(&self.faults));
        move || export_to(&place, id, &seal, &view, &*faults)
    }
}

const EXPORT_POINTS: super::durable::Points = super::durable::Points {
    create: Point::ExportCreate,
    write: Point::ExportWrite,
    sync: Point::ExportSync,
    rename: Point::ExportRename,
    sync_directory: Point::ExportSyncDirectory,
};

/// Writes one export and removes those that are too old.
fn export_to(
    place: &Place,
    id: DatabaseId,
    seal: &SealKey,
    view: &ReadView,
    faults: &dyn Faults,
) -> io::Result<PathBuf> {
    let directory = place.exports();
    make_directory(&directory)?;
    // Zero-padded, so that names sort by age: records first, then values of other parts.
    let meta = view.meta.values().map(|value| value.sequence).max().unwrap_or(0);
    let path = directory.join(format!("{:020}-{meta:020}.export", view.sequence));
    let file = Replacement::prepare(&path, 0, &EXPORT_POINTS, faults)?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    export::write(view, id, seal, &mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
    sync_name(&path, &EXPORT_POINTS, faults)?;
    for old in place.exported()?.into_iter().skip(EXPORTS_KEPT) {
        faults.reach(Point::ExportPrune)?;
        std::fs::remove_file(old)?;
    }
    Ok(path)
}
