//! Connections of a pod to whoever is not of the mesh: carried to where they were going, as they are.
//!
//! The API server, name servers, databases outside: they went there before the pod had a proxy, and still do. Nothing is read,
//! judged or encrypted. Never used for an address that is or may be of the mesh: that one is refused when the control plane
//! cannot be asked.

use super::Outbound;
use crate::connections::{Description, Direction};
use crate::refusal::Refusal;
use crate::transport::Transport;
use crate::{clock, outbound::opaque};
use mesh_proto::policy::model::Protocol;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Time for a host outside of the mesh to accept: it may be on another continent, and the system asks again after one and
/// after three seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Carries the connection to its end.
pub(crate) async fn serve(outbound: &Rc<Outbound>, stream: TcpStream, to: SocketAddr) {
    let worker = &outbound.worker;
    let registration = worker.connections.register(Description {
        direction: Direction::Outbound,
        peer: format!("outside:{}", to.ip()).into(),
        protocol: Some(Protocol::Tcp),
        port: to.port(),
        opened_ms: clock::unix_ms(),
    });
    let mut near = Transport::Plain(stream);
    let mut far = match worker.dialer.connect(to, CONNECT_TIMEOUT).await {
        Ok(far) => Transport::Plain(far),
        Err(error) => {
            near.reset_on_close();
            worker.shard.refused(Direction::Outbound, Refusal::ConnectFailed.label());
            tracing::debug!(%to, %error, "a host outside of the mesh did not answer");
            return;
        }
    };
    let mut tunnel = crate::tunnel::Tunnel::with_prefix(Vec::new());
    if opaque::carry(&worker.scratch, &mut tunnel, &mut near, &mut far).await.is_err() {
        near.reset_on_close();
        far.reset_on_close();
    }
    drop(registration);
}
