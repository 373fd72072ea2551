//! The Unix socket: each connection is known by the kernel's word on its peer.

use super::places::{Bounds, Places};
use super::{ACCEPT_PAUSE, Connection};
use mesh_ca::authority::attest::{Caller, UnixCaller};
use std::io;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Connections of all users. Each workload connects for the moment it needs a certificate: this is a machine with a
/// thousand of them starting together.
const BOUNDS: Bounds = Bounds { all: 1_200, each: 1_000 };
/// Connections of one user who is neither the owner nor root: any user of the machine may connect, so this is what a
/// hostile one can take.
const STRANGER_CONNECTIONS_MAX: usize = 32;
/// How long a stranger's connection lives; it holds a role or a workload, and comes back when it needs to.
const STRANGER_LIFE: Duration = Duration::from_secs(3600);

/// Accepts until `shutdown`, handing connections to `accepted`. A caller who has too many is cut off.
pub(crate) async fn accept(
    listener: UnixListener,
    accepted: mpsc::Sender<io::Result<Connection<UnixStream>>>,
    owner: u32,
    shutdown: CancellationToken,
) {
    let places = Places::new(BOUNDS);
    loop {
        // Cancel safe: `accept` loses no connection.
        let connection = tokio::select! {
            () = shutdown.cancelled() => return,
            connection = listener.accept() => connection,
        };
        let (stream, peer) = match connection.and_then(|(stream, _)| Ok((stream.peer_cred()?, stream))) {
            Ok((peer, stream)) => (stream, peer),
            Err(error) => {
                tracing::warn!(%error, "a connection to the control socket could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let uid = peer.uid();
        let is_stranger = uid != owner && uid != 0;
        let each = if is_stranger { STRANGER_CONNECTIONS_MAX } else { BOUNDS.each };
        let Ok(place) = places.take(uid, each) else {
            tracing::warn!(uid, "too many connections to the control socket at once; this one is closed");
            continue;
        };
        let connection = Connection::new(stream, Caller::Unix(UnixCaller { uid, pid: peer.pid() }), place);
        let connection = if is_stranger { connection.for_at_most(STRANGER_LIFE) } else { connection };
        if accepted.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}
