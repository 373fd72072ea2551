//! Taking a backup: noted first, then read and sent while the reader keeps up.

use super::access::Actor;
use super::server::Answers;
use super::{Control, ms, store_status};
use crate::clock;
use crate::store::StoreError;
use crate::store::write::{Verb, Write};
use futures_util::StreamExt as _;
use mesh_proto::wire::v1;
use tokio::sync::mpsc;
use tonic::Status;

/// Bytes of a backup in one message.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks that wait for a slow reader; the writer of the backup waits with them.
const CHUNKS_WAITING_MAX: usize = 4;

impl Control {
    /// Everything in the store, sealed. The audit record stands in the backup itself: it is written before the first byte is
    /// read.
    ///
    /// While the store takes no writes, the owner of the mesh gets a backup all the same, since that may be when it is
    /// needed most, and its record is written as soon as that is possible.
    ///
    /// # Errors
    /// It cannot be noted, and the caller is not the owner.
    pub(super) async fn backup(&self, actor: &Actor) -> Result<Answers<v1::BackupChunk>, Status> {
        let detail = "take a backup".to_owned();
        let time_ms = ms(clock::wall());
        let write = Write {
            actor: actor.to_string(),
            verb: Verb::Backup,
            time_ms,
            changes: Vec::new(),
            detail: detail.clone(),
        };
        match self.commit(write).await {
            Ok(_) => {}
            Err(_) if actor.is_owner() => self.notices.add(&actor.to_string(), Verb::Backup, &detail, 1),
            Err(status) => return Err(status),
        }
        tracing::info!(%actor, "backup taken");
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        let store = self.store.clone();
        let mut out = Chunks { sender, buffer: Vec::new() };
        // Reads the whole store and waits for the reader: not on a thread that others wait for. It ends when the store
        // has been read or the reader is gone.
        let written = tokio::task::spawn_blocking(move || {
            store.backup(&mut out).and_then(|report| {
                let flushed = std::io::Write::flush(&mut out);
                flushed.map(|()| report).map_err(|source| StoreError::Backup { source })
            })
        });
        let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let end = futures_util::stream::once(async move {
            match written.await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(Err(store_status(&error))),
                Err(_) => Some(Err(Status::internal("the backup broke off; it cannot be used"))),
            }
        });
        Ok(Box::pin(receiver.chain(end.filter_map(|found| async move { found }))))
    }
}

/// Sends what is written, in chunks; waits when the reader is slow, fails when it is gone.
struct Chunks {
    sender: mpsc::Sender<Result<v1::BackupChunk, Status>>,
    buffer: Vec<u8>,
}

impl std::io::Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut self.buffer);
        let gone =
            |_| std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the reader of the backup is gone");
        self.sender.blocking_send(Ok(v1::BackupChunk { data })).map_err(gone)
    }
}
