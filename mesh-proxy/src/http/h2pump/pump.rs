//! One HTTP/2 request and its response, moved stream to stream.
//!
//! Both directions run in one future. Bytes are taken from a sender only as fast as the receiver opens its window, so
//! that nothing gathers here; a window that stays shut ends the stream. A caller's reset becomes a reset of this one
//! stream at the origin and never touches the connection that others share.
//!
//! # Why
//! A refused stream (REFUSED_STREAM, GOAWAY) is provably unprocessed, but by then its body has often been sent. Chunks are
//! reference-counted, so the first 64 KiB are kept at no cost until the origin answers, and can be sent once more.

use super::super::canonical::Canonical;
use super::super::{Failure, Limits, Meter, Origin, Retry};
use super::{Upstream, fields};
use crate::refusal::{Malformed, Refusal};
use bytes::Bytes;
use http::HeaderMap;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// What is kept of a request's body until the origin answers.
const KEPT_BYTES_MAX: usize = 64 * 1024;

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
    /// Fields to add. They are ours: nothing from outside.
    pub append: &'a HeaderMap,
    /// Who answers.
    pub origin: Origin,
}

/// The caller's side of a stream.
pub(crate) struct Caller {
    body: h2::RecvStream,
    respond: h2::server::SendResponse<Bytes>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Everything used of the body is in `kept`.
    replayable: bool,
    /// Chunks of `kept` that were taken in the present attempt.
    taken: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Bytes that the caller's window does not have back yet.
    unreleased: usize,
}

impl Caller {
    pub(super) fn new(body: h2::RecvStream, respond: h2::server::SendResponse<Bytes>) -> Self {
        Self {
            body,
            respond,
            kept: Vec::new(),
            kept_bytes: 0,
            replayable: true,
            taken: 0,
            trailers: None,
            ended: false,
            unreleased: 0,
        }
    }

    /// Sends a whole answer of our own.
    pub(super) fn answer(&mut self, response: http::Response<()>, body: Bytes) {
        // An error here means that the caller is gone, and nobody is left to be told.
        if let Ok(mut stream) = self.respond.send_response(response, body.is_empty())
            && !body.is_empty()
        {
            let _ = stream.send_data(body, true);
        }
    }

    pub(super) fn reset(&mut self, reason: h2::Reason) {
        self.respond.send_reset(reason);
    }

    /// Whether nothing more of the body will come.
    fn is_complete(&self) -> bool {
        self.taken == self.kept.len()
            && (self.ended && self.trailers.is_none() || !self.ended && self.body.is_end_stream())
    }

    /// The next chunk of the body: first what was kept from an earlier attempt.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if let Some(chunk) = self.kept.get(self.taken) {
            self.taken = self.taken.saturating_add(1);
            return Poll::Ready(Some(Ok(chunk.clone())));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let chunk = match ready!(self.body.poll_data(cx)) {
            Some(Ok(chunk)) => chunk,
            other => return Poll::Ready(other),
        };
        self.unreleased = self.unreleased.saturating_add(chunk.len());
        if self.replayable {
            self.kept_bytes = self.kept_bytes.saturating_add(chunk.len());
            if self.kept_bytes <= KEPT_BYTES_MAX {
                self.kept.push(chunk.clone());
                self.taken = self.kept.len();
            } else {
                self.forget();
            }
        }
        Poll::Ready(Some(Ok(chunk)))
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        if !self.ended {
            self.trailers = ready!(self.body.poll_trailers(cx))?;
            self.ended = true;
        }
        let trailers = if self.replayable { self.trailers.clone() } else { self.trailers.take() };
        Poll::Ready(Ok(trailers))
    }

    /// The request cannot be sent again from here on.
    fn forget(&mut self) {
        self.replayable = false;
        if self.taken == self.kept.len() {
            self.kept = Vec::new();
            self.taken = 0;
        }
    }

    fn release(&mut self, count: usize) {
        let count = count.min(self.unreleased);
        self.unreleased = self.unreleased.saturating_sub(count);
        // Fails only for more than is in use.
        let _ = self.body.flow_control().release_capacity(count);
    }
}

