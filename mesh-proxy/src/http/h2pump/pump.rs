//! One HTTP/2 request and its response, moved stream to stream.
//!
//! Both directions run in one future. Bytes are taken from a sender only as fast as the receiver opens its window; what
//! comes nevertheless is taken in and counted ([`super::held`]), and a window that stays shut ends the stream. A caller's
//! reset becomes a reset of this one stream at the origin and never touches the connection that others share.
//!
//! # Why
//! What waits for one receiver must not hold back others on the same connection. So the connection's window is as large as
//! that of all its streams together ([`super::Limits::h2_connection_window`]), and what has come is read even when it cannot
//! go on: `h2` ends a whole connection when small frames of one stream lie unread.

use super::super::bodies::Full;
use super::super::canonical::Canonical;
use super::super::h1::{Watchdog, decimal};
use super::super::{Failure, Limits, Meter, Origin, Retry};
use super::caller::{Answer, Caller, Intake};
use super::flow::{End, Flow, Push};
use super::held::Held;
use super::{Upstream, fields};
use crate::refusal::{Malformed, Refusal};
use bytes::Bytes;
use http::{HeaderMap, header};
use mesh_proto::policy::model::Protocol;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// What became of one stream.
#[derive(Debug)]
pub struct StreamOutcome {
    /// `None`: both sides ended it.
    pub failure: Option<Failure>,
}

/// What to forward and how.
#[derive(Clone, Copy, Debug)]
pub struct StreamForward<'a> {
    /// The one canonical request.
    pub request: &'a Canonical<'a>,
    /// Fields to add. They are ours, and if there are any, they take the place of the trace context that came.
    pub append: &'a HeaderMap,
    /// Who answers.
    pub origin: Origin,
}

/// One request and its response between two HTTP/2 connections.
///
/// After a failure that was not answered, the stream can be forwarded once more if [`Failure::retry`] allows it.
/// Dropped half way, the origin's stream is reset; the caller's waits for [`super::Stream::refuse`], or is reset when dropped.
pub async fn forward(
    stream: &mut super::Stream,
    what: StreamForward<'_>,
    upstream: Upstream,
    limits: &Limits,
    meter: &mut Meter,
) -> StreamOutcome {
    let caller = &mut stream.exchange;
    let failure = begin_and_run(caller, what, upstream, limits, meter).await.err();
    if let Some(Failure { answered: false, retry: Retry::Safe, .. }) = failure {
        caller.rewind();
    }
    StreamOutcome { failure }
}

async fn begin_and_run(
    caller: &mut Caller,
    what: StreamForward<'_>,
    mut upstream: Upstream,
    limits: &Limits,
    meter: &mut Meter,
) -> Result<(), Failure> {
    let fail = |refusal, retry| Failure { refusal, answered: false, retry };
    let request = fields::request(what.request, what.append);
    let request = request.ok_or(fail(Refusal::WrongProtocol, Retry::Never))?;
    let declared = request.headers().get(http::header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| decimal(value.as_bytes()));
    if let (Some(bytes), Some(max)) = (declared, limits.body_bytes_max)
        && bytes > max
    {
        return Err(fail(Refusal::BodyTooLarge, Retry::Never));
    }
    if poll_fn(|cx| Poll::Ready(caller.respond.poll_reset(cx).is_ready())).await {
        return Err(fail(Refusal::CallerGone, Retry::Never));
    }
    // Asked once: the end of the body may arrive while the stream waits to be opened.
    let bodiless = caller.is_complete();
    let sent = upstream.send_request(request, bodiless);
    let (response, mut up) = sent.map_err(|_| fail(Refusal::UpstreamClosed, Retry::Safe))?;
    if let Err((refusal, retry)) = open(caller, &mut upstream, limits.progress_timeout).await {
        up.send_reset(h2::Reason::CANCEL);
        return Err(fail(refusal, retry));
    }
    let waiting = Held::new(caller.bodies());
    let mut pump = Pump {
        caller,
        up,
        rising: if bodiless { Flow::complete() } else { Flow::default() },
        down: Down::Awaited(response),
        falling: Flow::default(),
        waiting,
        what,
        watchdog: Watchdog::new(limits.progress_timeout / 2),
        moved: false,
        limits,
        meter,
        request_bytes: 0,
        interim: 0,
        answered: false,
    };
    let result = poll_fn(|cx| pump.poll(cx)).await;
    result.map_err(|stop| pump.fail(stop))
}

