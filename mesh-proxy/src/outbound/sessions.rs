//! Sessions to other proxies that opaque connections and HTTP/1 exchanges share: a stream for each, instead of a handshake
//! or a connection.
//!
//! One worker of one proxy has one source identity, so its sessions never serve two. A session leads to one endpoint that
//! has proved one identity; which service and port of it is meant is said for each stream, as SNI says it for a connection
//! of its own. A peer that does not know `mesh-mux` gets such connections, as before.
//!
//! A stream of HTTP/1 carries the same bytes as a connection would, is kept for the next exchange of its lane (see
//! `pool`), and is judged by the called side as HTTP, request by request.
//!
//! # Why
//! CPU of both proxies (`cargo xtask bench --quick`, two cores at load 12, one run): a new TCP connection 127 µs, where
//! Envoy takes 1,024 and two bare relays 175; a handshake for each took 0.97 of Envoy. Round trips over 32 connections
//! 17 µs (Envoy 50, relays 29), over one 63 µs (Envoy 66). Bulk is no better than over a connection of its own (up 1.06 of
//! Envoy, down 0.83), which is why it gets one.
//!
//! HTTP/1 costs a system call for each message on a connection of its own; as streams, what many exchanges send in one turn
//! leaves as one. CPU of both proxies as a share of pooled connections' (`cargo xtask bench --only http1 --beside
//! before=…`, medians of three rounds in turn, two cores at loads of 10 to 20): GET over 64 connections 0.54 and 0.42 (0.13
//! of Envoy), over 128 0.28, over 8 0.83 and 0.73, POST of 1 KiB over 32 0.70; system calls for each request and proxy 2.1
//! instead of 4.2. But 1.20 over 4 and 1.39 over a single one, where there is little to gather and each message passes
//! two tasks more, and 1.66 for bodies of 64 KiB, which are copied once more and wait for credit. So `pool` gives streams
//! to small exchanges of which many are under way, and connections to all others: to large bodies, to upgrades, and to
//! what is tried again after a failure.
//!
//! Few sessions carry better than many: what all streams write in one turn of the loop leaves as one record. So a session
//! is filled before the next is opened.

use super::connect::{BYTES, ConnectError, Opened, STREAMS_OR_BYTES, STREAMS_OR_H1};
use super::pool::{Freshness, Lane, Lanes, Lease, MESH_IDLE, WAIT_MAX, is_believed};
use crate::Multiplexing;
use crate::clock;
use crate::connections::Direction;
use crate::discovery::Applied;
use crate::discovery::apply::Trust;
use crate::mux::drive::{Drive, End};
use crate::mux::frame::Inside;
use crate::mux::guard::Side;
use crate::mux::state::{Budget, State};
use crate::mux::stream::Stream;
use crate::transport::{Prefixed, TlsFacts, Transport, tune_shared};
use crate::worker::Worker;
use mesh_ca::tls::{Alpn, server_name};
use mesh_ca::verify::PeerIdentity;
use mesh_proto::identity::SpiffeId;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_rustls::TlsStream;

/// Sessions to one endpoint; beyond, connections have one of their own. With 256 streams each this is 8,192 connections,
/// near half of what a called side takes at all. An idle stream costs each side 3 to 4 KB, a connection of its own 12.
const SESSIONS_MAX: usize = 32;
/// How long a peer that has no streams is not asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Endpoints that are remembered.
const ENDPOINTS_MAX: usize = 16_384;

/// Where a session leads and who is there.
type Endpoint = (SocketAddr, SpiffeId);

/// All sessions of one worker.
#[derive(Debug)]
pub(crate) struct Sessions {
    by_endpoint: RefCell<HashMap<Endpoint, Rc<Group>>>,
    budget: Rc<Budget>,
}

/// The sessions to one endpoint.
#[derive(Debug)]
struct Group {
    sessions: RefCell<Vec<Rc<Session>>>,
    /// One is opened at a time; whoever else needs one waits and mostly shares it.
    opening: Semaphore,
    /// When opening one failed last, or the peer answered that it has no streams.
    failed: Cell<Option<Instant>>,
    plain: Cell<Option<Instant>>,
}

/// One session.
#[derive(Debug)]
struct Session {
    state: Rc<RefCell<State>>,
    began: Instant,
    peer: Rc<PeerIdentity>,
    tls: TlsFacts,
    trust: RefCell<Arc<Trust>>,
}

