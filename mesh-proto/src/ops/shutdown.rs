//! The end of a process: SIGTERM or SIGINT asks for it once, politely; a second signal does not wait.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal, as shells report it for SIGINT.
const IMPATIENT_EXIT_CODE: i32 = 130;

/// Waits for SIGTERM or SIGINT and cancels the token. A second signal while draining ends the process at once.
///
/// Run it as a task that `app` owns: it does not return by itself, so drop it with the runtime.
///
/// # Errors
/// When the process may not listen for signals.
pub async fn signal_cancels(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    for first in [true, false] {
        // Both branches are cancel-safe: a signal that is not received here stays for the next call.
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if first {
            tracing::info!(signal = name, "shutting down; a second signal ends at once");
            shutdown.cancel();
        }
    }
    std::process::exit(IMPATIENT_EXIT_CODE)
}