/// Waits while the origin's limit of concurrent streams is used up, but no longer than the caller does. Until then nothing
/// of the stream was sent, so that an end is harmless.
async fn open(
    caller: &mut Caller,
    upstream: &mut Upstream,
    within: Duration,
) -> Result<(), (Refusal, Retry)> {
    // Mostly it is open at once, and needs no timer.
    let at_once = poll_fn(|cx| Poll::Ready(poll_open(cx, caller, upstream))).await;
    if let Poll::Ready(opened) = at_once {
        return opened;
    }
    let waiting = poll_fn(|cx| poll_open(cx, caller, upstream));
    let opened = tokio::time::timeout(within, waiting).await;
    opened.unwrap_or(Err((Refusal::UpstreamTimeout, Retry::Safe)))
}

fn poll_open(
    cx: &mut Context<'_>,
    caller: &mut Caller,
    upstream: &mut Upstream,
) -> Poll<Result<(), (Refusal, Retry)>> {
    if caller.respond.poll_reset(cx).is_ready() {
        return Poll::Ready(Err((Refusal::CallerGone, Retry::Never)));
    }
    if let Poll::Ready(ready) = upstream.poll_ready(cx) {
        return Poll::Ready(ready.map_err(|_| (Refusal::UpstreamClosed, Retry::Safe)));
    }
    match caller.take_in(cx).map_err(Stop::from) {
        Ok(()) => Poll::Pending,
        Err(stop) => Poll::Ready(Err((stop.refusal, Retry::Never))),
    }
}

/// Why a stream stops.
#[derive(Debug)]
struct Stop {
    refusal: Refusal,
    retry: Retry,
    /// What the caller's stream is reset with, if it was answered.
    reason: h2::Reason,
}

impl Stop {
    fn new(refusal: Refusal, reason: h2::Reason) -> Self {
        Self { refusal, retry: Retry::Never, reason }
    }

    fn caller_gone() -> Self {
        Self::new(Refusal::CallerGone, h2::Reason::CANCEL)
    }

    fn full() -> Self {
        Self::new(Refusal::BodiesHeld, h2::Reason::ENHANCE_YOUR_CALM)
    }
}

impl From<Intake> for Stop {
    fn from(intake: Intake) -> Self {
        match intake {
            Intake::Full => Self::full(),
            Intake::Broken(error) => caller_fault(&error),
        }
    }
}

impl From<Full> for Stop {
    fn from(_: Full) -> Self {
        Self::full()
    }
}

enum Down {
    Awaited(h2::client::ResponseFuture),
    /// To the sink that the caller's side owns.
    Streaming(h2::RecvStream),
    Complete,
}

struct Pump<'a> {
    caller: &'a mut Caller,
    up: h2::SendStream<Bytes>,
    rising: Flow,
    down: Down,
    falling: Flow,
    /// What has come of the response while the caller takes none.
    waiting: Held,
    what: StreamForward<'a>,
    limits: &'a Limits,
    meter: &'a mut Meter,
    watchdog: Watchdog,
    /// Anything, since the watchdog was last looked at.
    moved: bool,
    request_bytes: u64,
    interim: u32,
    answered: bool,
}

