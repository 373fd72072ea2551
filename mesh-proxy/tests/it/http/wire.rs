//! A caller, the proxy's exchange loop and an origin, joined by in-memory streams.

use mesh_proxy::http::canonical::{Canonical, Intake};
use mesh_proxy::http::exchange::{Forward, Outcome, forward};
use mesh_proxy::http::h1::{After, Client, Server};
use mesh_proxy::http::{Limits, Meter, Origin, Retry};
use mesh_proxy::refusal::{Refusal, Refused};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// What one side of the wire does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Reads until what it has read in this step ends with this.
    Until(&'static str),
    /// Reads so many bytes more.
    Read(usize),
    /// Writes this.
    Send(Vec<u8>),
    /// Ends its direction; goes on reading.
    End,
    /// Drops the transport.
    Vanish,
}

pub(crate) fn until(text: &'static str) -> Step {
    Step::Until(text)
}

pub(crate) fn send(text: impl AsRef<[u8]>) -> Step {
    Step::Send(text.as_ref().to_vec())
}

/// What happened.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Everything the origin read, as text (one string for all its connections).
    pub(crate) origin: String,
    /// Everything the caller read.
    pub(crate) caller: String,
    /// One for each request that was forwarded.
    pub(crate) outcomes: Vec<Outcome>,
    /// How the caller's connection ended.
    pub(crate) end: After,
    pub(crate) meter: Meter,
    /// What was refused.
    pub(crate) refusals: Vec<Refusal>,
}

impl Seen {
    /// The statuses the caller saw, interim ones included.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.caller
            .match_indices("HTTP/1.1 ")
            .filter_map(|(at, _)| self.caller[at + 9..at + 12].parse().ok())
            .collect()
    }
}

/// Settings of one run.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) judged: Vec<Arc<str>>,
    pub(crate) origin: Origin,
    pub(crate) append: &'static [u8],
    /// Capacity of the in-memory pipes.
    pub(crate) pipe: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            judged: vec!["x-tenant".into()],
            origin: Origin::Application,
            append: b"",
            pipe: 64 * 1024,
        }
    }
}

/// Runs a caller's script against origins' scripts: one for each connection that the proxy opens, in turn.
pub(crate) async fn run(caller: &[Step], origins: &[Vec<Step>]) -> Seen {
    run_with(&Setup::default(), caller, origins).await
}

pub(crate) async fn run_with(setup: &Setup, caller: &[Step], origins: &[Vec<Step>]) -> Seen {
    let (near, far) = duplex(setup.pipe);
    let mut near_ends = Vec::new();
    let mut far_ends = Vec::new();
    for script in origins {
        let (proxy_side, origin_side) = duplex(setup.pipe);
        near_ends.push(proxy_side);
        far_ends.push(play(origin_side, script.clone()));
    }
    near_ends.reverse();
    let proxy = serve(setup, far, near_ends);
    let origins = futures_util::future::join_all(far_ends);
    let (caller, origins, mut seen) = tokio::join!(play(near, caller.to_vec()), origins, proxy);
    seen.caller = String::from_utf8_lossy(&caller).into_owned();
    seen.origin = origins.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect();
    seen
}

/// The loop that `inbound` and `outbound` run for a connection, without policy.
pub(crate) async fn serve(setup: &Setup, caller: DuplexStream, mut origins: Vec<DuplexStream>) -> Seen {
    let (limits, mut meter) = (&setup.limits, Meter::default());
    let mut server = Server::new(caller, Vec::new());
    let mut pooled: Option<Client<DuplexStream>> = None;
    let (mut outcomes, mut refusals) = (Vec::new(), Vec::new());
    let end = loop {
        let head = match server.read_request(limits).await {
            Ok(Some(head)) => head,
            Ok(None) => break After::Close,
            Err(refusal) => {
                refusals.push(refusal);
                break server.refuse(None, Refused::early(refusal), limits).await;
            }
        };
        let intake = Intake { judged: &setup.judged, default_port: Some(80) };
        let request = match Canonical::from_h1(&head, &intake) {
            Ok(request) => request,
            Err(refusal) => {
                refusals.push(refusal);
                break server.refuse(Some(&head), Refused::early(refusal), limits).await;
            }
        };
        let what = Forward { request: &request, append: setup.append, origin: setup.origin };
        let after = loop {
            let mut client = match pooled.take() {
                Some(client) => client,
                None => match origins.pop() {
                    Some(io) => Client::new(io),
                    None => {
                        break server.refuse(Some(&head), Refused::early(Refusal::NoEndpoints), limits).await;
                    }
                },
            };
            let outcome = forward(&mut server, what, &mut client, limits, &mut meter).await;
            if outcome.reusable {
                pooled = Some(client);
            }
            let (failure, caller) = (outcome.failure, outcome.caller);
            outcomes.push(outcome);
            match failure {
                None => break caller,
                Some(failure) if failure.answered => {
                    refusals.push(failure.refusal);
                    break After::Abort;
                }
                Some(failure)
                    if failure.retry == Retry::Safe
                        || failure.retry == Retry::IfIdempotent && request.is_idempotent() => {}
                Some(failure) => {
                    refusals.push(failure.refusal);
                    break server.refuse(Some(&head), Refused::early(failure.refusal), limits).await;
                }
            }
        };
        if after != After::NextRequest {
            break after;
        }
        server.recycle(head);
    };
    if end == After::Close {
        server.end(limits).await;
    }
    Seen { origin: String::new(), caller: String::new(), outcomes, end, meter, refusals }
}

/// Plays a script, then reads to the end; returns everything read.
pub(crate) async fn play(io: DuplexStream, script: Vec<Step>) -> Vec<u8> {
    let mut io = io;
    let mut seen = Vec::new();
    for step in script {
        match step {
            Step::Until(text) => {
                let before = seen.len();
                while !seen[before..].ends_with(text.as_bytes()) {
                    let mut byte = [0];
                    match io.read(&mut byte).await {
                        Ok(1) => seen.push(byte[0]),
                        _ => return seen,
                    }
                }
            }
            Step::Read(count) => {
                for _ in 0..count {
                    let mut byte = [0];
                    match io.read(&mut byte).await {
                        Ok(1) => seen.push(byte[0]),
                        _ => return seen,
                    }
                }
            }
            Step::Send(bytes) => {
                if io.write_all(&bytes).await.is_err() {
                    let _ = io.read_to_end(&mut seen).await;
                    return seen;
                }
            }
            Step::End => {
                let _ = io.shutdown().await;
            }
            Step::Vanish => return seen,
        }
    }
    let _ = io.read_to_end(&mut seen).await;
    seen
}
