//! Waiting for a state with a deadline. The only place that lets time pass.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a state may take before the test fails; generous, because machines are shared.
pub const DEADLINE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(20);

/// Asks until there is an answer, and gives it.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "owns the deadline and the pause between two looks")]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until something accepts connections there.
#[track_caller]
pub fn for_listener(what: &str, address: SocketAddr) {
    until(&format!("{what} to listen on {address}"), || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
    });
}

/// How long something took.
#[expect(clippy::disallowed_methods, reason = "measures for an assertion about promptness")]
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let done = work();
    (done, started.elapsed())
}

/// Lets time pass, for a run whose length is what was asked for.
#[expect(clippy::disallowed_methods, reason = "see the module's head")]
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// One pause between two looks, for a loop that counts them itself.
#[expect(clippy::disallowed_methods, reason = "see the module's head")]
pub fn pause() {
    std::thread::sleep(PAUSE);
}
