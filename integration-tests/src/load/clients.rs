//! The clients of the load. Each ends when it is told to, or after a failure that leaves it nothing to go on with.

use super::Client;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Lengths of what is sent: little, as much as a head, more than a record of TLS, more than a window of HTTP/2.
const LENGTHS: [usize; 4] = [5, 900, 20_000, 90_000];
/// Lengths for what is not HTTP: small messages, as databases and brokers send them.
const MESSAGES: [usize; 3] = [4, 700, 20_000];

fn pattern(round: usize, lengths: &[usize]) -> Bytes {
    let length = lengths.get(round % lengths.len()).copied().unwrap_or(1);
    (0..length).map(|at| u8::try_from((at ^ round) & 0xff).unwrap_or(0)).collect()
}

fn same(got: &[u8], sent: &[u8]) -> Result<(), String> {
    if got == sent { Ok(()) } else { Err(format!("{} other bytes than the {} sent", got.len(), sent.len())) }
}

fn told(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

async fn http_sender(client: &Client) -> Result<http1::SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(client.target).await.map_err(told)?;
    stream.set_nodelay(true).map_err(told)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One exchange; whether the answer announced the end of the connection.
async fn http_exchange(sender: &mut http1::SendRequest<Full<Bytes>>, sent: Bytes) -> Result<bool, String> {
    let request = http::Request::post("/load").header("host", "load-http").body(Full::new(sent.clone()));
    sender.ready().await.map_err(|error| format!("the connection ended unannounced: {}", told(error)))?;
    let answer = sender.send_request(request.map_err(told)?).await.map_err(told)?;
    if answer.status() != 200 {
        let reason = answer.headers().get("x-mesh-reason").cloned();
        return Err(format!("{} {reason:?}", answer.status()));
    }
    let closes = answer.headers().get("connection").is_some_and(|value| value == "close");
    same(&answer.into_body().collect().await.map_err(told)?.to_bytes(), &sent)?;
    Ok(closes)
}

/// Requests over one connection as long as it is kept; an announced end is no failure.
pub(super) async fn http_kept(client: Client) {
    let mut kept = None;
    let mut round = 0;
    while client.goes_on().await {
        round += 1;
        let done = client
            .exchange(async {
                let mut sender = match kept.take() {
                    Some(sender) => sender,
                    None => http_sender(&client).await?,
                };
                let closes = http_exchange(&mut sender, pattern(round, &LENGTHS)).await?;
                Ok((!closes).then_some(sender))
            })
            .await;
        kept = done.ok().flatten();
    }
}

/// A new connection for each request.
pub(super) async fn http_new(client: Client) {
    let mut round = 0;
    while client.goes_on().await {
        round += 1;
        let work = async {
            let mut sender = http_sender(&client).await?;
            http_exchange(&mut sender, pattern(round, &LENGTHS)).await
        };
        // What failed has been counted.
        drop(client.exchange(work).await);
    }
}

type Messages = http_body_util::channel::Channel<Bytes, std::convert::Infallible>;

async fn grpc_sender(client: &Client) -> Result<http2::SendRequest<Messages>, String> {
    let stream = TcpStream::connect(client.target).await.map_err(told)?;
    stream.set_nodelay(true).map_err(told)?;
    let io = TokioIo::new(stream);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(told)?;
    tokio::spawn(connection);
    Ok(sender)
}

fn grpc_request(messages: Messages) -> Result<http::Request<Messages>, String> {
    http::Request::post("http://load-grpc/load.Echo/Messages")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(messages)
        .map_err(told)
}

/// Reads so many bytes of messages.
async fn grpc_read(body: &mut hyper::body::Incoming, bytes: usize) -> Result<BytesMut, String> {
    let mut got = BytesMut::new();
    while got.len() < bytes {
        let frame = body.frame().await.ok_or("the stream ended early")?.map_err(told)?;
        match frame.into_data() {
            Ok(data) => got.extend_from_slice(&data),
            Err(other) => return Err(format!("trailers in the midst: {:?}", other.trailers_ref())),
        }
    }
    Ok(got)
}

/// Reads the end of a stream, which must be `grpc-status: 0`.
async fn grpc_end(body: &mut hyper::body::Incoming) -> Result<(), String> {
    while let Some(frame) = body.frame().await {
        if let Ok(trailers) = frame.map_err(told)?.into_trailers() {
            let is_ok = trailers.get("grpc-status").is_some_and(|status| status == "0");
            return if is_ok { Ok(()) } else { Err(format!("{trailers:?}")) };
        }
    }
    Err("the stream ended without trailers".to_owned())
}

fn message(round: usize) -> Bytes {
    let payload = pattern(round, &MESSAGES);
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&[0], &length[..], &payload].concat().into()
}

