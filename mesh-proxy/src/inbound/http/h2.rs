//! HTTP/2 to the workload: a task for each stream, which is judged by itself and told however it ends.
//!
//! # Why
//! A stream whose caller resets it, vanishes or is cut off is dropped in the middle of its work; what is written after an
//! `await` would then never be reached. So a stream is told by a value that is dropped with it.

use super::super::judge::{self, Admitted, Edges, Question, Refuse, Told};
use super::super::local::caller_lane;
use super::super::pace::paced;
use super::super::{Call, Inbound};
use super::{ATTEMPTS_MAX, DEFAULT_PORT, Done, admit, hop, limits_for};
use crate::caller::{streams, unless_cut, why_dropped};
use crate::clock;
use crate::discovery::Applied;
use crate::http::canonical::{Canonical, Intake};
use crate::http::h1::After;
use crate::http::h2pump::{self, Connection, Stream, StreamForward};
use crate::http::{Meter, Origin, Retry};
use crate::observe::trace;
use crate::outbound::pool::Lane;
use crate::refusal::{Refusal, Refused};
use crate::transport::Transport;
use mesh_proto::policy::model::Protocol;
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// What the streams of one connection share.
struct Shared {
    inbound: Rc<Inbound>,
    call: Rc<Call>,
    /// Where this caller's streams go.
    lane: Rc<Lane>,
    edges: RefCell<Edges>,
}

/// Carries the streams of one HTTP/2 connection.
pub(crate) async fn serve_h2(inbound: &Rc<Inbound>, call: Rc<Call>, transport: Transport, early: Vec<u8>) {
    let worker = &inbound.worker;
    let shared = Rc::new(Shared {
        inbound: Rc::clone(inbound),
        lane: caller_lane(inbound, &call),
        call: Rc::clone(&call),
        edges: RefCell::default(),
    });
    let opened = Connection::open(transport, early, &worker.limits, &worker.bodies).await;
    let served = match opened {
        Ok(mut connection) => {
            let may_stay = || call.peer.is_believed(&worker.applied());
            let serve = |stream| serve_stream(Rc::clone(&shared), stream);
            streams(worker, &mut connection, &call.registration, may_stay, serve).await
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = served {
        let told = Told { refuse: Some(refusal.into()), ..Told::new(Protocol::Http2) };
        told.record(inbound, &worker.applied(), &call, &mut shared.edges.borrow_mut());
    }
}

/// A stream that is told when it ends, whatever ends it.
struct Telling<'a> {
    shared: &'a Shared,
    applied: &'a Arc<Applied>,
    told: Told<'a>,
    began: Instant,
    /// If not, it was dropped in the middle.
    is_over: bool,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let Shared { inbound, call, edges, .. } = self.shared;
        let mut told = std::mem::replace(&mut self.told, Told::new(Protocol::Http2));
        if !self.is_over {
            let ended = call.peer.may_stay(&inbound.worker.applied()).err();
            let refusal = ended.unwrap_or_else(|| why_dropped(&inbound.worker));
            told.refuse = Some(refusal.into());
            if told.meter.status == 0 {
                told.meter.status = Refusal::CallerGone.status();
            }
        }
        told.duration = clock::now().saturating_duration_since(self.began);
        told.record(inbound, self.applied, call, &mut edges.borrow_mut());
    }
}

async fn serve_stream(shared: Rc<Shared>, mut stream: Stream) {
    let Shared { inbound, call, .. } = &*shared;
    let began = clock::now();
    let applied = inbound.worker.applied();
    let head = stream.take_head();
    let intake = Intake { judged: &applied.judged, default_port: Some(DEFAULT_PORT) };
    let request = Canonical::from_h2(&head, &intake);
    let told = Told::new(Protocol::Http2);
    let mut telling = Telling { shared: &shared, applied: &applied, told, began, is_over: false };
    let done = match &request {
        Ok(request) => {
            telling.told.request = Some(request);
            telling.told.protocol = request.protocol;
            telling.told.span = inbound.worker.trace(&applied, request, hop(call), began);
            let question = Question { protocol: request.protocol, sni: None, http: Some(request) };
            match admit(inbound, &applied, call, question, began) {
                Ok(admitted) => {
                    let append = trace::fields(telling.told.span.as_deref());
                    let what = (request, &admitted, &append);
                    forward(&shared, &mut stream, what, &mut telling.told.meter).await
                }
                Err(refuse) => Done::refused(refuse),
            }
        }
        Err(refusal) => Done::refused(*refusal),
    };
    let told = &mut telling.told;
    if let Some(refuse) = &done.refuse {
        if !done.answered {
            told.meter.status = refuse.refusal.status();
        }
        told.id = inbound.worker.recorder.decision_id();
        stream.refuse(Refused { refusal: refuse.refusal, decision: &told.id });
    }
    told.refuse = done.refuse;
    told.by = done.by;
    telling.is_over = true;
}

async fn forward(
    shared: &Shared,
    stream: &mut Stream,
    (request, admitted, append): (&Canonical<'_>, &Admitted<'_>, &::http::HeaderMap),
    meter: &mut Meter,
) -> Done {
    let Shared { inbound, call, lane, .. } = shared;
    let limits = limits_for(inbound, admitted);
    let registration = inbound.worker.connections.register_part();
    let question = Question { protocol: request.protocol, sni: None, http: Some(request) };
    let mut last = Done::refused(Refusal::ConnectFailed);
    for _ in 0..ATTEMPTS_MAX {
        let share = match admitted.app.share(lane).await {
            Ok(share) => share,
            Err(error) => {
                tracing::info!(port = %call.port.port, %error, "the application does not answer");
                return Done::refused(error.refusal());
            }
        };
        let what = StreamForward { request, append, origin: Origin::Application };
        let mut because: Option<Refuse> = None;
        let outcome = {
            let forwarding = pin!(h2pump::forward(stream, what, share.upstream(), &limits, meter));
            let forwarding = paced(forwarding, &admitted.grant, limits.passed.as_ref());
            let may_go_on = || {
                because = judge::may_go_on(&inbound.worker.applied(), call, question).err();
                because.is_none()
            };
            unless_cut(forwarding, &registration, may_go_on).await
        };
        let Some(outcome) = outcome else {
            let refuse = because.unwrap_or_else(|| Refusal::NoRuleAllows.into());
            return Done { answered: stream.is_answered(), ..Done::cut(refuse) };
        };
        let Some(failure) = outcome.failure else {
            return Done { refuse: None, answered: true, after: After::NextRequest, by: admitted.by };
        };
        last = Done {
            refuse: Some(failure.refusal.into()),
            answered: failure.answered,
            after: After::Close,
            by: admitted.by,
        };
        if failure.answered || failure.retry != Retry::Safe {
            return last;
        }
        share.retire();
    }
    last
}
