//! What is kept of one stream.
//!
//! Of a receiver's window every byte is in one of three places: not sent yet (`window`), arrived (`inbox`), read but not
//! given back (`owed`).

use crate::mux::{BULK_BYTES, WINDOW, WINDOW_MAX};
use std::collections::VecDeque;
use std::task::Waker;
use tokio::io::ReadBuf;

/// Our direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Near {
    Open,
    /// Ends when the outbox is sent.
    Ending,
    Ended,
}

/// The peer's direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Far {
    Open,
    Ended,
    /// Both directions are gone.
    Reset,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) near: Near,
    pub(super) far: Far,
    /// Somebody has the stream.
    pub(super) held: bool,
    /// It stands in the queue of those that have something to send.
    pub(super) queued: bool,
    due: bool,
    bulk: bool,
    pub(super) inbox: VecDeque<u8>,
    pub(super) outbox: Vec<u8>,
    pub(super) window: u32,
    owed: u32,
    size: u32,
    /// Arrived since the window last grew.
    since: u32,
    pub(super) credit: u32,
    received: u64,
    sent: u64,
    /// What had been carried in both directions when it was last calm.
    calm_at: u64,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Entry {
    pub(super) fn new() -> Self {
        Self {
            near: Near::Open,
            far: Far::Open,
            held: true,
            queued: false,
            due: false,
            bulk: false,
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            window: WINDOW,
            owed: 0,
            size: WINDOW,
            since: 0,
            credit: WINDOW,
            received: 0,
            sent: 0,
            calm_at: 0,
            reader: None,
            writer: None,
        }
    }

    /// Neither side may say anything more.
    pub(super) fn is_closed(&self) -> bool {
        self.far == Far::Reset || (self.near == Near::Ended && self.far == Far::Ended)
    }

    /// The other side of the caller has not said a word.
    pub(super) fn is_unanswered(&self) -> bool {
        self.received == 0 && self.far == Far::Open
    }

    /// We have not said a word.
    pub(super) fn is_silent(&self) -> bool {
        self.sent == 0 && self.near == Near::Open
    }

    /// Bytes arrive; whether the window has room for them.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> bool {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let Some(window) = self.window.checked_sub(length) else { return false };
        self.window = window;
        self.since = self.since.saturating_add(length);
        self.received = self.received.saturating_add(u64::from(length));
        self.inbox.extend(bytes);
        self.reader.take().into_iter().for_each(Waker::wake);
        true
    }

    /// Moves from the inbox as much as there is room for; its memory goes back when it is empty.
    pub(super) fn take(&mut self, buf: &mut ReadBuf<'_>) -> u64 {
        let before = self.inbox.len();
        let most = before.min(buf.remaining());
        let (front, back) = self.inbox.as_slices();
        let front = front.get(..most.min(front.len())).unwrap_or_default();
        buf.put_slice(front);
        buf.put_slice(back.get(..most - front.len()).unwrap_or_default());
        if most == before {
            self.inbox = VecDeque::new();
        } else {
            self.inbox.drain(..most);
        }
        self.owed = self.owed.saturating_add(u32::try_from(most).unwrap_or(u32::MAX));
        most as u64
    }

    /// Doubles the window of a reader who has used all of it and keeps up, if `room` allows; by how much it grew.
    pub(super) fn grow(&mut self, room: u64) -> u64 {
        let growth = self.size;
        let is_due = self.inbox.is_empty() && self.since >= self.size && self.size < WINDOW_MAX;
        if !is_due || u64::from(growth) > room {
            return 0;
        }
        self.since = 0;
        self.size = self.size.saturating_add(growth);
        self.owed = self.owed.saturating_add(growth);
        u64::from(growth)
    }

    /// The stream is closed; what its window had grown by.
    pub(super) fn shrink(&mut self) -> u64 {
        u64::from(std::mem::replace(&mut self.size, WINDOW).saturating_sub(WINDOW))
    }

    /// Whether credit became due just now.
    pub(super) fn is_credit_due(&mut self) -> bool {
        let is_due = self.far == Far::Open && self.owed >= self.size / 2;
        is_due && !std::mem::replace(&mut self.due, true)
    }

    /// The credit that is due.
    pub(super) fn give_credit(&mut self) -> Option<u32> {
        self.due = false;
        if self.far != Far::Open {
            return None;
        }
        let amount = std::mem::take(&mut self.owed);
        self.window = self.window.saturating_add(amount);
        Some(amount)
    }

    /// Bytes are sent.
    pub(super) fn spend(&mut self, length: usize) {
        self.credit = self.credit.saturating_sub(u32::try_from(length).unwrap_or(u32::MAX));
        self.sent = self.sent.saturating_add(length as u64);
    }

    /// Whether it became a bulk stream just now.
    pub(super) fn becomes_bulk(&mut self) -> bool {
        let is_bulk = self.carried().saturating_sub(self.calm_at) >= BULK_BYTES;
        is_bulk && !std::mem::replace(&mut self.bulk, true)
    }

    /// What was carried so far does not make it a bulk stream any more; whether it was one.
    pub(super) fn calm(&mut self) -> bool {
        self.calm_at = self.carried();
        std::mem::replace(&mut self.bulk, false)
    }

    fn carried(&self) -> u64 {
        self.sent.saturating_add(self.received)
    }

    pub(super) fn is_bulk(&self) -> bool {
        self.bulk
    }

    pub(super) fn wake(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
        self.writer.take().into_iter().for_each(Waker::wake);
    }
}
