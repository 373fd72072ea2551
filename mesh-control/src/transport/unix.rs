//! The Unix socket: each connection is known by the kernel's word on its peer.

use super::{ACCEPT_PAUSE, Connection};
use mesh_ca::authority::attest::{Caller, UnixCaller};
use std::io;
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Connections open at once. A machine has some hundreds of workloads, each of which connects for the moment it needs a
/// certificate; more than this is somebody's loop, and waits.
const CONNECTIONS_MAX: usize = 512;

/// Accepts until `shutdown`, handing connections to `accepted`. When nobody takes them, or all places are taken, the
/// kernel's backlog holds newcomers.
pub(crate) async fn accept(
    listener: UnixListener,
    accepted: mpsc::Sender<io::Result<Connection<UnixStream>>>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Cancel safe: a permit not yet given is not lost, and `accept` loses no connection.
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, connection) = tokio::select! {
            () = shutdown.cancelled() => return,
            next = next => next,
        };
        let Ok(place) = place else { return };
        match connection.and_then(|(stream, _)| Ok((stream.peer_cred()?, stream))) {
            Ok((peer, stream)) => {
                let caller = Caller::Unix(UnixCaller { uid: peer.uid(), pid: peer.pid() });
                if accepted.send(Ok(Connection::new(stream, caller, place))).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the control socket could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
