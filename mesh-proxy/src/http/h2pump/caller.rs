//! The caller's side of a stream: its body, as often as it must be sent, and its answer, as far as it has come.
//!
//! # Why
//! A refused stream (REFUSED_STREAM, GOAWAY) is provably unprocessed, but by then its body has often been sent. Chunks are
//! reference-counted, so the first 64 KiB are kept at no cost until the origin answers, and can be sent once more.
//!
//! The answer's sink lives here and not in the pump, so that whoever cuts a stream off can still end it with a gRPC status.

use super::super::bodies::{Bodies, Full};
use super::held::Held;
use crate::refusal::{Dialect, Refused};
use bytes::Bytes;
use http::HeaderMap;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// What is kept of a request's body until the origin answers.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// The caller's side of a stream.
pub(crate) struct Caller {
    body: h2::RecvStream,
    pub(super) respond: h2::server::SendResponse<Bytes>,
    /// How far the answer has come.
    pub(super) answer: Answer,
    /// What was read of the body and is still needed: to be sent once more, or because the origin takes none now.
    kept: Held,
    /// Everything used of the body is in `kept`.
    pub(super) replayable: bool,
    /// Chunks of `kept` that were taken in the present attempt; 0 unless it is replayable.
    taken: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Bytes that the caller's window does not have back yet.
    unreleased: usize,
}

/// How far an answer has come.
pub(super) enum Answer {
    /// No final head was sent.
    Awaited,
    /// The head was sent, the body goes here.
    Streaming(h2::SendStream<Bytes>),
    /// Nothing more can be sent.
    Over,
}

impl Caller {
    pub(super) fn new(
        body: h2::RecvStream,
        respond: h2::server::SendResponse<Bytes>,
        bodies: &Arc<Bodies>,
    ) -> Self {
        Self {
            body,
            respond,
            answer: Answer::Awaited,
            kept: Held::new(bodies),
            replayable: true,
            taken: 0,
            trailers: None,
            ended: false,
            unreleased: 0,
        }
    }

    /// The account of what is held.
    pub(super) fn bodies(&self) -> &Arc<Bodies> {
        self.kept.bodies()
    }

    /// Answers with a refusal. Where an answer has begun, ends it so that nobody takes it for whole: gRPC callers get
    /// the status and the reason in trailers, others a reset.
    pub(super) fn refuse(&mut self, refused: Refused<'_>, dialect: Dialect) {
        // An error here means that the caller is gone, and nobody is left to be told.
        match std::mem::replace(&mut self.answer, Answer::Over) {
            Answer::Awaited => {
                let (response, body) = refused.response_h2(dialect);
                if let Ok(mut stream) = self.respond.send_response(response, body.is_empty())
                    && !body.is_empty()
                {
                    let _ = stream.send_data(Bytes::from(body), true);
                }
            }
            Answer::Streaming(mut sink) if dialect == Dialect::Grpc => {
                if sink.send_trailers(refused.trailers_grpc()).is_err() {
                    sink.send_reset(h2::Reason::CANCEL);
                }
            }
            Answer::Streaming(mut sink) => sink.send_reset(h2::Reason::CANCEL),
            Answer::Over => {}
        }
    }

    /// Resets the stream; nothing more can be answered.
    pub(super) fn reset(&mut self, reason: h2::Reason) {
        match std::mem::replace(&mut self.answer, Answer::Over) {
            Answer::Awaited => self.respond.send_reset(reason),
            Answer::Streaming(mut sink) => sink.send_reset(reason),
            Answer::Over => {}
        }
    }

    /// Whether nothing more of the body will come.
    pub(super) fn is_complete(&self) -> bool {
        self.taken == self.kept.len()
            && (self.ended && self.trailers.is_none() || !self.ended && self.body.is_end_stream())
    }

    /// The next chunk of the body: first what is kept.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if self.replayable {
            if let Some(chunk) = self.kept.at(self.taken) {
                self.taken = self.taken.saturating_add(1);
                return Poll::Ready(Some(Ok(chunk)));
            }
        } else if let Some(chunk) = self.kept.pop() {
            return Poll::Ready(Some(Ok(chunk)));
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
            let fits = self.kept.bytes().saturating_add(chunk.len()) <= KEPT_BYTES_MAX;
            if fits && self.kept.push(chunk.clone()).is_ok() {
                self.taken = self.kept.len();
            } else {
                self.forget();
            }
        }
        Poll::Ready(Some(Ok(chunk)))
    }

    /// Takes in what has come while the origin takes none, so that it is counted.
    ///
    /// # Errors
    /// [`Intake::Full`]: there is no room. [`Intake::Broken`]: the caller's stream ended early.
    pub(super) fn take_in(&mut self, cx: &mut Context<'_>) -> Result<(), Intake> {
        while !self.ended {
            match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    self.unreleased = self.unreleased.saturating_add(chunk.len());
                    self.kept.push_unpinned(chunk)?;
                }
                Poll::Ready(Some(Err(error))) => return Err(Intake::Broken(error)),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Ok(())
    }

    pub(super) fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        if !self.ended {
            self.trailers = ready!(self.body.poll_trailers(cx))?;
            self.ended = true;
        }
        let trailers = if self.replayable { self.trailers.clone() } else { self.trailers.take() };
        Poll::Ready(Ok(trailers))
    }

    /// Begins the body again, for another attempt.
    pub(super) fn rewind(&mut self) {
        self.taken = 0;
    }

    /// The request cannot be sent again from here on.
    pub(super) fn forget(&mut self) {
        if std::mem::take(&mut self.replayable) {
            for _ in 0..std::mem::take(&mut self.taken) {
                self.kept.pop();
            }
        }
    }

    /// Gives the caller's window bytes back that the origin took.
    pub(super) fn release(&mut self, count: usize) {
        let count = count.min(self.unreleased);
        self.unreleased = self.unreleased.saturating_sub(count);
        // Fails only for more than is in use.
        let _ = self.body.flow_control().release_capacity(count);
    }
}

/// Why what has come of a body was not taken in.
#[derive(Debug)]
pub(super) enum Intake {
    /// The process holds as much as it may.
    Full,
    /// The body's sender went away or broke the protocol.
    Broken(h2::Error),
}

impl From<Full> for Intake {
    fn from(_: Full) -> Self {
        Self::Full
    }
}
