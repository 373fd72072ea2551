//! Connections to endpoints, kept for the next request, and what is known of each endpoint's load.
//!
//! A [`Lane`] is one endpoint of one service port as this worker sees it; the called side uses the same for its own
//! application. HTTP/1 connections and streams are borrowed one request at a time, most recently used first; HTTP/2
//! connections are shared by streams. Never retries and never chooses an endpoint.
//!
//! # Why
//! Last in, first out keeps few connections warm and lets the others reach their idle time. The idle time is shorter than
//! the one the peer was seen to close after, so that a request does not meet a closing connection. Connections are capped
//! for each endpoint with a bounded wait: without a cap, Linkerd measured 24,631 descriptors and 794 MB.

mod kept;

use super::connect::{self, Configurations, ConnectError, Offer};
use super::renewal::{self, Renewals, may_stay};
use crate::balance::ewma::PeakEwma;
use crate::clock;
use crate::connections::Change;
use crate::discovery::Applied;
use crate::http::h1::Client;
use crate::http::h2pump::{self, Upstream};
use crate::transport::{TlsFacts, Transport};
use crate::worker::Worker;
use kept::{Idle, Kept};
use mesh_ca::verify::PeerIdentity;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::{InstanceName, Port, ServiceRef};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// Open HTTP/1 connections to one endpoint, WebSockets included: Envoy's default. Each costs both proxies some 30 KiB while
/// busy; beyond, requests wait.
pub(crate) const CONNECTIONS_MAX: usize = 1_024;
/// How long a request waits for a connection to come free.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(5);
/// Idle time of a connection to another proxy; that one's own limit is 5 minutes.
pub(crate) const MESH_IDLE: Duration = Duration::from_secs(60);
/// Idle time of a connection to an application until its own is learned: below the 5 s of Node.js and uvicorn, the
/// shortest in wide use. A new connection on loopback costs 30 µs.
const PLAIN_IDLE: Duration = Duration::from_secs(4);
/// Streams on one HTTP/2 connection before another is opened: what our own server side allows.
const STREAMS_MAX: u32 = 100;
/// HTTP/2 connections to one endpoint.
const H2_CONNECTIONS_MAX: usize = 16;
/// How often idle connections are looked through.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// An opaque connection that carried so much has paid for a handshake of its own 20 times over.
const BULKY_BYTES: u64 = 4 * 1024 * 1024;
/// How many connections after it get a session of their own on the strength of that.
const BULKY_NEXT: u8 = 2;
/// Bodies of one HTTP/1 exchange that still share a session: one TLS record.
pub(crate) const SHARED_BYTES_MAX: u64 = 16 * 1024;
/// How many exchanges after a larger one have a connection of their own on the strength of that.
const LARGE_NEXT: u8 = 2;
/// HTTP/1 exchanges under way at once from which on streams cost less than connections: over 4 they cost 1.20 of them, over
/// 8 0.83. With 8 here, a load over 64 connections mostly stayed on connections, which let few be under way: 3.8 system
/// calls for each request and proxy instead of 2.2.
const CROWD: usize = 5;
/// How many exchanges after that are streams, too, however few there are for a moment.
const CROWD_NEXT: u8 = 250;
/// A lane that nobody routes to is forgotten.
const LANES_MAX: usize = 16_384;
/// Callers that have a lane of their own to the workload; the others share one. With 16 HTTP/2 connections each they come to
/// as many as HTTP/1 may have.
const CALLERS_MAX: usize = 64;

/// What one endpoint is reached by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct LaneKey {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Who it must prove to be; `None`: unmeshed, plain TCP.
    pub(crate) identity: Option<SpiffeId>,
    /// What goes into the SNI; a connection is good for this port only.
    pub(crate) name: Option<(ServiceRef, Port)>,
    /// Which instance it is, for records.
    pub(crate) instance: Option<InstanceName>,
    /// On whose behalf the workload itself is called, where connections are not shared by callers.
    pub(crate) caller: Option<Arc<str>>,
}

