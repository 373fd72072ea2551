//! HTTP/2 of the workload: a task for each stream, which goes to an endpoint of its own and is told however it ends.

use super::super::attempt::{Attempts, InFlight};
use super::super::opaque::log;
use super::super::pool::Lane;
use super::super::renewal::may_stay;
use super::super::resolve;
use super::super::tell::Told;
use super::super::{Call, Client, Outbound, Seen};
use super::{DEFAULT_PORT, Done, origin};
use crate::caller::{streams, unless_cut, why_dropped};
use crate::clock;
use crate::http::canonical::{Canonical, Intake};
use crate::http::h1::After;
use crate::http::h2pump::{self, Connection, Stream, StreamForward};
use crate::http::{Failure, Meter, Retry};
use crate::observe::trace::{self, Hop};
use crate::refusal::{Refusal, Refused};
use crate::transport::Transport;
use mesh_proto::policy::model::Protocol;
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;
use tokio::net::TcpStream;

/// Carries the streams of one HTTP/2 connection.
pub(crate) async fn serve_h2(outbound: &Rc<Outbound>, call: &Call, stream: TcpStream, early: Vec<u8>) {
    let worker = &outbound.worker;
    let opened = Connection::open(Transport::Plain(stream), early, &worker.limits, &worker.bodies).await;
    let served = match opened {
        Ok(mut connection) => {
            let serve = |stream| serve_stream(Rc::clone(outbound), Rc::clone(&call.client), stream);
            streams(worker, &mut connection, &call.registration, || true, serve).await
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = served {
        let told = Told { refusal: Some(refusal), ..Told::new(Protocol::Http2) };
        told.record(outbound, &call.client, None);
    }
}

/// A stream that is told when it ends, whatever ends it.
struct Telling<'a> {
    outbound: &'a Outbound,
    client: &'a Client,
    told: Told<'a>,
    /// The endpoint that it went to last.
    lane: Option<Rc<Lane>>,
    began: Instant,
    /// If not, it was dropped in the middle.
    is_over: bool,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut told = std::mem::replace(&mut self.told, Told::new(Protocol::Http2));
        if !self.is_over {
            told.refusal = Some(why_dropped(&self.outbound.worker));
            if told.meter.status == 0 {
                told.meter.status = Refusal::CallerGone.status();
            }
        }
        told.duration = clock::now().saturating_duration_since(self.began);
        told.record(self.outbound, self.client, self.lane.as_deref());
    }
}

async fn serve_stream(outbound: Rc<Outbound>, client: Rc<Client>, mut stream: Stream) {
    let began = clock::now();
    let head = stream.take_head();
    let intake = Intake { judged: &[], default_port: Some(DEFAULT_PORT) };
    let request = Canonical::from_h2(&head, &intake);
    let told = Told::new(Protocol::Http2);
    let mut telling =
        Telling { outbound: &outbound, client: &client, told, lane: None, began, is_over: false };
    let done = match &request {
        Ok(request) => {
            telling.told.request = Some(request);
            telling.told.protocol = request.protocol;
            telling.told.span =
                outbound.worker.trace(&outbound.worker.applied(), request, Hop::Calling, began);
            attempt(&outbound, &client, &mut stream, request, &mut telling).await
        }
        Err(refusal) => Done::refused(*refusal),
    };
    let told = &mut telling.told;
    if let Some(failure) = done.failure {
        let _ = told.refusal_of(&done, &outbound);
        stream.refuse(Refused { refusal: failure.refusal, decision: &told.id });
    }
    telling.is_over = true;
}

async fn attempt(
    outbound: &Rc<Outbound>,
    client: &Client,
    stream: &mut Stream,
    request: &Canonical<'_>,
    telling: &mut Telling<'_>,
) -> Done {
    let route = match resolve::route(outbound, client).await {
        Ok(route) => route,
        Err(refusal) => return Done::refused(refusal),
    };
    let registration = outbound.worker.connections.register_part();
    let mut attempts = Attempts::default();
    let mut last = Done::refused(Refusal::NoEndpoints);
    let append = trace::fields(telling.told.span.as_deref());
    while let Some(lane) = attempts.next(&route, &outbound.worker.random, clock::now()) {
        telling.lane = Some(Rc::clone(&lane));
        let share = match outbound.lanes.share(&lane).await {
            Ok(share) => share,
            Err(error) => {
                log(&error, &route);
                attempts.not_connected(&lane, &error);
                last = Done::refused(error.refusal());
                continue;
            }
        };
        let in_flight = InFlight::new(&lane, clock::now());
        let what = StreamForward { request, append: &append, origin: origin(&lane) };
        telling.told.tls = share.tls_facts();
        let meter: &mut Meter = &mut telling.told.meter;
        let mut because = Refusal::WrongPeer;
        let outcome = {
            let limits = &outbound.worker.limits;
            let forwarding = pin!(h2pump::forward(stream, what, share.upstream(), limits, meter));
            let believed =
                || may_stay(&outbound.worker, share.peer()).map_err(|refusal| because = refusal).is_ok();
            unless_cut(forwarding, &registration, believed).await
        };
        let Some(outcome) = outcome else {
            let answered = stream.is_answered();
            let failure = Failure { refusal: because, answered, retry: Retry::Never };
            return Done { failure: Some(failure), after: After::Abort, ..last };
        };
        let Some(failure) = outcome.failure else {
            in_flight.answered(clock::now());
            outbound.learn(&route, Seen::Http);
            return Done { failure: None, after: After::NextRequest, ..last };
        };
        last = Done { failure: Some(failure), after: After::Close, ..last };
        if failure.answered || failure.retry != Retry::Safe {
            return last;
        }
        // Refused unprocessed: that connection goes away; the endpoint may well be there.
        share.retire();
    }
    last
}