impl Sessions {
    /// None yet.
    pub(crate) fn new(worker: &Worker) -> Self {
        Self { by_endpoint: RefCell::default(), budget: Rc::clone(&worker.mux_budget) }
    }

    /// An opaque connection to the endpoint: a stream, or a connection of its own where there are none to be had, or where
    /// the last ones carried so much that this one had better not be in the way of others.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub(crate) async fn open(&self, lanes: &Lanes, lane: &Lane) -> Result<Opened, ConnectError> {
        if !lane.is_bulky()
            && let Some(opened) = self.stream(lanes, lane, Inside::Bytes).await?
        {
            return Ok(opened);
        }
        lanes.open(lane, BYTES).await
    }

    /// A place for one HTTP/1 request: a stream where that pays, else a connection of its own.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub(crate) async fn lease(&self, lanes: &Lanes, lane: &Rc<Lane>) -> Result<Lease, ConnectError> {
        let place = lane.place().await?;
        if !lane.shares() {
            return lanes.lease_in(place, lane, Freshness::KeptIsFine).await;
        }
        let place = match lane.kept_stream(place) {
            Ok(lease) => return Ok(lease),
            Err(place) => place,
        };
        // Boxed: see `Lanes::open`.
        match Box::pin(self.stream(lanes, lane, Inside::Http1)).await? {
            Some(opened) => Ok(Lease::opened(opened, lane, place)),
            None => lanes.lease_in(place, lane, Freshness::KeptIsFine).await,
        }
    }

    /// A stream, or what the peer has agreed to instead when it was asked for a session; `None` where no session is to be
    /// had.
    async fn stream(
        &self,
        lanes: &Lanes,
        lane: &Lane,
        inside: Inside,
    ) -> Result<Option<Opened>, ConnectError> {
        let worker = lanes.worker();
        let (Some(identity), Some((service, port))) = (&lane.key.identity, &lane.key.name) else {
            return Ok(None);
        };
        if worker.facts.multiplexing == Multiplexing::Off {
            return Ok(None);
        }
        let began = clock::now();
        let group = self.group((lane.key.address, identity.clone()));
        if group.is_plain(began) {
            return Ok(None);
        }
        let applied = worker.applied();
        let name = server_name(*port, service, &applied.trust.domain)?;
        let asked = (&*name.to_str(), inside);
        if let Some(stream) = group.stream(asked, &applied, began) {
            return Ok(Some(stream));
        }
        let opening = tokio::time::timeout(WAIT_MAX, group.opening.acquire()).await;
        let _opening = opening.map_err(|_| ConnectError::Busy { endpoint: lane.key.address })?;
        if let Some(stream) = group.stream(asked, &worker.applied(), clock::now()) {
            return Ok(Some(stream));
        }
        // What failed for another while this one waited is not tried one by one.
        let failed_meanwhile = group.failed.get().is_some_and(|at| at >= began);
        if failed_meanwhile || group.is_plain(clock::now()) || group.sessions.borrow().len() >= SESSIONS_MAX {
            return Ok(None);
        }
        // What the handshake is made with: nothing is awaited in between.
        let applied = worker.applied();
        let offer = match inside {
            Inside::Bytes => STREAMS_OR_BYTES,
            Inside::Http1 => STREAMS_OR_H1,
        };
        let opened = lanes.open(lane, offer).await;
        let opened = opened.inspect_err(|_| group.failed.set(Some(clock::now())))?;
        let tls = opened.transport.tls_facts();
        match opened {
            Opened { transport: Transport::Mesh(io), alpn: Some(Alpn::MeshMux), peer: Some(peer) } => {
                let began = clock::now();
                let state = Rc::new(RefCell::new(State::new(Side::Caller, Rc::clone(&self.budget))));
                let trust = RefCell::new(Arc::clone(&applied.trust));
                let session = Rc::new(Session { state, began, peer, tls, trust });
                group.sessions.borrow_mut().push(Rc::clone(&session));
                // A change that came during the handshake is seen by the driver's first look.
                let stream = session.stream(asked, began);
                worker.tasks.spawn_local(drive(Rc::clone(worker), Rc::clone(&group), session, io));
                stream.map(Some).ok_or(ConnectError::Busy { endpoint: lane.key.address })
            }
            opened => {
                group.plain.set(Some(clock::now()));
                Ok(Some(opened))
            }
        }
    }

    fn group(&self, endpoint: Endpoint) -> Rc<Group> {
        let mut groups = self.by_endpoint.borrow_mut();
        if groups.len() >= ENDPOINTS_MAX {
            groups.retain(|_, group| Rc::strong_count(group) > 1 || !group.sessions.borrow().is_empty());
        }
        Rc::clone(groups.entry(endpoint).or_insert_with(Group::new))
    }
}