impl LaneKey {
    /// The way to the workload itself.
    pub(crate) fn workload(address: SocketAddr) -> Self {
        Self { address, identity: None, name: None, instance: None, caller: None }
    }

    /// Whether it leads to the workload itself, not to a peer.
    pub(crate) fn is_workload(&self) -> bool {
        self.name.is_none()
    }
}

/// One endpoint of one service port, as this worker sees it.
#[derive(Debug)]
pub(crate) struct Lane {
    /// How it is reached.
    pub(crate) key: LaneKey,
    /// How loaded it is.
    pub(crate) load: PeakEwma,
    kept: Kept,
    places: Arc<Semaphore>,
    streams: RefCell<Vec<Rc<Shared>>>,
    opening: Semaphore,
    /// Opaque connections that shall have a session of their own, because the last ones carried much.
    bulky: Cell<u8>,
    /// HTTP/1 exchanges that shall have a connection of their own, because the last ones carried much.
    large: Cell<u8>,
    /// HTTP/1 exchanges that shall be streams, because not long ago so many were under way at once that it paid.
    crowd: Cell<u8>,
    identity_text: Option<Arc<str>>,
}

/// An HTTP/2 connection that streams share.
pub(crate) struct Shared {
    upstream: Upstream,
    in_flight: Cell<u32>,
    closed: Cell<bool>,
    peer: Option<Rc<PeerIdentity>>,
    tls: TlsFacts,
    /// Told when the last stream has ended.
    finished: Notify,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

/// All lanes of one worker's side.
#[derive(Debug)]
pub(crate) struct Lanes {
    worker: Rc<Worker>,
    by_key: RefCell<HashMap<LaneKey, Rc<Lane>>>,
    configurations: Configurations,
    /// The peers to which they are open.
    pub(crate) renewals: Renewals,
}

/// An HTTP/1 connection, borrowed for one request.
pub(crate) struct Lease {
    /// The connection.
    pub(crate) client: Client<Transport>,
    /// Who is at its other end.
    pub(crate) peer: Option<Rc<PeerIdentity>>,
    lane: Rc<Lane>,
    _place: OwnedSemaphorePermit,
}

/// A stream's share of an HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct Share(Rc<Shared>);

impl Lanes {
    /// Empty.
    pub(crate) fn new(worker: Rc<Worker>) -> Rc<Self> {
        let (by_key, configurations) = (RefCell::default(), Configurations::default());
        Rc::new(Self { worker, by_key, configurations, renewals: Renewals::default() })
    }

    /// The lane of an endpoint; the same one for the same key.
    pub(crate) fn lane(&self, key: LaneKey) -> Rc<Lane> {
        let mut by_key = self.by_key.borrow_mut();
        if let Some(lane) = by_key.get(&key) {
            return Rc::clone(lane);
        }
        if by_key.len() >= LANES_MAX {
            by_key.retain(|_, lane| Rc::strong_count(lane) > 1);
        }
        let lane = Rc::new(Lane::new(key.clone()));
        by_key.insert(key, Rc::clone(&lane));
        lane
    }

    /// The lane on which a caller's HTTP/2 streams reach the workload: its own as long as there is room, so that what one
    /// caller does to a connection is not done to others.
    pub(crate) fn lane_for(&self, address: SocketAddr, caller: &Arc<str>) -> Rc<Lane> {
        let own = LaneKey { caller: Some(Arc::clone(caller)), ..LaneKey::workload(address) };
        let has_room = || {
            let by_key = self.by_key.borrow();
            by_key.contains_key(&own)
                || by_key.keys().filter(|key| key.caller.is_some()).count() < CALLERS_MAX
        };
        if has_room() { self.lane(own) } else { self.lane(LaneKey::workload(address)) }
    }

