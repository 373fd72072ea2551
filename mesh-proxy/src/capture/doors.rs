//! The sockets that stand inside a captured namespace, and the name server behind two of them.
//!
//! `app` binds them at the start, deals the connections' one out to the data threads and runs the name server on the
//! control thread.

use super::dialer::Dialer;
use super::dns::{NameServer, Services, serve_tcp, serve_udp};
use super::namespace::Namespace;
use super::rules::{DNS_PORT, OUTBOUND_PORT};
use super::vip::VirtualAddresses;
use crate::ProxyError;
use crate::discovery::Applied;
use crate::listen::{self, Bound};
use mesh_proto::config::Subject;
use mesh_proto::name::ServiceRef;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};

/// How long a query for a name that was never asked for waits until the control plane has told of the service. Shorter
/// than the five seconds after which a resolver asks again.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(1);

/// The sockets inside.
pub(crate) struct Doors {
    /// Where redirected connections arrive.
    pub(crate) outbound: Bound,
    /// What the addresses mean that the name server gives out.
    pub(crate) addresses: Arc<VirtualAddresses>,
    /// The way to the workload's own ports.
    pub(crate) dialer: Dialer,
    /// Where redirected queries arrive.
    pub(crate) names: NameSockets,
}

/// The name server's sockets.
///
/// Datagrams have one for each family, bound to the very address that redirected queries arrive at: an answer from
/// another address of the namespace would not be taken for one.
pub(crate) struct NameSockets {
    udp_v4: std::net::UdpSocket,
    udp_v6: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

impl Doors {
    /// Binds everything; both families by one socket each.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or something listens there already.
    pub(crate) fn bind(namespace: &Namespace, workers: usize) -> Result<Self, ProxyError> {
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let outbound =
            namespace.enter(|| listen::bind(any(OUTBOUND_PORT), "the workload's connections", workers))??;
        Ok(Self {
            outbound,
            addresses: Arc::default(),
            dialer: Dialer::start(namespace)?,
            names: NameSockets {
                udp_v4: namespace.bind_udp((Ipv4Addr::LOCALHOST, DNS_PORT).into())?,
                udp_v6: namespace.bind_udp((Ipv6Addr::LOCALHOST, DNS_PORT).into())?,
                tcp: namespace.listen(any(DNS_PORT))?,
            },
        })
    }
}

/// Answers the workload's queries until a socket fails, which none does while the namespace lives.
pub(crate) async fn answer_names(server: NameServer<Known>, sockets: NameSockets) {
    let serving = async {
        let NameSockets { udp_v4, udp_v6, tcp } = sockets;
        let (udp_v4, udp_v6) = (UdpSocket::from_std(udp_v4)?, UdpSocket::from_std(udp_v6)?);
        let tcp = TcpListener::from_std(tcp)?;
        tokio::try_join!(serve_udp(&server, &udp_v4), serve_udp(&server, &udp_v6), serve_tcp(&server, &tcp))
    };
    if let Err(error) = serving.await {
        tracing::error!(%error, "the workload's name server ended; its calls by name fail until the sidecar is restarted");
    }
}

/// The services that the configuration knows, or that the control plane knows when asked.
pub(crate) struct Known {
    /// The configuration.
    pub(crate) applied: watch::Receiver<Option<Arc<Applied>>>,
    /// Destinations to subscribe to.
    pub(crate) wanted: mpsc::Sender<Subject>,
}

impl Services for Known {
    async fn exists(&self, service: &ServiceRef) -> bool {
        let knows = |applied: &Option<Arc<Applied>>| {
            applied.as_ref().is_some_and(|applied| applied.snapshot.destinations.contains_key(service))
        };
        let mut applied = self.applied.clone();
        if knows(&applied.borrow_and_update()) {
            return true;
        }
        // Full: very many names are being asked for; the resolver asks again.
        let _ = self.wanted.try_send(Subject::Service(service.clone()));
        let arrived = applied.wait_for(knows);
        tokio::time::timeout(DISCOVERY_TIMEOUT, arrived).await.is_ok_and(|arrived| arrived.is_ok())
    }
}
