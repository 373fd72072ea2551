//! HTTP to the workload: every request judged by itself, and judged again while it runs when something changes.

mod h2;

pub(crate) use h2::serve_h2;

use super::judge::{self, Admitted, Edges, Question, Refuse, Told};
use super::pace::paced;
use super::{Call, Inbound};
use crate::caller::{self, Over, may_retry, unless_cut};
use crate::clock;
use crate::discovery::Applied;
use crate::http::canonical::{Canonical, Intake};
use crate::http::exchange::{self, Forward};
use crate::http::h1::{After, RequestHead, Server};
use crate::http::{Limits, Meter, Origin, Passed};
use crate::observe::trace::{self, Hop};
use crate::outbound::pool::Freshness;
use crate::refusal::{Refusal, Refused};
use crate::transport::Transport;
use mesh_proto::policy::model::Protocol;
use std::borrow::Cow;
use std::pin::pin;
use std::time::Instant;

/// Attempts to reach the application: the kept connection that was just closed, then a new one, then one more.
const ATTEMPTS_MAX: u32 = 3;
/// The port that a host without one means: what is inside the mesh's TLS is plain HTTP.
const DEFAULT_PORT: u16 = 80;

/// Carries the requests of one HTTP/1 connection.
pub(crate) async fn serve_h1(inbound: &Inbound, call: &Call, transport: Transport, early: Vec<u8>) {
    let worker = &inbound.worker;
    let mut server = Server::new(transport, early);
    let mut edges = Edges::default();
    if worker.connections.is_draining() {
        server.drain();
    }
    let may_stay = || call.peer.is_believed(&worker.applied());
    loop {
        let after = match caller::next_request(worker, &mut server, &call.registration, may_stay).await {
            Ok(head) => {
                // Boxed: between requests a connection costs no room for one. One allocation of 2 KiB, 0.1 µs.
                let after = Box::pin(exchange_h1(inbound, call, &mut server, &head, &mut edges)).await;
                server.recycle(head);
                after
            }
            Err(Over::End) => After::Close,
            Err(Over::Cut) => After::Abort,
            Err(Over::Fault(Refusal::CallerGone)) => return,
            Err(Over::Fault(refusal)) => {
                let mut told = Told::new(Protocol::Http1);
                told.refuse = Some(refusal.into());
                told.meter.status = refusal.status();
                told.record(inbound, &worker.applied(), call, &mut edges);
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
    refuse: Option<Refuse>,
    /// Whether the caller has seen a byte of an answer.
    answered: bool,
    after: After,
    by: Option<mesh_proto::policy::evaluate::RuleRef>,
}

impl Done {
    fn refused(refuse: impl Into<Refuse>) -> Self {
        Self { refuse: Some(refuse.into()), answered: false, after: After::Close, by: None }
    }

    fn cut(refuse: Refuse) -> Self {
        Self { refuse: Some(refuse), answered: true, after: After::Abort, by: None }
    }
}

async fn exchange_h1(
    inbound: &Inbound,
    call: &Call,
    server: &mut Server<Transport>,
    head: &RequestHead,
    edges: &mut Edges,
) -> After {
    let began = clock::now();
    let applied = inbound.worker.applied();
    let intake = Intake { judged: &applied.judged, default_port: Some(DEFAULT_PORT) };
    let mut told = Told::new(Protocol::Http1);
    let request = Canonical::from_h1(head, &intake);
    let mut done = match &request {
        Ok(request) => {
            told.request = Some(request);
            told.protocol = request.protocol;
            told.span = inbound.worker.trace(&applied, request, hop(call), began);
            let question = Question { protocol: request.protocol, sni: None, http: Some(request) };
            match admit(inbound, &applied, call, question, began) {
                Ok(admitted) => {
                    let lines = trace::lines(told.span.as_deref());
                    forward_h1(inbound, call, server, (request, &admitted, lines), &mut told.meter).await
                }
                Err(refuse) => Done::refused(refuse),
            }
        }
        Err(refusal) => Done::refused(*refusal),
    };
    if let Some(refuse) = done.refuse.as_ref().filter(|_| !done.answered) {
        told.meter.status = refuse.refusal.status();
        told.id = inbound.worker.recorder.decision_id();
        let refused = Refused { refusal: refuse.refusal, decision: &told.id };
        done.after = server.refuse(Some(head), refused, &inbound.worker.limits).await;
        // A connection over its limit is not kept: the next one may find room again.
        if call.admission.is_err() && done.after == After::NextRequest {
            done.after = After::Close;
        }
    }
    told.refuse = done.refuse;
    told.by = done.by;
    told.duration = clock::now().saturating_duration_since(began);
    told.record(inbound, &applied, call, edges);
    done.after
}

/// Judges a request, after access by the connection's own admission: who may not call at all learns of no limit.
fn admit<'a>(
    inbound: &'a Inbound,
    applied: &Applied,
    call: &Call,
    question: Question<'_>,
    now: Instant,
) -> Result<Admitted<'a>, Refuse> {
    let admitted = judge::admit(inbound, applied, call, question, now)?;
    match &call.admission {
        Ok(_) => Ok(admitted),
        Err(refuse) => Err(refuse.clone()),
    }
}

/// Where a request stands in its trace.
fn hop(call: &Call) -> Hop {
    if call.peer.identity.is_some() { Hop::CalledByPeer } else { Hop::CalledByStranger }
}

/// The codec's bounds for one request: a body limit may be smaller than the default.
fn limits_for<'a>(inbound: &'a Inbound, admitted: &Admitted<'_>) -> Cow<'a, Limits> {
    let general = &inbound.worker.limits;
    let most = admitted.grant.body_bytes_max();
    if most.is_none() && !admitted.grant.counts_bytes() {
        return Cow::Borrowed(general);
    }
    let body_bytes_max = most.into_iter().chain(general.body_bytes_max).min();
    let passed = admitted.grant.counts_bytes().then(Passed::default);
    Cow::Owned(Limits { body_bytes_max, passed, ..general.clone() })
}

async fn forward_h1(
    inbound: &Inbound,
    call: &Call,
    server: &mut Server<Transport>,
    (request, admitted, append): (&Canonical<'_>, &Admitted<'_>, &[u8]),
    meter: &mut Meter,
) -> Done {
    let limits = limits_for(inbound, admitted);
    let question = Question { protocol: request.protocol, sni: None, http: Some(request) };
    let mut freshness = Freshness::KeptIsFine;
    let mut last = Done::refused(Refusal::ConnectFailed);
    for _ in 0..ATTEMPTS_MAX {
        let mut lease = match admitted.app.lease(freshness).await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::info!(port = %call.port.port, %error, "the application does not answer");
                return Done::refused(error.refusal());
            }
        };
        let what = Forward { request, append, origin: Origin::Application };
        let mut because = None;
        let outcome = {
            let forwarding = pin!(exchange::forward(server, what, &mut lease.client, &limits, meter));
            let forwarding = paced(forwarding, &admitted.grant, limits.passed.as_ref());
            let may_go_on = || {
                because = judge::may_go_on(&inbound.worker.applied(), call, question).err();
                because.is_none()
            };
            unless_cut(forwarding, &call.registration, may_go_on).await
        };
        let Some(outcome) = outcome else {
            lease.client.io().reset_on_close();
            return Done::cut(because.unwrap_or_else(|| Refusal::NoRuleAllows.into()));
        };
        let Some(failure) = outcome.failure else {
            if outcome.reusable {
                lease.give_back();
            }
            return Done { refuse: None, answered: true, after: outcome.caller, by: admitted.by };
        };
        let again = !failure.answered && may_retry(failure.retry, request.method);
        last = Done {
            refuse: Some(failure.refusal.into()),
            answered: failure.answered,
            after: outcome.caller,
            by: admitted.by,
        };
        if !again {
            return last;
        }
        freshness = Freshness::New;
    }
    last
}
