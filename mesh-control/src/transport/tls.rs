//! The mutual-TLS port: handshakes at once and bounded, each with its deadline; the configuration follows the authority.
//!
//! A peer without a certificate is let in, because a joining machine has none yet; handlers that need an identity refuse
//! it, it can only hold few connections, and not for long. A peer with a bad certificate is refused here, with its own
//! reason in the log and in the metrics.

use super::places::{Bounds, Places};
use super::{ACCEPT_PAUSE, Connection};
use crate::metrics::Metrics;
use mesh_ca::authority::attest::{Caller, TlsCaller};
use mesh_ca::verify::{self, PeerIdentity};
use mesh_proto::identity::SpiffeId;
use rustls::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// Connections of all identities: two for each of 5,000 proxies, and some that are being replaced. One identity may have
/// a thousand instances; a compromised one cannot take the places of the others.
const BOUNDS: Bounds = Bounds { all: 12_000, each: 3_000 };
/// Connections without a certificate at once, of everybody together: machines that join at this very moment.
const STRANGERS_MAX: usize = 64;
/// How long they may last: asking for a certificate takes a second.
const STRANGER_LIFE: Duration = Duration::from_secs(15);
/// Handshakes at once. One costs about 0.3 ms of CPU and 20 KiB; whoever wants to block the others with handshakes that do
/// not go on has to keep this many open, and loses each after the deadline.
const HANDSHAKES_MAX: usize = 1_024;
/// A handshake takes two round trips; who needs longer is not there.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// What a finished handshake leaves.
pub(crate) type Stream = TlsStream<TcpStream>;

/// What the acceptor works with.
pub(crate) struct Acceptor {
    /// Where connections arrive.
    pub(crate) listener: TcpListener,
    /// The present configuration; replaced when the certificate, a bundle or a revocation changes.
    pub(crate) config: watch::Receiver<Arc<ServerConfig>>,
    /// Who takes finished connections.
    pub(crate) accepted: mpsc::Sender<io::Result<Connection<Stream>>>,
    /// Where refused handshakes are counted.
    pub(crate) metrics: Arc<Metrics>,
}

impl Acceptor {
    /// Accepts until `shutdown`; then the handshakes under way are dropped.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let places = Arc::new(Places::new(BOUNDS));
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.try_join_next().is_some() {}
            if handshakes.len() >= HANDSHAKES_MAX {
                handshakes.join_next().await;
                continue;
            }
            // Cancel safe: `accept` loses no connection.
            let connection = tokio::select! {
                () = shutdown.cancelled() => return,
                connection = self.listener.accept() => connection,
            };
            match connection {
                Ok((stream, peer)) => {
                    let acceptor = TlsAcceptor::from(self.config.borrow().clone());
                    let (accepted, metrics, places) =
                        (self.accepted.clone(), self.metrics.clone(), places.clone());
                    handshakes.spawn(async move {
                        match handshake(acceptor, stream, peer, &places).await {
                            // Nobody takes connections any more only during shutdown.
                            Ok(connection) => drop(accepted.send(Ok(connection)).await),
                            Err(reason) => {
                                metrics.handshake_refused(reason);
                                tracing::info!(%peer, reason, "handshake refused");
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Finishes one handshake, or says why not in a word of a closed set.
async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    places: &Places<Option<SpiffeId>>,
) -> Result<Connection<Stream>, &'static str> {
    // Acks and updates are small and wanted at once. The connection works without it, too.
    let _ = stream.set_nodelay(true);
    let done = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await;
    let stream = done
        .map_err(|_| "timeout")?
        .map_err(|error| verify::handshake_error(&error).map_or("tls", |reason| reason.code()))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer: Option<Arc<PeerIdentity>> = match chain {
        [] => None,
        chain => Some(Arc::new(verify::peer_identity(chain).map_err(|reason| reason.code())?)),
    };
    let id = peer.as_ref().map(|peer| peer.id.clone());
    let each = if id.is_some() { BOUNDS.each } else { STRANGERS_MAX };
    let place = places.take(id.clone(), each).ok_or("too_many_connections")?;
    let connection = Connection::new(stream, Caller::Tls(TlsCaller { address, peer }), place);
    Ok(if id.is_some() { connection } else { connection.for_at_most(STRANGER_LIFE) })
}
