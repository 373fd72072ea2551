//! One message to one sink, once, within a deadline. Who repeats is [`super::courier`].
//!
//! # Why no TLS
//! Every sink that speaks TLS has an agent that does so for it (a syslog relay, an Alertmanager near by, a workload of this
//! mesh). A second trust store beside the mesh's own, with its own roots, pins and expiry, would be a new way to be wrong
//! for each of five protocols; `https://` is refused where it is written instead of failing where it is needed.

use super::format::{alertmanager, cef, ocsf, slack, webhook};
use super::queue::Fate;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_proto::resource::alert_sink::{Delivery, Endpoint, Url};
use mesh_proto::wire::v1;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long a whole attempt may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// How long a receiver of a stream may take to take note of its end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a secret; an HMAC key of more than a block is hashed anyway.
const SECRET_BYTES_MAX: u64 = 4_096;

/// Why it was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    /// A sentence.
    pub(crate) problem: String,
    /// Whether it is of any use to try again.
    pub(crate) fate: Fate,
}

fn again(problem: impl ToString) -> Refused {
    Refused { problem: problem.to_string(), fate: Fate::Taken }
}

/// Sends a message. `secret` is the file of the sink's key, `now_s` seconds since the epoch.
///
/// # Errors
/// Why it was not taken. `Fate::GivenUp` says that the sink refuses this very message; otherwise it may be tried again.
pub(crate) async fn send(
    delivery: &Delivery,
    message: &v1::AlarmMessage,
    secret: Option<&Path>,
    now_s: u64,
) -> Result<(), Refused> {
    let sending = async {
        match delivery {
            Delivery::Webhook { url, .. } => {
                let body = webhook::body(message);
                let mut headers = vec![("x-mesh-timestamp", now_s.to_string())];
                if let Some(file) = secret {
                    headers.push(("x-mesh-signature", webhook::signature(&key(file).await?, now_s, &body)));
                }
                post(url, &url.path, &headers, body).await
            }
            Delivery::Alertmanager { url } => {
                let path = format!("{}/api/v2/alerts", url.path.trim_end_matches('/'));
                post(url, &path, &[], alertmanager::body(message)).await
            }
            Delivery::Slack { url } => post(url, &url.path, &[], slack::body(message)).await,
            Delivery::Syslog { address } => stream(address, cef::frames(message)).await,
            Delivery::Ocsf { address } => stream(address, ocsf::lines(message)).await,
        }
    };
    let sent = tokio::time::timeout(DEADLINE, sending).await;
    sent.unwrap_or_else(|_| Err(again(format!("no answer within {} s", DEADLINE.as_secs()))))
}

async fn key(file: &Path) -> Result<Vec<u8>, Refused> {
    let open = tokio::fs::File::open(file).await;
    let open =
        open.map_err(|error| again(format!("the secret {} cannot be read: {error}", file.display())))?;
    let mut bytes = Vec::new();
    open.take(SECRET_BYTES_MAX).read_to_end(&mut bytes).await.map_err(again)?;
    let end = bytes.trim_ascii_end().len();
    bytes.truncate(end);
    if bytes.is_empty() {
        return Err(again(format!("the secret {} is empty", file.display())));
    }
    Ok(bytes)
}

async fn connect(endpoint: &Endpoint) -> Result<TcpStream, Refused> {
    let address = (endpoint.host.as_str(), endpoint.port.number());
    TcpStream::connect(address).await.map_err(|error| again(format!("cannot connect to {endpoint}: {error}")))
}

async fn post(url: &Url, path: &str, headers: &[(&str, String)], body: Vec<u8>) -> Result<(), Refused> {
    let stream = connect(&url.endpoint).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(again)?;
    let mut request = Request::post(path)
        .header("host", url.endpoint.to_string())
        .header("content-type", "application/json")
        .header("user-agent", concat!("mesh-control/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(again)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(again)?;
        let status = answer.status();
        // Read to its end, so that the sink sees an orderly one.
        let text = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let text = text.map(|text| text.to_bytes()).unwrap_or_default();
        if status.is_success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&text).chars().take(200).collect::<String>();
        let problem = format!("{} answers {status}: {said}", url.endpoint);
        // These say that the message itself is wrong; all others may pass (wrong path, key, overload).
        let is_hopeless = matches!(status.as_u16(), 400 | 413 | 422);
        Err(Refused { problem, fate: if is_hopeless { Fate::GivenUp } else { Fate::Taken } })
    };
    tokio::pin!(answer);
    // Cancel safe: both are dropped together with the connection.
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => match ended {
            // The answer may be complete although the connection has ended.
            Ok(()) => answer.await,
            Err(error) => Err(again(format!("{} ended the connection: {error}", url.endpoint))),
        },
    }
}

/// Writes and waits until the receiver has taken note of the end: syslog over TCP has no other acknowledgement.
async fn stream(endpoint: &Endpoint, bytes: Vec<u8>) -> Result<(), Refused> {
    let mut stream = connect(endpoint).await?;
    let failed = |error: std::io::Error| again(format!("cannot write to {endpoint}: {error}"));
    stream.write_all(&bytes).await.map_err(failed)?;
    stream.shutdown().await.map_err(failed)?;
    let mut rest = [0; 256];
    let closing = async {
        while stream.read(&mut rest).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    match tokio::time::timeout(CLOSE_DEADLINE, closing).await {
        // One that never closes has nevertheless acknowledged the bytes, or the kernel would have said so.
        Ok(Ok(())) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(failed(error)),
    }
}
