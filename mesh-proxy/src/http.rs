//! HTTP on the request path: one canonical request, HTTP/1 by our own codec, HTTP/2 by the `h2` crate.
//!
//! `inbound::http` and `outbound::http` read a head ([`h1`] or [`h2pump`]), make a [`canonical::Canonical`] of it, judge
//! that, and hand it to [`exchange::forward`] or [`h2pump::forward`]. Nothing in here decides about access, opens
//! connections, logs or counts metrics.
//!
//! # Why
//! hyper drops a `Content-Length` that stands beside a `Transfer-Encoding` without a trace, and httparse takes a bare LF
//! for the end of a line. What has two readings must be refused, so framing is read at the level of bytes. On this class
//! of machine an own codec costs 13.1 µs for each proxy and request, hyper with hyper-util 20.8 µs.

pub mod bodies;
pub mod canonical;
pub mod exchange;
mod field;
pub mod h1;
pub mod h2pump;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a caller or an origin may ask of a connection. Every wait and every buffer of this module has its bound here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of an HTTP/1 head, start line and fields together. 64 KiB is what nginx and Envoy (60 KiB) take at most.
    pub head_bytes_max: usize,
    /// Fields of a head. 100 as in Envoy and httparse's users.
    pub fields_max: usize,
    /// Bytes of a trailer section.
    pub trailer_bytes_max: usize,
    /// Decoded bytes of an HTTP/2 header list, by the count of RFC 9113, section 6.5.2.
    pub h2_header_list_bytes_max: u32,
    /// Streams a caller may have open on one HTTP/2 connection.
    pub h2_streams_max: u32,
    /// Flow-control window of one HTTP/2 stream.
    pub h2_stream_window: u32,
    /// Bytes of HTTP/2 bodies that the process holds for receivers that take none, or until a request need not be sent
    /// again. What does not fit is refused or cut off.
    pub h2_held_bytes_max: usize,
    /// Streams that the peer of one HTTP/2 connection may reset at once. Connections that carry many callers (between
    /// proxies) get more, so that one caller's resets do not end what others share.
    pub h2_resets_burst: u32,
    /// What comes back of it each second. Rapid reset attacks send 100,000.
    pub h2_resets_per_second: u32,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// For the next request on a connection.
    pub idle_timeout: Duration,
    /// Without a byte moved while a message is under way and the caller is the one to move it. It is kept to within one
    /// half more: progress is looked at on a timer, so that the request path reads no clock.
    pub progress_timeout: Duration,
    /// Without a byte moved in either direction while the origin is awaited.
    pub exchange_timeout: Duration,
    /// Without a byte moved in either direction of a gRPC call: those that watch something are quiet for long, and a caller
    /// that wants less says so itself (`grpc-timeout`).
    pub grpc_quiet_timeout: Duration,
    /// For the receiver of an HTTP/2 body to take something, while more than half of `h2_held_bytes_max` is held. A
    /// window that is opened at all is opened within a round trip.
    pub pressure_timeout: Duration,
    /// To write out a last answer and to wait for the caller's end before a connection is closed.
    pub linger_timeout: Duration,
    /// Interim (1xx) responses passed on for one request.
    pub interim_max: u32,
    /// Bytes of a request body; `None`: any.
    pub body_bytes_max: Option<u64>,
    /// Told of payload bytes as they pass, where a limit counts them; whoever drives the exchange slows it down.
    pub passed: Option<Passed>,
}

/// Payload bytes that one exchange has moved so far, both directions together.
#[derive(Clone, Debug, Default)]
pub struct Passed(Arc<AtomicU64>);

impl Passed {
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl PartialEq for Passed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Passed {}

impl Limits {
    /// So many payload bytes have passed.
    pub(crate) fn tell_passed(&self, bytes: u64) {
        if let Some(Passed(passed)) = &self.passed {
            passed.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 64 * 1024,
            fields_max: 100,
            trailer_bytes_max: 8 * 1024,
            h2_header_list_bytes_max: 16 * 1024,
            h2_streams_max: 100,
            h2_stream_window: 256 * 1024,
            h2_held_bytes_max: 32 * 1024 * 1024,
            h2_resets_burst: 500,
            h2_resets_per_second: 200,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            progress_timeout: Duration::from_secs(60),
            exchange_timeout: Duration::from_secs(300),
            grpc_quiet_timeout: Duration::from_secs(3600),
            pressure_timeout: Duration::from_secs(1),
            linger_timeout: Duration::from_secs(2),
            interim_max: 8,
            body_bytes_max: None,
            passed: None,
        }
    }
}

impl Limits {
    /// Flow-control window of an HTTP/2 connection: that of all its streams together, so that a stream whose receiver takes
    /// nothing costs the others no credit. At most 2^31-1 (RFC 9113, section 6.9.1).
    pub fn h2_connection_window(&self) -> u32 {
        self.h2_streams_max.saturating_mul(self.h2_stream_window).min(i32::MAX.unsigned_abs())
    }
}

/// What an exchange moved, for the access log, metrics and limits that count bytes. Added to, never reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meter {
    /// From the caller: body, or bytes of a tunnel.
    pub request_bytes: u64,
    /// To the caller: body, or bytes of a tunnel.
    pub response_bytes: u64,
    /// The final status that the origin gave; 0 while there is none.
    pub status: u16,
    /// gRPC: the value of `grpc-status`, from the headers or trailers.
    pub grpc_status: Option<u8>,
}

/// Who answers an exchange. Decides which of our own response fields may come from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The workload itself: `x-mesh-*` in its answers is removed.
    Application,
    /// Another proxy of the mesh: its `x-mesh-reason` and `x-mesh-decision` are passed on.
    MeshPeer,
}

/// Whether a request may be sent once more, on another connection.
///
/// # Why
/// Retrying what may have been processed charges cards twice. `Safe` is given only where the origin cannot have seen
/// the whole request: nothing was sent yet; or a meshed peer ended the connection cleanly before any byte of an answer,
/// which our proxies do only when they have read no byte of a request; or the peer said so (GOAWAY, REFUSED_STREAM, a
/// `connect_failed` of a peer's proxy, whose application took no connection).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// Provably unprocessed; nothing of the request was used up.
    Safe,
    /// A reused connection ended before any byte of an answer and no body was used up: safe for methods that are
    /// idempotent (RFC 9112, section 9.3.1).
    IfIdempotent,
    /// Not, or no longer.
    Never,
}

/// Why an exchange did not end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What to tell the caller, and whose fault it is: 4xx is the caller's.
    pub refusal: crate::refusal::Refusal,
    /// Whether the caller has seen any byte of an answer (interim ones included); if so, only cutting it off is left,
    /// which has been arranged. If not, the caller of `forward` retries or refuses.
    pub answered: bool,
    /// Whether another connection may be tried.
    pub retry: Retry,
}
