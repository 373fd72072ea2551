//! The calling side: from a connection of the workload to a proven endpoint of the service it wants.
//!
//! [`Listener`] says which service is wanted, [`serve`] finds out what is spoken and hands over to [`http`] or [`opaque`].
//! It never sends a byte before the peer has proved its identity, and never decides about access: the called side does.
//!
//! # Why
//! Detection never makes anybody wait for somebody else: the upstream is opened when the client is silent for a moment,
//! and whoever speaks first decides. A finding is remembered for each port only when it proved right: an HTTP client that
//! once called a database by mistake must not make the next one wait.

pub(crate) mod attempt;
pub(crate) mod connect;
pub(crate) mod http;
pub(crate) mod opaque;
pub(crate) mod outside;
pub(crate) mod pool;
pub(crate) mod renewal;
pub(crate) mod resolve;
pub(crate) mod sessions;
pub(crate) mod tell;

use crate::capture::original_dst::original_dst;
use crate::capture::vip::VirtualAddresses;
use crate::connections::{Change, Description, Direction, Registration};
use crate::observe::metrics::{ConnectionKind, OpenGuard};
use crate::refusal::Refusal;
use crate::transport::tune;
use crate::worker::Worker;
use crate::{accept, clock};
use mesh_proto::config::Owner;
use mesh_proto::name::{Port, ServiceRef};
use mesh_proto::policy::model::Protocol;
use pool::Lanes;
use resolve::{Found, Routes};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tell::Edges;
use tokio::net::{TcpListener, TcpStream};

/// How long a client may be silent before the upstream is opened to see whether the server speaks first. A client that
/// speaks first does so within a millisecond of connecting (measured on loopback: 0.1 ms), so this costs server-first
/// protocols 10 ms once, and saves the others a connection for nothing.
const GRACE: Duration = Duration::from_millis(10);
/// Most ports of which it is remembered who speaks first.
const FINDINGS_MAX: usize = 4_096;

/// Which service a connection wants.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Intent {
    /// The service.
    pub(crate) service: ServiceRef,
    /// Which of its ports; `None`: its first.
    pub(crate) port: Option<Port>,
    /// What is spoken; `None`: as the service declares, else detected.
    pub(crate) protocol: Option<Protocol>,
    /// One workload of the service alone, dialled by its own address; `None`: whichever answers for the service.
    pub(crate) direct: Option<SocketAddr>,
}

/// Where connections of the workload arrive.
#[derive(Debug)]
pub(crate) enum Listener {
    /// A local port that stands for one service.
    Explicit {
        /// The socket.
        socket: TcpListener,
        /// The service.
        intent: Rc<Intent>,
    },
    /// Every connection of a captured workload, whatever it dialled.
    Captured {
        /// The socket inside the workload's namespace.
        socket: TcpListener,
        /// What the addresses mean.
        addresses: Arc<VirtualAddresses>,
    },
    /// Every connection of a pod, to real addresses.
    Redirected {
        /// The socket that they are redirected to.
        socket: TcpListener,
    },
}

/// What a connection turned out to want.
#[derive(Debug)]
enum Wants {
    /// A service, or one workload of it.
    Service(Rc<Intent>),
    /// Whoever owns the address.
    Address(SocketAddr),
}

/// A connection of the workload, and what it wants.
#[derive(Debug)]
pub(crate) struct Arrival {
    stream: TcpStream,
    from: SocketAddr,
    wants: Result<Wants, Refusal>,
}

impl Listener {
    /// The next connection and what it wants.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// What the system says; mostly that there are no descriptors left.
    pub(crate) async fn accept(&self) -> io::Result<Arrival> {
        match self {
            Self::Explicit { socket, intent } => {
                let (stream, from) = socket.accept().await?;
                // A local port is the workload's; nobody else on the network may call in its name.
                let is_own = from.ip().to_canonical().is_loopback();
                let wants = if is_own {
                    Ok(Wants::Service(Rc::clone(intent)))
                } else {
                    Err(Refusal::UnknownDestination)
                };
                Ok(Arrival { stream, from, wants })
            }
            Self::Captured { socket, addresses } => {
                let (stream, from) = socket.accept().await?;
                let wants = dialled(&stream, addresses).map(Wants::Service);
                Ok(Arrival { stream, from, wants: wants.ok_or(Refusal::UnknownDestination) })
            }
            Self::Redirected { socket } => {
                let (stream, from) = socket.accept().await?;
                // Without an original destination somebody dialled the proxy itself.
                let wants = original_dst(&stream).map(Wants::Address);
                Ok(Arrival { stream, from, wants: wants.map_err(|_| Refusal::UnknownDestination) })
            }
        }
    }
}

/// The service behind the address that a captured connection was dialled to; `None`: it is not one of the mesh's.
fn dialled(stream: &TcpStream, addresses: &VirtualAddresses) -> Option<Rc<Intent>> {
    let wanted = original_dst(stream).ok()?;
    let service = addresses.service(wanted.ip())?;
    Some(Rc::new(Intent { service, port: Port::new(wanted.port()), protocol: None, direct: None }))
}

