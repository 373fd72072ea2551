//! The data path's one reading of the clock.
//!
//! Loops that own a connection read it here, once for each request or wake, and pass the time on as an argument.
//! Decisions (`limit`, `balance`, `mesh_proto::policy`) never call this.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic time.
pub(crate) fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the loops that own connections take their time from here")]
    Instant::now()
}

/// The wall clock, as time since the Unix epoch; zero before it.
pub(crate) fn since_epoch() -> Duration {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The wall clock.
pub(crate) fn wall() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the loops that own connections take their time from here")]
    SystemTime::now()
}

/// Milliseconds since the Unix epoch, for logs and reports.
pub(crate) fn unix_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

/// A duration in whole microseconds, for counters.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