    /// An HTTP/1 connection to the endpoint: a kept one, or a new one.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub(crate) async fn lease(&self, lane: &Rc<Lane>, freshness: Freshness) -> Result<Lease, ConnectError> {
        let place = lane.place().await?;
        self.lease_in(place, lane, freshness).await
    }

    /// As [`Self::lease`], at a place that was taken.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub(super) async fn lease_in(
        &self,
        place: OwnedSemaphorePermit,
        lane: &Rc<Lane>,
        freshness: Freshness,
    ) -> Result<Lease, ConnectError> {
        if freshness == Freshness::KeptIsFine
            && let Some(idle) = lane.kept.take_own(clock::now(), lane.idle_max())
        {
            return Ok(Lease::kept(idle, lane, place));
        }
        let opened = self.open(lane, connect::H1).await?;
        Ok(Lease::opened(opened, lane, place))
    }

    /// A stream's place on an HTTP/2 connection to the endpoint: a shared one, or a new one.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub(crate) async fn share(&self, lane: &Rc<Lane>) -> Result<Share, ConnectError> {
        if let Some(share) = lane.shared() {
            return Ok(share);
        }
        // One connection is opened at a time; the others wait for it and mostly share it.
        let _opening = tokio::time::timeout(WAIT_MAX, lane.opening.acquire())
            .await
            .map_err(|_| ConnectError::Busy { endpoint: lane.key.address })?;
        if let Some(share) = lane.shared() {
            return Ok(share);
        }
        let opened = self.open(lane, connect::H2).await?;
        let (tell, told) = oneshot::channel();
        let driving = drive(Rc::clone(&self.worker), Rc::clone(lane), opened, tell);
        self.worker.tasks.spawn_local(driving);
        let endpoint = lane.key.address;
        let lost =
            || ConnectError::Refused { endpoint, source: std::io::ErrorKind::ConnectionAborted.into() };
        let shared = told.await.map_err(|_| lost())?;
        shared.map(Share::new).map_err(|source| ConnectError::Refused { endpoint, source })
    }

    /// A new connection, which is never kept.
    ///
    /// Boxed: a handshake's state is 1.6 KiB, and whoever waits for one would carry its room for life.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub(crate) async fn open(&self, lane: &Lane, offer: Offer) -> Result<connect::Opened, ConnectError> {
        Box::pin(self.connect(&lane.key, offer)).await
    }

    /// A new connection; what the peer has shown counts for others of its connections, and this one is proven anew when its
    /// certificates have ended.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub(super) async fn connect(&self, key: &LaneKey, offer: Offer) -> Result<connect::Opened, ConnectError> {
        // What the handshake is made with: nothing is awaited in between.
        let own_end = self.worker.applied().trust.not_after;
        let opened = connect::open(&self.worker, &self.configurations, key, offer).await?;
        if let Some(peer) = &opened.peer {
            self.worker.standing.proven(peer, clock::wall());
            self.renewals.opened(key, peer, own_end, renewal::wait(&self.worker));
        }
        Ok(opened)
    }

    /// What all connections of the worker share.
    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Closes what has been idle too long, and what goes to a peer that is no longer believed.
    pub(crate) fn sweep(&self, applied: &Applied, now: Instant) {
        let lanes: Vec<Rc<Lane>> = self.by_key.borrow().values().cloned().collect();
        for lane in lanes {
            lane.kept.sweep(applied, now, lane.idle_max());
        }
        // Lanes that only this map knows: the destination is gone, or its port changed.
        self.by_key.borrow_mut().retain(|_, lane| {
            Rc::strong_count(lane) > 1 || !lane.kept.is_empty() || !lane.streams.borrow().is_empty()
        });
    }

    /// Closes all idle connections, at shutdown.
    pub(crate) fn close_idle(&self) {
        for lane in self.by_key.borrow().values() {
            lane.kept.clear();
        }
    }
}

/// Whether a connection that was kept will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Freshness {
    /// Yes.
    KeptIsFine,
    /// No: a kept one has just failed.
    New,
}

