//! Which endpoint takes a request. Pure arithmetic over what the caller measured; never connects, never reads a clock.
//!
//! # Why
//! Two random choices with peak-EWMA latency need no shared queue, react to a slow endpoint within one answer and keep
//! p99 near that of the best endpoint. Round robin lost: it sends as much to the slow one as to the others. Least
//! outstanding requests alone lost: an endpoint that fails fast looks idle.

pub(crate) mod ewma;
pub(crate) mod p2c;
