//! The store on disk. Its door is fixed; what is behind it is not complete.

use super::{BackupReport, view::AuditReport};
use super::{Health, Store, StoreError, view::ReadView, write::Committed, write::Write};
use futures_util::future::{BoxFuture, FutureExt};
use mesh_ca::seal::SealKey;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a store cannot be opened, restored or repaired. Every text names the command that helps.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refuses.
    #[error("the store in {path} cannot be {tried}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        tried: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A store on disk.
pub struct SledStore {
    inner: super::memory::MemoryStore,
}

/// Opens the store in its own directory, which is made when missing. Blocks.
///
/// # Errors
/// Each says what is wrong and which command helps.
pub fn open(dir: &Path, seal: Arc<SealKey>) -> Result<SledStore, OpenError> {
    drop(seal);
    let source = io::Error::other("not complete yet");
    Err(OpenError::Io { path: dir.to_path_buf(), tried: "opened", source })
}

impl Store for SledStore {
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<Committed, StoreError>> {
        async move { self.inner.commit(write).await }.boxed()
    }

    fn read(&self) -> ReadView {
        self.inner.read()
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.inner.put_meta(key, value)
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    fn backup(&self, out: &mut dyn io::Write) -> Result<BackupReport, StoreError> {
        self.inner.backup(out)
    }

    fn verify_audit(&self) -> Result<AuditReport, StoreError> {
        self.inner.verify_audit()
    }
}
