//! Two callers, the proxy's loop between, and origins, in memory.

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use mesh_proxy::http::bodies::Bodies;
use mesh_proxy::http::canonical::{Canonical, Intake};
use mesh_proxy::http::h2pump::{Connection, Stream, StreamForward, Upstream, connect, forward};
use mesh_proxy::http::{Failure, Limits, Meter, Origin, Retry};
use mesh_proxy::refusal::{Refusal, Refused};
use std::future::poll_fn;
use std::sync::Arc;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;

type Send = h2::client::SendRequest<Bytes>;
type Accepted = (Request<h2::RecvStream>, h2::server::SendResponse<Bytes>);

/// Callers' handles, what the origins accepted, and what became of the streams.
pub(crate) struct World {
    pub(crate) caller: Send,
    /// Another caller, whose streams go over the same connections to the origins.
    pub(crate) another: Send,
    pub(crate) origin: mpsc::UnboundedReceiver<Accepted>,
    pub(crate) ends: mpsc::UnboundedReceiver<(Option<Failure>, Meter)>,
    pub(crate) bodies: Arc<Bodies>,
}

/// Streams that an origin takes at once.
pub(crate) const ORIGIN_STREAMS: u32 = 64;

/// Joins callers, the proxy's loop and `origins` origins (the next one is used after a safe failure).
pub(crate) async fn world(limits: Limits, origins: usize) -> World {
    world_of(limits, origins, ORIGIN_STREAMS).await
}

/// As [`world`], with origins that take so many streams at once.
pub(crate) async fn world_of(limits: Limits, origins: usize, streams: u32) -> World {
    let (accepted, origin) = mpsc::unbounded_channel();
    let mut upstreams = Vec::new();
    for _ in 0..origins {
        let (proxy_side, origin_side) = duplex(1 << 16);
        tokio::spawn(serve_origin(origin_side, accepted.clone(), streams));
        let (upstream, driver) = connect(proxy_side, &limits).await.unwrap();
        tokio::spawn(driver);
        upstreams.push(upstream);
    }
    let (report, ends) = mpsc::unbounded_channel();
    let bodies = Bodies::new(limits.h2_held_bytes_max);
    let mut callers = Vec::new();
    for _ in 0..2 {
        let (near, far) = duplex(1 << 16);
        let serving = proxy(far, upstreams.clone(), (limits.clone(), Arc::clone(&bodies)), report.clone());
        tokio::spawn(serving);
        let (caller, driver) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(driver);
        callers.push(caller);
    }
    let (another, caller) = (callers.pop().unwrap(), callers.pop().unwrap());
    World { caller, another, origin, ends, bodies }
}

async fn serve_origin(io: DuplexStream, accepted: mpsc::UnboundedSender<Accepted>, streams: u32) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams);
    let mut connection = builder.handshake(io).await.unwrap();
    while let Some(Ok(stream)) = connection.accept().await {
        let _ = accepted.send(stream);
    }
}

async fn proxy(
    io: DuplexStream,
    upstreams: Vec<Upstream>,
    (limits, bodies): (Limits, Arc<Bodies>),
    report: mpsc::UnboundedSender<(Option<Failure>, Meter)>,
) {
    let mut connection = Connection::open(io, Vec::new(), &limits, &bodies).await.unwrap();
    while let Ok(Some(stream)) = connection.accept().await {
        let (upstreams, limits, report) = (upstreams.clone(), limits.clone(), report.clone());
        tokio::spawn(async move {
            let _ = report.send(serve(stream, upstreams, &limits).await);
        });
    }
}

async fn serve(mut stream: Stream, upstreams: Vec<Upstream>, limits: &Limits) -> (Option<Failure>, Meter) {
    let mut meter = Meter::default();
    let head = stream.take_head();
    let judged: [Arc<str>; 1] = ["x-tenant".into()];
    let intake = Intake { judged: &judged, default_port: Some(80) };
    let request = match Canonical::from_h2(&head, &intake) {
        Ok(request) => request,
        Err(refusal) => {
            stream.refuse(Refused::early(refusal));
            return (Some(Failure { refusal, answered: true, retry: Retry::Never }), meter);
        }
    };
    let mut append = HeaderMap::new();
    append.insert("x-ours", "yes".parse().unwrap());
    let what = StreamForward { request: &request, append: &append, origin: Origin::Application };
    for upstream in upstreams {
        match forward(&mut stream, what, upstream, limits, &mut meter).await.failure {
            Some(Failure { retry: Retry::Safe, .. }) => {}
            Some(failure) if !failure.answered => {
                stream.refuse(Refused::early(failure.refusal));
                return (Some(failure), meter);
            }
            failure => return (failure, meter),
        }
    }
    stream.refuse(Refused::early(Refusal::NoEndpoints));
    (None, meter)
}

pub(crate) fn post(path: &str) -> Request<()> {
    Request::builder().method(Method::POST).uri(format!("http://app{path}")).body(()).unwrap()
}

/// Sends everything as the window allows.
pub(crate) async fn send_all(
    stream: &mut h2::SendStream<Bytes>,
    bytes: Bytes,
) -> Result<(), Option<h2::Error>> {
    let mut rest = bytes;
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(room)) => room,
            Some(Err(error)) => return Err(Some(error)),
            None => return Err(None),
        };
        stream.send_data(rest.split_to(room.min(rest.len())), false).map_err(Some)?;
    }
    Ok(())
}

pub(crate) async fn read_all(body: &mut h2::RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut seen = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        seen.extend_from_slice(&chunk);
        body.flow_control().release_capacity(chunk.len())?;
    }
    Ok((seen, body.trailers().await?))
}

pub(crate) fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}