/// Opens a call; its messages go into the sender.
async fn grpc_call(
    sender: &mut http2::SendRequest<Messages>,
    first: Bytes,
) -> Result<(http_body_util::channel::Sender<Bytes>, hyper::body::Incoming), String> {
    let (mut messages, body) = Messages::new(1);
    sender.ready().await.map_err(|error| format!("the connection ended unannounced: {}", told(error)))?;
    messages.send_data(first).await.map_err(told)?;
    let answer = sender.send_request(grpc_request(body)?).await.map_err(told)?;
    if answer.status() != 200 || answer.headers().contains_key("grpc-status") {
        return Err(format!("{} {:?}", answer.status(), answer.headers()));
    }
    Ok((messages, answer.into_body()))
}

/// Unary calls over one connection that stays open.
pub(super) async fn grpc_unary(client: Client) {
    let mut kept = None;
    let mut round = 0;
    while client.goes_on().await {
        round += 1;
        let done = client
            .exchange(async {
                let mut sender = match kept.take() {
                    Some(sender) => sender,
                    None => grpc_sender(&client).await?,
                };
                let sent = message(round);
                let (messages, mut body) = grpc_call(&mut sender, sent.clone()).await?;
                drop(messages);
                same(&grpc_read(&mut body, sent.len()).await?, &sent)?;
                grpc_end(&mut body).await?;
                Ok(sender)
            })
            .await;
        kept = done.ok();
    }
}

/// One stream of messages that stays open to the end.
pub(super) async fn grpc_stream(client: Client) {
    let opened = client
        .exchange(async {
            let mut sender = grpc_sender(&client).await?;
            let sent = message(0);
            let (messages, mut body) = grpc_call(&mut sender, sent.clone()).await?;
            same(&grpc_read(&mut body, sent.len()).await?, &sent)?;
            Ok((sender, messages, body))
        })
        .await;
    let Ok((_sender, mut messages, mut body)) = opened else { return };
    let mut round = 0;
    while client.goes_on().await {
        round += 1;
        let work = async {
            let sent = message(round);
            messages.send_data(sent.clone()).await.map_err(told)?;
            same(&grpc_read(&mut body, sent.len()).await?, &sent)
        };
        if client.exchange(work).await.is_err() {
            return;
        }
    }
    drop(messages);
    drop(client.exchange(grpc_end(&mut body)).await);
}

async fn tunnel(client: &Client) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(client.target).await.map_err(told)?;
    stream.set_nodelay(true).map_err(told)?;
    Ok(stream)
}

async fn tunnel_exchange(stream: &mut TcpStream, sent: &[u8]) -> Result<(), String> {
    stream.write_all(sent).await.map_err(told)?;
    let mut got = vec![0; sent.len()];
    stream.read_exact(&mut got).await.map_err(told)?;
    same(&got, sent)
}

/// The end of a tunnel: we close our half, everything that was under way comes, then the other half ends.
async fn tunnel_end(stream: &mut TcpStream) -> Result<(), String> {
    stream.shutdown().await.map_err(told)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.map_err(told)?;
    same(&rest, &[])
}

/// One tunnel that stays open to the end.
pub(super) async fn tunnel_kept(client: Client) {
    let Ok(mut stream) = client.exchange(tunnel(&client).boxed()).await else { return };
    let mut round = 0;
    while client.goes_on().await {
        round += 1;
        let sent = tagged(round);
        if client.exchange(tunnel_exchange(&mut stream, &sent)).await.is_err() {
            return;
        }
    }
    drop(client.exchange(tunnel_end(&mut stream)).await);
}

/// A new tunnel for each exchange.
pub(super) async fn tunnel_new(client: Client) {
    let mut round = 0;
    while client.goes_on().await {
        round += 1;
        let sent = tagged(round);
        let work = async {
            let mut stream = tunnel(&client).await?;
            tunnel_exchange(&mut stream, &sent).await?;
            tunnel_end(&mut stream).await
        };
        drop(client.exchange(work).await);
    }
}

/// Bytes that begin like no protocol that the proxies read.
fn tagged(round: usize) -> Vec<u8> {
    [b"\x01load ".as_slice(), &pattern(round, &MESSAGES)].concat()
}
