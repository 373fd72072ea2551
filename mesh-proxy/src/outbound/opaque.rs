//! Opaque connections of the workload: bytes both ways through a mesh connection, or a stream of one, of their own.

use super::attempt::{Attempts, InFlight};
use super::connect::{ConnectError, Opened};
use super::pool::Lane;
use super::renewal::may_stay;
use super::resolve::Route;
use super::tell::Told;
use super::{Call, Next, Outbound, Seen};
use crate::accept::detect::{DETECT_BYTES_MAX, Finding};
use crate::http::Meter;
use crate::refusal::Refusal;
use crate::transport::{Transport, reset_on_close};
use crate::tunnel::Tunnel;
use crate::{accept, clock};
use mesh_proto::policy::model::Protocol;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// How long a silent client is waited for after the upstream, opened to see who speaks first, has gone away: a client of
/// HTTP may have connected early, and the far side refuses tunnels to ports that are judged on HTTP.
const AFTER_UPSTREAM: Duration = Duration::from_secs(3);
/// A tunnel of which one direction has ended is cut when the other moves nothing for this long.
pub(crate) const HALF_CLOSED_IDLE: Duration = Duration::from_secs(300);

/// What is known and has been read when a tunnel begins.
#[derive(Debug)]
pub(crate) struct Opening {
    /// What the client speaks.
    pub(crate) protocol: Protocol,
    /// Its first bytes.
    pub(crate) early: Vec<u8>,
    /// The upstream, if it is open already, with its first bytes.
    pub(crate) upstream: Option<(Rc<Lane>, Opened, Vec<u8>)>,
}

impl Opening {
    /// Nothing was read: the protocol is declared.
    pub(crate) fn declared(protocol: Protocol) -> Self {
        Self { protocol, early: Vec::new(), upstream: None }
    }
}

/// The client is silent: opens the upstream and lets the first one to speak decide. `None`: the connection has ended, or was
/// refused.
pub(crate) async fn race(
    outbound: &Rc<Outbound>,
    call: &Call,
    route: &Rc<Route>,
    stream: &mut TcpStream,
) -> Option<Next> {
    let opaque = |protocol, early, upstream| {
        Some(Next::Opaque(Rc::clone(route), Box::new(Opening { protocol, early, upstream })))
    };
    let mut early = Vec::new();
    let mut upstream: Option<(Rc<Lane>, Opened)> = None;
    let mut words = Vec::new();
    let first = {
        let mut opening = std::pin::pin!(open(outbound, route));
        loop {
            // Cancel safe: what either side said is in its buffer, and the opening is polled in place.
            tokio::select! {
                biased;
                read = accept::find(stream, &mut early) => break First::Client(read),
                opened = &mut opening, if upstream.is_none() => match opened {
                    Ok(opened) => upstream = Some(opened),
                    Err(refusal) => break First::NoUpstream(refusal),
                },
                () = hear(&mut upstream, &mut words), if upstream.is_some() => break First::Upstream,
                () = super::drained(&call.registration) => return None,
            }
        }
    };
    let finding = match first {
        First::Client(Ok(finding)) => finding,
        First::Client(Err(_)) => return None,
        First::Upstream if !words.is_empty() => {
            outbound.learn(route, Seen::ServerFirst);
            let upstream = upstream.map(|(lane, opened)| (lane, opened, words));
            return opaque(Protocol::Tcp, early, upstream);
        }
        First::Upstream | First::NoUpstream(_) => {
            upstream = None;
            match tokio::time::timeout(AFTER_UPSTREAM, accept::find(stream, &mut early)).await {
                Ok(Ok(finding)) => finding,
                Ok(Err(_)) => return None,
                Err(_) => {
                    let refusal = match first {
                        First::NoUpstream(refusal) => refusal,
                        First::Upstream | First::Client(_) => Refusal::UpstreamClosed,
                    };
                    refuse(outbound, call, stream, Protocol::Tcp, refusal);
                    return None;
                }
            }
        }
    };
    match (finding.protocol(), upstream) {
        (_, _) if finding == Finding::Tcp && early.is_empty() => None,
        // The upstream that was opened to listen to is as good as another.
        (Some(protocol @ (Protocol::Tcp | Protocol::Tls)), Some((lane, opened))) => {
            call.registration.set_protocol(protocol);
            opaque(protocol, early, Some((lane, opened, Vec::new())))
        }
        _ => Next::spoken(call, route, (finding, early)),
    }
}

enum First {
    Client(io::Result<Finding>),
    Upstream,
    NoUpstream(Refusal),
}

/// Reads the first bytes of the upstream; none when it closed without a word.
async fn hear(upstream: &mut Option<(Rc<Lane>, Opened)>, words: &mut Vec<u8>) {
    if let Some((_, opened)) = upstream {
        words.reserve(512);
        // A broken stream is one that closed.
        let _ = opened.transport.read_buf(words).await;
    }
}