/// What a connection to an address means; `None`: nobody of the mesh owns it.
async fn intended(outbound: &Outbound, to: SocketAddr) -> Result<Option<Rc<Intent>>, Refusal> {
    let owner = resolve::owner(outbound, to.ip()).await?;
    let (service, direct) = match &owner.owner {
        Owner::Service(service) => (service.clone(), None),
        Owner::Workload { workload, .. } => (workload.clone(), Some(to)),
        Owner::Outside => return Ok(None),
    };
    Ok(Some(Rc::new(Intent { service, port: Port::new(to.port()), protocol: None, direct })))
}

/// What the calling side of one worker owns.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// What the worker's connections share.
    pub(crate) worker: Rc<Worker>,
    /// Endpoints and the connections to them.
    pub(crate) lanes: Rc<Lanes>,
    /// Sessions that opaque connections share.
    pub(crate) sessions: sessions::Sessions,
    /// Services by name.
    pub(crate) routes: Routes,
    findings: RefCell<HashMap<(ServiceRef, Port), Seen>>,
}

/// Who speaks first on a port, as it proved to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// An HTTP exchange went well: clients speak first, and opening a tunnel would be for nothing.
    Http,
    /// The server spoke first: open at once.
    ServerFirst,
}

impl Outbound {
    /// For one worker.
    pub(crate) fn new(worker: Rc<Worker>) -> Rc<Self> {
        let lanes = Lanes::new(Rc::clone(&worker));
        let sessions = sessions::Sessions::new(&worker);
        Rc::new(Self { worker, lanes, sessions, routes: Routes::default(), findings: RefCell::default() })
    }

    /// Remembers what proved right.
    pub(crate) fn learn(&self, route: &resolve::Route, seen: Seen) {
        let mut findings = self.findings.borrow_mut();
        let key = (route.service.clone(), route.port.port);
        if findings.get(&key) != Some(&seen) && (findings.len() < FINDINGS_MAX || findings.contains_key(&key))
        {
            findings.insert(key, seen);
        }
    }

    fn seen(&self, route: &resolve::Route) -> Option<Seen> {
        self.findings.borrow().get(&(route.service.clone(), route.port.port)).copied()
    }
}

/// One connection of the workload, or one stream of it.
#[derive(Debug)]
pub(crate) struct Call {
    /// What all streams of the connection share.
    pub(crate) client: Rc<Client>,
    /// Its place among the open ones.
    pub(crate) registration: Registration,
}

/// What is known of one connection of the workload.
#[derive(Debug)]
pub(crate) struct Client {
    /// What it wants.
    pub(crate) intent: Rc<Intent>,
    /// Where it came from.
    pub(crate) from: SocketAddr,
    /// The service as text.
    pub(crate) service: Arc<str>,
    /// The route that its last request took.
    pub(crate) found: Found,
    /// Its edges, so that they need not be looked up for each request.
    pub(crate) edges: Edges,
}

