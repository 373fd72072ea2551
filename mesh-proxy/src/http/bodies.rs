//! How much of HTTP/2 bodies the process holds in memory, because a receiver does not take it or it may be sent again.
//!
//! `h2pump` charges what its streams hold and gives it back; `app` makes one account for all data threads. It never
//! decides what becomes of a stream that finds no room.
//!
//! # Why
//! Windows bound what one stream can hold, and streams what one connection can; callers bring any number of connections.
//! One number for the process is what an operator's memory limit is made of. Counting only what waits, not what passes,
//! keeps the account off the path of a stream whose receiver reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The account of all HTTP/2 bodies that wait in this process.
#[derive(Debug)]
pub struct Bodies {
    held: AtomicUsize,
    max: usize,
}

impl Bodies {
    /// Room for so many bytes.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), max })
    }

    /// What is held now, in bytes.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether more than half of the room is taken: then receivers get less patience.
    pub fn is_tight(&self) -> bool {
        self.held() > self.max / 2
    }
}

/// One stream's part of the account; given back when dropped.
#[derive(Debug)]
pub(super) struct Holding {
    of: Arc<Bodies>,
    bytes: usize,
}

/// There is no room for what a stream wants to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Full;

impl Holding {
    /// Nothing yet.
    pub(super) fn new(of: &Arc<Bodies>) -> Self {
        Self { of: Arc::clone(of), bytes: 0 }
    }

    /// The account it is a part of.
    pub(super) fn bodies(&self) -> &Arc<Bodies> {
        &self.of
    }

    /// Takes room for more.
    ///
    /// # Errors
    /// [`Full`]: there is none, and nothing was taken.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Full> {
        let before = self.of.held.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.of.max {
            self.of.held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Full);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// Gives room back, as much as was taken at most.
    pub(super) fn give(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.of.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_and_never_exceeds_the_room() {
        let bodies = Bodies::new(100);
        let mut one = Holding::new(&bodies);
        let mut other = Holding::new(&bodies);
        assert_eq!(one.take(60), Ok(()));
        assert!(bodies.is_tight());
        assert_eq!(other.take(41), Err(Full));
        assert_eq!(other.take(40), Ok(()));
        one.give(1_000);
        assert_eq!(bodies.held(), 40);
        drop(other);
        assert_eq!(bodies.held(), 0);
        assert!(!bodies.is_tight());
    }
}
