//! What arrives: each frame against the rules, then to its stream.

use super::entry::{Entry, Far, Near};
use super::{Arrival, GATHER_MAX, State};
use crate::mux::frame::{CREDIT_MIN, Event, Inside};
use crate::mux::guard::{Fault, Side};
use crate::mux::{STREAMS_MAX, WINDOW_MAX};
use std::task::Waker;

/// Answers that may wait for a peer that does not read, beside what was gathered.
const UNREAD_MAX: usize = GATHER_MAX * 2;
/// Most bytes of all sessions of a worker that arrived and were not read yet. Beyond, no stream begins, and sessions that
/// hold more than a sixteenth of it are closed.
const BUFFERED_MAX: u64 = 64 * 1024 * 1024;
/// What a frame for a stream that is gone costs of the allowance.
const STRAY_FRAME: u64 = 8;

impl State {
    /// Takes what arrived. Times are since the session began.
    ///
    /// # Errors
    /// The peer broke a rule; the session must be closed.
    pub fn receive(&mut self, mut bytes: &[u8], now_ns: u64) -> Result<(), Fault> {
        self.now_ns = now_ns;
        self.heard_ns = now_ns;
        self.asked_ns = None;
        while let Some(event) = self.decoder.next(&mut bytes)? {
            self.take(event)?;
        }
        if self.out.len() > UNREAD_MAX {
            return Err(Fault::Unread);
        }
        if self.budget.buffered() > BUFFERED_MAX && self.buffered > BUFFERED_MAX / 16 {
            return Err(Fault::Memory);
        }
        Ok(())
    }

    fn take(&mut self, event: Event<'_>) -> Result<(), Fault> {
        match event {
            Event::Open { stream, name, inside, asks } if self.side == Side::Called => {
                self.opened(stream, name, inside)?;
                if asks {
                    self.send(&Event::Here);
                }
                Ok(())
            }
            Event::GoAway { last } if self.side == Side::Caller && !self.gone_away => self.goes_away(last),
            Event::Here if self.awaited > 0 => {
                self.awaited -= 1;
                Ok(())
            }
            Event::Open { .. } | Event::GoAway { .. } | Event::Here => Err(Fault::WrongSide),
            Event::Data { stream, bytes } => self.arrived(stream, bytes),
            Event::End { stream } => {
                let Some(entry) = self.known(stream, STRAY_FRAME)? else { return Ok(()) };
                if entry.far != Far::Open {
                    return Err(Fault::AfterEnd);
                }
                entry.far = Far::Ended;
                entry.reader.take().into_iter().for_each(Waker::wake);
                self.settle(stream);
                Ok(())
            }
            Event::Credit { stream, amount } => {
                if amount < CREDIT_MIN {
                    return Err(Fault::WindowAbuse);
                }
                let Some(entry) = self.known(stream, STRAY_FRAME)? else { return Ok(()) };
                let credit = entry.credit.checked_add(amount).filter(|credit| *credit <= WINDOW_MAX);
                entry.credit = credit.ok_or(Fault::WindowAbuse)?;
                entry.writer.take().into_iter().for_each(Waker::wake);
                Ok(())
            }
            Event::Reset { stream } => {
                let Some(entry) = self.known(stream, STRAY_FRAME)? else { return Ok(()) };
                let is_silent = entry.is_silent();
                self.lose(stream);
                if is_silent && self.side == Side::Called {
                    self.guard.reset(self.now_ns)?;
                }
                Ok(())
            }
        }
    }

    fn opened(&mut self, stream: u32, name: String, inside: Inside) -> Result<(), Fault> {
        if self.last.checked_add(1) != Some(stream) {
            return Err(Fault::BadStream);
        }
        if self.open >= STREAMS_MAX {
            return Err(Fault::TooManyStreams);
        }
        self.guard.open(self.now_ns)?;
        self.last = stream;
        let mut entry = Entry::new();
        entry.held = false;
        self.open += 1;
        self.streams.insert(stream, entry);
        if self.leaving {
            // It crossed with our GOAWAY; one that goes on opening has not read it.
            self.late = self.late.saturating_sub(1);
        }
        if self.late == 0 || self.budget.buffered() > BUFFERED_MAX {
            self.reset(stream);
        } else {
            self.arrived.push_back(Arrival { stream, name, inside });
        }
        Ok(())
    }

    fn arrived(&mut self, stream: u32, bytes: &[u8]) -> Result<(), Fault> {
        let length = bytes.len() as u64;
        let Some(entry) = self.known(stream, length)? else { return Ok(()) };
        if entry.far != Far::Open {
            return Err(Fault::AfterEnd);
        }
        if !entry.receive(bytes) {
            return Err(Fault::CreditExceeded);
        }
        if entry.becomes_bulk() {
            self.bulk += 1;
        }
        self.buffered += length;
        self.budget.buffered.set(self.budget.buffered.get() + length);
        Ok(())
    }

    fn goes_away(&mut self, last: u32) -> Result<(), Fault> {
        if last > self.last {
            return Err(Fault::BadStream);
        }
        self.gone_away = true;
        self.leaving = true;
        self.wake_driver();
        Ok(())
    }

    /// The stream is gone by the peer's word.
    fn lose(&mut self, stream: u32) {
        let Some(entry) = self.streams.get_mut(&stream).filter(|entry| !entry.is_closed()) else { return };
        entry.near = Near::Ended;
        entry.far = Far::Reset;
        self.empty(stream);
        self.closed(stream);
    }

    /// The stream that a frame is for. `None`: it is gone, and the frame was perhaps under way.
    fn known(&mut self, stream: u32, cost: u64) -> Result<Option<&mut Entry>, Fault> {
        if stream == 0 || stream > self.last {
            return Err(Fault::BadStream);
        }
        if self.streams.get(&stream).is_none_or(Entry::is_closed) {
            self.stray = self.stray.checked_sub(cost).ok_or(Fault::Stray)?;
            return Ok(None);
        }
        Ok(self.streams.get_mut(&stream))
    }
}