/// Whether a peer is still believed.
pub(crate) fn is_believed(peer: Option<&PeerIdentity>, applied: &Applied) -> bool {
    peer.is_none_or(|peer| !peer.is_revoked(applied.trust.revocations()))
}

/// Shakes hands for HTTP/2, tells how that went, then drives the connection until it ends, is idle too long, or its peer
/// is no longer believed.
async fn drive(
    worker: Rc<Worker>,
    lane: Rc<Lane>,
    opened: connect::Opened,
    tell: oneshot::Sender<std::io::Result<Rc<Shared>>>,
) {
    let _panic = worker.panic_guard();
    let tls = opened.transport.tls_facts();
    let (upstream, driver) = match h2pump::connect(opened.transport, &worker.limits).await {
        Ok(connected) => connected,
        Err(error) => {
            // Whoever asked may have gone.
            let _ = tell.send(Err(std::io::Error::other(error)));
            return;
        }
    };
    let peer = opened.peer;
    let (in_flight, closed) = (Cell::new(0), Cell::new(false));
    let shared = Rc::new(Shared { upstream, in_flight, closed, peer, tls, finished: Notify::new() });
    lane.streams.borrow_mut().push(Rc::clone(&shared));
    let _ = tell.send(Ok(Rc::clone(&shared)));
    drive_connected(&worker, &shared, driver).await;
    shared.closed.set(true);
    lane.streams.borrow_mut().retain(|other| !Rc::ptr_eq(other, &shared));
}

async fn drive_connected(
    worker: &Worker,
    shared: &Shared,
    driver: impl Future<Output = Result<(), h2::Error>>,
) {
    let registration = worker.connections.register_part();
    let mut driver = std::pin::pin!(driver);
    let mut quiet = tokio::time::interval(MESH_IDLE);
    quiet.tick().await;
    let mut was_idle = false;
    loop {
        // All branches are cancel safe: the driver is polled in place.
        tokio::select! {
            _ = &mut driver => return,
            () = shared.finished.notified() => {}
            change = registration.changed() => {
                let drained = change == Change::Drain && shared.in_flight.get() == 0;
                if drained || may_stay(worker, shared.peer.as_deref()).is_err() {
                    return;
                }
            }
            _ = quiet.tick() => {
                let is_idle = shared.in_flight.get() == 0;
                if is_idle && std::mem::replace(&mut was_idle, is_idle) {
                    return;
                }
            }
        }
        // Retired, or the proxy drains: it ends with its last stream.
        if shared.in_flight.get() == 0 && (shared.closed.get() || worker.connections.is_draining()) {
            return;
        }
    }
}

impl Lane {
    fn new(key: LaneKey) -> Self {
        Self {
            identity_text: key.identity.as_ref().map(|id| id.as_str().into()),
            key,
            load: PeakEwma::new(),
            kept: Kept::default(),
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            streams: RefCell::default(),
            opening: Semaphore::new(1),
            bulky: Cell::new(0),
            large: Cell::new(0),
            crowd: Cell::new(0),
        }
    }

    /// The identity it must prove, as text.
    pub(crate) fn identity_text(&self) -> Option<Arc<str>> {
        self.identity_text.clone()
    }

