//! One end of a session without its socket: frames in, frames out, streams between. Reads no clock and does no I/O.
//!
//! `drive` feeds it what arrived and sends what it gathered; streams read and write here. One thread, so no lock: whoever
//! must wait leaves a waker.
//!
//! # Why
//! What a stream writes is framed at once into the common output while that is short and nobody waits; beyond, each
//! stream keeps up to [`OUTBOX_MAX`] and they take turns, a frame each. So a small message is copied once and costs no
//! queue, a bulk stream cannot crowd out the others, and one that is slowed down holds up nobody. Credit is given when
//! frames are gathered, so that however much is read there is one CREDIT for each stream.

mod entry;
mod receive;

use super::frame::{DATA_BYTES_MAX, Event, Inside, Last, data, encode};
use super::guard::{Guard, Side};
use super::{GROWTH_MAX, STREAMS_MAX};
use entry::{Entry, Far, Near};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::io::ReadBuf;

/// What one write may put into the common output while nobody waits.
const FAST_MAX: usize = 32 * 1024;
/// What is gathered for one write to TLS: four full records.
pub const GATHER_MAX: usize = 64 * 1024;
/// What one stream keeps until its turn comes.
pub const OUTBOX_MAX: usize = 32 * 1024;
/// A session from which nothing was heard for so long is asked for a sign of life by the next OPEN, and has as long to
/// give it: that of a connection's own opening.
const SILENCE_MAX_NS: u64 = 1_000_000_000;
/// Streams of one session before it is replaced, so that numbers never run out.
const STREAMS_EVER_MAX: u32 = 1 << 30;
/// What all sessions of a worker may grow windows by.
const WORKER_GROWTH_MAX: u64 = 64 * 1024 * 1024;
/// For frames that were under way when their stream went: END, RESET, some CREDIT.
const STRAY_FRAMES: u64 = 128;

/// What all sessions of one worker hold.
#[derive(Debug, Default)]
pub struct Budget {
    /// Bytes that arrived and were not read yet.
    buffered: Cell<u64>,
    /// What windows have grown by.
    grown: Cell<u64>,
}

impl Budget {
    /// Bytes that arrived and were not read yet.
    pub fn buffered(&self) -> u64 {
        self.buffered.get()
    }
}

/// A stream that the peer has opened and nobody has taken yet.
#[derive(Debug)]
pub struct Arrival {
    /// Its number.
    pub stream: u32,
    /// What it is for, as the peer says.
    pub name: String,
    /// What its bytes are, as the peer says.
    pub inside: Inside,
}

/// One end of a session.
#[derive(Debug)]
pub struct State {
    side: Side,
    decoder: super::frame::Decoder,
    streams: HashMap<u32, Entry, BuildHasherDefault<ByNumber>>,
    /// Streams that count: not reset, not ended in both directions.
    open: usize,
    bulk: usize,
    last: u32,
    out: Vec<u8>,
    /// Streams with something in their outbox, in turn.
    ready: VecDeque<u32>,
    /// Streams whose reader is owed credit.
    due: Vec<u32>,
    arrived: VecDeque<Arrival>,
    guard: Guard,
    budget: Rc<Budget>,
    buffered: u64,
    grown: u64,
    /// What may still come for streams that are gone.
    stray: u64,
    leaving: bool,
    /// The peer said GOAWAY.
    gone_away: bool,
    /// Streams that may still arrive after our GOAWAY: what the peer can have had under way.
    late: usize,
    /// Whether the called side may close as well.
    closing: bool,
    dead: bool,
    now_ns: u64,
    heard_ns: u64,
    asked_ns: Option<u64>,
    /// HERE frames that were asked for.
    awaited: u32,
    driver: Option<Waker>,
}

