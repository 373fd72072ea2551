//! The rules of a session, by name, and the rates that no peer may exceed.
//!
//! # Why
//! The called side allows twice what the calling side takes, so that frames which the network bunched up never look like a
//! flood. A stream that is reset before it was answered is what "rapid reset" floods are made of: it costs the called side
//! a task, a decision and perhaps a connection to its application, and the caller twenty bytes. One that was answered
//! has paid for itself.

use mesh_proto::limit::{Gcra, Rate, Unit};
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Which rule a peer broke; it loses the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// A frame of a kind that does not exist.
    UnknownFrame,
    /// A frame whose flags, length or payload its kind does not have.
    BadFrame,
    /// A frame that only the other side may send, or a second of what comes once.
    WrongSide,
    /// A DATA frame without bytes that ends nothing.
    EmptyData,
    /// Streams are numbered in order, without gaps.
    BadStream,
    /// More streams at once than allowed.
    TooManyStreams,
    /// Streams opened faster than allowed.
    OpenFlood,
    /// Streams reset before they were answered, faster than allowed.
    ResetFlood,
    /// More bytes on a stream than there was credit for.
    CreditExceeded,
    /// Credit in crumbs, or more of it than any window.
    WindowAbuse,
    /// Bytes on a direction that has ended.
    AfterEnd,
    /// More for streams that are gone than can have been under way.
    Stray,
    /// The peer makes us answer and does not read the answers.
    Unread,
    /// The session holds too much of what the worker may buffer.
    Memory,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::UnknownFrame,
        Self::BadFrame,
        Self::WrongSide,
        Self::EmptyData,
        Self::BadStream,
        Self::TooManyStreams,
        Self::OpenFlood,
        Self::ResetFlood,
        Self::CreditExceeded,
        Self::WindowAbuse,
        Self::AfterEnd,
        Self::Stray,
        Self::Unread,
        Self::Memory,
    ];

    /// The word in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownFrame => "mux_unknown_frame",
            Self::BadFrame => "mux_bad_frame",
            Self::WrongSide => "mux_wrong_side",
            Self::EmptyData => "mux_empty_data",
            Self::BadStream => "mux_bad_stream",
            Self::TooManyStreams => "mux_too_many_streams",
            Self::OpenFlood => "mux_open_flood",
            Self::ResetFlood => "mux_reset_flood",
            Self::CreditExceeded => "mux_credit_exceeded",
            Self::WindowAbuse => "mux_window_abuse",
            Self::AfterEnd => "mux_after_end",
            Self::Stray => "mux_stray",
            Self::Unread => "mux_unread",
            Self::Memory => "mux_memory",
        }
    }
}

/// Which end of a session this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Opens streams.
    Caller,
    /// Is sent streams.
    Called,
}

/// What the called side allows in a second, and at once. A core makes some 10,000 connections a second.
const OPENS: (u64, u64) = (20_000, 8_000);
/// The same for resets before an answer.
const RESETS: (u64, u64) = (200, 1_000);

/// The calling side's rates: half of the others.
static CALLER: LazyLock<[Gcra; 2]> =
    LazyLock::new(|| [OPENS, RESETS].map(|(rate, burst)| gcra(rate / 2, burst / 2)));
static CALLED: LazyLock<[Gcra; 2]> = LazyLock::new(|| [OPENS, RESETS].map(|(rate, burst)| gcra(rate, burst)));

fn gcra(amount: u64, burst: u64) -> Gcra {
    Rate { unit: Unit::Connections, amount, per: Duration::from_secs(1), burst }.gcra()
}

/// How fast streams begin and are given up on one session.
#[derive(Debug)]
pub struct Guard {
    rates: &'static [Gcra; 2],
    opens: AtomicU64,
    resets: AtomicU64,
}

impl Guard {
    /// Nothing has happened yet.
    pub fn new(side: Side) -> Self {
        let rates = match side {
            Side::Caller => &*CALLER,
            Side::Called => &*CALLED,
        };
        Self { rates, opens: AtomicU64::new(0), resets: AtomicU64::new(0) }
    }

    /// A stream begins. `now_ns` is the time since the session began.
    ///
    /// # Errors
    /// [`Fault::OpenFlood`].
    pub fn open(&self, now_ns: u64) -> Result<(), Fault> {
        let [opens, _] = self.rates;
        opens.take(&self.opens, now_ns, 1).map_err(|_| Fault::OpenFlood)
    }

    /// A stream is reset before it was answered; counts in any case.
    ///
    /// # Errors
    /// [`Fault::ResetFlood`].
    pub fn reset(&self, now_ns: u64) -> Result<(), Fault> {
        let [_, resets] = self.rates;
        match resets.charge(&self.resets, now_ns, 1) {
            Duration::ZERO => Ok(()),
            _ => Err(Fault::ResetFlood),
        }
    }

    /// Whether another stream may begin and be given up at once without exceeding anything.
    pub fn has_room(&self, now_ns: u64) -> bool {
        let [_, resets] = self.rates;
        // Taken from a copy: nothing is counted.
        let copy = AtomicU64::new(self.resets.load(std::sync::atomic::Ordering::Relaxed));
        resets.take(&copy, now_ns, 1).is_ok()
    }
}
