//! What stands behind the server-side proxies: HTTP/1 and HTTP/2 on one port, TCP echo on another.
//!
//! A process of its own, so that its CPU time is nobody else's.

use super::process::{Process, free_port, loopback, wait_for_listener};
use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::path::Path;
use std::process::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The answer to a GET: 200 bytes.
const ANSWER: &str = "{\"items\":[{\"id\":1,\"name\":\"first\",\"price\":1250},{\"id\":2,\"name\":\"second\",\"price\":990},\
{\"id\":3,\"name\":\"third\",\"price\":15},{\"id\":4,\"name\":\"fourth\",\"price\":77777}],\"next\":null,\"total\":4}\n       \n      \n    ";

/// The running backend.
pub(super) struct Backend {
    /// HTTP/1 and HTTP/2 with prior knowledge.
    pub(super) http: u16,
    /// Echoes; a first byte of `D` makes it swallow, `U` makes it send without end.
    pub(super) tcp: u16,
    _process: Process,
}

impl Backend {
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let (http, tcp) = (free_port()?, free_port()?);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench-backend", &http.to_string(), &tcp.to_string()]);
        let process = Process::start("backend", folder, &mut command)?;
        wait_for_listener("the backend", loopback(http))?;
        wait_for_listener("the backend", loopback(tcp))?;
        Ok(Self { http, tcp, _process: process })
    }
}

/// Serves both ports until ended.
pub(super) fn serve(ports: &[u16]) -> Result<()> {
    let [http, tcp] = ports else { anyhow::bail!("two ports are needed") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (http, tcp) =
            (TcpListener::bind(loopback(*http)).await?, TcpListener::bind(loopback(*tcp)).await?);
        loop {
            tokio::select! {
                accepted = http.accept() => { tokio::spawn(serve_http(accepted?.0)); }
                accepted = tcp.accept() => { tokio::spawn(serve_tcp(accepted?.0)); }
            }
        }
    })
}

async fn serve_http(stream: TcpStream) -> Result<(), std::io::Error> {
    stream.set_nodelay(true)?;
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let service = hyper::service::service_fn(answer);
    // A client that goes away ends its connection; there is nobody to tell.
    drop(builder.serve_connection(TokioIo::new(stream), service).await);
    Ok(())
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, hyper::Error>>, hyper::Error> {
    let never = |error: Infallible| match error {};
    let grpc = request
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let response = if grpc {
        let message = request.into_body().collect().await?.to_bytes();
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("grpc-status", hyper::header::HeaderValue::from_static("0"));
        let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(tokio_stream::iter(frames)).boxed();
        Response::builder().header("content-type", "application/grpc").body(body)
    } else if request.method() == hyper::Method::POST {
        let body = request.into_body().collect().await?.to_bytes();
        Response::builder().body(Full::new(body).map_err(never).boxed())
    } else {
        let body = Full::new(Bytes::from_static(ANSWER.as_bytes())).map_err(never).boxed();
        Response::builder().header("content-type", "application/json").body(body)
    };
    Ok(response.unwrap_or_default())
}

async fn serve_tcp(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    let first = stream.read(&mut buffer).await?;
    match buffer.first() {
        Some(b'D') => while stream.read(&mut buffer).await? > 0 {},
        Some(b'U') => loop {
            stream.write_all(&buffer).await?;
        },
        _ => {
            let mut length = first;
            while length > 0 {
                stream.write_all(buffer.get(..length).unwrap_or_default()).await?;
                length = stream.read(&mut buffer).await?;
            }
        }
    }
    Ok(())
}