impl State {
    /// A session that has just begun.
    pub fn new(side: Side, budget: Rc<Budget>) -> Self {
        Self {
            side,
            decoder: super::frame::Decoder::default(),
            streams: HashMap::default(),
            open: 0,
            bulk: 0,
            last: 0,
            out: Vec::new(),
            ready: VecDeque::new(),
            due: Vec::new(),
            arrived: VecDeque::new(),
            guard: Guard::new(side),
            budget,
            buffered: 0,
            grown: 0,
            stray: 0,
            leaving: false,
            gone_away: false,
            late: super::STREAMS_MAX,
            closing: false,
            dead: false,
            now_ns: 0,
            heard_ns: 0,
            asked_ns: None,
            awaited: 0,
            driver: None,
        }
    }

    /// Opens a stream, where there is room for one. Times are since the session began.
    pub fn open(&mut self, name: &str, inside: Inside, now_ns: u64) -> Option<u32> {
        if !self.has_room(now_ns) || self.guard.open(now_ns).is_err() {
            return None;
        }
        self.last += 1;
        let stream = self.last;
        let silent = now_ns.saturating_sub(self.heard_ns) > SILENCE_MAX_NS;
        let asks = silent && self.asked_ns.is_none();
        if asks {
            self.asked_ns = Some(now_ns);
            self.awaited += 1;
        }
        self.now_ns = now_ns;
        self.streams.insert(stream, Entry::new());
        self.open += 1;
        self.leaving |= stream >= STREAMS_EVER_MAX;
        self.send(&Event::Open { stream, name: name.to_owned(), inside, asks });
        Some(stream)
    }

    /// Whether another stream may be opened: the session goes on, is heard of, and nothing of its limits is used up.
    pub fn has_room(&self, now_ns: u64) -> bool {
        let is_doubtful = self.asked_ns.is_some_and(|at| now_ns.saturating_sub(at) > SILENCE_MAX_NS);
        !self.is_leaving()
            && !is_doubtful
            && self.open < STREAMS_MAX
            && self.out.len() < GATHER_MAX
            && self.guard.has_room(now_ns)
    }

    /// Whether a bulk stream has the session for itself.
    pub fn is_bulk(&self) -> bool {
        self.bulk > 0
    }

    /// No stream shall be opened any more; those there are go on.
    pub fn leave(&mut self) {
        if !std::mem::replace(&mut self.leaving, true) && self.side == Side::Called {
            self.send(&Event::GoAway { last: self.last });
        }
        self.wake_driver();
    }

    /// The called side, too, may close a session that it has left once it is empty: its peer had time to.
    pub fn close(&mut self) {
        self.closing = true;
        self.wake_driver();
    }

    /// Whether nothing is left to do and nothing can be under way. The called side of a session cannot know that.
    pub fn is_done(&self) -> bool {
        let may_close = self.side == Side::Caller || self.closing;
        self.is_leaving() && self.is_empty() && !self.has_output() && may_close
    }

    /// Whether no stream shall be opened any more.
    pub fn is_leaving(&self) -> bool {
        self.leaving || self.dead
    }

    /// How many streams are held or not done yet.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there is no stream.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Next of the streams that the peer opened. It must be released at some time.
    pub fn arrival(&mut self) -> Option<Arrival> {
        loop {
            let arrival = self.arrived.pop_front()?;
            if let Some(entry) = self.streams.get_mut(&arrival.stream) {
                entry.held = true;
                return Some(arrival);
            }
        }
    }

    /// Bytes held of what the peer sent.
    pub fn buffered(&self) -> u64 {
        self.buffered
    }

