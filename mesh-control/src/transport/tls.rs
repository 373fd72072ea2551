//! The mutual-TLS port: handshakes at once and bounded, each with its deadline; the configuration follows the authority.
//!
//! A peer without a certificate is let in, because a joining machine has none yet; handlers that need an identity refuse
//! it. A peer with a bad certificate is refused here, with its own reason in the log and in the metrics.

use super::{ACCEPT_PAUSE, Connection};
use crate::metrics::Metrics;
use mesh_ca::authority::attest::{Caller, TlsCaller};
use mesh_ca::verify;
use rustls::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// Connections open at once: two for each of 5,000 proxies, and some that are being replaced.
const CONNECTIONS_MAX: usize = 12_000;
/// Handshakes at once. One costs about 0.3 ms of CPU, so that this many are done in some tenths of a second.
const HANDSHAKES_MAX: usize = 256;
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
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.try_join_next().is_some() {}
            if handshakes.len() >= HANDSHAKES_MAX {
                handshakes.join_next().await;
                continue;
            }
            // Cancel safe: a permit not yet given is not lost, and `accept` loses no connection.
            let next = async {
                let place = places.clone().acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, connection) = tokio::select! {
                () = shutdown.cancelled() => return,
                next = next => next,
            };
            let Ok(place) = place else { return };
            match connection {
                Ok((stream, peer)) => {
                    let acceptor = TlsAcceptor::from(self.config.borrow().clone());
                    let (accepted, metrics) = (self.accepted.clone(), self.metrics.clone());
                    handshakes.spawn(async move {
                        match handshake(acceptor, stream, peer, place).await {
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
    place: OwnedSemaphorePermit,
) -> Result<Connection<Stream>, &'static str> {
    // Acks and updates are small and wanted at once. The connection works without it, too.
    let _ = stream.set_nodelay(true);
    let done = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await;
    let stream = done
        .map_err(|_| "timeout")?
        .map_err(|error| verify::handshake_error(&error).map_or("tls", |reason| reason.code()))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = match chain {
        [] => None,
        chain => Some(Arc::new(verify::peer_identity(chain).map_err(|reason| reason.code())?)),
    };
    Ok(Connection::new(stream, Caller::Tls(TlsCaller { address, peer }), place))
}
