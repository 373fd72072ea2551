//! Chunks of one body that wait, counted against what the process may hold.

use super::super::bodies::{Bodies, Full, Holding};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a chunk costs besides its bytes: its place in the queue and the head of its allocation.
const CHUNK_BYTES: usize = 64;
/// Chunks below this are copied when they wait: each is a slice of a buffer of the connection, which it would keep alive
/// as a whole.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// A queue of chunks.
#[derive(Debug)]
pub(super) struct Held {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    holding: Holding,
}

impl Held {
    pub(super) fn new(bodies: &Arc<Bodies>) -> Self {
        Self { chunks: VecDeque::new(), bytes: 0, holding: Holding::new(bodies) }
    }

    pub(super) fn bodies(&self) -> &Arc<Bodies> {
        self.holding.bodies()
    }

    /// How many chunks.
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Bytes of all chunks.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A chunk that stays.
    pub(super) fn at(&self, index: usize) -> Option<Bytes> {
        self.chunks.get(index).cloned()
    }

    /// # Errors
    /// [`Full`]: the process holds as much as it may.
    pub(super) fn push(&mut self, chunk: Bytes) -> Result<(), Full> {
        self.holding.take(chunk.len().saturating_add(CHUNK_BYTES))?;
        self.bytes = self.bytes.saturating_add(chunk.len());
        self.chunks.push_back(chunk);
        Ok(())
    }

    /// As [`Held::push`], for what may wait for long.
    ///
    /// # Errors
    /// As [`Held::push`].
    pub(super) fn push_unpinned(&mut self, chunk: Bytes) -> Result<(), Full> {
        let own = if chunk.len() < COPIED_BYTES_MAX { Bytes::copy_from_slice(&chunk) } else { chunk };
        self.push(own)
    }

    /// The first chunk, which leaves.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.pop_front()?;
        self.bytes = self.bytes.saturating_sub(chunk.len());
        self.holding.give(chunk.len().saturating_add(CHUNK_BYTES));
        Some(chunk)
    }
}
