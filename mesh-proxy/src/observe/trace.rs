//! Traces: which requests are part of one, the header that joins the application's next hop to it, and the span that is
//! told when the request is over.
//!
//! `inbound::http` and `outbound::http` ask [`Tracer::begin`] once for each request and forward with [`Span::lines`] in the
//! place of the trace context that came. The span travels in the request's [`Record`](super::Record) to the control
//! thread, where [`export`] makes OpenTelemetry's form of it and sends it.
//!
//! A trace begins where a request enters the mesh: at its workload's proxy, or at the called one when the caller is none
//! of the mesh. What has come with a trace context is continued if it was sampled, and passed on as it came if not; of a
//! caller in the mesh without one it was decided already. Nothing here waits, reads a clock or keeps state of a request.
//!
//! # Why
//! The tracing libraries' own spans allocate before they know whether anybody wants them, and end under a lock. Here a
//! request that is not sampled costs a branch, and a look at its fields where tracing is on.

pub(crate) mod context;
pub(crate) mod export;

use crate::clock;
use crate::http::canonical::Canonical;
use context::{Context, Incoming};
use mesh_proto::config::Tracing;
use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

/// Spans of one data thread in a second: a caller can ask for each of its requests to be traced, and the queue is also that
/// of refusals for the access log.
const SPANS_PER_SECOND: u32 = 1_000;
/// The whole of a share.
const WHOLE: u32 = 10_000;

/// Where in the path of a request we stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hop {
    /// At the workload that calls.
    Calling,
    /// At the one called, by a workload of the mesh, whose proxy has decided.
    CalledByPeer,
    /// At the one called, by somebody else.
    CalledByStranger,
}

/// A request's part of a trace.
#[derive(Debug)]
pub(crate) struct Span {
    /// The trace.
    pub(crate) trace_id: u128,
    /// This part of it.
    pub(crate) span_id: u64,
    /// What it is a part of; `None` for the root.
    pub(crate) parent: Option<u64>,
    /// When it ended; set when it is told.
    pub(crate) ended: SystemTime,
    /// gRPC's status, where there was one.
    pub(crate) grpc_status: Option<u8>,
    lines: Vec<u8>,
}

impl Span {
    /// Header lines that take the place of the context that came, each `name: value\r\n`.
    pub(crate) fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// The same for HTTP/2.
    pub(crate) fn fields(&self) -> http::HeaderMap {
        context::fields(&self.lines)
    }
}

/// The lines of a request that may be part of no trace.
pub(crate) fn lines(span: Option<&Span>) -> &[u8] {
    span.map(Span::lines).unwrap_or_default()
}

/// The same for HTTP/2; of none, an empty map, which allocates nothing.
pub(crate) fn fields(span: Option<&Span>) -> http::HeaderMap {
    span.map(Span::fields).unwrap_or_default()
}

/// One request and when it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The request.
    pub(crate) request: &'a Canonical<'a>,
    /// Where it is.
    pub(crate) hop: Hop,
    /// When it came.
    pub(crate) began: Instant,
}

/// Decides for one data thread what is traced.
#[derive(Debug)]
pub(crate) struct Tracer {
    /// Spans that may still begin in the second since the time beside it.
    left: Cell<(Option<Instant>, u32)>,
}

impl Default for Tracer {
    fn default() -> Self {
        Self { left: Cell::new((None, SPANS_PER_SECOND)) }
    }
}

impl Tracer {
    /// The request's part of a trace, if it is sampled. `below` gives random numbers below its argument; `over` is told of
    /// what is one too many in its second.
    pub(crate) fn begin(
        &self,
        tracing: &Tracing,
        asked: Asked<'_>,
        below: impl Fn(usize) -> usize,
        over: impl Fn(),
    ) -> Option<Box<Span>> {
        let incoming = Incoming::of(asked.request);
        let drawn = || below(WHOLE as usize) < usize::try_from(tracing.sampling).unwrap_or(usize::MAX);
        let sampled = match (&incoming.context, asked.hop) {
            (Some(Context { sampled: Some(sampled), .. }), _) => *sampled,
            (Some(_), _) => drawn(),
            (None, Hop::CalledByPeer) => false,
            (None, _) if incoming.is_declined => false,
            (None, Hop::Calling | Hop::CalledByStranger) => drawn(),
        };
        if !sampled {
            return None;
        }
        if !self.take(asked.began) {
            over();
            return None;
        }
        // Neither may be zero (W3C Trace Context, 3.2.2.3 and 3.2.2.4).
        let new = || rand::random::<u64>().max(1);
        let trace_id =
            incoming.context.as_ref().map_or_else(|| rand::random::<u128>().max(1), |came| came.trace_id);
        let parent = incoming.context.as_ref().map(|came| came.span_id);
        let span_id = new();
        let lines = context::write(asked.request, &incoming, (trace_id, span_id));
        Some(Box::new(Span {
            trace_id,
            span_id,
            parent,
            ended: SystemTime::UNIX_EPOCH,
            grpc_status: None,
            lines,
        }))
    }

    /// Takes one of this second's.
    fn take(&self, now: Instant) -> bool {
        let (since, left) = self.left.get();
        let is_over =
            since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1));
        let (since, left) = if is_over { (Some(now), SPANS_PER_SECOND) } else { (since, left) };
        self.left.set((since, left.saturating_sub(1)));
        left > 0
    }
}

/// Ends a span now.
pub(crate) fn end(span: Option<Box<Span>>, grpc_status: Option<u8>) -> Option<Box<Span>> {
    let mut span = span?;
    span.ended = clock::wall();
    span.grpc_status = grpc_status;
    Some(span)
}

/// The trace of a request for its line in the access log, 32 hexadecimal digits: of its span, or of the context that came
/// with it; empty without either.
pub(crate) fn id_text(span: Option<&Span>, request: Option<&Canonical<'_>>) -> String {
    let came = || Incoming::of(request?).context.map(|came| came.trace_id);
    let id = span.map(|span| span.trace_id).or_else(came);
    id.map(|id| format!("{id:032x}")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
