//! A store that keeps nothing: the twin of [`disk::SledStore`](super::disk::SledStore) for tests.
//!
//! It keeps the stored forms of records too, so that checking the chain means the same as for its twin.

use super::engine::DatabaseId;
use super::ledger::{Batch, Ledger, Step};
use super::view::{AuditReport, ReadView};
use super::write::{Committed, Write};
use super::{BackupReport, Health, Store, StoreError, export, ledger};
use futures_util::future::{BoxFuture, FutureExt};
use mesh_ca::seal::SealKey;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A store in memory.
pub struct MemoryStore {
    state: Mutex<State>,
    /// Seals backups.
    seal: Arc<SealKey>,
    id: DatabaseId,
}

struct State {
    ledger: Ledger,
    /// The audit records' stored forms, oldest first.
    stored: Vec<Vec<u8>>,
    refused: Option<String>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store whose backups nobody can read.
    pub fn new() -> Self {
        Self::sealed_by(Arc::new(SealKey::from_bytes(&rand::random())))
    }

    /// An empty store whose backups this key opens.
    pub fn sealed_by(seal: Arc<SealKey>) -> Self {
        let state = State { ledger: Ledger::empty(), stored: Vec::new(), refused: None };
        Self { state: Mutex::new(state), seal, id: DatabaseId::random() }
    }

    /// Refuses writes for this reason until told `None`, as a full disk would.
    pub fn refuse_writes(&self, reason: Option<String>) {
        self.lock().refused = reason;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, write: Write) -> Result<Committed, StoreError> {
        let mut state = self.lock();
        state.accept()?;
        let planned = Batch::after(state.ledger.tip()).plan(&state.ledger, write)?;
        let committed =
            Committed { revision: planned.record.revision, audit_sequence: planned.record.sequence };
        state.stored.push(planned.record_stored.clone());
        state.ledger.publish(Step::Write(planned));
        Ok(committed)
    }
}

impl State {
    fn accept(&self) -> Result<(), StoreError> {
        match &self.refused {
            Some(reason) => Err(StoreError::WritesRefused { reason: reason.clone() }),
            None => Ok(()),
        }
    }
}

impl Store for MemoryStore {
    fn commit(&self, write: Write) -> BoxFuture<'_, Result<Committed, StoreError>> {
        async move { self.write(write) }.boxed()
    }

    fn read(&self) -> ReadView {
        self.lock().ledger.view()
    }

    fn put_meta(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.accept()?;
        let planned = Batch::after(state.ledger.tip()).plan_meta(&state.ledger, key.to_owned(), value)?;
        state.ledger.publish(Step::Meta(planned));
        Ok(())
    }

    fn health(&self) -> Health {
        match &self.lock().refused {
            Some(reason) => Health::WritesRefused { reason: reason.clone() },
            None => Health::Ok,
        }
    }

    fn backup(&self, out: &mut dyn io::Write) -> Result<BackupReport, StoreError> {
        export::write(&self.read(), self.id, &self.seal, out).map_err(|source| StoreError::Backup { source })
    }

    fn verify_audit(&self) -> Result<AuditReport, StoreError> {
        let state = self.lock();
        let records = (1..).zip(state.stored.iter().cloned().map(Ok));
        Ok(ledger::verify(records, state.ledger.tip()))
    }
}
