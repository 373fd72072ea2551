//! From a stranger's first byte to a proven peer and a declared port, within a share and a deadline.
//!
//! The first bytes tell apart: mesh TLS, an application's own TLS, plaintext. In strict mode everything but mesh TLS ends
//! here, counted with its reason; in permissive mode it goes on as an unmeshed caller.
//!
//! # Why
//! The first bytes come before anything that costs: a silent stranger is a socket for one second, and takes no place among
//! the handshakes in progress; see [`super::strangers`].

use super::Inbound;
use super::shares::Origin;
use crate::InboundPort;
use crate::accept::{self, detect::Finding, hello::Hello};
use crate::clock;
use crate::connections::Direction;
use crate::discovery::Applied;
use crate::refusal::Refusal;
use crate::transport::{self, HANDSHAKE_TIMEOUT, Transport};
use crate::worker::Worker;
use mesh_ca::tls::{Alpn, parse_server_name};
use mesh_ca::verify::PeerIdentity;
use mesh_proto::name::{Port, ServiceRef};
use mesh_proto::policy::model::Protocol;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Time for a stranger to send a whole ClientHello, which every proxy sends as soon as it is connected: enough for a lost
/// packet and its repetition. Where plaintext is accepted, a client may have reason to be silent, and has
/// [`HANDSHAKE_TIMEOUT`].
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection of which it is known who calls what.
pub(crate) enum Arrived {
    /// A proven peer.
    Mesh {
        /// The connection.
        transport: Transport,
        /// Who it is.
        peer: PeerIdentity,
        /// What is inside.
        alpn: Alpn,
        /// Which port it asked for.
        port: InboundPort,
        /// As which service.
        service: ServiceRef,
    },
    /// An unmeshed caller, in permissive mode.
    Plain {
        /// The connection.
        stream: TcpStream,
        /// Its first bytes.
        early: Vec<u8>,
        /// What they speak.
        protocol: Protocol,
        /// Which port it reached.
        port: InboundPort,
    },
}

/// Brings a new connection so far; `None` when it was refused, which has been counted and said.
pub(crate) async fn arrive(
    inbound: &Inbound,
    mut stream: TcpStream,
    from: SocketAddr,
    port: Option<Port>,
) -> Option<Arrived> {
    let worker = &inbound.worker;
    let refuse = |stream: TcpStream, refusal: Refusal| {
        Transport::Plain(stream).reset_on_close();
        inbound.strangers.refused(&worker.shard, from, refusal);
        None
    };
    let Some(stranger) = inbound.strangers.admit(Origin::of(from.ip())) else {
        return refuse(stream, Refusal::TooManyHandshakes);
    };
    let accepts_plaintext = || worker.applied().accepts_plaintext(clock::since_epoch().as_secs());
    let patience = if accepts_plaintext() { HANDSHAKE_TIMEOUT } else { HELLO_TIMEOUT };
    let mut early = Vec::new();
    let finding = match tokio::time::timeout(patience, accept::find(&mut stream, &mut early)).await {
        Err(_) => return refuse(stream, Refusal::HelloTimeout),
        // It closed or broke before it said anything: a port scan, a health check of the socket.
        Ok(Err(_)) => return None,
        Ok(Ok(_)) if early.is_empty() => return None,
        Ok(Ok(finding)) => finding,
    };
    match finding {
        Finding::Tls(Hello::Odd) if !accepts_plaintext() => refuse(stream, Refusal::UnreadableHello),
        // Whatever is not for us is an application's own TLS, if plaintext is accepted at all; in strict mode the handshake
        // says best what is wrong with it.
        Finding::Tls(hello)
            if !accepts_plaintext() || hello.name().is_some_and(|name| is_ours(worker, name)) =>
        {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, stranger.place()).await {
                Ok(Some(_place)) => tls(inbound, (stream, early), hello.name(), from).await,
                _ => refuse(stream, Refusal::TooManyHandshakes),
            }
        }
        finding => match unmeshed(worker, &worker.applied(), port, &finding) {
            Ok((port, protocol)) => Some(Arrived::Plain { stream, early, protocol, port }),
            Err(refusal) => refuse(stream, refusal),
        },
    }
}

fn is_ours(worker: &Worker, name: &str) -> bool {
    parse_server_name(name, &worker.applied().trust.domain).is_some()
}

/// The mesh handshake.
async fn tls(
    inbound: &Inbound,
    (stream, early): (TcpStream, Vec<u8>),
    sni: Option<&str>,
    from: SocketAddr,
) -> Option<Arrived> {
    let worker = &inbound.worker;
    let applied = worker.applied();
    let asked = sni.and_then(|name| parse_server_name(name, &applied.trust.domain));
    let declared = asked.as_ref().and_then(|(port, _)| worker.facts.port(*port));
    // A port that is not there is refused before any certificate is shown; a hello without our name goes on, so that
    // its certificate is what is named as wrong.
    if asked.is_some() && declared.is_none() {
        Transport::Plain(stream).reset_on_close();
        inbound.strangers.refused(&worker.shard, from, Refusal::UnknownPort);
        return None;
    }
    match transport::accept(Arc::clone(&applied.trust.server), early, stream, HANDSHAKE_TIMEOUT).await {
        Ok(secured) => {
            let (Some((_, service)), Some(port)) = (asked, declared) else {
                worker.shard.refused(Direction::Inbound, Refusal::UnknownPort.label());
                let (reason, peer) = (Refusal::UnknownPort.label(), &secured.peer.id);
                tracing::info!(%from, reason, %peer, "refused: its server name is not one of this mesh");
                return None;
            };
            let transport = Transport::Mesh(Box::new(secured.stream));
            let (peer, alpn) = (secured.peer, secured.alpn);
            Some(Arrived::Mesh { transport, peer, alpn, port: port.into_owned(), service })
        }
        Err(error) => {
            let expired = transport::is_own_expiry(applied.trust.not_after, &error);
            let reason = if expired {
                Refusal::CertificateExpired.label()
            } else {
                transport::handshake_reason(&error)
            };
            worker.shard.handshake_failed(Direction::Inbound, reason);
            worker.shard.refused(Direction::Inbound, Refusal::HandshakeFailed.label());
            if let Some(unsaid) = inbound.strangers.may_say(reason, clock::now()) {
                let error = transport::handshake_text(&error);
                tracing::info!(%from, reason, unsaid, error, "refused in the handshake");
            }
            None
        }
    }
}

/// Whether an unmeshed caller may go on, and to which port.
fn unmeshed(
    worker: &Worker,
    applied: &Applied,
    port: Option<Port>,
    finding: &Finding,
) -> Result<(InboundPort, Protocol), Refusal> {
    if !applied.accepts_plaintext(clock::since_epoch().as_secs()) {
        return Err(Refusal::PlaintextRefused);
    }
    // Where nothing says which port was meant, only one that stands alone can be.
    let declared = match (port, worker.facts.ports.as_slice()) {
        (Some(port), _) => worker.facts.port(port),
        (None, [only]) => Some(Cow::Borrowed(only)),
        (None, _) => None,
    };
    let declared = declared.ok_or(Refusal::UnknownPort)?;
    Ok((declared.into_owned(), finding.protocol().unwrap_or(Protocol::Tcp)))
}