    /// Moves what is to be sent next to `sink`, which is empty.
    pub fn gather(&mut self, sink: &mut Vec<u8>) {
        std::mem::swap(&mut self.out, sink);
        for stream in std::mem::take(&mut self.due) {
            let Some(entry) = self.streams.get_mut(&stream) else { continue };
            if let Some(amount) = entry.give_credit() {
                encode(&Event::Credit { stream, amount }, sink);
            }
        }
        while sink.len() < GATHER_MAX
            && let Some(stream) = self.ready.pop_front()
        {
            let Some(entry) = self.streams.get_mut(&stream) else { continue };
            let length = entry.outbox.len().min(DATA_BYTES_MAX);
            let is_all = length == entry.outbox.len();
            let last = if is_all && entry.near == Near::Ending { Last::Yes } else { Last::No };
            if length > 0 || last == Last::Yes {
                data(stream, entry.outbox.get(..length).unwrap_or_default(), last, sink);
            }
            if is_all {
                entry.outbox = Vec::new();
                entry.queued = false;
            } else {
                entry.outbox.drain(..length);
                self.ready.push_back(stream);
            }
            entry.writer.take().into_iter().for_each(Waker::wake);
            if last == Last::Yes {
                entry.near = Near::Ended;
                self.settle(stream);
            }
        }
    }

