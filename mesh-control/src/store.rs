//! What the mesh was told, kept: resources, every past revision, the audit chain, and small sealed values of other parts.
//!
//! `app` opens one [`disk::SledStore`] and hands it out as `Arc<dyn Store>`; `admin` commits to it and reads from it,
//! `local` and the signing authority keep their values under [`Store::put_meta`]. [`memory::MemoryStore`] is its twin
//! for tests, and one test-suite runs over both. The store judges no resource: it keeps documents, byte for byte.
//! It never acknowledges what is not on disk, never serves less than it once acknowledged, and never reads a clock.
//!
//! - [`mod@write`]: what is asked of it, and the limits.
//! - [`view`]: what it knows, as a consistent picture of one moment. Pure.
//! - `ledger`: the state and the one place where a write becomes a record. Pure; both twins stand on it.
//! - `record`: the stored forms and the hash chain.
//! - `engine`, `manifest`, `durable`: sled and the files beside it. `writer`: the one thread that writes.
//! - `export`, `rescue`: backups, restoring, repairing.
//!
//! # Why
//! sled 0.34 is kept at arm's length, because it is fast and convenient and forgets without a word: its `flush` is no
//! fsync on Linux, a cut file opens as an *empty* database, a flipped byte loses keys or panics. So everything it holds
//! is also accounted for outside it (see `manifest`), everything is read and checked at the start, and afterwards reads
//! are answered from memory: a sick disk cannot stop them. The price is memory and a reading start: with 10,000 policies
//! of 1 KB the process holds 90 MB resident and opens in 1.8 s (debug build, busy machine; 57 MB on disk).

pub mod disk;
mod durable;
mod engine;
pub mod export;
pub mod faults;
mod ledger;
mod manifest;
pub mod memory;
mod place;
mod record;
mod rescue;
pub mod view;
pub mod write;
mod writer;

use futures_util::future::BoxFuture;
use std::io;
use std::path::PathBuf;
use view::{AuditReport, ReadView};
use write::{Committed, Write, WriteProblem};

/// Where the control plane keeps what it was told.
pub trait Store: Send + Sync {
    /// Writes all of `write` or nothing, and resolves when it is on disk.
    ///
    /// Changes that change nothing are left out; a write without any other change gets an audit record and no revision.
    ///
    /// **Cancel safety**: a future that is dropped after its first poll may still have written.
    ///
    /// # Errors
    /// The write breaks a limit, or the disk refuses it. Nothing of it is in force then.
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<Committed, StoreError>>;

    /// Everything known at this moment, unchanged by what comes later.
    fn read(&self) -> ReadView;

    /// Keeps a value under a name, in the place of the value before. Blocks until it is on disk: a few milliseconds.
    ///
    /// These values are not part of a revision and not in the audit chain, but in every backup.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); the value before is in force then.
    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError>;

    /// Whether writes are accepted.
    fn health(&self) -> Health;

    /// Writes everything, sealed under the store's own key, in the form that [`restore`](disk::restore) reads. Blocks.
    ///
    /// # Errors
    /// `out` refuses a write. What was written so far is then no backup, and `restore` says so.
    fn backup(&self, out: &mut dyn io::Write) -> Result<BackupReport, StoreError>;

    /// Reads the audit chain from the disk again and checks every link. Blocks.
    ///
    /// # Errors
    /// The disk cannot be read. A broken chain is no error but the report's content.
    fn verify_audit(&self) -> Result<AuditReport, StoreError>;
}

/// Whether a store takes writes. It always answers reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// It does.
    Ok,
    /// It does not; it looks again every second and recovers by itself.
    WritesRefused {
        /// What is wrong, for people.
        reason: String,
    },
}

/// What a backup holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupReport {
    /// The revision it was taken at.
    pub revision: u64,
    /// Audit records in it.
    pub records: u64,
    /// Resources in force at that revision.
    pub resources: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The write itself is at fault.
    #[error(transparent)]
    Invalid(#[from] WriteProblem),
    /// The disk takes no writes. Nothing changed, reads go on, and writes are tried again by themselves.
    #[error(
        "the store takes no writes: {reason}; nothing was changed and everything in force stays so; \
         free space or fix the disk, then repeat the command (no restart is needed)"
    )]
    WritesRefused {
        /// What is wrong, with the path.
        reason: String,
    },
    /// No such revision.
    #[error("there is no revision {asked}; the newest is {newest} (list them with `meshctl history`)")]
    NoSuchRevision {
        /// What was asked for.
        asked: u64,
        /// What there is.
        newest: u64,
    },
    /// The receiver of a backup failed.
    #[error(
        "the backup could not be written completely: {source}; it cannot be used, delete it and take another"
    )]
    Backup {
        /// What its writer said.
        source: io::Error,
    },
    /// What stands on disk could not be read.
    #[error("the store in {path} cannot be read: {problem}")]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// What happened.
        problem: String,
    },
    /// The store is being closed.
    #[error("the store is closing; repeat the command when the control plane is up again")]
    Closed,
}
