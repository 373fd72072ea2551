//! The HTTPS port that the API server calls.
//!
//! Any pod can reach it, and nothing proves in the handshake that a caller is the API server. So nothing here may be worth
//! forging: injection and validation tell a caller what it could have computed itself, and nobody is vouched for.

use super::decide::Decider;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections of all, and of one address: an API server has some tens, and a flood from one pod must leave room for it.
const CONNECTIONS_MAX: usize = 512;
const CONNECTIONS_EACH_MAX: usize = 64;
/// Requests at once on one connection of HTTP/2.
const STREAMS_MAX: u32 = 64;
/// The largest question: an object may have 3 MiB (the API server's own bound), and comes with what it was before.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Bytes of all questions that are being read or answered.
const BUFFERED_BYTES_MAX: usize = 64 << 20;
/// A handshake takes two round trips, a question comes at once.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
const BODY_DEADLINE: Duration = Duration::from_secs(5);
/// The API server connects anew; who holds a place for nothing loses it.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);
/// How long calls are still taken after the end has begun: until then no API server sends any more.
const LINGER: Duration = Duration::from_secs(2);
/// After a failed accept: the process has run out of descriptors, and at once it has no more of them.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share.
#[derive(Clone)]
struct Shared {
    decider: Arc<Decider>,
    buffers: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Serves until `stop` and a little longer. Connections that come before there is a certificate are closed.
pub(super) async fn serve(
    listener: TcpListener,
    config: watch::Receiver<Option<Arc<ServerConfig>>>,
    decider: Arc<Decider>,
    stop: CancellationToken,
) {
    let ends = CancellationToken::new();
    let shared =
        Shared { decider, buffers: Arc::new(Semaphore::new(BUFFERED_BYTES_MAX)), stop: ends.clone() };
    let mut connections: JoinSet<IpAddr> = JoinSet::new();
    let mut places: HashMap<IpAddr, usize> = HashMap::new();
    let lingered = async {
        stop.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    let mut lingered = std::pin::pin!(lingered);
    loop {
        while let Some(ended) = connections.try_join_next() {
            leave(&mut places, ended.ok());
        }
        // Cancel safe: `accept` and `join_next` lose nothing.
        let accepted = tokio::select! {
            () = &mut lingered => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let ip = from.ip().to_canonical();
        let held = places.entry(ip).or_default();
        if *held >= CONNECTIONS_EACH_MAX || connections.len() >= CONNECTIONS_MAX {
            tracing::info!(%ip, "the webhook has no place for another connection");
            continue;
        }
        let Some(config) = config.borrow().clone() else { continue };
        *held = held.saturating_add(1);
        let shared = shared.clone();
        connections.spawn(async move {
            connection(stream, config, shared).await;
            ip
        });
    }
    ends.cancel();
    while connections.join_next().await.is_some() {}
}

/// Gives a place back. A task that was ended by a bug of ours says nothing; its place is found again when all are gone.
fn leave(places: &mut HashMap<IpAddr, usize>, ip: Option<IpAddr>) {
    let Some(ip) = ip else { return };
    if let Some(held) = places.get_mut(&ip) {
        *held = held.saturating_sub(1);
        if *held == 0 {
            places.remove(&ip);
        }
    }
}

async fn connection(stream: TcpStream, config: Arc<ServerConfig>, shared: Shared) {
    // An answer is one small write; waiting for more would only delay it.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, TlsAcceptor::from(config).accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%error, "a caller of the webhook did not finish the handshake");
            return;
        }
        Err(_) => return,
    };
    let stop = shared.stop.clone();
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(respond(&shared, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_DEADLINE).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(16 * 1024);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // Cancel safe: the connection is polled on below, a token stays cancelled.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(CONNECTION_LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    // What is being answered is answered; a caller that goes away is no event.
    let _ = tokio::time::timeout(BODY_DEADLINE, connection).await;
}

async fn respond(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only POST; the API server asks here\n");
    }
    let read = tokio::time::timeout(BODY_DEADLINE, body(shared, request.into_body()));
    let (body, _place) = match read.await {
        Ok(Ok(read)) => read,
        Ok(Err((status, problem))) => return text(status, &problem),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"),
    };
    let decider = shared.decider.clone();
    // A large object takes some tens of milliseconds; a bug in our reading of it is the end of this answer only.
    let answered = tokio::task::spawn_blocking(move || decider.answer(&path, &body)).await;
    match answered {
        Ok((StatusCode::OK, json)) => {
            let mut response = text(StatusCode::OK, &json);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Ok((status, problem)) => text(status, &problem),
        Err(error) => {
            tracing::error!(%error, "a question of the API server could not be answered");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the control plane failed; see its log\n")
        }
    }
}

type Refused = (StatusCode, String);

/// The whole body, and its place among all that are buffered.
async fn body(
    shared: &Shared,
    body: Incoming,
) -> Result<(Bytes, Vec<tokio::sync::OwnedSemaphorePermit>), Refused> {
    let mut body = Limited::new(body, BODY_BYTES_MAX);
    let mut whole = BytesMut::new();
    let mut places = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let problem = format!("the body cannot be read ({error}); at most {BODY_BYTES_MAX} bytes are\n");
            (StatusCode::PAYLOAD_TOO_LARGE, problem)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let place = shared.buffers.clone().try_acquire_many_owned(bytes);
        let full = |_| (StatusCode::SERVICE_UNAVAILABLE, "too much is asked at once; ask again\n".to_owned());
        places.push(place.map_err(full)?);
        whole.extend_from_slice(&data);
    }
    Ok((whole.freeze(), places))
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests;