impl Pump<'_> {
    /// Ready when the response is complete: what is left of the request then has no reader, and dropping the streams
    /// tells the caller so (RST_STREAM with NO_ERROR; RFC 9113, section 8.1).
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if !self.rising.complete
            && let Poll::Ready(Err(stop)) = self.poll_up(cx)
        {
            return Poll::Ready(Err(stop));
        }
        loop {
            let step = match &self.down {
                Down::Awaited(_) => self.poll_head(cx),
                Down::Streaming(_) => self.poll_down(cx),
                Down::Complete => return Poll::Ready(Ok(())),
            };
            match step {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(stop)) => return Poll::Ready(Err(stop)),
                Poll::Pending => return self.poll_quiet(cx).map(Err),
            }
        }
    }

    /// Ready when nothing has moved for too long.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        if std::mem::take(&mut self.moved) {
            self.watchdog.touch();
        }
        let (limit, refusal) = self.deadline();
        self.watchdog.poll_expired(cx, limit).map(|()| Stop::new(refusal, h2::Reason::CANCEL))
    }

    /// Who is awaited, and how long. Shut windows have clocks of their own.
    fn deadline(&self) -> (Duration, Refusal) {
        let awaits_caller = !self.rising.complete && !self.rising.is_stalled();
        if self.what.request.protocol == Protocol::Grpc {
            (self.limits.grpc_quiet_timeout, Refusal::UpstreamTimeout)
        } else if awaits_caller && !self.answered && !self.waits_for_go() {
            (self.limits.progress_timeout, Refusal::RequestTimeout)
        } else {
            (self.limits.exchange_timeout, Refusal::UpstreamTimeout)
        }
    }

    /// Whether the caller waits for a 100 before it sends its body.
    fn waits_for_go(&self) -> bool {
        let expects = || self.what.request.h2().is_some_and(|head| head.headers.contains_key(header::EXPECT));
        self.request_bytes == 0 && expects()
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        while !self.rising.complete {
            let caller = &mut *self.caller;
            let patience = self.limits.patience(self.limits.exchange_timeout, self.waiting.bodies());
            let pushed = self.rising.poll_push(cx, &mut self.up, patience, |count| {
                caller.release(count);
                if caller.is_complete() { End::Last } else { End::More }
            });
            match pushed {
                Poll::Ready(Ok(())) => {}
                // The origin may have answered all the same.
                Poll::Ready(Err(Push::Closed)) => {
                    self.rising.complete = true;
                    break;
                }
                Poll::Ready(Err(Push::Full)) => return Poll::Ready(Err(Stop::full())),
                Poll::Ready(Err(Push::Stalled)) => {
                    return Poll::Ready(Err(Stop::new(Refusal::UpstreamTimeout, h2::Reason::CANCEL)));
                }
                Poll::Pending => {
                    self.caller.take_in(cx)?;
                    return Poll::Pending;
                }
            }
            if self.rising.complete {
                break;
            }
            if self.rising.drained {
                let trailers = ready!(self.caller.poll_trailers(cx)).map_err(|error| caller_fault(&error))?;
                let trailers = trailers.map(|fields| fields::trailers(fields, Origin::Application));
                // An error means that the origin takes no more; its response tells why.
                let _ = self.rising.finish(&mut self.up, trailers);
                break;
            }
            match ready!(self.caller.poll_chunk(cx)) {
                Some(Ok(chunk)) => {
                    self.moved = true;
                    self.count_request(chunk.len() as u64)?;
                    self.rising.chunk = chunk;
                }
                Some(Err(error)) => return Poll::Ready(Err(caller_fault(&error))),
                None => self.rising.drained = true,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn count_request(&mut self, bytes: u64) -> Result<(), Stop> {
        self.request_bytes = self.request_bytes.saturating_add(bytes);
        self.meter.request_bytes = self.meter.request_bytes.saturating_add(bytes);
        self.limits.tell_passed(bytes);
        match self.limits.body_bytes_max {
            Some(max) if self.request_bytes > max => {
                Err(Stop::new(Refusal::BodyTooLarge, h2::Reason::CANCEL))
            }
            _ => Ok(()),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if self.caller.respond.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Stop::caller_gone()));
        }
        let Down::Awaited(response) = &mut self.down else {
            return Poll::Ready(Ok(()));
        };
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            self.moved = true;
            self.interim = self.interim.saturating_add(1);
            if self.interim > self.limits.interim_max {
                let refusal = Refusal::BadResponse(Malformed::Interim);
                return Poll::Ready(Err(Stop::new(refusal, h2::Reason::INTERNAL_ERROR)));
            }
            self.answered = true;
            let interim = fields::response(interim.into_parts().0, self.what.origin);
            if self.caller.respond.send_informational(interim).is_err() {
                return Poll::Ready(Err(Stop::caller_gone()));
            }
        }
        let response = match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(self.origin_fault(&error))),
        };
        let (head, body) = response.into_parts();
        self.caller.forget();
        self.moved = true;
        self.answered = true;
        self.meter.status = head.status.as_u16();
        self.meter.grpc_status = fields::grpc_status(&head.headers);
        let complete = body.is_end_stream();
        match self.caller.respond.send_response(fields::response(head, self.what.origin), complete) {
            Ok(_) if complete => {
                self.caller.answer = Answer::Over;
                self.down = Down::Complete;
            }
            Ok(sink) => {
                self.caller.answer = Answer::Streaming(sink);
                self.down = Down::Streaming(body);
            }
            Err(_) => return Poll::Ready(Err(Stop::caller_gone())),
        }
        Poll::Ready(Ok(()))
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let (Down::Streaming(body), Answer::Streaming(sink)) = (&mut self.down, &mut self.caller.answer)
        else {
            return Poll::Ready(Ok(()));
        };
        let (waiting, origin) = (&mut self.waiting, self.what.origin);
        loop {
            let patience = self.limits.patience(self.limits.progress_timeout, waiting.bodies());
            let pushed = self.falling.poll_push(cx, sink, patience, |count| {
                let _ = body.flow_control().release_capacity(count);
                if waiting.len() == 0 && body.is_end_stream() { End::Last } else { End::More }
            });
            match pushed {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Push::Full)) => return Poll::Ready(Err(Stop::full())),
                Poll::Ready(Err(Push::Closed | Push::Stalled)) => {
                    return Poll::Ready(Err(Stop::caller_gone()));
                }
                Poll::Pending => return take_in(cx, body, waiting, (self.meter, self.limits)),
            }
            if self.falling.complete {
                break;
            }
            if sink.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Stop::caller_gone()));
            }
            if let Some(chunk) = waiting.pop() {
                self.moved = true;
                self.falling.chunk = chunk;
                continue;
            }
            if self.falling.drained {
                let trailers = ready!(body.poll_trailers(cx)).map_err(|error| cut(&error))?;
                let status = trailers.as_ref().and_then(fields::grpc_status);
                self.meter.grpc_status = status.or(self.meter.grpc_status);
                let trailers = trailers.map(|fields| fields::trailers(fields, origin));
                self.falling.finish(sink, trailers).map_err(|_| Stop::caller_gone())?;
                break;
            }
            match ready!(body.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    self.moved = true;
                    count_response(self.meter, self.limits, &chunk);
                    self.falling.chunk = chunk;
                }
                Some(Err(error)) => return Poll::Ready(Err(cut(&error))),
                None => self.falling.drained = true,
            }
        }
        self.caller.answer = Answer::Over;
        self.down = Down::Complete;
        Poll::Ready(Ok(()))
    }

    /// What an error means that came in place of a response.
    fn origin_fault(&self, error: &h2::Error) -> Stop {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // `h2` ends with the GOAWAY only those streams that it excludes (RFC 9113, section 6.8).
        let unprocessed = error.is_remote() && (refused || error.is_go_away());
        let retry = if unprocessed && self.caller.replayable { Retry::Safe } else { Retry::Never };
        let refusal = if error.is_reset() && error.is_remote() {
            Refusal::UpstreamReset
        } else if error.is_library() {
            Refusal::BadResponse(Malformed::PseudoField)
        } else {
            Refusal::UpstreamClosed
        };
        Stop { refusal, retry, reason: h2::Reason::INTERNAL_ERROR }
    }

    /// Ends both streams as far as that is due, and says how it failed.
    fn fail(&mut self, stop: Stop) -> Failure {
        self.up.send_reset(h2::Reason::CANCEL);
        // Of what we end ourselves, a gRPC caller can still be told the reason.
        let is_told = self.what.request.protocol == Protocol::Grpc
            && matches!(stop.refusal, Refusal::BodiesHeld | Refusal::UpstreamTimeout);
        match &self.caller.answer {
            Answer::Streaming(_) if !is_told => self.caller.reset(stop.reason),
            Answer::Awaited if self.answered || stop.refusal == Refusal::CallerGone => {
                self.caller.reset(stop.reason);
            }
            Answer::Streaming(_) | Answer::Awaited | Answer::Over => {}
        }
        let retry = if self.answered { Retry::Never } else { stop.retry };
        if retry == Retry::Safe {
            self.meter.request_bytes = self.meter.request_bytes.saturating_sub(self.request_bytes);
        }
        Failure { refusal: stop.refusal, answered: self.answered, retry }
    }
}

