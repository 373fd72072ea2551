//! HTTP of the workload: each request to an endpoint of its own, retried only where it is provably unprocessed.

use super::attempt::{Attempts, InFlight};
use super::opaque::log;
use super::pool::{Freshness, Lane, is_believed};
use super::resolve::{self, Route};
use super::tell::Told;
use super::{Call, Outbound, Seen};
use crate::clock;
use crate::connections::{Change, Direction, Registration};
use crate::http::canonical::{Canonical, Intake};
use crate::http::exchange::{self, Forward};
use crate::http::h1::{After, RequestHead, Server};
use crate::http::h2pump::{self, Connection, Stream, StreamForward};
use crate::http::{Failure, Meter, Origin, Retry};
use crate::refusal::{Refusal, Refused};
use crate::transport::{TlsFacts, Transport};
use mesh_proto::policy::model::Protocol;
use std::rc::Rc;
use std::time::{Duration, Instant};
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
                let meter = Meter { status: refusal.status(), ..Meter::default() };
                Told { refusal: Some(refusal), meter, ..Told::new(Protocol::Http1) }.record(
                    outbound,
                    &call.client,
                    None,
                );
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
    let request = Canonical::from_h1(head, &intake);
    let mut done = match &request {
        Ok(request) => {
            (told.request, told.protocol) = (Some(request), request.protocol);
            attempt_h1(outbound, call, server, request, &mut told.meter).await
        }
        Err(refusal) => Done::refused(*refusal),
    };
    if let Some(refused) = told.refusal_of(&done, outbound) {
        done.after =
            server.refuse(Some(head), Refused { refusal: refused, decision: &told.id }, limits).await;
    }
    told.finish(outbound, call, (&done, began));
    done.after
}

impl Told<'_> {
    /// What the caller is still to be told, if anything.
    fn refusal_of(&mut self, done: &Done, outbound: &Outbound) -> Option<Refusal> {
        let failure = done.failure?;
        self.refusal = Some(failure.refusal);
        if failure.answered {
            return None;
        }
        self.meter.status = failure.refusal.status();
        self.id = outbound.worker.recorder.decision_id();
        Some(failure.refusal)
    }

    fn finish(mut self, outbound: &Outbound, call: &Call, (done, began): (&Done, Instant)) {
        self.tls = done.tls;
        self.duration = clock::now().saturating_duration_since(began);
        self.record(outbound, &call.client, done.lane.as_deref());
    }
}

async fn attempt_h1(
    outbound: &Rc<Outbound>,
    call: &Call,
    server: &mut Server<Transport>,
    request: &Canonical<'_>,
    meter: &mut Meter,
) -> Done {
    let route = match resolve::route(outbound, &call.client).await {
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
                let may_retry = !failure.answered && may_retry(failure.retry, request.method);
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
pub(crate) fn may_retry(retry: Retry, method: &str) -> bool {
    match retry {
        Retry::Safe => true,
        Retry::IfIdempotent => matches!(method, "GET" | "HEAD" | "OPTIONS"),
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
                let stream = match accepted {
                    Ok(Some(stream)) => stream,
                    Ok(None) | Err(Refusal::CallerGone) => break,
                    Err(refusal) => {
                        outbound.worker.shard.refused(Direction::Outbound, refusal.label());
                        break;
                    }
                };
                let outbound = Rc::clone(outbound);
                let registration = outbound.worker.connections.register_part();
                let call = Call { client: Rc::clone(&call.client), registration };
                streams.spawn_local(async move {
                    let _panic = outbound.worker.panic_guard();
                    serve_stream(&outbound, &call, stream).await;
                });
            }
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
        }
    }
}

async fn serve_stream(outbound: &Rc<Outbound>, call: &Call, mut stream: Stream) {
    let began = clock::now();
    // The head is cloned, so that the stream can be forwarded while the canonical request borrows it.
    let head = stream.head.clone();
    let intake = Intake { judged: &[], default_port: Some(DEFAULT_PORT) };
    let mut told = Told::new(Protocol::Http2);
    let request = Canonical::from_h2(&head, &intake);
    let done = match &request {
        Ok(request) => {
            (told.request, told.protocol) = (Some(request), request.protocol);
            attempt_h2(outbound, call, &mut stream, request, &mut told.meter).await
        }
        Err(refusal) => Done::refused(*refusal),
    };
    if let Some(refusal) = told.refusal_of(&done, outbound) {
        stream.refuse(Refused { refusal, decision: &told.id });
    }
    told.finish(outbound, call, (&done, began));
}

async fn attempt_h2(
    outbound: &Rc<Outbound>,
    call: &Call,
    stream: &mut Stream,
    request: &Canonical<'_>,
    meter: &mut Meter,
) -> Done {
    let route: Rc<Route> = match resolve::route(outbound, &call.client).await {
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