/// One request and its response between two HTTP/2 connections.
///
/// After a failure that was not answered, the stream can be forwarded once more if [`Failure::retry`] allows it.
/// Dropped half way, the streams on both sides are reset.
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
        caller.taken = 0;
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
    let declared = declared.and_then(|value| super::super::h1::decimal(value.as_bytes()));
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
    // Waits while the origin's limit of concurrent streams is used up, but no longer than the caller does. Until then
    // nothing of the stream was sent, so that an end is harmless.
    let opened = poll_fn(|cx| match caller.respond.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(Err(fail(Refusal::CallerGone, Retry::Never))),
        Poll::Pending => {
            upstream.poll_ready(cx).map(|ready| ready.map_err(|_| fail(Refusal::UpstreamClosed, Retry::Safe)))
        }
    });
    let opened = tokio::time::timeout(limits.progress_timeout, opened).await;
    if let Err(failure) = opened.unwrap_or(Err(fail(Refusal::UpstreamTimeout, Retry::Safe))) {
        up.send_reset(h2::Reason::CANCEL);
        return Err(failure);
    }
    let rising = if bodiless { Flow::complete() } else { Flow::default() };
    let mut pump = Pump {
        caller,
        up,
        rising,
        down: Down::Awaited(response),
        falling: Flow::default(),
        origin: what.origin,
        limits,
        meter,
        request_bytes: 0,
        interim: 0,
        answered: false,
    };
    let result = poll_fn(|cx| pump.poll(cx)).await;
    result.map_err(|stop| pump.fail(stop))
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// Taken from the sender, not taken by the receiver yet.
    chunk: Bytes,
    /// No more chunks will come.
    drained: bool,
    complete: bool,
    /// Runs while the receiver keeps its window shut.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Flow {
    fn complete() -> Self {
        Self { drained: true, complete: true, ..Self::default() }
    }

    /// Sends as much of the chunk as the window takes. Ready: all of it, or the receiver wants no more.
    fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut h2::SendStream<Bytes>,
        patience: Duration,
        mut taken: impl FnMut(usize) -> End,
    ) -> Poll<Result<(), Push>> {
        while !self.chunk.is_empty() {
            if sink.capacity() == 0 {
                sink.reserve_capacity(self.chunk.len());
            }
            if sink.capacity() == 0 {
                match sink.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(_) => return Poll::Ready(Err(Push::Closed)),
                    Poll::Pending => {
                        let sleep =
                            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                        return sleep.as_mut().poll(cx).map(|()| Err(Push::Stalled));
                    }
                }
            }
            self.stalled = None;
            let part = self.chunk.split_to(sink.capacity().min(self.chunk.len()));
            let count = part.len();
            let end = match taken(count) {
                End::Last if self.chunk.is_empty() => End::Last,
                _ => End::More,
            };
            if sink.send_data(part, end == End::Last).is_err() {
                return Poll::Ready(Err(Push::Closed));
            }
            if end == End::Last {
                self.drained = true;
                self.complete = true;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the direction, with trailers if there are any.
    fn finish(&mut self, sink: &mut h2::SendStream<Bytes>, trailers: Option<HeaderMap>) -> Result<(), Push> {
        self.drained = true;
        self.complete = true;
        let sent = match trailers {
            Some(trailers) => sink.send_trailers(fields::trailers(trailers)),
            None => sink.send_data(Bytes::new(), true),
        };
        sent.map_err(|_| Push::Closed)
    }
}

/// Whether a chunk is the last of its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Last,
    More,
}

/// Why a receiver takes no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Push {
    /// It reset the stream, or its connection ended.
    Closed,
    /// It kept its window shut for too long.
    Stalled,
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
}

enum Down {
    Awaited(h2::client::ResponseFuture),
    Streaming { body: h2::RecvStream, sink: h2::SendStream<Bytes> },
    Complete,
}

