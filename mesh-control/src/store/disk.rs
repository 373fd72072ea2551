//! The store on disk: opening it, checking it, and the door to the thread that writes it.
//!
//! `app` opens one; `admin` and the authority use it through [`Store`]. Opening reads everything once and compares it
//! with the manifest and the newest export. What does not add up is refused, left exactly as it was, and answered with
//! the command that helps; it is never repaired on the way.
//!
//! # Why
//! sled writes while it opens (it zeroes what it takes for a torn tail), so a damaged database would be worse after the
//! refusal than before. Its files are therefore copied first, and put back when the check fails. That costs 10 ms for
//! 10 MB and is gone from the disk when the check succeeds.

use super::durable::{copy_tree, remove_tree, sync_directory};
use super::engine::{DatabaseId, Engine, EngineError};
use super::export::{self, BackupProblem};
use super::faults::{Faults, NoFaults};
use super::ledger::Ledger;
use super::manifest::{Manifest, ManifestError, Mismatch};
use super::place::{Lock, Place};
use super::rescue;
use super::view::{AuditReport, ReadView};
use super::write::{Committed, Write};
use super::writer::{Exporter, Job, Shared, Writer, write_manifest};
use super::{BackupReport, Health, Store, StoreError};
use futures_util::future::{BoxFuture, FutureExt};
use mesh_ca::seal::SealKey;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, oneshot};

pub use super::rescue::{RepairReport, repair, restore};

/// What waits for the writer, in units of 64 KiB: 64 MiB, and at most 1,024 writes.
const QUEUE_UNITS: usize = 1024;
const UNIT_BYTES: usize = 64 << 10;
/// Writes between two exports. An export of 10 MB takes about 0.1 s of a thread of its own; a repair that finds nothing
/// else loses at most so many.
const EXPORT_EVERY: u64 = 256;

/// Why a store cannot be opened, restored or repaired. Every text names the command that helps.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refuses something.
    #[error(
        "the store in {path} cannot be {tried}: {source}; check its owner, its mode and the free space there, then start again"
    )]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        tried: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error(
        "the store in {path} is in use by another process; stop that one first (see `meshctl status --state-dir {state}`), \
         or use another --state-dir"
    )]
    InUse {
        /// Where.
        path: PathBuf,
        /// Its state directory.
        state: PathBuf,
    },
    /// The key is not the one it was sealed with.
    #[error(
        "the store in {path} was sealed under another key; put its own seal.key back into {state}, or bring back a backup \
         whose key you have: `meshctl restore FILE --seal-key KEY-FILE --state-dir NEW-DIRECTORY`"
    )]
    WrongSealKey {
        /// Where.
        path: PathBuf,
        /// Its state directory.
        state: PathBuf,
    },
    /// What is there is not what was acknowledged.
    #[error(
        "the store in {path} is damaged: {problem}; it was left as it was and nothing is served from it. Salvage all that \
         still verifies with `meshctl check --repair-store --state-dir {state}`, or bring back a backup with \
         `meshctl restore FILE --seal-key {state}/seal.key --state-dir NEW-DIRECTORY`"
    )]
    Damaged {
        /// Where.
        path: PathBuf,
        /// Its state directory.
        state: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A newer release wrote it.
    #[error(
        "the store in {path} has the format {format}, which this release does not know; start the newer release again"
    )]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its format.
        format: u8,
    },
    /// A place for a new store is not empty.
    #[error("{path} is not empty; a backup is only restored into a new directory: give another --state-dir")]
    NotEmpty {
        /// Where.
        path: PathBuf,
    },
    /// A backup cannot be used.
    #[error("the backup cannot be restored: {problem}; nothing was written")]
    Backup {
        /// Why.
        problem: BackupProblem,
    },
    /// A backup's parts contradict each other.
    #[error("the backup cannot be restored: {problem}; nothing was written")]
    Contradiction {
        /// What is wrong.
        problem: String,
    },
    /// A repair found nothing that verifies.
    #[error(
        "nothing in {path} verifies any more ({problem}); it was left as it was. Bring back a backup with \
         `meshctl restore FILE --seal-key {state}/seal.key --state-dir NEW-DIRECTORY`"
    )]
    NothingLeft {
        /// Where.
        path: PathBuf,
        /// Its state directory.
        state: PathBuf,
        /// What was found instead.
        problem: String,
    },
}

