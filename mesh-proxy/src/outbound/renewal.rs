//! Proofs beside connections that stay open: when a certificate has ended that one of them was made with, one handshake
//! with the same endpoint shows ours anew and lets us see the peer's.
//!
//! `pool` tells of every connection to a peer, `data` asks once a second what is due. A proof opens a connection, carries
//! nothing and closes it; whether anything stands on it is `standing`'s to say, on each side for itself.
//!
//! # Why
//! A workload may keep one connection to its database and open no other: without a proof it would be cut an hour after its
//! certificate, although it is still allowed. Cutting it would break a promise, and believing it without a proof would
//! keep a workload connected that is refused renewal. The proof begins after the end of the certificate, since most
//! endpoints are called again before that, and before half of the grace is over, so that it can fail and be tried again.
//! It is a connection for HTTP that sends no request: the called side reaches the application for none of these.

use super::connect::{self, ConnectError};
use super::drained;
use super::pool::{LaneKey, Lanes, is_believed};
use crate::clock;
use crate::discovery::Applied;
use crate::refusal::Refusal;
use crate::standing::{Ended, Standing};
use crate::transport::HANDSHAKE_TIMEOUT;
use crate::worker::Worker;
use mesh_ca::verify::PeerIdentity;
use mesh_proto::identity::SpiffeId;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Proofs of one worker at a time; each costs 2 ms of CPU for both ends. So many a second reach 7,000 endpoints within the
/// quarter of an hour that the jitter spreads them over.
const AT_ONCE_MAX: usize = 8;
/// A proof that failed is tried again after this part of the grace: a dozen times before the connection is cut.
const TRIES: u32 = 16;
/// Endpoints with nothing open are forgotten this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Whether a connection to this peer may stay: not revoked, and no certificate has ended without a newer one.
///
/// # Errors
/// Why not.
pub(crate) fn may_stay(worker: &Worker, peer: Option<&PeerIdentity>) -> Result<(), Refusal> {
    let Some(peer) = peer else { return Ok(()) };
    let applied = worker.applied();
    if !is_believed(Some(peer), &applied) {
        return Err(Refusal::WrongPeer);
    }
    worker.standing.check(peer, applied.trust.not_after, clock::wall()).map_err(|ended| match ended {
        Ended::Peer => Refusal::EndpointExpired,
        Ended::Own => Refusal::CertificateExpired,
    })
}

/// Begins the proofs that are due.
pub(crate) fn renew(lanes: &Rc<Lanes>, applied: &Applied, now: SystemTime) {
    let worker = lanes.worker();
    if worker.connections.is_draining() {
        return;
    }
    for key in lanes.renewals.due(applied.trust.not_after, &worker.standing, now) {
        let attempt = Attempt { lanes: Rc::clone(lanes), endpoint: key.endpoint() };
        worker.tasks.spawn_local(prove(attempt, key));
    }
}

/// Where connections lead and who is there.
type Endpoint = (SocketAddr, Option<SpiffeId>);

/// The endpoints that one worker has connections to.
#[derive(Debug)]
pub(crate) struct Renewals {
    by_endpoint: RefCell<HashMap<Endpoint, Peer>>,
    under_way: Cell<usize>,
    /// When something is due next, or earlier.
    look_at: Cell<SystemTime>,
}

/// What is open to one endpoint.
#[derive(Debug)]
struct Peer {
    /// How it is reached.
    key: LaneKey,
    open: Vec<Open>,
    /// Those that were closed are forgotten when there are so many.
    prune_at: usize,
    /// How long after the end of a certificate its proof is due.
    wait: Duration,
    /// When the certificate of ours ends that a proof has shown.
    shown: SystemTime,
    not_before: SystemTime,
    is_under_way: bool,
}

/// One connection; the peer is gone when it is.
#[derive(Debug)]
struct Open {
    peer: Weak<PeerIdentity>,
    /// When the certificate of ours ends that it was made with.
    own_end: SystemTime,
}

impl Default for Renewals {
    fn default() -> Self {
        Self { by_endpoint: RefCell::default(), under_way: Cell::new(0), look_at: Cell::new(UNIX_EPOCH) }
    }
}

impl LaneKey {
    fn endpoint(&self) -> Endpoint {
        (self.address, self.identity.clone())
    }
}

impl Renewals {
    /// A connection was made: `own_end` is the end of our certificate in its handshake; `wait` the time after the end of a
    /// certificate at which this endpoint's proof is due.
    pub(crate) fn opened(&self, key: &LaneKey, peer: &Rc<PeerIdentity>, own_end: SystemTime, wait: Duration) {
        let mut by_endpoint = self.by_endpoint.borrow_mut();
        let of = by_endpoint.entry(key.endpoint()).or_insert_with(|| Peer {
            key: key.clone(),
            open: Vec::new(),
            prune_at: 8,
            wait,
            shown: UNIX_EPOCH,
            not_before: UNIX_EPOCH,
            is_under_way: false,
        });
        if of.open.len() >= of.prune_at {
            of.prune();
            of.prune_at = of.open.len().saturating_mul(2).max(8);
        }
        of.open.push(Open { peer: Rc::downgrade(peer), own_end });
        self.look_by(plus(own_end.min(peer.not_after), of.wait));
    }

