//! One direction of a stream: chunks as fast as the receiver opens its window, and patience with one that does not.

use super::super::Limits;
use super::super::bodies::{Bodies, Holding};
use bytes::Bytes;
use http::HeaderMap;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// One direction.
#[derive(Default)]
pub(super) struct Flow {
    /// Taken from the sender, not taken by the receiver yet.
    pub(super) chunk: Bytes,
    /// No more chunks will come.
    pub(super) drained: bool,
    pub(super) complete: bool,
    /// Set while the receiver keeps its window shut.
    stall: Option<Stall>,
}

/// A receiver that keeps its window shut.
struct Stall {
    /// Fires each `tick`.
    sleep: Pin<Box<Sleep>>,
    tick: Duration,
    waited: Duration,
    /// The chunk that waits.
    _held: Holding,
}

/// How long a shut window is waited for.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    at_most: Duration,
    /// While the process holds much.
    under_pressure: Duration,
    bodies: &'a Arc<Bodies>,
}

impl Limits {
    pub(super) fn patience<'a>(&self, at_most: Duration, bodies: &'a Arc<Bodies>) -> Patience<'a> {
        Patience { at_most, under_pressure: self.pressure_timeout, bodies }
    }
}

impl Flow {
    /// One that carries nothing.
    pub(super) fn complete() -> Self {
        Self { drained: true, complete: true, ..Self::default() }
    }

    /// Whether the receiver keeps its window shut.
    pub(super) fn is_stalled(&self) -> bool {
        self.stall.is_some()
    }

    /// Sends as much of the chunk as the window takes. Ready: all of it, or the receiver wants no more.
    pub(super) fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut h2::SendStream<Bytes>,
        patience: Patience<'_>,
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
                    Poll::Pending => return self.poll_stall(cx, patience).map(Err),
                }
            }
            self.stall = None;
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

    fn poll_stall(&mut self, cx: &mut Context<'_>, patience: Patience<'_>) -> Poll<Push> {
        let stall = match &mut self.stall {
            Some(stall) => stall,
            none => {
                let mut held = Holding::new(patience.bodies);
                if held.take(self.chunk.len()).is_err() {
                    return Poll::Ready(Push::Full);
                }
                let tick = patience.under_pressure.min(patience.at_most);
                let sleep = Box::pin(tokio::time::sleep(tick));
                none.insert(Stall { sleep, tick, waited: Duration::ZERO, _held: held })
            }
        };
        loop {
            ready!(stall.sleep.as_mut().poll(cx));
            stall.waited = stall.waited.saturating_add(stall.tick);
            if stall.waited >= patience.at_most {
                return Poll::Ready(Push::Stalled);
            }
            if patience.bodies.is_tight() {
                return Poll::Ready(Push::Full);
            }
            let next = stall.sleep.deadline() + stall.tick;
            stall.sleep.as_mut().reset(next);
        }
    }

    /// Ends the direction, with trailers if there are any.
    pub(super) fn finish(
        &mut self,
        sink: &mut h2::SendStream<Bytes>,
        trailers: Option<HeaderMap>,
    ) -> Result<(), Push> {
        self.drained = true;
        self.complete = true;
        let sent = match trailers {
            Some(trailers) => sink.send_trailers(trailers),
            None => sink.send_data(Bytes::new(), true),
        };
        sent.map_err(|_| Push::Closed)
    }
}

/// Whether a chunk is the last of its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Last,
    More,
}

/// Why a receiver takes no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Push {
    /// It reset the stream, or its connection ended.
    Closed,
    /// It kept its window shut for too long.
    Stalled,
    /// It keeps its window shut, and the process holds as much as it may.
    Full,
}
