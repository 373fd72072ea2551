//! The wiring diagram: every thread and every task that outlives a connection, who owns it, how it ends.

use crate::{Config, ProxyError, Ready};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// See [`crate::run`].
pub(crate) async fn run(
    config: Config,
    ready: oneshot::Sender<Ready>,
    shutdown: CancellationToken,
) -> Result<(), ProxyError> {
    drop((config, ready, shutdown));
    Err(ProxyError::Identity { problem: "the data path is not wired yet".to_owned() })
}
