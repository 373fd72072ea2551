//! A caller's HTTP connection as both sides serve it: the next request or stream, unless something changes meanwhile.
//!
//! `inbound::http` and `outbound::http` bring what differs: who may stay, what is done with a request, how it is told. It
//! never judges, forwards or records.
//!
//! # Why
//! A stream's future is 3.5 to 4 KB, and tokio copies what is spawned in six places, from spawning to dropping: a tenth of
//! all samples of both proxies. Boxed, only the box is copied. Tasks that have ended are taken out before the connection is
//! polled, not one by one with a poll of the connection for each. With a future that is no longer held twice
//! (`outbound::http::h2`) and no timer for a stream that opens at once, GET with 8 connections of 8 streams costs 0.85 and
//! 0.86 of what it did (medians of 7 and 5 paired runs; 0.76 to 0.96), unary gRPC 0.90 (0.81 to 0.91), built as `quick`.
//!
//! What is left is mostly the `h2` crate's connections: half of the samples, of which a fifth is system calls and some
//! fifth copies of frames. One timer for a connection instead of one for each stream could save 1.8 % at most; an allocator
//! that caches blocks of this size (`glibc.malloc.tcache_max`) saved nothing that could be seen. The same load as HTTP/1,
//! which uses pooled connections between the proxies, costs 1.8 times as much: each request has system calls of its own.

use crate::connections::{Change, Registration};
use crate::http::Retry;
use crate::http::h1::{After, RequestHead, Server};
use crate::http::h2pump::{Connection, Stream};
use crate::refusal::Refusal;
use crate::transport::Transport;
use crate::worker::Worker;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a kept-alive connection may still begin a request when the proxy drains: one that is under way already.
const DRAIN_GRACE: Duration = Duration::from_millis(100);

/// Why there is no further request on an HTTP/1 connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// The caller or the proxy has ended it in good order.
    End,
    /// The caller may no longer be served.
    Cut,
    /// What came is no request, or came too late; to be told where it is not [`Refusal::CallerGone`].
    Fault(Refusal),
}

/// Waits for the next request of an HTTP/1 connection, as long as its caller `may_stay`.
///
/// # Errors
/// There is none; see [`Over`].
pub(crate) async fn next_request(
    worker: &Worker,
    server: &mut Server<Transport>,
    registration: &Registration,
    may_stay: impl Fn() -> bool,
) -> Result<RequestHead, Over> {
    loop {
        // Cancel safe: bytes that were read stay in the server; a change that was not taken comes again.
        let head = tokio::select! {
            biased;
            change = registration.changed() => match change {
                Change::Judge if may_stay() => continue,
                Change::Judge => return Err(Over::Cut),
                Change::Drain => {
                    server.drain();
                    // Boxed: it comes once in a proxy's life, and its room would be every idle connection's.
                    let last = tokio::time::timeout(DRAIN_GRACE, server.read_request(&worker.limits));
                    Box::pin(last).await.unwrap_or(Ok(None))
                }
            },
            head = server.read_request(&worker.limits) => head,
        };
        return head.map_err(Over::Fault)?.ok_or(Over::End);
    }
}

/// Ends an HTTP/1 connection where an answer was its last; gives it back where another request may follow.
pub(crate) async fn go_on(
    worker: &Worker,
    server: Server<Transport>,
    after: After,
) -> Option<Server<Transport>> {
    match after {
        After::NextRequest if !worker.connections.is_draining() => return Some(server),
        After::NextRequest | After::Close => server.end(&worker.limits).await,
        After::Abort => server.io().reset_on_close(),
    }
    None
}

/// Carries the streams of an HTTP/2 connection to its end; `serve` makes the task of each. Those that are still open then
/// are dropped.
///
/// # Errors
/// The caller broke the protocol or flooded: to be told.
pub(crate) async fn streams<F>(
    worker: &Worker,
    connection: &mut Connection<Transport>,
    registration: &Registration,
    may_stay: impl Fn() -> bool,
    serve: impl Fn(Stream) -> F,
) -> Result<(), Refusal>
where
    F: Future<Output = ()> + 'static,
{
    let mut open = JoinSet::new();
    if worker.connections.is_draining() {
        connection.drain();
    }
    loop {
        // Cancel safe: streams that were not returned are returned by the next call.
        tokio::select! {
            change = registration.changed() => match change {
                Change::Drain => connection.drain(),
                Change::Judge if may_stay() => {}
                // Dropping connection and streams resets everything that is open on it.
                Change::Judge => return Ok(()),
            },
            accepted = reaping(&mut open, connection.accept()) => match accepted {
                Ok(Some(stream)) => {
                    let panic = worker.panic_guard();
                    let serving = Box::pin(serve(stream));
                    open.spawn_local(async move {
                        let _panic = panic;
                        serving.await;
                    });
                }
                Ok(None) | Err(Refusal::CallerGone) => return Ok(()),
                Err(refusal) => return Err(refusal),
            },
        }
    }
}

/// Waits for `next`, and takes tasks that have ended out of `open` meanwhile. Cancel safe if `next` is.
async fn reaping<T>(open: &mut JoinSet<()>, next: impl Future<Output = T>) -> T {
    let mut next = pin!(next);
    poll_fn(|cx| {
        while let Poll::Ready(Some(_)) = open.poll_join_next(cx) {}
        next.as_mut().poll(cx)
    })
    .await
}

/// Why a stream that was dropped in the middle has ended, whose caller could have stayed.
pub(crate) fn why_dropped(worker: &Worker) -> Refusal {
    if worker.connections.is_draining() { Refusal::Draining } else { Refusal::CallerGone }
}

/// Whether a request goes out once more. Beyond what is provably unprocessed, only methods without effect on a kept
/// connection that its peer closed at that moment (RFC 9110, section 9.2.1; RFC 9112, section 9.3.1).
pub(crate) fn may_retry(retry: Retry, method: &str) -> bool {
    match retry {
        Retry::Safe => true,
        Retry::IfIdempotent => matches!(method, "GET" | "HEAD" | "OPTIONS"),
        Retry::Never => false,
    }
}

/// Drives `work` to its end, unless a change makes `may_go_on` false: then `None`, and the work is dropped.
pub(crate) async fn unless_cut<T>(
    work: impl Future<Output = T>,
    registration: &Registration,
    mut may_go_on: impl FnMut() -> bool,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        // The work is polled in place and only dropped to cut it; a change that was not taken comes again.
        tokio::select! {
            biased;
            result = &mut work => return Some(result),
            change = registration.changed() => {
                if change == Change::Judge && !may_go_on() {
                    return None;
                }
            }
        }
    }
}