/// A connection to an endpoint; connect failures are tried on another one.
async fn open(outbound: &Rc<Outbound>, route: &Rc<Route>) -> Result<(Rc<Lane>, Opened), Refusal> {
    let mut attempts = Attempts::default();
    let mut last = Refusal::NoEndpoints;
    while let Some(lane) = attempts.next(route, &outbound.worker.random, clock::now()) {
        match outbound.sessions.open(&outbound.lanes, &lane).await {
            Ok(opened) => return Ok((lane, opened)),
            Err(error) => {
                last = error.refusal();
                log(&error, route);
                attempts.not_connected(&lane, &error);
            }
        }
    }
    Err(last)
}

/// Says once for each failure what went wrong; the far side is to blame, or the network.
pub(crate) fn log(error: &ConnectError, route: &Route) {
    let (service, port, reason) = (&route.service, route.port.port, error.reason());
    tracing::info!(%service, %port, reason, %error, "endpoint failed");
}

/// Carries the tunnel to its end.
pub(crate) async fn serve(
    outbound: &Rc<Outbound>,
    call: &Call,
    route: &Rc<Route>,
    stream: TcpStream,
    opening: Opening,
) {
    debug_assert!(opening.early.len() <= DETECT_BYTES_MAX * 2, "bounded by detection");
    let began = clock::now();
    let Opening { protocol, early, upstream } = opening;
    let opened = match upstream {
        Some(opened) => Ok(opened),
        None => open(outbound, route).await.map(|(lane, opened)| (lane, opened, Vec::new())),
    };
    let (lane, opened, words) = match opened {
        Ok(opened) => opened,
        Err(refusal) => return refuse(outbound, call, &stream, protocol, refusal),
    };
    let in_flight = InFlight::new(&lane, began);
    let mut tunnel = Tunnel::with_prefix(early);
    tunnel.push_backward(&words);
    let mut near = Transport::Plain(stream);
    let Opened { transport: mut far, peer, .. } = opened;
    let mut cut = None;
    let ended: io::Result<()> = {
        let carry = carry(&outbound.worker.scratch, &mut tunnel, &mut near, &mut far);
        let mut carry = std::pin::pin!(carry);
        loop {
            // First, too: whoever waited for the first byte may have missed a change.
            if let Err(refusal) = may_stay(&outbound.worker, peer.as_deref()) {
                cut = Some(refusal);
                break Err(io::ErrorKind::ConnectionAborted.into());
            }
            // Cancel safe: the tunnel's state is outside of its future.
            tokio::select! {
                biased;
                ended = &mut carry => break ended,
                _ = call.registration.changed() => {}
            }
        }
    };
    if ended.is_err() {
        near.reset_on_close();
        far.reset_on_close();
    }
    drop(in_flight);
    lane.has_carried(tunnel.carried.total());
    let told = Told {
        refusal: cut,
        meter: Meter {
            request_bytes: tunnel.carried.forward,
            response_bytes: tunnel.carried.backward,
            ..Meter::default()
        },
        duration: clock::now().saturating_duration_since(began),
        tls: far.tls_facts(),
        ..Told::new(protocol)
    };
    told.record(outbound, &call.client, Some(&lane));
}

/// Drives a tunnel; one that has ended on one side must move on the other.
///
/// # Errors
/// What broke it; [`io::ErrorKind::TimedOut`] for a half that stood still.
pub(crate) async fn carry(
    scratch: &crate::tunnel::Scratch,
    tunnel: &mut Tunnel,
    near: &mut Transport,
    far: &mut Transport,
) -> io::Result<()> {
    let both = poll_fn(|cx| match tunnel.poll(cx, near, far, scratch) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if tunnel.is_half_closed() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    if let Some(result) = both.await {
        return result;
    }
    // One side has ended: from here on the other one has a deadline that moves with its bytes.
    let mut seen = tunnel.carried.total();
    loop {
        let rest = poll_fn(|cx| tunnel.poll(cx, near, far, scratch));
        match tokio::time::timeout(HALF_CLOSED_IDLE, rest).await {
            Ok(result) => return result,
            Err(_) if tunnel.carried.total() == seen => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => seen = tunnel.carried.total(),
        }
    }
}

/// Makes the close of the client's connection a reset, counts and logs it.
pub(crate) fn refuse(
    outbound: &Rc<Outbound>,
    call: &Call,
    stream: &TcpStream,
    protocol: Protocol,
    refusal: Refusal,
) {
    reset_on_close(stream);
    Told { refusal: Some(refusal), ..Told::new(protocol) }.record(outbound, &call.client, None);
}
