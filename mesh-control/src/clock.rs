//! The one place where the control plane reads the time of day.
//!
//! Everything that decides takes the time as an argument; request handlers and the loops that own a timer ask here, once
//! for each request or turn, and pass it on.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock, for certificates and for what people read.
pub(crate) fn wall() -> SystemTime {
    #[expect(
        clippy::disallowed_methods,
        reason = "the edge where time enters; everything behind takes it as an argument"
    )]
    SystemTime::now()
}

/// The monotonic clock, for how long something took.
pub(crate) fn monotonic() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "the edge where time enters; everything behind takes it as an argument"
    )]
    Instant::now()
}

/// Milliseconds since the epoch, as the wire carries times; 0 before it.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The time that milliseconds since the epoch name, as the wire carries times.
pub(crate) fn of_unix_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
}

/// Seconds since the epoch, as policies count time; 0 before it.
pub(crate) fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whole milliseconds; everything above 2^64 is 2^64 - 1.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole microseconds; everything above 2^64 is 2^64 - 1.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
