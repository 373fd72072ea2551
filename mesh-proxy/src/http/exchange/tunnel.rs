//! Bytes both ways after an upgrade, each direction ending by itself.

use super::Outcome;
use super::state::Exchange;
use crate::http::h1::{After, Link};
use crate::http::{Failure, Retry};
use crate::refusal::Refusal;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};

/// One direction of a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flow {
    Open,
    /// The source has ended; the sink is told.
    Ending,
    Ended,
}

impl<S, U> Exchange<'_, S, U>
where
    S: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Carries bytes until both directions have ended. Two open directions may be silent as long as they like (that is
    /// what WebSockets are for); a half-closed tunnel may not.
    pub(super) async fn tunnel(self) -> Outcome {
        let Self { server, client, limits, meter, .. } = self;
        server.link.unmark();
        server.touch();
        let (mut up, mut down) = (Flow::Open, Flow::Open);
        let ended = poll_fn(|cx| {
            let before = (meter.request_bytes, meter.response_bytes);
            let rising =
                poll_flow(cx, &mut up, &mut server.link, &mut client.link, &mut meter.request_bytes)?;
            let falling =
                poll_flow(cx, &mut down, &mut client.link, &mut server.link, &mut meter.response_bytes)?;
            if rising.is_ready() && falling.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if before != (meter.request_bytes, meter.response_bytes) {
                let total = |(up, down): (u64, u64)| up.saturating_add(down);
                let now = total((meter.request_bytes, meter.response_bytes));
                limits.tell_passed(now.saturating_sub(total(before)));
                server.touch();
            }
            if rising.is_ready() || falling.is_ready() {
                let expired = server.poll_expired(cx, limits, limits.exchange_timeout);
                return expired.map(|()| Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::<io::Result<()>>::Pending
        });
        let failure = ended.await.err().map(|_| Failure {
            refusal: Refusal::UpstreamReset,
            answered: true,
            retry: Retry::Never,
        });
        let caller = if failure.is_some() { After::Abort } else { After::Close };
        Outcome { caller, reusable: false, failure, upgraded: true }
    }
}

/// Moves bytes one way. Ready: the source ended and the sink knows.
fn poll_flow<A, B>(
    cx: &mut Context<'_>,
    flow: &mut Flow,
    from: &mut Link<A>,
    to: &mut Link<B>,
    count: &mut u64,
) -> io::Result<Poll<()>>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        if *flow == Flow::Ended {
            return Ok(Poll::Ready(()));
        }
        if !from.unread().is_empty() {
            match to.poll_write_through(cx, from.unread()) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(written) => {
                    let written = written?;
                    from.consume(written);
                    *count = count.saturating_add(written as u64);
                    continue;
                }
            }
        }
        if to.has_output() {
            match to.poll_send(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(sent) => sent?,
            }
        }
        if *flow == Flow::Ending {
            return match to.poll_shutdown(cx) {
                Poll::Pending => Ok(Poll::Pending),
                Poll::Ready(_) => {
                    *flow = Flow::Ended;
                    Ok(Poll::Ready(()))
                }
            };
        }
        match from.poll_fill(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(filled) => {
                if filled? == 0 {
                    *flow = Flow::Ending;
                }
            }
        }
    }
}
