//! A handshake from its first byte to a peer whose identity and protocol are known.

use super::{Alpn, identify};
use crate::verify::{PeerError, PeerIdentity, handshake_error};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, CommonState, ServerConfig};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// A connection whose peer is known.
#[derive(Debug)]
pub struct Secured<S> {
    /// Reads and writes the plain bytes.
    pub stream: TlsStream<S>,
    /// Who is at the other end.
    pub peer: PeerIdentity,
    /// What is inside.
    pub alpn: Alpn,
}

/// Connects over `stream` with a configuration of [`Credentials::client_config`](super::Credentials::client_config).
///
/// The caller sets the deadline. Dropping the future ends the connection.
///
/// # Errors
/// [`handshake_error`] of it says why the peer was refused; otherwise the connection broke. A server that refuses *us*
/// does so after this returns: its alert comes with the first read.
pub async fn connect<S>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: S,
) -> io::Result<Secured<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let (peer, alpn) = agreed(stream.get_ref().1).map_err(refusal)?;
    Ok(Secured { stream: stream.into(), peer, alpn })
}

/// Accepts over `stream` with a configuration of [`Credentials::server_config`](super::Credentials::server_config).
///
/// The caller sets the deadline. Dropping the future ends the connection.
///
/// # Errors
/// [`handshake_error`] of it says why the peer was refused; otherwise the connection broke.
pub async fn accept<S>(config: Arc<ServerConfig>, stream: S) -> io::Result<Secured<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let (peer, alpn) = agreed(stream.get_ref().1).map_err(refusal)?;
    Ok(Secured { stream: stream.into(), peer, alpn })
}

/// Connects to the control plane with a configuration for its port, and makes sure that it speaks gRPC.
///
/// # Errors
/// As [`connect`].
pub async fn connect_control<S>(config: Arc<ClientConfig>, stream: S) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsConnector::from(config).connect(super::control_server_name(), stream).await?;
    if stream.get_ref().1.alpn_protocol() != Some(super::ALPN_H2) {
        return Err(refusal(PeerError::NoMeshProtocol));
    }
    Ok(stream.into())
}

/// Accepts on the control plane's port; the peer is `None` if it presented no certificate, as one that joins by token.
///
/// # Errors
/// As [`accept`].
pub async fn accept_control<S>(
    config: Arc<ServerConfig>,
    stream: S,
) -> io::Result<(TlsStream<S>, Option<PeerIdentity>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let connection = stream.get_ref().1;
    if connection.alpn_protocol() != Some(super::ALPN_H2) {
        return Err(refusal(PeerError::NoMeshProtocol));
    }
    let peer = match connection.peer_certificates() {
        Some(chain) => Some(identify(Some(chain)).map_err(refusal)?),
        None => None,
    };
    Ok((stream.into(), peer))
}

/// The peer and the protocol of a finished mesh handshake; whoever drives rustls itself must ask this before any byte.
///
/// # Errors
/// The peer did not agree to one of our protocols, or has no readable identity.
pub fn agreed(connection: &CommonState) -> Result<(PeerIdentity, Alpn), PeerError> {
    let alpn = connection.alpn_protocol().and_then(Alpn::from_bytes).ok_or(PeerError::NoMeshProtocol)?;
    Ok((identify(connection.peer_certificates())?, alpn))
}

fn refusal(reason: PeerError) -> io::Error {
    let error = io::Error::new(io::ErrorKind::InvalidData, reason);
    debug_assert!(handshake_error(&error).is_some(), "the reason can be recovered");
    error
}