/// What a store is told when it is opened.
#[derive(Clone)]
pub struct Options {
    /// What happens at the fail points.
    pub faults: Arc<dyn Faults>,
    /// Writes between two exports.
    pub export_every: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { faults: Arc::new(NoFaults), export_every: EXPORT_EVERY }
    }
}

/// A store on disk. Dropping it waits until everything taken is written, for some milliseconds.
pub struct SledStore {
    jobs: Option<Sender<Job>>,
    queue: Arc<Semaphore>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    id: DatabaseId,
    seal: Arc<SealKey>,
    _lock: Lock,
}

/// Opens the store in its own directory, `<state-dir>/store` by custom; a new one is made when there is none. Blocks.
///
/// # Errors
/// Each says what is wrong and which command helps.
pub fn open(dir: &Path, seal: Arc<SealKey>) -> Result<SledStore, OpenError> {
    open_with(dir, seal, Options::default())
}

/// [`open`] with options, for tests.
///
/// # Errors
/// As [`open`].
pub fn open_with(dir: &Path, seal: Arc<SealKey>, options: Options) -> Result<SledStore, OpenError> {
    let place = Place::new(dir);
    let lock = claim(&place)?;
    let io = |tried| {
        let path = place.dir().to_path_buf();
        move |source| OpenError::Io { path, tried, source }
    };
    if !place.data().exists() {
        let damaged = |problem: &str| Err(damaged(&place, problem.to_owned()));
        if !place.damaged().map_err(io("read"))?.is_empty() {
            return damaged("a repair was interrupted");
        }
        if !place.exported().map_err(io("read"))?.is_empty() {
            return damaged("its database is gone");
        }
        rescue::create(&place, &seal, &*options.faults)?;
    }
    remove_tree(&place.data_new()).map_err(io("cleared of a leftover"))?;
    place.sweep_exports().map_err(io("cleared of a leftover"))?;
    let (engine, ledger, manifest) = checked(&place, &seal)?;
    let present = Manifest::of(manifest.database, &ledger);
    if present != manifest {
        write_manifest(&place, &present, &seal, &*options.faults).map_err(io("brought up to date"))?;
    }
    start(place, lock, seal, options, Opened { engine, ledger, manifest: present })
}

/// A database that was checked.
struct Opened {
    engine: Engine,
    ledger: Ledger,
    manifest: Manifest,
}

fn start(
    place: Place,
    lock: Lock,
    seal: Arc<SealKey>,
    options: Options,
    opened: Opened,
) -> Result<SledStore, OpenError> {
    let id = opened.manifest.database;
    let Options { faults, export_every } = options;
    let shared = Arc::new(Shared { ledger: RwLock::new(opened.ledger), refused: Mutex::new(None) });
    let exporter = Exporter {
        place: place.clone(),
        id,
        seal: Arc::clone(&seal),
        faults: Arc::clone(&faults),
        every: export_every.max(1),
        since: 0,
        running: None,
    };
    let (path, writer_seal, writer_shared) =
        (place.dir().to_path_buf(), Arc::clone(&seal), Arc::clone(&shared));
    let writer = Writer {
        place,
        id,
        seal: writer_seal,
        faults,
        shared: writer_shared,
        engine: Some(opened.engine),
        manifest: opened.manifest,
        unnamed: 0,
        exporter,
    };
    let (jobs, inbox) = mpsc::channel();
    let thread =
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run(&inbox));
    let thread = thread.map_err(|source| OpenError::Io { path, tried: "given a thread", source })?;
    let queue = Arc::new(Semaphore::new(QUEUE_UNITS));
    Ok(SledStore { jobs: Some(jobs), queue, shared, thread: Some(thread), id, seal, _lock: lock })
}