/// Carries one connection of the workload to its end.
pub(crate) async fn serve(outbound: Rc<Outbound>, arrival: Arrival) {
    let Arrival { mut stream, from, wants } = arrival;
    let worker = Rc::clone(&outbound.worker);
    let open = OpenGuard::new(&worker.shard, Direction::Outbound);
    if let Some(counter) = worker.shard.connections.get(ConnectionKind::Outbound as usize) {
        counter.add(1);
    }
    let wants = if open.open() > worker.connections_max { Err(Refusal::TooManyConnections) } else { wants };
    let _panic = worker.panic_guard();
    tune(&stream);
    let intent = match wants {
        Ok(Wants::Service(intent)) => Ok(intent),
        Ok(Wants::Address(to)) => match Box::pin(intended(&outbound, to)).await {
            Ok(Some(intent)) => Ok(intent),
            Ok(None) => return Box::pin(outside::serve(&outbound, stream, to)).await,
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    };
    let intent = match intent {
        Ok(intent) => intent,
        Err(refusal) => {
            worker.shard.refused(Direction::Outbound, refusal.label());
            crate::transport::Transport::Plain(stream).reset_on_close();
            return;
        }
    };
    let service: Arc<str> = intent.service.to_string().into();
    let registration = worker.connections.register(Description {
        direction: Direction::Outbound,
        peer: Arc::clone(&service),
        protocol: intent.protocol,
        port: intent.port.map_or(0, Port::number),
        opened_ms: clock::unix_ms(),
    });
    let client = Client { intent, from, service, found: Found::default(), edges: Edges::default() };
    let call = Call { client: Rc::new(client), registration };
    // Boxed, so that what is only needed to find out is given back before the carrying begins, and a connection that is
    // carried costs what its protocol needs, not what the greediest one does.
    let Some(next) = Box::pin(find_out(&outbound, &call, &mut stream)).await else { return };
    match next {
        Next::Http1(early) => Box::pin(http::serve_h1(&outbound, &call, stream, early)).await,
        Next::Http2(early) => Box::pin(http::serve_h2(&outbound, &call, stream, early)).await,
        Next::Opaque(route, opening) => {
            Box::pin(opaque::serve(&outbound, &call, &route, stream, *opening)).await;
        }
    }
}

/// How a connection goes on, once it is known what is spoken on it.
pub(crate) enum Next {
    /// Requests, of which these bytes have been read.
    Http1(Vec<u8>),
    /// Streams, of which these bytes have been read.
    Http2(Vec<u8>),
    /// Bytes.
    Opaque(Rc<resolve::Route>, Box<opaque::Opening>),
}

impl Next {
    /// Goes on with a connection whose client has spoken; `None`: it closed without a word.
    pub(crate) fn spoken(
        call: &Call,
        route: &Rc<resolve::Route>,
        (finding, early): (accept::detect::Finding, Vec<u8>),
    ) -> Option<Self> {
        let protocol = finding.protocol().unwrap_or(Protocol::Tcp);
        call.registration.set_protocol(protocol);
        match protocol {
            Protocol::Http1 => Some(Self::Http1(early)),
            Protocol::Http2 | Protocol::Grpc => Some(Self::Http2(early)),
            Protocol::Tls | Protocol::Tcp if early.is_empty() => None,
            Protocol::Tls | Protocol::Tcp => {
                let opening = opaque::Opening { protocol, early, upstream: None };
                Some(Self::Opaque(Rc::clone(route), Box::new(opening)))
            }
        }
    }
}

/// Which protocol it is: the declared one, or what is seen. `None`: the connection has ended, or was refused.
async fn find_out(outbound: &Rc<Outbound>, call: &Call, stream: &mut TcpStream) -> Option<Next> {
    let route = resolve::route(outbound, &call.client).await;
    let declared = call.client.intent.protocol.or(route.as_ref().ok().and_then(|route| route.port.protocol));
    match (declared, route) {
        (Some(Protocol::Http1), _) => Some(Next::Http1(Vec::new())),
        (Some(Protocol::Http2 | Protocol::Grpc), _) => Some(Next::Http2(Vec::new())),
        (Some(protocol @ (Protocol::Tls | Protocol::Tcp)), Ok(route)) => {
            Some(Next::Opaque(route, Box::new(opaque::Opening::declared(protocol))))
        }
        (None, Ok(route)) => detect(outbound, call, &route, stream).await,
        // An unknown service is best told in HTTP, if that is what the client speaks.
        (_, Err(refusal)) => unresolved(outbound, call, stream, refusal).await,
    }
}

/// Finds out who speaks first, and what.
async fn detect(
    outbound: &Rc<Outbound>,
    call: &Call,
    route: &Rc<resolve::Route>,
    stream: &mut TcpStream,
) -> Option<Next> {
    let limits = &outbound.worker.limits;
    let mut early = Vec::new();
    let seen = outbound.seen(route);
    let patience = match seen {
        Some(Seen::Http) => limits.idle_timeout,
        Some(Seen::ServerFirst) => Duration::ZERO,
        None => GRACE,
    };
    // All branches are cancel safe: bytes are in `early`, a change that was not taken comes again.
    let first = tokio::select! {
        biased;
        read = accept::find(stream, &mut early) => Some(read),
        () = drained(&call.registration) => return None,
        () = tokio::time::sleep(patience) => None,
    };
    let finding = match first {
        Some(found) => found.ok()?,
        None if seen == Some(Seen::Http) && early.is_empty() => return None,
        // It has begun to speak and is not done: it is the client that speaks first.
        None if !early.is_empty() => {
            let found = tokio::time::timeout(limits.header_timeout, accept::find(stream, &mut early)).await;
            found.ok()?.ok()?
        }
        None => return opaque::race(outbound, call, route, stream).await,
    };
    Next::spoken(call, route, (finding, early))
}

/// The service is not known: told in HTTP where the client speaks it, by a reset otherwise.
async fn unresolved(
    outbound: &Rc<Outbound>,
    call: &Call,
    stream: &mut TcpStream,
    refusal: Refusal,
) -> Option<Next> {
    let mut early = Vec::new();
    let finding = accept::find(stream, &mut early);
    let found = tokio::time::timeout(GRACE.saturating_mul(10), finding).await;
    match found.ok().and_then(Result::ok).and_then(|finding| finding.protocol()) {
        Some(Protocol::Http1) => Some(Next::Http1(early)),
        Some(Protocol::Http2 | Protocol::Grpc) => Some(Next::Http2(early)),
        other => {
            opaque::refuse(outbound, call, stream, other.unwrap_or(Protocol::Tcp), refusal);
            None
        }
    }
}

/// Ready when the proxy drains.
pub(crate) async fn drained(registration: &Registration) {
    while registration.changed().await != Change::Drain {}
}
