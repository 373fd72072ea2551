//! HTTP of the workload: each request to an endpoint of its own, retried only where it is provably unprocessed.

use super::attempt::{Attempts, InFlight};
use super::opaque::log;
use super::pool::{Freshness, Lane, is_believed};
use super::resolve::{self, Route};
use super::{Call, Outbound, Seen, Told};
use crate::clock;
use crate::connections::{Change, Registration};
use crate::http::canonical::{Canonical, Intake};
use crate::http::exchange::{self, Forward};
use crate::http::h1::{After, RequestHead, Server};
use crate::http::h2pump::{self, Connection, Stream, StreamForward};
use crate::http::{Failure, Meter, Origin, Retry};
use crate::refusal::{Refusal, Refused};
use crate::transport::{TlsFacts, Transport};
use mesh_proto::policy::model::Protocol;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The port that a host without one means, on the workload's side: plain HTTP.
const DEFAULT_PORT: u16 = 80;

/// How long a kept-alive connection may still begin a request when the proxy drains: one that is under way already.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_millis(100);

/// Carries the requests of one HTTP/1 connection.
pub(crate) async fn serve_h1(outbound: &Rc<Outbound>, call: &Call, stream: TcpStream, early: Vec<u8>) {
    let worker = &outbound.worker;
    let mut server = Server::new(Transport::Plain(stream), early);
    if worker.connections.is_draining() {
        server.drain();
    }
    loop {
        // Cancel safe: bytes that were read stay in the server; a change that was not taken comes again.
        let head = tokio::select! {
            biased;
            change = call.registration.changed() => {
                if change != Change::Drain {
                    continue;
                }
                server.drain();
                let last = tokio::time::timeout(DRAIN_GRACE, server.read_request(&worker.limits));
                last.await.unwrap_or(Ok(None))
            }
            head = server.read_request(&worker.limits) => head,
        };
        let after = match head {
            Ok(None) => return server.end(&worker.limits).await,
            Ok(Some(head)) => {
                let after = exchange_h1(outbound, call, &mut server, &head).await;
                server.recycle(head);
                after
            }
            Err(Refusal::CallerGone) => return,
            Err(refusal) => {
                Told { refusal: Some(refusal), status: refusal.status(), ..Told::new(Protocol::Http1) }
                    .record(outbound, call, None);
                server.refuse(None, Refused::early(refusal), &worker.limits).await
            }
        };
        match after {
            After::NextRequest if worker.connections.is_draining() => {
                return server.end(&worker.limits).await;
            }
            After::NextRequest => {}
            After::Close => return server.end(&worker.limits).await,
            After::Abort => return server.io().reset_on_close(),
        }
    }
}

/// What one request came to.
struct Done {
    failure: Option<Failure>,
    after: After,
    lane: Option<Rc<Lane>>,
    tls: TlsFacts,
}

impl Done {
    fn refused(refusal: Refusal) -> Self {
        let failure = Failure { refusal, answered: false, retry: Retry::Never };
        Self { failure: Some(failure), after: After::Close, lane: None, tls: TlsFacts::default() }
    }
}

async fn exchange_h1(
    outbound: &Rc<Outbound>,
    call: &Call,
    server: &mut Server<Transport>,
    head: &RequestHead,
) -> After {
    let began = clock::now();
    let limits = &outbound.worker.limits;
    let intake = Intake { judged: &[], default_port: Some(DEFAULT_PORT) };
    let mut told = Told::new(Protocol::Http1);
    let mut meter = Meter::default();
    let mut done = match Canonical::from_h1(head, &intake) {
        Ok(request) => {
            describe(&mut told, &request);
            attempt_h1(outbound, call, server, &request, &mut meter).await
        }
        Err(refusal) => Done::refused(refusal),
    };
    told.status = meter.status;
    if let Some(failure) = &done.failure {
        told.refusal = Some(failure.refusal);
        if !failure.answered {
            told.status = failure.refusal.status();
            told.id = outbound.worker.recorder.decision_id();
            let refused = Refused { refusal: failure.refusal, decision: &told.id };
            done.after = server.refuse(Some(head), refused, limits).await;
        }
    }
    finish(outbound, call, told, (&done, &meter, clock::now().saturating_duration_since(began)));
    done.after
}

fn describe(told: &mut Told, request: &Canonical<'_>) {
    told.protocol = request.protocol;
    request.method.clone_into(&mut told.method);
    request.host.authority().clone_into(&mut told.host);
    told.path = request.path.to_string();
}

