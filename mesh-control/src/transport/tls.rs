//! The mutual-TLS port: handshakes at once and bounded, each with its deadline; the configuration follows the authority.
//!
//! Everybody is a stranger until his certificate has been seen. He must say hello within [`HELLO_DEADLINE`], and only then gets
//! a place for the handshake; [`door`](super::door) sees to it that no host takes the places of the others. A connection
//! for which there is no place is closed at once, never kept waiting, so that the port goes on accepting.
//!
//! A peer without a certificate is let in, because a joining machine has none yet; handlers that need an identity refuse
//! it, it can only hold few connections, and not for long. A peer with a bad certificate is refused here, with its own
//! reason in the log and in the metrics.

use super::door::{Door, Source};
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
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::{StartHandshake, TlsStream};
use tokio_util::sync::CancellationToken;

/// Connections of all identities: two for each of 5,000 proxies, and some that are being replaced. One identity may have
/// a thousand instances; a compromised one cannot take the places of the others.
const BOUNDS: Bounds = Bounds { all: 12_000, each: 3_000 };
/// How long a connection without a certificate may last: asking for one takes a second.
const STRANGER_LIFE: Duration = Duration::from_secs(15);
/// The hello comes with the first packet after the connection's own: who needs longer has nothing to say.
const HELLO_DEADLINE: Duration = Duration::from_secs(1);
/// A handshake takes two round trips, and a busy machine its time; who needs longer is not there.
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
        let reception = Arc::new(Reception {
            door: Door::new(super::door::descriptors()),
            places: Places::new(BOUNDS),
            metrics: self.metrics,
        });
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.try_join_next().is_some() {}
            // Cancel safe: `accept` loses no connection.
            let connection = tokio::select! {
                () = shutdown.cancelled() => return,
                connection = self.listener.accept() => connection,
            };
            let (stream, peer) = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let place = match reception.door.unheard(peer.ip().into()) {
                Ok(place) => place,
                Err(reason) => {
                    reception.refused(peer, reason);
                    continue;
                }
            };
            let (config, accepted, reception) =
                (self.config.clone(), self.accepted.clone(), reception.clone());
            // As many at once as there are places at the door.
            handshakes.spawn(async move {
                let heard = hello(stream).await;
                drop(place);
                let done = match heard {
                    Ok(start) => reception.handshake(start, &config, peer).await,
                    Err(reason) => Err(reason),
                };
                match done {
                    // Nobody takes connections any more only during shutdown.
                    Ok(connection) => drop(accepted.send(Ok(connection)).await),
                    Err(reason) => reception.refused(peer, reason),
                }
            });
        }
    }
}

/// Waits for the hello, or says why it did not come in a word of a closed set.
async fn hello(stream: TcpStream) -> Result<StartHandshake<TcpStream>, &'static str> {
    // Acks and updates are small and wanted at once. The connection works without it, too.
    let _ = stream.set_nodelay(true);
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let heard = tokio::time::timeout(HELLO_DEADLINE, hello).await.map_err(|_| "hello_timeout")?;
    heard.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => "hello_closed",
        _ => "not_tls",
    })
}

/// What a connection is checked against until it is known whose it is.
struct Reception {
    door: Door,
    places: Places<SpiffeId>,
    metrics: Arc<Metrics>,
}

impl Reception {
    fn refused(&self, peer: SocketAddr, reason: &'static str) {
        self.metrics.handshake_refused(reason);
        // Whoever can connect can cause it as often as he likes: the metric is for that, the log is for certificates.
        if SILENT.contains(&reason) || reason.contains("too_many") {
            tracing::debug!(%peer, reason, "connection refused");
        } else {
            tracing::info!(%peer, reason, "handshake refused");
        }
    }

    /// Finishes one handshake, or says why not in a word of a closed set.
    async fn handshake(
        &self,
        start: StartHandshake<TcpStream>,
        config: &watch::Receiver<Arc<ServerConfig>>,
        address: SocketAddr,
    ) -> Result<Connection<Stream>, &'static str> {
        let source = Source::from(address.ip());
        let _place = self.door.handshake(source)?;
        let config = config.borrow().clone();
        let done = tokio::time::timeout(HANDSHAKE_DEADLINE, start.into_stream(config)).await;
        let stream = done
            .map_err(|_| "timeout")?
            .map_err(|error| verify::handshake_error(&error).map_or("tls", |reason| reason.code()))?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        if chain.is_empty() {
            let place = self.door.stranger(source)?;
            let caller = Caller::Tls(TlsCaller { address, peer: None });
            return Ok(Connection::new(stream, caller, place).for_at_most(STRANGER_LIFE));
        }
        let peer: Arc<PeerIdentity> = Arc::new(verify::peer_identity(chain).map_err(|reason| reason.code())?);
        let place = self.places.take(peer.id.clone(), BOUNDS.each).map_err(|_| "too_many_connections")?;
        Ok(Connection::new(stream, Caller::Tls(TlsCaller { address, peer: Some(peer) }), place))
    }
}

/// Reasons that say nothing about anybody.
const SILENT: [&str; 4] = ["hello_timeout", "hello_closed", "not_tls", "timeout"];