impl Group {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            sessions: RefCell::default(),
            opening: Semaphore::new(1),
            failed: Cell::new(None),
            plain: Cell::new(None),
        })
    }

    /// Whether the peer said not long ago that it has no streams.
    fn is_plain(&self, now: Instant) -> bool {
        self.plain.get().is_some_and(|at| now.saturating_duration_since(at) < ASK_AGAIN_AFTER)
    }

    /// A stream of one of the sessions.
    fn stream(&self, asked: (&str, Inside), applied: &Applied, now: Instant) -> Option<Opened> {
        let sessions = self.sessions.borrow();
        let mut usable = sessions.iter().filter(|session| session.is_usable(applied));
        usable.find_map(|session| session.stream(asked, now))
    }
}

impl Session {
    /// Whether a new connection would prove just what this one has proved, and would be believed.
    fn is_usable(&self, applied: &Applied) -> bool {
        let now = clock::wall();
        self.is_current(applied)
            && is_believed(Some(&self.peer), applied)
            && now < self.peer.not_after
            && now < applied.trust.not_after
    }

    /// Leaves the session to the streams it has if our certificate or the roots we believe have changed.
    fn is_current(&self, applied: &Applied) -> bool {
        let mut trust = self.trust.borrow_mut();
        if Arc::ptr_eq(&trust, &applied.trust) {
            return true;
        }
        let is_current = trust.is_as_good_as(&applied.trust);
        if is_current {
            *trust = Arc::clone(&applied.trust);
        } else {
            self.state.borrow_mut().leave();
        }
        is_current
    }

    fn stream(&self, (name, inside): (&str, Inside), now: Instant) -> Option<Opened> {
        let now_ns = u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX);
        let mut state = self.state.borrow_mut();
        if state.is_bulk() {
            return None;
        }
        let id = state.open(name, inside, now_ns)?;
        let transport = Transport::Shared { stream: Stream::new(&self.state, id), tls: self.tls };
        Some(Opened { transport, peer: Some(Rc::clone(&self.peer)), alpn: Some(Alpn::MeshMux) })
    }
}

/// Drives a session until its last stream has ended, it was idle too long, or its peer is no longer believed.
async fn drive(worker: Rc<Worker>, group: Rc<Group>, session: Rc<Session>, io: Box<TlsStream<Prefixed>>) {
    let _panic = worker.panic_guard();
    tune_shared(&io);
    let mut driving = Drive::new(io, Rc::clone(&session.state), session.began);
    let registration = worker.connections.register_part();
    let mut quiet = tokio::time::interval(MESH_IDLE);
    quiet.tick().await;
    let mut was_idle = false;
    loop {
        if !is_believed(Some(&session.peer), &worker.applied()) {
            break;
        }
        if worker.connections.is_draining() {
            session.state.borrow_mut().leave();
        }
        session.is_current(&worker.applied());
        // All branches are cancel safe: the driver keeps its state.
        tokio::select! {
            biased;
            _ = registration.changed() => {}
            end = poll_fn(|cx| driving.poll(cx)) => {
                ended(&worker, &session.peer, Direction::Outbound, &end);
                break;
            }
            _ = quiet.tick() => {
                let is_idle = session.state.borrow().is_empty();
                if is_idle && std::mem::replace(&mut was_idle, is_idle) {
                    session.state.borrow_mut().leave();
                }
            }
        }
    }
    session.state.borrow_mut().kill();
    group.sessions.borrow_mut().retain(|other| !Rc::ptr_eq(other, &session));
}

/// Says why a session ended, if it did not end well.
pub(crate) fn ended(worker: &Worker, peer: &PeerIdentity, direction: Direction, end: &End) {
    match end {
        End::Closed => {}
        End::Broken(error) => tracing::debug!(peer = %peer.id, %error, "a session with many streams broke"),
        End::Fault(fault) => {
            worker.shard.refused(direction, fault.label());
            tracing::warn!(
                peer = %peer.id,
                reason = fault.label(),
                "a session with many streams is closed: its other end broke a rule of the protocol"
            );
        }
    }
}