    /// The endpoints to prove ourselves to now, which are under way from here on. `own` is the end of our certificate.
    fn due(&self, own: SystemTime, standing: &Standing, now: SystemTime) -> Vec<LaneKey> {
        let look_at = self.look_at.get();
        // The second: the clock was set back.
        if own <= now || (now < look_at && look_at <= plus(now, LOOK_EVERY)) {
            return Vec::new();
        }
        self.look_at.set(plus(now, LOOK_EVERY));
        let mut due = Vec::new();
        self.by_endpoint.borrow_mut().retain(|_, of| {
            of.prune();
            if of.is_under_way || of.open.is_empty() {
                return of.is_under_way;
            }
            let at = of.due_at(own, standing, now);
            if at <= now && self.under_way.get() < AT_ONCE_MAX {
                self.under_way.set(self.under_way.get().saturating_add(1));
                of.is_under_way = true;
                due.push(of.key.clone());
            } else {
                self.look_by(at);
            }
            true
        });
        due
    }

    /// A proof has ended.
    fn ended(&self, endpoint: &Endpoint, retry_at: SystemTime) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
        if let Some(of) = self.by_endpoint.borrow_mut().get_mut(endpoint) {
            of.is_under_way = false;
            of.not_before = retry_at;
        }
        self.look_by(retry_at);
    }

    /// The peer has taken a proof.
    fn shown(&self, endpoint: &Endpoint, own_end: SystemTime) {
        if let Some(of) = self.by_endpoint.borrow_mut().get_mut(endpoint) {
            of.shown = of.shown.max(own_end);
        }
    }

    fn look_by(&self, at: SystemTime) {
        self.look_at.set(self.look_at.get().min(at));
    }
}

impl Peer {
    fn prune(&mut self) {
        self.open.retain(|open| open.peer.strong_count() > 0);
    }

    /// When a proof is due as things are: what was shown has ended and there is something newer to show, or what was seen
    /// has ended.
    fn due_at(&self, own: SystemTime, standing: &Standing, now: SystemTime) -> SystemTime {
        let shown = self.open.iter().map(|open| open.own_end).fold(self.shown, SystemTime::max);
        let ours = if own > shown { plus(shown, self.wait) } else { own };
        let theirs = self.open.iter().filter_map(|open| open.peer.upgrade()).map(|peer| {
            let end = plus(peer.not_after, self.wait);
            // What others have seen of it is asked for only when that matters.
            if end > now { end } else { plus(standing.newest(&peer), self.wait) }
        });
        theirs.fold(ours, SystemTime::min).max(self.not_before)
    }
}

/// A proof under way, whatever ends it.
struct Attempt {
    lanes: Rc<Lanes>,
    endpoint: Endpoint,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let pause = self.lanes.worker().standing.grace() / TRIES;
        self.lanes.renewals.ended(&self.endpoint, plus(clock::wall(), pause));
    }
}

async fn prove(attempt: Attempt, key: LaneKey) {
    let Attempt { lanes, endpoint } = &attempt;
    let worker = lanes.worker();
    let _panic = worker.panic_guard();
    let registration = worker.connections.register_part();
    let own_end = worker.applied().trust.not_after;
    // Cancel safe: a connection that carries nothing may be dropped at any time.
    let proven = tokio::select! {
        proven = handshake(lanes, &key) => proven,
        () = drained(&registration) => return,
    };
    let service = key.name.as_ref().map(|(service, _)| service.to_string()).unwrap_or_default();
    match proven {
        Ok(()) => {
            lanes.renewals.shown(endpoint, own_end);
            tracing::debug!(endpoint = %key.address, service, "certificates shown anew beside open connections");
        }
        Err(error) => {
            tracing::info!(
                endpoint = %key.address,
                service,
                %error,
                "cannot show certificates anew beside open connections; they are cut if this goes on"
            );
        }
    }
}

/// One handshake. It is taken by the peer when the peer closes in good order what we have closed: in TLS 1.3 a refusal of
/// our certificate comes after the end of the handshake.
async fn handshake(lanes: &Lanes, key: &LaneKey) -> Result<(), ConnectError> {
    let mut opened = lanes.connect(key, connect::H1).await?;
    let closing = async {
        opened.transport.shutdown().await?;
        match opened.transport.read(&mut [0]).await? {
            0 => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    };
    let closed = tokio::time::timeout(HANDSHAKE_TIMEOUT, closing).await;
    let endpoint = key.address;
    let closed = closed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    closed.map_err(|source| ConnectError::Handshake { endpoint, source })
}

/// How long after the end of a certificate a proof is due: between a quarter and a half of the grace, drawn for each
/// endpoint, so that those who were certified together do not prove themselves together.
pub(crate) fn wait(worker: &Worker) -> Duration {
    const STEPS: u32 = 1_024;
    let steps = usize::try_from(STEPS).unwrap_or(usize::MAX);
    let step = u32::try_from(worker.random.below(steps)).unwrap_or(0);
    let quarter = worker.standing.grace() / 4;
    quarter.saturating_add((quarter / STEPS).saturating_mul(step))
}

fn plus(time: SystemTime, more: Duration) -> SystemTime {
    time.checked_add(more).unwrap_or(time)
}

#[cfg(test)]
mod tests;
