//! From a stranger's first byte to a proven peer and a declared port, within a budget and a deadline.
//!
//! The first bytes tell apart: mesh TLS, an application's own TLS, plaintext. In strict mode everything but mesh TLS ends
//! here, counted with its reason; in permissive mode it goes on as an unmeshed caller.
//!
//! # Why
//! A handshake costs 200 µs of CPU, so how many are in progress is bounded, in all and for each address: one stranger who
//! opens many connections and says nothing holds its own share only.

use super::Inbound;
use crate::InboundPort;
use crate::accept::{self, detect::Finding};
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
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Handshakes in progress on one worker; further ones wait, within their deadline. With 5 s for each and 5,000 a second
/// for a core, this many strangers who say nothing do not slow down those who do.
const IN_PROGRESS_MAX: usize = 1_024;
/// Handshakes in progress from one address: a quarter of all.
const IN_PROGRESS_PER_ADDRESS_MAX: u32 = 256;

/// Handshakes in progress.
#[derive(Debug)]
pub(crate) struct Budget {
    places: Arc<Semaphore>,
    by_address: RefCell<HashMap<IpAddr, u32>>,
}

/// A place among the handshakes in progress.
struct Place {
    budget: Rc<Budget>,
    ip: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// Nothing in progress.
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { places: Arc::new(Semaphore::new(IN_PROGRESS_MAX)), by_address: RefCell::default() })
    }

    /// `None` when the address has its share, or the semaphore was closed.
    async fn place(self: &Rc<Self>, ip: IpAddr) -> Option<Place> {
        let permit = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let mut by_address = self.by_address.borrow_mut();
        let count = by_address.entry(ip).or_insert(0);
        if *count >= IN_PROGRESS_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { budget: Rc::clone(self), ip, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.budget.by_address.borrow_mut();
        if let Some(count) = by_address.get_mut(&self.ip) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_address.remove(&self.ip);
            }
        }
    }
}

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

/// Brings a new connection so far; `None` when it was refused, which has been counted.
pub(crate) async fn arrive(
    inbound: &Inbound,
    stream: TcpStream,
    from: SocketAddr,
    port: Option<Port>,
) -> Option<Arrived> {
    let worker = &inbound.worker;
    let refuse = |stream: TcpStream, refusal: Refusal| {
        Transport::Plain(stream).reset_on_close();
        worker.shard.refused(Direction::Inbound, refusal.label());
        tracing::debug!(%from, reason = refusal.label(), "connection refused");
    };
    let work = async {
        let Some(_place) = inbound.handshakes.place(from.ip().to_canonical()).await else {
            refuse(stream, Refusal::TooManyConnections);
            return None;
        };
        match look(worker, stream).await {
            Ok(Look::Tls { stream, early, sni }) => tls(worker, (stream, early), sni, from).await,
            Ok(Look::Other { stream, early, finding }) => {
                let applied = worker.applied();
                match unmeshed(worker, &applied, port, &finding) {
                    Ok((port, protocol)) => Some(Arrived::Plain { stream, early, protocol, port }),
                    Err(refusal) => {
                        refuse(stream, refusal);
                        None
                    }
                }
            }
            // It closed or broke before it said anything: a port scan, a health check of the socket.
            Err(_) => None,
        }
    };
    if let Ok(arrived) = tokio::time::timeout(HANDSHAKE_TIMEOUT, work).await {
        return arrived;
    }
    worker.shard.handshake_failed(Direction::Inbound, "timeout");
    None
}

enum Look {
    Tls { stream: TcpStream, early: Vec<u8>, sni: Option<String> },
    Other { stream: TcpStream, early: Vec<u8>, finding: Finding },
}

/// Reads the first bytes.
async fn look(worker: &Worker, mut stream: TcpStream) -> std::io::Result<Look> {
    let mut early = Vec::new();
    let mut finding = accept::find(&mut stream, &mut early).await?;
    if early.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    if let Finding::Tls { sni } = &mut finding {
        let is_mesh = sni.as_deref().is_some_and(|name| is_ours(worker, name));
        // Whatever is not for us is an application's own TLS, if plaintext is accepted at all; in strict mode the
        // handshake says best what is wrong with it.
        if is_mesh || !worker.applied().accepts_plaintext(clock::since_epoch().as_secs()) {
            return Ok(Look::Tls { stream, early, sni: sni.take() });
        }
    }
    Ok(Look::Other { stream, early, finding })
}

fn is_ours(worker: &Worker, name: &str) -> bool {
    parse_server_name(name, &worker.applied().trust.domain).is_some()
}

/// The mesh handshake.
async fn tls(
    worker: &Worker,
    (stream, early): (TcpStream, Vec<u8>),
    sni: Option<String>,
    from: SocketAddr,
) -> Option<Arrived> {
    let applied = worker.applied();
    let asked = sni.as_deref().and_then(|name| parse_server_name(name, &applied.trust.domain));
    let declared = asked.as_ref().and_then(|(port, _)| worker.facts.port(*port));
    // A port that is not there is refused before any certificate is shown; a hello without our name goes on, so that
    // its certificate is what is named as wrong.
    if asked.is_some() && declared.is_none() {
        Transport::Plain(stream).reset_on_close();
        worker.shard.refused(Direction::Inbound, Refusal::UnknownPort.label());
        tracing::info!(%from, sni = sni.unwrap_or_default(), "refused: this workload does not declare the port asked for");
        return None;
    }
    match transport::accept(Arc::clone(&applied.trust.server), early, stream, HANDSHAKE_TIMEOUT).await {
        Ok(secured) => {
            let (Some((_, service)), Some(port)) = (asked, declared) else {
                worker.shard.refused(Direction::Inbound, Refusal::UnknownPort.label());
                tracing::info!(%from, peer = %secured.peer.id, "refused: its server name is not one of this mesh");
                return None;
            };
            let transport = Transport::Mesh(Box::new(secured.stream));
            let (peer, alpn) = (secured.peer, secured.alpn);
            Some(Arrived::Mesh { transport, peer, alpn, port: port.clone(), service })
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
            tracing::info!(%from, reason, %error, "refused in the handshake");
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
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let declared = declared.ok_or(Refusal::UnknownPort)?;
    Ok((declared.clone(), finding.protocol().unwrap_or(Protocol::Tcp)))
}