    /// Whether [`Self::gather`] has something.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty() || !self.ready.is_empty() || !self.due.is_empty()
    }

    /// Wakes this when there is output, or the session shall end.
    pub fn drive_by(&mut self, waker: &Waker) {
        if !self.driver.as_ref().is_some_and(|driver| driver.will_wake(waker)) {
            self.driver = Some(waker.clone());
        }
    }

    /// The session is over: what was not complete is reset.
    pub fn kill(&mut self) {
        self.dead = true;
        for entry in self.streams.values_mut() {
            entry.near = Near::Ended;
            entry.outbox = Vec::new();
            if entry.far == Far::Open {
                entry.far = Far::Reset;
            }
            entry.wake();
        }
        let unheld: Vec<u32> =
            self.streams.iter().filter(|(_, entry)| !entry.held).map(|(id, _)| *id).collect();
        unheld.into_iter().for_each(|stream| self.remove(stream));
        self.wake_driver();
    }

    /// Reads what has arrived of a stream; nothing at its end.
    pub fn read(&mut self, stream: u32, buf: &mut ReadBuf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(entry) = self.streams.get_mut(&stream) else { return Poll::Ready(Err(gone())) };
        if entry.inbox.is_empty() {
            return match entry.far {
                Far::Ended => Poll::Ready(Ok(())),
                Far::Reset => Poll::Ready(Err(gone())),
                Far::Open => {
                    entry.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let read = entry.take(buf);
        self.buffered = self.buffered.saturating_sub(read);
        self.budget.buffered.set(self.budget.buffered.get().saturating_sub(read));
        let room = GROWTH_MAX
            .saturating_sub(self.grown)
            .min(WORKER_GROWTH_MAX.saturating_sub(self.budget.grown.get()));
        let growth = entry.grow(room);
        self.grown += growth;
        self.budget.grown.set(self.budget.grown.get() + growth);
        if entry.is_credit_due() {
            self.due.push(stream);
            self.wake_driver();
        }
        Poll::Ready(Ok(()))
    }

    /// Takes bytes to be sent, as many as there is credit and room for.
    pub fn write(&mut self, stream: u32, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(entry) = self.streams.get_mut(&stream) else { return Poll::Ready(Err(gone())) };
        match (entry.near, entry.far) {
            (_, Far::Reset) => return Poll::Ready(Err(gone())),
            (Near::Open, _) if bytes.is_empty() => return Poll::Ready(Ok(0)),
            (Near::Open, _) => {}
            _ => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
        let is_fast = !entry.queued && self.ready.is_empty() && self.out.len() < FAST_MAX;
        let room = if is_fast { FAST_MAX } else { OUTBOX_MAX.saturating_sub(entry.outbox.len()) };
        let most = room.min(usize::try_from(entry.credit).unwrap_or(usize::MAX));
        let taken = bytes.get(..most.min(bytes.len())).unwrap_or_default();
        if taken.is_empty() {
            entry.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        entry.spend(taken.len());
        if is_fast {
            taken.chunks(DATA_BYTES_MAX).for_each(|chunk| data(stream, chunk, Last::No, &mut self.out));
        } else {
            entry.outbox.extend_from_slice(taken);
            if !std::mem::replace(&mut entry.queued, true) {
                self.ready.push_back(stream);
            }
        }
        if entry.becomes_bulk() {
            self.bulk += 1;
        }
        self.wake_driver();
        Poll::Ready(Ok(taken.len()))
    }

    /// What the stream has carried so far counts no more: its owner keeps it for something else.
    pub fn calm(&mut self, stream: u32) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        if entry.calm() {
            self.bulk = self.bulk.saturating_sub(1);
        }
    }

    /// Our direction of a stream ends after what was written.
    pub fn finish(&mut self, stream: u32) {
        let Some(entry) = self.streams.get_mut(&stream).filter(|entry| entry.near == Near::Open) else {
            return;
        };
        if entry.queued {
            entry.near = Near::Ending;
        } else {
            entry.near = Near::Ended;
            self.send(&Event::End { stream });
            self.settle(stream);
        }
    }

    /// Ends both directions of a stream at once.
    pub fn reset(&mut self, stream: u32) {
        let Some(entry) = self.streams.get_mut(&stream).filter(|entry| !entry.is_closed()) else { return };
        // What was not answered costs the peer more than us; the next OPEN waits until it is paid for.
        if self.side == Side::Caller && entry.is_unanswered() {
            let _ = self.guard.reset(self.now_ns);
        }
        self.stray = self.stray.saturating_add(u64::from(entry.window)).saturating_add(STRAY_FRAMES);
        entry.near = Near::Ended;
        entry.far = Far::Reset;
        self.empty(stream);
        self.send(&Event::Reset { stream });
        self.closed(stream);
    }

    /// Nobody holds the stream any more. What was written and finished is still sent; anything else is a reset.
    pub fn release(&mut self, stream: u32) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        entry.held = false;
        if entry.is_closed() || self.dead {
            self.remove(stream);
        } else if entry.far != Far::Ended || entry.near == Near::Open || !entry.inbox.is_empty() {
            self.reset(stream);
        }
    }

    fn send(&mut self, event: &Event<'_>) {
        encode(event, &mut self.out);
        self.wake_driver();
    }

    fn wake_driver(&mut self) {
        self.driver.take().into_iter().for_each(Waker::wake);
    }

    /// Closes the stream if both directions have ended.
    fn settle(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|entry| entry.near == Near::Ended && entry.far == Far::Ended)
        {
            self.stray = self.stray.saturating_add(STRAY_FRAMES);
            self.closed(stream);
        }
    }

    /// The stream does not count any more; it stays while it is held, so that what arrived can be read.
    fn closed(&mut self, stream: u32) {
        self.open = self.open.saturating_sub(1);
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        if entry.is_bulk() {
            self.bulk = self.bulk.saturating_sub(1);
        }
        let growth = entry.shrink();
        self.grown = self.grown.saturating_sub(growth);
        self.budget.grown.set(self.budget.grown.get().saturating_sub(growth));
        entry.wake();
        if !entry.held {
            self.remove(stream);
        }
    }

    /// Throws away what a stream holds.
    fn empty(&mut self, stream: u32) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        entry.outbox = Vec::new();
        let bytes = std::mem::take(&mut entry.inbox).len() as u64;
        self.buffered = self.buffered.saturating_sub(bytes);
        self.budget.buffered.set(self.budget.buffered.get().saturating_sub(bytes));
    }

    fn remove(&mut self, stream: u32) {
        self.empty(stream);
        self.streams.remove(&stream);
        if self.streams.is_empty() {
            self.wake_driver();
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.budget.buffered.set(self.budget.buffered.get().saturating_sub(self.buffered));
        self.budget.grown.set(self.budget.grown.get().saturating_sub(self.grown));
    }
}

/// Numbers of streams as hashes: they are given in order, so that no peer can make them collide.
#[derive(Debug, Default)]
pub struct ByNumber(u64);

impl Hasher for ByNumber {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // The table looks at the highest bits and the lowest ones (Fibonacci hashing).
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

fn gone() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

#[cfg(test)]
mod tests;
