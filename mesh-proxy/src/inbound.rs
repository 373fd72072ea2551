//! The called side: from a stranger's first byte to the workload, through identity, access decision and limits.
//!
//! [`serve`] takes one connection to the mesh listener, [`handshake`] proves who calls and for which port, [`http`] and
//! [`opaque`] judge and carry, [`local`] reaches the application and asks for the evaluator's `Permit`. Nothing reaches
//! the application before it was allowed, and nothing a caller sends chooses how it is judged.

pub(crate) mod handshake;
pub(crate) mod http;
pub(crate) mod judge;
pub(crate) mod local;
pub(crate) mod mux;
mod names;
pub(crate) mod opaque;
mod pace;
pub(crate) mod shares;
pub(crate) mod strangers;

use crate::InboundPort;
use crate::clock;
use crate::connections::{Description, Direction, Registration};
use crate::discovery::Applied;
use crate::limit::Grant;
use crate::observe::metrics::{ConnectionKind, OpenGuard};
use crate::outbound::pool::{Lanes, is_believed};
use crate::refusal::Refusal;
use crate::standing::{Ended, Standing as Proofs};
use crate::transport::{TlsFacts, Transport, tune};
use crate::worker::Worker;
use handshake::Arrived;
use judge::Refuse;
use mesh_ca::tls::Alpn;
use mesh_ca::verify::PeerIdentity;
use mesh_proto::name::{Port, ServiceRef};
use mesh_proto::policy::evaluate::SourceFacts;
use mesh_proto::policy::model::Protocol;
use mesh_proto::policy::standing::Standing;
use names::Names;
use shares::{Origin, Party, Share, Shares};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use strangers::Strangers;
use tokio::net::TcpStream;

/// One caller may have this part of all connections: half, so that a lone gateway is not bound by it, and nobody alone
/// shuts all others out.
const CALLER_SHARE: u64 = 2;

/// What the called side of one worker owns.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// What the worker's connections share.
    pub(crate) worker: Rc<Worker>,
    /// Connections to the application.
    pub(crate) apps: Rc<Lanes>,
    /// Who has not proven anything yet.
    pub(crate) strangers: Rc<Strangers>,
    /// How many connections each caller has.
    pub(crate) callers: Rc<Shares<Party>>,
    /// The names it was called by.
    pub(crate) names: Names,
}

impl Inbound {
    /// For one worker.
    pub(crate) fn new(worker: Rc<Worker>) -> Rc<Self> {
        let apps = Lanes::new(Rc::clone(&worker));
        let most = worker.connections_max;
        let (strangers, callers) = (Strangers::new(most), Shares::new((most / CALLER_SHARE).max(1)));
        let names = Names::new(Arc::clone(&worker.facts.service_text));
        Rc::new(Self { worker, apps, strangers, callers, names })
    }

    /// The name to record for the service that a caller asked for.
    fn called_as(&self, service: &ServiceRef) -> Arc<str> {
        self.names.of(service, self.worker.applied().snapshot.workload.as_deref())
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// `None`: unmeshed, in permissive mode.
    pub(crate) identity: Option<Rc<PeerIdentity>>,
    /// From where.
    pub(crate) ip: IpAddr,
    /// SPIFFE ID, or `unmeshed:<ip>`.
    pub(crate) text: Arc<str>,
    /// What the handshake agreed on.
    pub(crate) tls: TlsFacts,
    proofs: Arc<Proofs>,
}

impl Peer {
    fn new(inbound: &Inbound, identity: Option<PeerIdentity>, from: SocketAddr, tls: TlsFacts) -> Self {
        let ip = from.ip().to_canonical();
        let text = match &identity {
            Some(peer) => peer.id.as_str().into(),
            None => format!("unmeshed:{ip}").into(),
        };
        if let Some(peer) = &identity {
            inbound.worker.standing.proven(peer, clock::wall());
        }
        let proofs = Arc::clone(&inbound.worker.standing);
        Self { identity: identity.map(Rc::new), ip, text, tls, proofs }
    }

    /// Whose share of the connections it is counted to.
    fn party(&self) -> Party {
        match &self.identity {
            Some(_) => Party::Meshed(Arc::clone(&self.text)),
            None => Party::Unmeshed(Origin::of(self.ip)),
        }
    }

    /// As the evaluator wants it.
    pub(crate) fn facts(&self) -> SourceFacts<'_> {
        match &self.identity {
            Some(peer) => SourceFacts::Meshed {
                id: &peer.id,
                instance: peer.instance.as_ref().map(mesh_proto::name::InstanceName::as_str),
            },
            None => SourceFacts::Unmeshed { ip: self.ip },
        }
    }

    /// Whether its connection may stay: not revoked, not expired, or plaintext is still accepted.
    pub(crate) fn is_believed(&self, applied: &Applied) -> bool {
        self.may_stay(applied).is_ok()
    }

    /// The same, with the reason.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_stay(&self, applied: &Applied) -> Result<(), Refusal> {
        match &self.identity {
            Some(peer) if !is_believed(Some(peer), applied) => Err(Refusal::Quarantined),
            Some(peer) => {
                self.proofs.check(peer, applied.trust.not_after, clock::wall()).map_err(|ended| match ended {
                    Ended::Peer => Refusal::PeerExpired,
                    Ended::Own => Refusal::CertificateExpired,
                })
            }
            None if applied.accepts_plaintext(clock::since_epoch().as_secs()) => Ok(()),
            None => Err(Refusal::PlaintextRefused),
        }
    }
}