    /// The instance, as text; empty when unknown.
    pub(crate) fn instance_text(&self) -> String {
        self.key.instance.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// Whether the next opaque connection will probably carry much, and shall not be in the way of others.
    pub(crate) fn is_bulky(&self) -> bool {
        self.bulky.get() > 0
    }

    /// An opaque connection has carried so many bytes.
    pub(crate) fn has_carried(&self, bytes: u64) {
        let next = if bytes >= BULKY_BYTES { BULKY_NEXT } else { self.bulky.get().saturating_sub(1) };
        self.bulky.set(next);
    }

    /// An HTTP/1 exchange has carried so many bytes of bodies.
    pub(crate) fn has_answered(&self, bytes: u64) {
        let next = if bytes > SHARED_BYTES_MAX { LARGE_NEXT } else { self.large.get().saturating_sub(1) };
        self.large.set(next);
    }

    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, ConnectError> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let waiting = Arc::clone(&self.places).acquire_owned();
        match tokio::time::timeout(WAIT_MAX, waiting).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(ConnectError::Busy { endpoint: self.key.address }),
        }
    }

    /// Whether the next HTTP/1 exchange shall be a stream of a session: small, and one of many. Asked once for each, when
    /// its place was taken.
    pub(super) fn shares(&self) -> bool {
        let under_way = CONNECTIONS_MAX.saturating_sub(self.places.available_permits());
        let crowd = if under_way >= CROWD { CROWD_NEXT } else { self.crowd.get().saturating_sub(1) };
        self.crowd.set(crowd);
        crowd > 0 && self.large.get() == 0
    }

    /// A stream that was kept.
    pub(super) fn kept_stream(
        self: &Rc<Self>,
        place: OwnedSemaphorePermit,
    ) -> Result<Lease, OwnedSemaphorePermit> {
        match self.kept.take_stream() {
            Some(idle) => Ok(Lease::kept(idle, self, place)),
            None => Err(place),
        }
    }

    fn idle_max(&self) -> Duration {
        if self.key.identity.is_some() { MESH_IDLE } else { PLAIN_IDLE }
    }

    fn shared(&self) -> Option<Share> {
        let streams = self.streams.borrow();
        let open = || streams.iter().filter(|shared| !shared.closed.get());
        let roomy = open().find(|shared| shared.in_flight.get() < STREAMS_MAX);
        // At the cap of connections, streams queue on the least busy one.
        let least = || open().min_by_key(|shared| shared.in_flight.get());
        let chosen = match roomy {
            Some(shared) => Some(shared),
            None if open().count() >= H2_CONNECTIONS_MAX => least(),
            None => None,
        };
        chosen.map(|shared| Share::new(Rc::clone(shared)))
    }
}

impl Lease {
    fn kept(idle: Idle, lane: &Rc<Lane>, place: OwnedSemaphorePermit) -> Self {
        Self { client: idle.client, peer: idle.peer, lane: Rc::clone(lane), _place: place }
    }

    /// What was opened for it, or for many.
    pub(super) fn opened(opened: connect::Opened, lane: &Rc<Lane>, place: OwnedSemaphorePermit) -> Self {
        let client = match &opened.transport {
            // The session may have ended unseen, as a connection that was kept.
            Transport::Shared { .. } => Client::kept(opened.transport),
            Transport::Plain(_) | Transport::Mesh(_) => Client::new(opened.transport),
        };
        Self { client, peer: opened.peer, lane: Rc::clone(lane), _place: place }
    }

    /// Keeps the connection for the next request.
    pub(crate) fn give_back(self) {
        let Self { client, peer, lane, .. } = self;
        lane.kept.keep(Idle { client, peer, since: clock::now() });
    }

    /// What the handshake agreed on.
    pub(crate) fn tls_facts(&self) -> TlsFacts {
        self.client.io().tls_facts()
    }
}

impl Share {
    fn new(shared: Rc<Shared>) -> Self {
        shared.in_flight.set(shared.in_flight.get().saturating_add(1));
        Self(shared)
    }

    /// To send one request on.
    pub(crate) fn upstream(&self) -> Upstream {
        self.0.upstream.clone()
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> Option<&PeerIdentity> {
        self.0.peer.as_deref()
    }

    /// What the handshake agreed on.
    pub(crate) fn tls_facts(&self) -> TlsFacts {
        self.0.tls
    }

    /// No further stream shall use this connection: it said that it goes away.
    pub(crate) fn retire(&self) {
        self.0.closed.set(true);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
        if self.0.in_flight.get() == 0 {
            self.0.finished.notify_one();
        }
    }
}
