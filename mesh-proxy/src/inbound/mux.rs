//! Sessions with many streams from one caller: each stream is judged, limited, counted and recorded like a connection of
//! its own, by the same code.

use super::handshake::Arrived;
use super::{Inbound, Peer, begin, count, http, opaque, share};
use crate::clock;
use crate::connections::Direction;
use crate::mux::drive::Drive;
use crate::mux::frame::Inside;
use crate::mux::guard::Side;
use crate::mux::state::{Arrival, State};
use crate::mux::stream::Stream;
use crate::observe::metrics::{ConnectionKind, OpenGuard};
use crate::outbound::sessions::ended;
use crate::refusal::Refusal;
use crate::transport::{Transport, tune_shared};
use mesh_ca::tls::parse_server_name;
use mesh_proto::policy::model::Protocol;
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long the caller of a session that is over has to close it. It does so within a round trip; one that does not is gone
/// or hangs, and must not keep this proxy from ending.
const FAREWELL: Duration = Duration::from_secs(2);

fn is_over(session: &RefCell<State>) -> bool {
    let session = session.borrow();
    session.is_leaving() && session.is_empty()
}

/// Carries a session and all its streams to their end.
pub(crate) async fn serve(inbound: &Rc<Inbound>, arrived: Arrived, from: SocketAddr) {
    let Arrived::Mesh { transport, peer, .. } = arrived else { return };
    let peer = Peer::new(inbound, Some(peer), from, transport.tls_facts());
    let Some(_share) = share(inbound, &peer, from) else { return transport.reset_on_close() };
    let (Transport::Mesh(io), Some(identity)) = (transport, peer.identity.clone()) else { return };
    let worker = &inbound.worker;
    worker.shard.sessions.add(1);
    let trust = Arc::clone(&worker.applied().trust);
    let state = State::new(Side::Called, Rc::clone(&worker.mux_budget));
    let session = Rc::new(RefCell::new(state));
    let registration = worker.connections.register_part();
    tune_shared(&io);
    let mut driving = Drive::new(io, Rc::clone(&session), clock::now());
    let mut streams = JoinSet::new();
    let mut quiet = tokio::time::interval(worker.limits.idle_timeout);
    quiet.tick().await;
    let mut was_idle = false;
    loop {
        let applied = worker.applied();
        if let Err(refusal) = peer.may_stay(&applied) {
            // Each stream judges for itself first, so that its record says why it was cut.
            tokio::task::yield_now().await;
            worker.shard.refused(Direction::Inbound, refusal.label());
            break;
        }
        if worker.connections.is_draining() || !trust.is_as_good_as(&applied.trust) {
            session.borrow_mut().leave();
        }
        let turn = poll_fn(|cx| {
            while let Poll::Ready(Some(_)) = streams.poll_join_next(cx) {}
            let end = driving.poll(cx);
            loop {
                let Some(arrival) = session.borrow_mut().arrival() else { break };
                take(inbound, (&peer, from), (&session, arrival), &mut streams);
            }
            end
        });
        // All branches are cancel safe: the driver keeps its state.
        tokio::select! {
            biased;
            _ = registration.changed() => {}
            end = turn => {
                ended(worker, &identity, Direction::Inbound, &end);
                break;
            }
            () = tokio::time::sleep(FAREWELL), if is_over(&session) => session.borrow_mut().close(),
            _ = quiet.tick() => {
                let is_idle = session.borrow().is_empty();
                if is_idle && std::mem::replace(&mut was_idle, is_idle) {
                    session.borrow_mut().leave();
                }
            }
        }
    }
    session.borrow_mut().kill();
    drop(driving);
    while streams.join_next().await.is_some() {}
}

/// Takes a stream as what a connection is elsewhere, or resets it.
fn take(
    inbound: &Rc<Inbound>,
    (peer, from): (&Peer, SocketAddr),
    (session, arrival): (&Rc<RefCell<State>>, Arrival),
    streams: &mut JoinSet<()>,
) {
    let worker = &inbound.worker;
    let stream = Stream::new(session, arrival.stream);
    let transport = Transport::Shared { stream, tls: peer.tls };
    let open = OpenGuard::new(&worker.shard, Direction::Inbound);
    let asked = parse_server_name(&arrival.name, &worker.applied().trust.domain);
    let declared = asked.and_then(|(port, service)| worker.facts.port(port).map(|port| (port, service)));
    let has_expired = peer.identity.as_ref().is_some_and(|peer| peer.not_after <= clock::wall());
    let refusal = match &declared {
        _ if has_expired => Some(Refusal::HandshakeFailed),
        None => Some(Refusal::UnknownPort),
        Some(_) if open.open() > worker.connections_max => Some(Refusal::TooManyConnections),
        Some(_) => None,
    };
    if has_expired {
        // What a handshake would say now.
        worker.shard.handshake_failed(Direction::Inbound, "expired");
        session.borrow_mut().leave();
    }
    let (Some((port, service)), None) = (declared, refusal) else {
        let label = refusal.unwrap_or(Refusal::UnknownPort).label();
        worker.shard.refused(Direction::Inbound, label);
        tracing::debug!(peer = %peer.text, name = %arrival.name, reason = label, "stream refused");
        return transport.reset_on_close();
    };
    // A stream takes of its caller's share what a connection takes.
    let Some(share) = share(inbound, peer, from) else { return transport.reset_on_close() };
    count(worker, ConnectionKind::InboundMesh);
    let protocol = match arrival.inside {
        Inside::Bytes => Protocol::Tcp,
        Inside::Http1 => Protocol::Http1,
    };
    let call = begin(worker, (peer.clone(), port.into_owned()), inbound.called_as(&service), protocol);
    let inbound = Rc::clone(inbound);
    streams.spawn_local(async move {
        let _places = (open, share);
        let _panic = inbound.worker.panic_guard();
        // Boxed: see `caller`.
        match arrival.inside {
            Inside::Bytes => Box::pin(opaque::serve(&inbound, &call, transport, Vec::new())).await,
            Inside::Http1 => Box::pin(http::serve_h1(&inbound, &call, transport, Vec::new())).await,
        }
    });
}