/// One connection of a caller who is known, to a port that is declared.
#[derive(Debug)]
pub(crate) struct Call {
    /// Who calls.
    pub(crate) peer: Peer,
    /// Which port.
    pub(crate) port: InboundPort,
    /// As which service it was called: what the SNI said, as far as there is room for it, else the workload's own.
    pub(crate) service: Arc<str>,
    /// What it holds of the limits that count connections, or which of them has no room: its requests are told.
    pub(crate) admission: Result<Grant, Refuse>,
    /// Its place among the open ones.
    pub(crate) registration: Registration,
    /// What the policies of its latest judgement say of the peer; the evaluator replaces it when they have changed.
    pub(crate) standing: RefCell<Standing>,
}

/// Carries one connection to the mesh listener to its end. `port` is the original destination's, where that is known.
pub(crate) async fn serve(inbound: Rc<Inbound>, stream: TcpStream, from: SocketAddr, port: Option<Port>) {
    let worker = Rc::clone(&inbound.worker);
    let open = OpenGuard::new(&worker.shard, Direction::Inbound);
    if open.open() > worker.connections_max {
        worker.shard.refused(Direction::Inbound, Refusal::TooManyConnections.label());
        return;
    }
    let _panic = worker.panic_guard();
    tune(&stream);
    // Boxed, here and below: a connection costs what its own stage needs, not what the greediest one does.
    let Some(arrived) = Box::pin(handshake::arrive(&inbound, stream, from, port)).await else { return };
    // Each of its streams is what a connection is elsewhere.
    if let Arrived::Mesh { alpn: Alpn::MeshMux, .. } = arrived {
        return Box::pin(mux::serve(&inbound, arrived, from)).await;
    }
    let Known { peer, port, transport, early, service, inside } = Known::new(&inbound, arrived, from);
    let Some(_share) = share(&inbound, &peer, from) else { return transport.reset_on_close() };
    let call = begin(&worker, (peer, port), service, inside);
    // The handshake may have begun before a revocation that the registration already counts as seen.
    if let Err(refusal) = call.peer.may_stay(&worker.applied()) {
        worker.shard.refused(Direction::Inbound, refusal.label());
        return transport.reset_on_close();
    }
    match inside {
        Protocol::Http1 => Box::pin(http::serve_h1(&inbound, &call, transport, early)).await,
        Protocol::Http2 | Protocol::Grpc => {
            Box::pin(http::serve_h2(&inbound, Rc::new(call), transport, early)).await;
        }
        Protocol::Tls | Protocol::Tcp => {
            Box::pin(opaque::serve(&inbound, &call, transport, early)).await;
        }
    }
}

/// A connection whose caller is known, and what is inside.
struct Known {
    peer: Peer,
    port: InboundPort,
    transport: Transport,
    early: Vec<u8>,
    service: Arc<str>,
    inside: Protocol,
}

impl Known {
    /// Counts the connection by its kind.
    fn new(inbound: &Inbound, arrived: Arrived, from: SocketAddr) -> Self {
        let worker = &inbound.worker;
        match arrived {
            Arrived::Mesh { transport, peer, alpn, port, service } => {
                count(worker, ConnectionKind::InboundMesh);
                let inside = match alpn {
                    Alpn::MeshH1 => Protocol::Http1,
                    Alpn::MeshH2 => Protocol::Http2,
                    Alpn::MeshTcp | Alpn::MeshMux => Protocol::Tcp,
                };
                let peer = Peer::new(inbound, Some(peer), from, transport.tls_facts());
                let service = inbound.called_as(&service);
                Self { peer, port, transport, early: Vec::new(), service, inside }
            }
            Arrived::Plain { stream, early, protocol: inside, port } => {
                count(worker, ConnectionKind::InboundPlain);
                let peer = Peer::new(inbound, None, from, TlsFacts::default());
                let service = Arc::clone(&worker.facts.service_text);
                Self { peer, port, transport: Transport::Plain(stream), early, service, inside }
            }
        }
    }
}

/// One connection of a caller's share; `None` when it has all of it, which has been counted and said.
fn share(inbound: &Inbound, peer: &Peer, from: SocketAddr) -> Option<Share<Party>> {
    let share = inbound.callers.take(peer.party());
    if share.is_none() {
        let refusal = Refusal::CallerShareUsed;
        inbound.worker.shard.refused(Direction::Inbound, refusal.label());
        if let Some(unsaid) = inbound.strangers.may_say(refusal.label(), clock::now()) {
            tracing::info!(%from, peer = %peer.text, reason = refusal.label(), unsaid, "refused: {}", refusal.text());
        }
    }
    share
}

fn count(worker: &Worker, kind: ConnectionKind) {
    if let Some(counter) = worker.shard.connections.get(kind as usize) {
        counter.add(1);
    }
}

fn begin(
    worker: &Rc<Worker>,
    (peer, port): (Peer, InboundPort),
    service: Arc<str>,
    protocol: Protocol,
) -> Call {
    // Opaque connections are counted when they are judged.
    let admission = match protocol {
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => match (port.protocol, protocol) {
            // An application that was not told of this protocol would read its bytes as something else.
            (Some(Protocol::Tls | Protocol::Tcp), _)
            | (Some(Protocol::Http1), Protocol::Http2 | Protocol::Grpc)
            | (Some(Protocol::Http2 | Protocol::Grpc), Protocol::Http1) => Err(Refusal::WrongProtocol.into()),
            _ => judge::admit_connection(&worker.applied(), &peer, port.port, protocol),
        },
        Protocol::Tls | Protocol::Tcp => Ok(Grant::default()),
    };
    let registration = worker.connections.register(Description {
        direction: Direction::Inbound,
        peer: Arc::clone(&peer.text),
        protocol: Some(protocol),
        port: port.port.number(),
        opened_ms: clock::unix_ms(),
    });
    let standing = RefCell::new(worker.applied().policy.standing(&peer.facts()));
    Call { peer, port, service, admission, registration, standing }
}

#[cfg(test)]
mod tests;