fn finish(
    outbound: &Rc<Outbound>,
    call: &Call,
    mut told: Told,
    (done, meter, duration): (&Done, &Meter, Duration),
) {
    told.bytes_in = meter.request_bytes;
    told.bytes_out = meter.response_bytes;
    told.duration = duration;
    told.tls = done.tls;
    told.record(outbound, call, done.lane.as_deref());
}

async fn attempt_h1(
    outbound: &Rc<Outbound>,
    call: &Call,
    server: &mut Server<Transport>,
    request: &Canonical<'_>,
    meter: &mut Meter,
) -> Done {
    let route = match resolve::route(outbound, &call.intent).await {
        Ok(route) => route,
        Err(refusal) => return Done::refused(refusal),
    };
    let mut attempts = Attempts::default();
    let mut last = Done::refused(Refusal::NoEndpoints);
    let mut again: Option<Rc<Lane>> = None;
    loop {
        let now = clock::now();
        let freshness = if again.is_some() { Freshness::New } else { Freshness::KeptIsFine };
        let Some(lane) = again.take().or_else(|| attempts.next(&route, &outbound.worker.random, now)) else {
            return last;
        };
        let mut lease = match outbound.lanes.lease(&lane, freshness).await {
            Ok(lease) => lease,
            Err(error) => {
                log(&error, &route);
                attempts.failed(&lane);
                last = Done { lane: Some(lane), ..Done::refused(error.refusal()) };
                continue;
            }
        };
        let was_kept = lease.client.is_reused();
        let in_flight = InFlight::new(&lane, now);
        let what = Forward { request, append: &[], origin: origin(&lane) };
        let tls = lease.tls_facts();
        let forwarding = exchange::forward(server, what, &mut lease.client, &outbound.worker.limits, meter);
        let believed = || is_believed(lease.peer.as_deref(), &outbound.worker.applied());
        let Some(outcome) = unless_cut(forwarding, &call.registration, believed).await else {
            lease.client.io().reset_on_close();
            let cut = Failure { refusal: Refusal::WrongPeer, answered: true, retry: Retry::Never };
            return Done { failure: Some(cut), after: After::Abort, lane: Some(lane), tls };
        };
        match outcome.failure {
            None => {
                in_flight.answered(clock::now());
                outbound.learn(&route, Seen::Http);
                if outcome.reusable {
                    lease.give_back();
                }
                return Done { failure: None, after: outcome.caller, lane: Some(lane), tls };
            }
            Some(failure) => {
                let may_retry = !failure.answered && may_retry(failure.retry, was_kept, request.method);
                last =
                    Done { failure: Some(failure), after: outcome.caller, lane: Some(Rc::clone(&lane)), tls };
                if !may_retry {
                    return last;
                }
                // A kept connection may just have been closed: that says nothing about the endpoint.
                if was_kept {
                    again = Some(lane);
                } else {
                    attempts.failed(&lane);
                }
            }
        }
    }
}

/// Whether a request goes out once more. Beyond what is provably unprocessed, only methods without effect on a kept
/// connection that its peer closed at that moment (RFC 9110, section 9.2.1; RFC 9112, section 9.3.1).
pub(crate) fn may_retry(retry: Retry, was_kept: bool, method: &str) -> bool {
    match retry {
        Retry::Safe => true,
        Retry::IfIdempotent => was_kept && matches!(method, "GET" | "HEAD" | "OPTIONS"),
        Retry::Never => false,
    }
}

/// Drives `work` to its end, unless a change makes `may_go_on` false: then `None`, and the work is dropped.
pub(crate) async fn unless_cut<T>(
    work: impl Future<Output = T>,
    registration: &Registration,
    mut may_go_on: impl FnMut() -> bool,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        // The work is polled in place and only dropped to cut it; a change that was not taken comes again.
        tokio::select! {
            biased;
            result = &mut work => return Some(result),
            change = registration.changed() => {
                if change == Change::Judge && !may_go_on() {
                    return None;
                }
            }
        }
    }
}

fn origin(lane: &Lane) -> Origin {
    if lane.key.identity.is_some() { Origin::MeshPeer } else { Origin::Application }
}