/// Takes the directory's lock.
pub(super) fn claim(place: &Place) -> Result<Lock, OpenError> {
    let path = place.dir().to_path_buf();
    match place.claim() {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(OpenError::InUse { path, state: place.state_dir() }),
        Err(source) => Err(OpenError::Io { path, tried: "locked", source }),
    }
}

/// The refusal of a store that does not add up.
pub(super) fn damaged(place: &Place, problem: String) -> OpenError {
    OpenError::Damaged { path: place.dir().to_path_buf(), state: place.state_dir(), problem }
}

/// The refusal of a manifest that cannot be used.
pub(super) fn manifest_refused(place: &Place, error: ManifestError) -> OpenError {
    let path = place.dir().to_path_buf();
    match error {
        ManifestError::WrongKey => OpenError::WrongSealKey { path, state: place.state_dir() },
        ManifestError::Newer(format) => OpenError::Newer { path, format },
        ManifestError::Io(source) => OpenError::Io { path, tried: "read", source },
        ManifestError::Missing | ManifestError::Damaged(_) => damaged(place, error.to_string()),
    }
}

/// Opens the database, reads all of it and compares; if that fails its files are as they were before.
fn checked(place: &Place, seal: &Arc<SealKey>) -> Result<(Engine, Ledger, Manifest), OpenError> {
    let manifest = Manifest::read(&place.manifest(), seal).map_err(|e| manifest_refused(place, e))?;
    put_back_if_interrupted(place)?;
    for file in ["db", "conf"] {
        // sled would make an empty one in its place.
        if !place.database().join(file).exists() {
            return Err(damaged(place, format!("its file {file} is gone")));
        }
    }
    release_reserve(&place.database().join("db"));
    let cleared = |place: &Place| {
        remove_tree(&place.before()).map_err(|source| refused(place, "cleared of a leftover", source))
    };
    let is_copied = copy_tree(&place.database(), &place.before()).is_ok();
    if !is_copied {
        // A full disk: opening needs less than a copy, so it is tried all the same.
        cleared(place)?;
    }
    let mut result = compared(place, seal, &manifest);
    if is_copied && result.is_err() {
        put_back(place)?;
        if matches!(&result, Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::StorageFull)
        {
            result = compared(place, seal, &manifest);
        }
    }
    cleared(place)?;
    result.map(|(engine, ledger)| (engine, ledger, manifest))
}

/// Gives back the space that was reserved behind the file's end: opening needs some, and reserves anew.
fn release_reserve(file: &Path) {
    // A failure here is no failure yet: what cannot be written later says so itself.
    let opened = std::fs::OpenOptions::new().write(true).open(file);
    let _ = opened.and_then(|file| file.set_len(file.metadata()?.len()));
}

fn compared(place: &Place, seal: &Arc<SealKey>, manifest: &Manifest) -> Result<(Engine, Ledger), OpenError> {
    let failed = |error| match error {
        EngineError::Io(source) if is_of_the_system(&source) => refused(place, "opened", source),
        other => damaged(place, other.to_string()),
    };
    let engine = Engine::open(&place.database(), manifest.database, Arc::clone(seal)).map_err(failed)?;
    let ledger = engine.load().map_err(failed)?;
    manifest.check(&ledger).map_err(|mismatch: Mismatch| damaged(place, mismatch.to_string()))?;
    compare_with_export(place, seal, manifest, &ledger)?;
    Ok((engine, ledger))
}

