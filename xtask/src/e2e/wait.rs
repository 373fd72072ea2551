//! Waiting for a state, with a deadline that names what was missing.

use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// How often a state is looked at. Each look starts a `kubectl`, which costs about 50 ms.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Looks until `state` is there, and gives it; the error of the last look says what was missing.
pub(super) fn until<T>(what: &str, within: Duration, mut state: impl FnMut() -> Result<T>) -> Result<T> {
    let started = now();
    loop {
        match state() {
            Ok(found) => return Ok(found),
            Err(error) if started.elapsed() >= within => {
                return Err(error).with_context(|| format!("waited {within:?} for {what}"));
            }
            Err(_) => pause(LOOK_EVERY),
        }
    }
}

/// The time, for whoever measures.
pub(super) fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a deadline on a foreign program's state")]
    Instant::now()
}

/// Blocks; for looking again, and where a load must run for a while.
pub(super) fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the thread has nothing else to do")]
    std::thread::sleep(time);
}
