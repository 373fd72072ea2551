//! One new connection to an endpoint: TCP, then mutual TLS to exactly the identity that discovery promised.

use super::pool::LaneKey;
use crate::clock;
use crate::connections::Direction;
use crate::discovery::Applied;
use crate::refusal::Refusal;
use crate::transport::{self, Transport};
use crate::worker::Worker;
use mesh_ca::tls::{Alpn, TlsError, server_name};
use mesh_ca::verify::{PeerError, PeerIdentity, handshake_error};
use mesh_proto::identity::SpiffeId;
use rustls::ClientConfig;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Most TLS configurations kept; each is some hundred bytes.
const CONFIGURATIONS_MAX: usize = 2_048;

/// What a peer may choose of.
pub(crate) type Offer = &'static [Alpn];

/// HTTP/1.
pub(crate) const H1: Offer = &[Alpn::MeshH1];
/// HTTP/2.
pub(crate) const H2: Offer = &[Alpn::MeshH2];
/// Bytes.
pub(crate) const BYTES: Offer = &[Alpn::MeshTcp];
/// Many streams; bytes, from a peer that has none.
pub(crate) const STREAMS_OR_BYTES: Offer = &[Alpn::MeshMux, Alpn::MeshTcp];
/// Many streams; HTTP/1, from a peer that has none.
pub(crate) const STREAMS_OR_H1: Offer = &[Alpn::MeshMux, Alpn::MeshH1];

/// A connection that is ready for the first byte of a request.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The bytes.
    pub(crate) transport: Transport,
    /// Who it is; `None` for an unmeshed endpoint or the workload itself.
    pub(crate) peer: Option<Rc<PeerIdentity>>,
    /// What is inside, as both ends agreed; `None` without TLS.
    pub(crate) alpn: Option<Alpn>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody answered.
    #[error("no answer from {endpoint} within {after:?}")]
    Timeout {
        /// Where.
        endpoint: SocketAddr,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection was refused, or there is no way there.
    #[error("no connection to {endpoint}: {source}")]
    Refused {
        /// Where.
        endpoint: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The handshake failed.
    #[error("TLS handshake with {endpoint} failed: {}", transport::handshake_text(source))]
    Handshake {
        /// Where.
        endpoint: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// It is somebody else.
    #[error("{endpoint} proved to be {presented}, expected {expected}")]
    WrongPeer {
        /// Where.
        endpoint: SocketAddr,
        /// Who was promised.
        expected: SpiffeId,
        /// Who it is.
        presented: SpiffeId,
    },
    /// Our own certificate has ended.
    #[error(
        "this proxy's own certificate has expired, so {endpoint} refuses it; it is renewed when the control plane answers"
    )]
    OwnExpired {
        /// Where.
        endpoint: SocketAddr,
    },
    /// TLS cannot be set up for this endpoint.
    #[error(transparent)]
    Setup(#[from] TlsError),
    /// Too many connections to the endpoint, and none came free in time.
    #[error("all connections to {endpoint} are in use, and none came free in time")]
    Busy {
        /// Where.
        endpoint: SocketAddr,
    },
}

impl ConnectError {
    /// What the caller is told.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Timeout { .. } => Refusal::ConnectTimeout,
            Self::Refused { .. } => Refusal::ConnectFailed,
            Self::Handshake { .. } | Self::Setup(_) => Refusal::UpstreamTls,
            Self::WrongPeer { .. } => Refusal::WrongPeer,
            Self::OwnExpired { .. } => Refusal::CertificateExpired,
            Self::Busy { .. } => Refusal::Overloaded,
        }
    }

    /// For the log, as a word of a closed set: why a handshake failed, or what the caller is told.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Handshake { source, .. } => transport::handshake_reason(source),
            _ => self.refusal().label(),
        }
    }
}

/// TLS configurations by peer and protocol, for the trust of one generation.
#[derive(Debug, Default)]
pub(crate) struct Configurations(RefCell<(u64, ByPeer)>);

type ByPeer = HashMap<(SpiffeId, Offer), Arc<ClientConfig>>;

impl Configurations {
    fn client(
        &self,
        applied: &Applied,
        expected: &SpiffeId,
        offer: Offer,
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let mut kept = self.0.borrow_mut();
        let (generation, by_peer) = &mut *kept;
        if *generation != applied.generation || by_peer.len() >= CONFIGURATIONS_MAX {
            by_peer.clear();
            *generation = applied.generation;
        }
        if let Some(config) = by_peer.get(&(expected.clone(), offer)) {
            return Ok(Arc::clone(config));
        }
        let config = applied.trust.client(expected, offer)?;
        by_peer.insert((expected.clone(), offer), Arc::clone(&config));
        Ok(config)
    }
}

/// Opens a connection to an endpoint.
///
/// # Errors
/// See [`ConnectError`]; handshake failures are counted here.
pub(crate) async fn open(
    worker: &Worker,
    configurations: &Configurations,
    key: &LaneKey,
    offer: Offer,
) -> Result<Opened, ConnectError> {
    let endpoint = key.address;
    let applied = worker.applied();
    let tls = match (&key.identity, &key.name) {
        // The peer would refuse it only after our first bytes.
        (Some(_), Some(_)) if applied.trust.not_after <= clock::wall() => {
            worker.shard.handshake_failed(Direction::Outbound, Refusal::CertificateExpired.label());
            return Err(ConnectError::OwnExpired { endpoint });
        }
        (Some(expected), Some((service, port))) => {
            let name = server_name(*port, service, &applied.trust.domain)?;
            Some((configurations.client(&applied, expected, offer)?, name))
        }
        _ => None,
    };
    let (dialer, after) = match key.is_workload() {
        true => (&worker.to_workload, transport::WORKLOAD_CONNECT_TIMEOUT),
        false => (&worker.dialer, transport::CONNECT_TIMEOUT),
    };
    let stream = dialer.connect(endpoint, after).await.map_err(|source| match source.kind() {
        io::ErrorKind::TimedOut => ConnectError::Timeout { endpoint, after },
        _ => ConnectError::Refused { endpoint, source },
    })?;
    let Some((config, name)) = tls else {
        return Ok(Opened { transport: Transport::Plain(stream), peer: None, alpn: None });
    };
    match transport::connect(config, name, stream).await {
        // A revocation may have come while hands were shaken.
        Ok(secured) if secured.peer.is_revoked(worker.applied().trust.revocations()) => {
            let source = io::Error::other(PeerError::Revoked);
            worker.shard.handshake_failed(Direction::Outbound, PeerError::Revoked.code());
            Err(ConnectError::Handshake { endpoint, source })
        }
        Ok(secured) => Ok(Opened {
            transport: Transport::Mesh(Box::new(secured.stream)),
            peer: Some(Rc::new(secured.peer)),
            alpn: Some(secured.alpn),
        }),
        Err(source) => Err(failed(worker, &applied, endpoint, source)),
    }
}

fn failed(worker: &Worker, applied: &Applied, endpoint: SocketAddr, source: io::Error) -> ConnectError {
    let error = match handshake_error(&source) {
        Some(PeerError::WrongPeer { expected, presented }) => {
            ConnectError::WrongPeer { endpoint, expected, presented }
        }
        _ if transport::is_own_expiry(applied.trust.not_after, &source) => {
            ConnectError::OwnExpired { endpoint }
        }
        _ => {
            let reason = transport::handshake_reason(&source);
            worker.shard.handshake_failed(Direction::Outbound, reason);
            return ConnectError::Handshake { endpoint, source };
        }
    };
    worker.shard.handshake_failed(Direction::Outbound, error.refusal().label());
    error
}
