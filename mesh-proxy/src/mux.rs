//! `mesh-mux`: many connections between two proxies, opaque or HTTP/1, over few mutual TLS sessions.
//!
//! `outbound::sessions` keeps the sessions of the calling side and opens streams on them; `inbound::mux` takes streams on
//! the called side and has each judged like a connection. A [`stream::Stream`] reads and writes like a socket. Nothing here
//! knows policies, identities or TLS, and a session never serves two source identities: its TLS session belongs to one.
//!
//! ```text
//! frame   kind u8 │ flags u8 │ length u16 │ stream u32, then `length` bytes; big-endian
//!   OPEN    caller → called: stream `last + 1`; the payload is what a connection's SNI says, `<port>.<service>.<ns>.<td>`.
//!           Flag 1: answer with HERE at once, so that a dead session is noticed. Flag 2: the bytes are HTTP/1.
//!   DATA    1..=16 KiB of the stream's bytes, within its credit. Flag 1: our direction ends after them (then 0 is fine).
//!   CREDIT  u32 more bytes may be sent
//!   RESET   both directions end at once, like a TCP reset
//!   GOAWAY  called → caller: open no more here. `stream` is the last one seen; those under way are still taken
//!   HERE    called → caller: the answer to OPEN with flag 1
//! stream  each direction: open ─FIN─▶ ended; either side: any ─RESET─▶ gone. Gone when both directions have ended.
//! session open ─▶ leaving (own certificate or trust changed, GOAWAY either way, idle, ids used up) ─last stream─▶ closed
//!         The caller closes, since it alone knows that no OPEN is under way; the called side waits for that a moment.
//!         any ─▶ closed with a [`Fault`], or when TLS ends: all its streams are reset
//! ```
//!
//! What a peer may cost is bounded: [`STREAMS_MAX`] streams, [`WINDOW`] unread bytes for each that grow only for a reader
//! that keeps up and only within a budget of session and worker, a rate for opening ([`guard`]), one for resetting what
//! was not answered yet, no frame that costs its sender nothing. Whoever breaks a rule loses the session, with the rule's
//! name in log and metric; our own calling side keeps well within.
//!
//! # Why
//! A handshake for each TCP connection was nearly the whole cost of a new one; figures stand in `outbound::sessions`.
//! CONNECT over HTTP/2, as ztunnel does it, carries headers, two windows and a codec of thousands of lines for what are six
//! frames here, and yamux has no way to say which port is meant and one window size for all. Frames are gathered: what
//! all streams write in one turn of the loop leaves as one write.
//!
//! HTTP/1 goes through unchanged: no second codec stands between the head that was judged and the one that is sent, and a
//! stream that is kept needs no OPEN.
//!
//! A stream that has carried [`BULK_BYTES`] makes its session its own: new streams go to another. Moving the bulk stream
//! itself would need a hand-over between two TLS sessions in both directions, perhaps of two workers; its port is
//! remembered instead, and the next connection to it begins with a session of its own.

pub(crate) mod drive;
pub mod frame;
pub mod guard;
pub mod state;
pub(crate) mod stream;

pub use guard::Fault;

/// Streams open at once on one session. A gathered write of 256 small frames fills one TLS record.
pub const STREAMS_MAX: usize = 256;
/// Bytes of one stream that may be sent before its reader has taken any: what a tunnel of its own may hold, too.
pub const WINDOW: u32 = 32 * 1024;
/// How far the window of a stream grows whose reader keeps up: 100 ms at 80 Mbit/s.
pub const WINDOW_MAX: u32 = 1024 * 1024;
/// What all windows of a session may grow by.
pub const GROWTH_MAX: u64 = 4 * 1024 * 1024;
/// A stream that has carried this much is a bulk stream; one of HTTP/1, since its latest exchange began.
pub const BULK_BYTES: u64 = 1024 * 1024;
