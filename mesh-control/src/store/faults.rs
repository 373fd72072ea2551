//! Places where a disk can fail, named, so that tests can fail there.
//!
//! The store calls [`Faults::reach`] *before* each act; the product passes [`NoFaults`]. Nothing here reads the
//! environment, and no fault can be switched on from outside the process.

use std::io;

/// An act of the store on the disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Point {
    /// A new database is about to be made.
    CreateDatabase,
    /// The new database's files are about to be put under their final name.
    CreateRename,
    /// The directory above is about to be fsynced after that.
    CreateSync,
    /// Space for the batch is about to be reserved.
    Reserve,
    /// The next manifest's file is about to be made.
    ManifestCreate,
    /// A transaction is about to be applied.
    Transaction,
    /// sled is about to flush.
    Flush,
    /// sled's file is about to be fsynced.
    SyncDatabase,
    /// The next manifest is about to be written.
    ManifestWrite,
    /// It is about to be fsynced.
    ManifestSync,
    /// It is about to get its final name.
    ManifestRename,
    /// Its directory is about to be fsynced.
    ManifestSyncDirectory,
    /// Writers are about to be told that their write is durable.
    Acknowledge,
    /// An export's file is about to be made.
    ExportCreate,
    /// A part of it is about to be written.
    ExportWrite,
    /// It is about to be fsynced.
    ExportSync,
    /// It is about to get its final name.
    ExportRename,
    /// Its directory is about to be fsynced.
    ExportSyncDirectory,
    /// An export that is old enough is about to be removed.
    ExportPrune,
}

impl Point {
    /// All points.
    pub const ALL: [Self; 19] = [
        Self::CreateDatabase,
        Self::CreateRename,
        Self::CreateSync,
        Self::Reserve,
        Self::ManifestCreate,
        Self::Transaction,
        Self::Flush,
        Self::SyncDatabase,
        Self::ManifestWrite,
        Self::ManifestSync,
        Self::ManifestRename,
        Self::ManifestSyncDirectory,
        Self::Acknowledge,
        Self::ExportCreate,
        Self::ExportWrite,
        Self::ExportSync,
        Self::ExportRename,
        Self::ExportSyncDirectory,
        Self::ExportPrune,
    ];
}

/// What happens at the points.
pub trait Faults: Send + Sync {
    /// The act `point` is about to happen.
    ///
    /// # Errors
    /// The act fails with this error instead of happening.
    fn reach(&self, point: Point) -> io::Result<()>;
}

/// Nothing fails but the disk itself.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn reach(&self, _: Point) -> io::Result<()> {
        Ok(())
    }
}