/// Takes in what has come of a response that the caller takes none of. Never ready with success.
fn take_in(
    cx: &mut Context<'_>,
    body: &mut h2::RecvStream,
    waiting: &mut Held,
    (meter, limits): (&mut Meter, &Limits),
) -> Poll<Result<(), Stop>> {
    loop {
        match body.poll_data(cx) {
            Poll::Ready(Some(Ok(chunk))) => {
                count_response(meter, limits, &chunk);
                waiting.push_unpinned(chunk)?;
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(cut(&error))),
            Poll::Ready(None) | Poll::Pending => return Poll::Pending,
        }
    }
}

fn count_response(meter: &mut Meter, limits: &Limits, chunk: &Bytes) {
    meter.response_bytes = meter.response_bytes.saturating_add(chunk.len() as u64);
    limits.tell_passed(chunk.len() as u64);
}

/// What an error means that came in place of a request's body.
fn caller_fault(error: &h2::Error) -> Stop {
    if error.is_library() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR) {
        Stop::new(Refusal::BadRequest(Malformed::LengthMismatch), h2::Reason::PROTOCOL_ERROR)
    } else {
        Stop::caller_gone()
    }
}

/// What an error means that came in place of a response's body: the caller's stream is reset, so that the cut is seen.
fn cut(error: &h2::Error) -> Stop {
    let remote = error.is_reset() && error.is_remote();
    let reason = error.reason().filter(|reason| remote && *reason != h2::Reason::NO_ERROR);
    let refusal = if remote {
        Refusal::UpstreamReset
    } else if error.is_library() {
        Refusal::BadResponse(Malformed::LengthMismatch)
    } else {
        Refusal::UpstreamClosed
    };
    Stop::new(refusal, reason.unwrap_or(h2::Reason::INTERNAL_ERROR))
}