struct Pump<'a> {
    caller: &'a mut Caller,
    up: h2::SendStream<Bytes>,
    rising: Flow,
    down: Down,
    falling: Flow,
    origin: Origin,
    limits: &'a Limits,
    meter: &'a mut Meter,
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
            match &self.down {
                Down::Awaited(_) => ready!(self.poll_head(cx))?,
                Down::Streaming { .. } => ready!(self.poll_down(cx))?,
                Down::Complete => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        while !self.rising.complete {
            let caller = &mut *self.caller;
            let pushed = self.rising.poll_push(cx, &mut self.up, self.limits.exchange_timeout, |count| {
                caller.release(count);
                if caller.is_complete() { End::Last } else { End::More }
            });
            match ready!(pushed) {
                Ok(()) => {}
                // The origin may have answered all the same.
                Err(Push::Closed) => {
                    self.rising.complete = true;
                    break;
                }
                Err(Push::Stalled) => {
                    return Poll::Ready(Err(Stop::new(Refusal::UpstreamTimeout, h2::Reason::CANCEL)));
                }
            }
            if self.rising.complete {
                break;
            }
            if self.rising.drained {
                let trailers = ready!(self.caller.poll_trailers(cx)).map_err(|error| caller_fault(&error))?;
                // An error means that the origin takes no more; its response tells why.
                let _ = self.rising.finish(&mut self.up, trailers);
                break;
            }
            match ready!(self.caller.poll_chunk(cx)) {
                Some(Ok(chunk)) => {
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
            self.interim = self.interim.saturating_add(1);
            if self.interim > self.limits.interim_max {
                let refusal = Refusal::BadResponse(Malformed::Interim);
                return Poll::Ready(Err(Stop::new(refusal, h2::Reason::INTERNAL_ERROR)));
            }
            self.answered = true;
            let interim = fields::response(&interim.into_parts().0, self.origin);
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
        self.answered = true;
        self.meter.status = head.status.as_u16();
        self.meter.grpc_status = fields::grpc_status(&head.headers);
        let complete = body.is_end_stream();
        match self.caller.respond.send_response(fields::response(&head, self.origin), complete) {
            Ok(_) if complete => self.down = Down::Complete,
            Ok(sink) => self.down = Down::Streaming { body, sink },
            Err(_) => return Poll::Ready(Err(Stop::caller_gone())),
        }
        Poll::Ready(Ok(()))
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let Down::Streaming { body, sink } = &mut self.down else {
            return Poll::Ready(Ok(()));
        };
        let gone = |_| Stop::caller_gone();
        loop {
            let pushed = self.falling.poll_push(cx, sink, self.limits.progress_timeout, |count| {
                let _ = body.flow_control().release_capacity(count);
                if body.is_end_stream() { End::Last } else { End::More }
            });
            match pushed {
                Poll::Ready(pushed) => pushed.map_err(gone)?,
                Poll::Pending => return Poll::Pending,
            }
            if self.falling.complete {
                break;
            }
            if sink.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Stop::caller_gone()));
            }
            if self.falling.drained {
                let trailers = ready!(body.poll_trailers(cx)).map_err(|error| cut(&error))?;
                let status = trailers.as_ref().and_then(fields::grpc_status);
                self.meter.grpc_status = status.or(self.meter.grpc_status);
                self.falling.finish(sink, trailers).map_err(gone)?;
                break;
            }
            match ready!(body.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    let bytes = chunk.len() as u64;
                    self.meter.response_bytes = self.meter.response_bytes.saturating_add(bytes);
                    self.falling.chunk = chunk;
                }
                Some(Err(error)) => return Poll::Ready(Err(cut(&error))),
                None => self.falling.drained = true,
            }
        }
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
        match &mut self.down {
            Down::Streaming { sink, .. } => sink.send_reset(stop.reason),
            Down::Awaited(_) if self.answered || stop.refusal == Refusal::CallerGone => {
                self.caller.respond.send_reset(stop.reason);
            }
            Down::Awaited(_) | Down::Complete => {}
        }
        let retry = if self.answered { Retry::Never } else { stop.retry };
        if retry == Retry::Safe {
            self.meter.request_bytes = self.meter.request_bytes.saturating_sub(self.request_bytes);
        }
        Failure { refusal: stop.refusal, answered: self.answered, retry }
    }
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
