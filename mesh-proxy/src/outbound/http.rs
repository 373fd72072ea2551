//! HTTP of the workload: each request to an endpoint of its own, retried only where it is provably unprocessed.

mod h2;

pub(crate) use h2::serve_h2;

use super::attempt::{Attempts, InFlight};
use super::connect::ConnectError;
use super::opaque::log;
use super::pool::{Freshness, Lane, Lease, SHARED_BYTES_MAX};
use super::renewal::may_stay;
use super::resolve;
use super::tell::Told;
use super::{Call, Outbound, Seen};
use crate::caller::{self, Over, may_retry, unless_cut};
use crate::clock;
use crate::http::canonical::{Canonical, Intake};
use crate::http::exchange::{self, Forward};
use crate::http::h1::{After, RequestHead, Server};
use crate::http::{Failure, Meter, Origin, Retry};
use crate::observe::trace::{self, Hop};
use crate::refusal::{Refusal, Refused};
use crate::transport::{TlsFacts, Transport};
use mesh_proto::policy::model::Protocol;
use std::rc::Rc;
use tokio::net::TcpStream;

/// The port that a host without one means, on the workload's side: plain HTTP.
const DEFAULT_PORT: u16 = 80;

/// Carries the requests of one HTTP/1 connection.
pub(crate) async fn serve_h1(outbound: &Rc<Outbound>, call: &Call, stream: TcpStream, early: Vec<u8>) {
    let worker = &outbound.worker;
    let mut server = Server::new(Transport::Plain(stream), early);
    if worker.connections.is_draining() {
        server.drain();
    }
    loop {
        let after = match caller::next_request(worker, &mut server, &call.registration, || true).await {
            Ok(head) => {
                // Boxed: between requests a connection costs no room for one. One allocation of 2 KiB, 0.1 µs.
                let after = Box::pin(exchange_h1(outbound, call, &mut server, &head)).await;
                server.recycle(head);
                after
            }
            Err(Over::End) => After::Close,
            Err(Over::Cut) => After::Abort,
            Err(Over::Fault(Refusal::CallerGone)) => return,
            Err(Over::Fault(refusal)) => {
                let meter = Meter { status: refusal.status(), ..Meter::default() };
                let told = Told { refusal: Some(refusal), meter, ..Told::new(Protocol::Http1) };
                told.record(outbound, &call.client, None);
                server.refuse(None, Refused::early(refusal), &worker.limits).await
            }
        };
        match caller::go_on(worker, server, after).await {
            Some(goes_on) => server = goes_on,
            None => return,
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
            let applied = outbound.worker.applied();
            told.span = outbound.worker.trace(&applied, request, Hop::Calling, began);
            let what = (request, trace::lines(told.span.as_deref()));
            attempt_h1(outbound, call, server, what, &mut told.meter).await
        }
        Err(refusal) => Done::refused(*refusal),
    };
    if let Some(refusal) = told.refusal_of(&done, outbound) {
        done.after = server.refuse(Some(head), Refused { refusal, decision: &told.id }, limits).await;
    }
    told.tls = done.tls;
    told.duration = clock::now().saturating_duration_since(began);
    told.record(outbound, &call.client, done.lane.as_deref());
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
}

async fn attempt_h1(
    outbound: &Rc<Outbound>,
    call: &Call,
    server: &mut Server<Transport>,
    (request, append): (&Canonical<'_>, &[u8]),
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
        let mut lease = match lease(outbound, &lane, request, freshness).await {
            Ok(lease) => lease,
            Err(error) => {
                log(&error, &route);
                attempts.not_connected(&lane, &error);
                last = Done { lane: Some(lane), ..Done::refused(error.refusal()) };
                continue;
            }
        };
        let was_kept = lease.client.is_reused();
        let in_flight = InFlight::new(&lane, now);
        let what = Forward { request, append, origin: origin(&lane) };
        let tls = lease.tls_facts();
        let forwarding = exchange::forward(server, what, &mut lease.client, &outbound.worker.limits, meter);
        let mut because = Refusal::WrongPeer;
        let believed =
            || may_stay(&outbound.worker, lease.peer.as_deref()).map_err(|refusal| because = refusal).is_ok();
        let Some(outcome) = unless_cut(forwarding, &call.registration, believed).await else {
            lease.client.io().reset_on_close();
            let cut = Failure { refusal: because, answered: true, retry: Retry::Never };
            return Done { failure: Some(cut), after: After::Abort, lane: Some(lane), tls };
        };
        match outcome.failure {
            None => {
                in_flight.answered(clock::now());
                outbound.learn(&route, Seen::Http);
                lane.has_answered(meter.request_bytes.saturating_add(meter.response_bytes));
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
                match failure.refusal {
                    Refusal::ConnectFailed => attempts.gone(&lane),
                    _ if was_kept => again = Some(lane),
                    _ => attempts.failed(&lane),
                }
            }
        }
    }
}

/// A connection for one exchange, or a stream; a new one and one of its own after another has failed.
async fn lease(
    outbound: &Outbound,
    lane: &Rc<Lane>,
    request: &Canonical<'_>,
    freshness: Freshness,
) -> Result<Lease, ConnectError> {
    let is_small =
        request.upgrade.is_none() && request.body_bytes().is_some_and(|bytes| bytes <= SHARED_BYTES_MAX);
    if freshness == Freshness::New || !is_small {
        return outbound.lanes.lease(lane, freshness).await;
    }
    outbound.sessions.lease(&outbound.lanes, lane).await
}

fn origin(lane: &Lane) -> Origin {
    if lane.key.identity.is_some() { Origin::MeshPeer } else { Origin::Application }
}