/// Finds a database that was replaced by an older one together with its manifest.
fn compare_with_export(
    place: &Place,
    seal: &SealKey,
    manifest: &Manifest,
    ledger: &Ledger,
) -> Result<(), OpenError> {
    let exported = place.exported().map_err(|source| refused(place, "read", source))?;
    for path in exported {
        let heading = File::open(&path)
            .map_err(BackupProblem::Io)
            .and_then(|mut file| export::heading(&mut file, seal));
        let heading = match heading {
            Ok(heading) => heading,
            Err(problem) => {
                tracing::warn!(path = %path.display(), %problem, "an export of the store cannot be used");
                continue;
            }
        };
        if heading.database != manifest.database {
            continue;
        }
        let (then, now) = (heading.tip, ledger.tip());
        if then.sequence > now.sequence {
            let problem = format!(
                "it is an older state: it ends with audit record {}, the export {} with {}",
                now.sequence,
                path.display(),
                then.sequence
            );
            return Err(damaged(place, problem));
        }
        return Ok(());
    }
    Ok(())
}

/// Whether an error is the machine's (no space, no permission) and says nothing about the files' content.
fn is_of_the_system(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | PermissionDenied)
}

/// A copy that is still there: either it is not whole and the database was not touched yet, or the database is being
/// put back.
fn put_back_if_interrupted(place: &Place) -> Result<(), OpenError> {
    if !place.database().exists() && place.before().exists() {
        return put_back(place);
    }
    remove_tree(&place.before()).map_err(|source| refused(place, "cleared of a leftover", source))
}

/// Puts the database's files back as they were before sled opened them.
fn put_back(place: &Place) -> Result<(), OpenError> {
    let put = remove_tree(&place.database())
        .and_then(|()| std::fs::rename(place.before(), place.database()))
        .and_then(|()| sync_directory(&place.data()));
    put.map_err(|source| refused(place, "put back as it was", source))
}

fn refused(place: &Place, tried: &'static str, source: io::Error) -> OpenError {
    OpenError::Io { path: place.dir().to_path_buf(), tried, source }
}

impl SledStore {
    /// Writes an export now, as happens by itself after every few hundred writes; returns its file. Blocks.
    ///
    /// # Errors
    /// It could not be written.
    pub fn export(&self) -> Result<PathBuf, StoreError> {
        self.ask(|reply| Job::Export { reply })
    }

    /// Sends a job and waits for its answer on a plain channel, so that it works on any thread.
    fn ask<T>(&self, job: impl FnOnce(SyncSender<Result<T, StoreError>>) -> Job) -> Result<T, StoreError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(job(reply))?;
        answer.recv().map_err(|_| StoreError::Closed)?
    }

    fn send(&self, job: Job) -> Result<(), StoreError> {
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send(job).map_err(|_| StoreError::Closed)
    }
}

impl Store for SledStore {
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<Committed, StoreError>> {
        async move {
            write.check()?;
            let documents = write.changes.iter().map(|change| change.yaml.as_ref().map_or(0, String::len));
            let units = documents.fold(0, usize::saturating_add) / UNIT_BYTES + 1;
            let units = u32::try_from(units.min(QUEUE_UNITS)).map_err(|_| StoreError::Closed)?;
            let queue = Arc::clone(&self.queue);
            let permit = queue.acquire_many_owned(units).await.map_err(|_| StoreError::Closed)?;
            let (reply, answer) = oneshot::channel();
            self.send(Job::Write { write, reply, permit })?;
            answer.await.map_err(|_| StoreError::Closed)?
        }
        .boxed()
    }

    fn read(&self) -> ReadView {
        self.shared.view()
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        super::write::check_meta(key, &value)?;
        self.ask(|reply| Job::Meta { key: key.to_owned(), value, reply })
    }

    fn health(&self) -> Health {
        match &*self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => Health::WritesRefused { reason: reason.clone() },
            None => Health::Ok,
        }
    }

    fn backup(&self, out: &mut dyn io::Write) -> Result<BackupReport, StoreError> {
        export::write(&self.read(), self.id, &self.seal, out).map_err(|source| StoreError::Backup { source })
    }

    fn verify_audit(&self) -> Result<AuditReport, StoreError> {
        self.ask(|reply| Job::Verify { reply })
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
