//! The shop's payments: HTTP/1.1, keeps its receipts in the store over one long TCP connection.

use super::store::GREETING;
use crate::command::demo::tally::{Ending, Tally};
use crate::failure::Failure;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// A larger order is a mistake.
const BODY_BYTES_MAX: usize = 64 << 10;
/// The store answers at once; longer is a failure.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until the listener fails.
///
/// # Errors
/// When the listener does.
pub(crate) async fn run(listener: TcpListener, store: SocketAddr, tally: Tally) -> Result<(), Failure> {
    let ledger =
        Arc::new(Ledger { at: store, connection: Mutex::new(None), tally, number: AtomicU64::new(0) });
    super::serve(listener, move |stream| {
        let ledger = ledger.clone();
        async move {
            let service = service_fn(move |request| answer(request, ledger.clone()));
            // A caller that goes away is no error of ours.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

async fn answer(
    request: Request<Incoming>,
    ledger: Arc<Ledger>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return Ok(respond(StatusCode::PAYLOAD_TOO_LARGE, "the order is too large"));
    };
    Ok(match (&head.method, head.uri.path()) {
        (&Method::GET, "/health") => respond(StatusCode::OK, "ok"),
        (&Method::POST, "/charge") => match ledger.book(&String::from_utf8_lossy(&body.to_bytes())).await {
            Ok(receipt) => respond(StatusCode::OK, &receipt),
            Err(why) => respond(StatusCode::BAD_GATEWAY, &why),
        },
        (&Method::POST, "/refund") => respond(StatusCode::OK, "refunded"),
        _ => respond(StatusCode::NOT_FOUND, "no such page"),
    })
}

/// A short answer in plain text.
pub(crate) fn respond(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// The store, behind one connection that is kept for as long as it lasts.
struct Ledger {
    at: SocketAddr,
    connection: Mutex<Option<BufReader<TcpStream>>>,
    tally: Tally,
    number: AtomicU64,
}

impl Ledger {
    /// Writes a receipt and gives its number.
    async fn book(&self, order: &str) -> Result<String, String> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let line = format!("PUT receipt-{number:08} {}\n", order.lines().next().unwrap_or_default());
        // An asynchronous lock: one conversation at a time on the one connection.
        let mut connection = self.connection.lock().await;
        let had_connection = connection.is_some();
        match tokio::time::timeout(STORE_TIMEOUT, converse(&mut connection, self.at, &line)).await {
            Ok(Ok(())) => {
                self.tally.count("store", Ending::Ok, "", "");
                if !had_connection {
                    self.tally.count("store connection", Ending::Ok, "", "");
                }
                Ok(format!("receipt-{number:08}"))
            }
            outcome => {
                *connection = None;
                let why = match outcome {
                    Ok(Err(error)) => error.to_string(),
                    _ => format!("no answer within {STORE_TIMEOUT:?}"),
                };
                // A refused TCP connection is closed before the store can greet.
                let ending = if had_connection { Ending::Failed } else { Ending::Refused };
                self.tally.count("store", ending, &why, "");
                Err(format!("the store did not answer: {why}"))
            }
        }
    }
}

async fn converse(
    connection: &mut Option<BufReader<TcpStream>>,
    at: SocketAddr,
    line: &str,
) -> std::io::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(connect(at).await?),
    };
    stream.write_all(line.as_bytes()).await?;
    expect_line(stream, "OK").await
}

/// Connects and waits for the greeting.
///
/// # Errors
/// When the connection is closed before a greeting came, or the greeting is another one.
pub(crate) async fn connect(at: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    expect_line(&mut stream, GREETING).await?;
    Ok(stream)
}

async fn expect_line(stream: &mut BufReader<TcpStream>, expected: &str) -> std::io::Result<()> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(std::io::Error::other("the connection was closed"));
    }
    if line.trim_end() == expected {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("unexpected answer {line:?}")))
    }
}