/// Carries the streams of one HTTP/2 connection; one task for each stream.
pub(crate) async fn serve_h2(outbound: &Rc<Outbound>, call: &Call, stream: TcpStream, early: Vec<u8>) {
    let limits = &outbound.worker.limits;
    let Ok(mut connection) = Connection::open(Transport::Plain(stream), early, limits).await else { return };
    let shared = Rc::new(StreamCall {
        intent: Rc::clone(&call.intent),
        from: call.from,
        service: Rc::new(call.service.clone()),
    });
    let mut streams = JoinSet::new();
    if outbound.worker.connections.is_draining() {
        connection.drain();
    }
    loop {
        // Cancel safe: streams that were not returned are returned by the next call.
        tokio::select! {
            change = call.registration.changed() => {
                if change == Change::Drain {
                    connection.drain();
                }
            }
            accepted = connection.accept() => {
                let Ok(Some(stream)) = accepted else { break };
                let (outbound, shared) = (Rc::clone(outbound), Rc::clone(&shared));
                streams.spawn_local(async move {
                    let _panic = outbound.worker.panic_guard();
                    serve_stream(&outbound, &shared, stream).await;
                });
            }
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
        }
    }
}

/// What the streams of a connection share.
struct StreamCall {
    intent: Rc<super::Intent>,
    from: std::net::SocketAddr,
    service: Rc<std::sync::Arc<str>>,
}

async fn serve_stream(outbound: &Rc<Outbound>, shared: &StreamCall, mut stream: Stream) {
    let began = clock::now();
    let call = Call {
        intent: Rc::clone(&shared.intent),
        from: shared.from,
        registration: outbound.worker.connections.register_part(),
        service: (*shared.service).clone(),
    };
    // The head is cloned, so that the stream can be forwarded while the canonical request borrows it.
    let head = stream.head.clone();
    let intake = Intake { judged: &[], default_port: Some(DEFAULT_PORT) };
    let mut told = Told::new(Protocol::Http2);
    let mut meter = Meter::default();
    let done = match Canonical::from_h2(&head, &intake) {
        Ok(request) => {
            describe(&mut told, &request);
            attempt_h2(outbound, &call, &mut stream, &request, &mut meter).await
        }
        Err(refusal) => Done::refused(refusal),
    };
    told.status = meter.status;
    if let Some(failure) = &done.failure {
        told.refusal = Some(failure.refusal);
        if !failure.answered {
            told.status = failure.refusal.status();
            told.id = outbound.worker.recorder.decision_id();
            stream.refuse(Refused { refusal: failure.refusal, decision: &told.id });
        }
    }
    finish(outbound, &call, told, (&done, &meter, clock::now().saturating_duration_since(began)));
}

async fn attempt_h2(
    outbound: &Rc<Outbound>,
    call: &Call,
    stream: &mut Stream,
    request: &Canonical<'_>,
    meter: &mut Meter,
) -> Done {
    let route: Rc<Route> = match resolve::route(outbound, &call.intent).await {
        Ok(route) => route,
        Err(refusal) => return Done::refused(refusal),
    };
    let mut attempts = Attempts::default();
    let mut last = Done::refused(Refusal::NoEndpoints);
    let append = ::http::HeaderMap::new();
    while let Some(lane) = attempts.next(&route, &outbound.worker.random, clock::now()) {
        let share = match outbound.lanes.share(&lane).await {
            Ok(share) => share,
            Err(error) => {
                log(&error, &route);
                attempts.failed(&lane);
                last = Done { lane: Some(lane), ..Done::refused(error.refusal()) };
                continue;
            }
        };
        let in_flight = InFlight::new(&lane, clock::now());
        let what = StreamForward { request, append: &append, origin: origin(&lane) };
        let tls = share.tls_facts();
        let forwarding = h2pump::forward(stream, what, share.upstream(), &outbound.worker.limits, meter);
        let believed = || is_believed(share.peer(), &outbound.worker.applied());
        let Some(outcome) = unless_cut(forwarding, &call.registration, believed).await else {
            let cut = Failure { refusal: Refusal::WrongPeer, answered: true, retry: Retry::Never };
            return Done { failure: Some(cut), after: After::Abort, lane: Some(lane), tls };
        };
        match outcome.failure {
            None => {
                in_flight.answered(clock::now());
                outbound.learn(&route, Seen::Http);
                return Done { failure: None, after: After::NextRequest, lane: Some(lane), tls };
            }
            Some(failure) => {
                let may_retry = !failure.answered && failure.retry == Retry::Safe;
                last =
                    Done { failure: Some(failure), after: After::Close, lane: Some(Rc::clone(&lane)), tls };
                if !may_retry {
                    return last;
                }
                // Refused unprocessed: that connection goes away; the endpoint may well be there.
                share.retire();
            }
        }
    }
    last
}
