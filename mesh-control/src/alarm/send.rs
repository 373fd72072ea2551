//! One message to one sink, once, within a deadline. Who repeats is [`super::courier`].
//!
//! With TLS the sink is always verified ([`mesh_ca::tls::outside`]): one that is not who its address says gets nothing, and
//! what waits for it waits on.

use super::format::{alertmanager, cef, ocsf, slack, webhook};
use super::queue::Fate;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_ca::tls::outside::{self, connect_outside, outside_client_config};
use mesh_proto::name::ObjectName;
use mesh_proto::resource::alert_sink::{Delivery, Endpoint, Url};
use mesh_proto::resource::outside::Tls;
use mesh_proto::wire::v1;
use rustls::ClientConfig;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long a whole attempt may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// How long a receiver of a stream may take to take note of its end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a secret; an HMAC key of more than a block is hashed anyway.
const SECRET_BYTES_MAX: u64 = 4_096;
/// Bytes of the file of a chain and its key.
const CERTIFICATE_BYTES_MAX: u64 = 64 * 1024;

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

/// How a sink is spoken to by TLS, if it is. `file` says where a certificate with its key lies.
///
/// # Errors
/// The roots or the certificate cannot be used (yet).
pub(crate) async fn secure(
    tls: Option<&Tls>,
    file: impl FnOnce(&ObjectName) -> PathBuf,
) -> Result<Option<Arc<ClientConfig>>, Refused> {
    let Some(Tls { ca, certificate }) = tls else { return Ok(None) };
    let shown = match certificate.as_ref().map(file) {
        Some(file) => {
            let bytes = read(&file, CERTIFICATE_BYTES_MAX).await?;
            let shown = outside::shown_in(&bytes);
            Some(shown.map_err(|error| again(format!("{}: {error}", file.display())))?)
        }
        None => None,
    };
    let ca = ca.clone();
    // The system's roots are some hundred files.
    let made =
        tokio::task::spawn_blocking(move || outside_client_config(ca.as_deref(), shown, &[b"http/1.1"]));
    Ok(Some(made.await.map_err(again)?.map_err(again)?))
}

/// Sends a message. `secret` is the file of the sink's key, `now_s` seconds since the epoch.
///
/// # Errors
/// Why it was not taken. `Fate::GivenUp` says that the sink refuses this very message; otherwise it may be tried again.
pub(crate) async fn send(
    (delivery, tls): (&Delivery, Option<&Arc<ClientConfig>>),
    message: &v1::AlarmMessage,
    secret: Option<&Path>,
    now_s: u64,
) -> Result<(), Refused> {
    let connected = connect(delivery.endpoint(), tls);
    let sending = async {
        match delivery {
            Delivery::Webhook { url, .. } => {
                let body = webhook::body(message);
                let mut headers = vec![("x-mesh-timestamp", now_s.to_string())];
                if let Some(file) = secret {
                    headers.push(("x-mesh-signature", webhook::signature(&key(file).await?, now_s, &body)));
                }
                post(connected.await?, (url, &url.path), &headers, body).await
            }
            Delivery::Alertmanager { url } => {
                let path = format!("{}/api/v2/alerts", url.path.trim_end_matches('/'));
                post(connected.await?, (url, &path), &[], alertmanager::body(message)).await
            }
            Delivery::Slack { url } => {
                post(connected.await?, (url, &url.path), &[], slack::body(message)).await
            }
            Delivery::Syslog { address } => stream(connected.await?, address, cef::frames(message)).await,
            Delivery::Ocsf { address } => stream(connected.await?, address, ocsf::lines(message)).await,
        }
    };
    let sent = tokio::time::timeout(DEADLINE, sending).await;
    sent.unwrap_or_else(|_| Err(again(format!("no answer within {} s", DEADLINE.as_secs()))))
}

async fn key(file: &Path) -> Result<Vec<u8>, Refused> {
    let mut bytes = read(file, SECRET_BYTES_MAX).await?;
    let end = bytes.trim_ascii_end().len();
    bytes.truncate(end);
    if bytes.is_empty() {
        return Err(again(format!("the secret {} is empty", file.display())));
    }
    Ok(bytes)
}

async fn read(file: &Path, bytes_max: u64) -> Result<Vec<u8>, Refused> {
    let open = tokio::fs::File::open(file).await;
    let open =
        open.map_err(|error| again(format!("the secret {} cannot be read: {error}", file.display())))?;
    let mut bytes = Vec::new();
    open.take(bytes_max).read_to_end(&mut bytes).await.map_err(again)?;
    Ok(bytes)
}

/// A connection in plaintext or by TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn connect(endpoint: &Endpoint, tls: Option<&Arc<ClientConfig>>) -> Result<Box<dyn Stream>, Refused> {
    let address = (endpoint.host.as_str(), endpoint.port.number());
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|error| again(format!("cannot connect to {endpoint}: {error}")))?;
    let Some(config) = tls else { return Ok(Box::new(stream)) };
    match connect_outside(config.clone(), &endpoint.host, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(again(format!("no TLS with {endpoint}: {error}"))),
    }
}

async fn post(
    stream: Box<dyn Stream>,
    (url, path): (&Url, &str),
    headers: &[(&str, String)],
    body: Vec<u8>,
) -> Result<(), Refused> {
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
///
/// By TLS it is the receiver's `close_notify` that says so (RFC 5425, 4.4).
async fn stream(mut stream: Box<dyn Stream>, endpoint: &Endpoint, bytes: Vec<u8>) -> Result<(), Refused> {
    let failed = |error: std::io::Error| again(format!("cannot write to {endpoint}: {error}"));
    let sent = match stream.write_all(&bytes).await {
        Ok(()) => stream.shutdown().await,
        Err(error) => Err(error),
    };
    let mut rest = [0; 256];
    let closing = async {
        while stream.read(&mut rest).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    if let Err(error) = sent {
        // Who refuses our certificate says so and closes (RFC 8446, 4.4.2.4); writing only meets the closed connection.
        return Err(match tokio::time::timeout(CLOSE_DEADLINE, closing).await {
            Ok(Err(said)) if said.kind() == ErrorKind::InvalidData => failed(said),
            _ => failed(error),
        });
    }
    match tokio::time::timeout(CLOSE_DEADLINE, closing).await {
        // One that never closes has nevertheless acknowledged the bytes, or the kernel would have said so.
        Ok(Ok(())) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(failed(error)),
    }
}
