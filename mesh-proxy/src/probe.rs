//! The application's probes, asked of the proxy and answered by asking the application.
//!
//! The kubelet belongs to no mesh, so in strict mode it cannot reach the application itself. At injection each network probe
//! of a container is pointed at the proxy's health port, and what it was goes to the proxy as `MESH_PROBES`, JSON:
//! `{"web/readiness": {"http": {"port": 8080, "path": "/ok"}, "timeoutSeconds": 1}}`. The proxy sends the very request
//! that the kubelet would have sent, to the pod's own address. Only what is listed there can be asked, so that the
//! health port is no way around the access policy.
//!
//! An application that serves HTTPS is asked by HTTPS, and its certificate is believed whatever it says, as the kubelet does: the
//! connection never leaves the pod, and nothing but a status comes back.

mod gullible;

use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Redirects that the kubelet follows count as success; the answer's body is only shown, and the kubelet shows 10 KiB.
const SHOWN_BYTES_MAX: usize = 1024;
/// An answer of the gRPC health service is five bytes and two more.
const GRPC_ANSWER_BYTES_MAX: usize = 1024;

/// The probes of all containers, by `<container>/<liveness|readiness|startup>`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Probes(pub BTreeMap<String, Probe>);

/// One probe.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// What is asked.
    #[serde(flatten)]
    pub asks: Asks,
    /// How long an answer may take, as Kubernetes has it.
    #[serde(default = "one", rename = "timeoutSeconds")]
    pub timeout_seconds: u32,
}

fn one() -> u32 {
    1
}

/// What a probe asks (Kubernetes API reference, `Probe`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Asks {
    /// `httpGet`: any status from 200 to 399 is well.
    Http {
        /// The port.
        port: u16,
        /// The path, with its query.
        #[serde(default = "root")]
        path: String,
        /// Fields to send; `Host` among them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headers: Vec<(String, String)>,
    },
    /// The same over TLS.
    Https {
        /// The port.
        port: u16,
        /// The path, with its query.
        #[serde(default = "root")]
        path: String,
        /// Fields to send; `Host` among them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headers: Vec<(String, String)>,
    },
    /// `tcpSocket`: the port accepts.
    Tcp {
        /// The port.
        port: u16,
    },
    /// `grpc`: the health service says SERVING (grpc.health.v1).
    Grpc {
        /// The port.
        port: u16,
        /// Which service; empty for all.
        #[serde(default)]
        service: String,
    },
}

fn root() -> String {
    "/".to_owned()
}

/// What a probe came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    /// Whether the application is well.
    pub(crate) is_well: bool,
    /// What it said, for `kubectl describe`.
    pub(crate) said: String,
}

impl Finding {
    fn ill(said: impl Into<String>) -> Self {
        Self { is_well: false, said: said.into() }
    }
}

impl Probes {
    /// Reads `MESH_PROBES`.
    ///
    /// # Errors
    /// Names what is not understood.
    pub fn parse(json: &str) -> Result<Self, String> {
        serde_json::from_str(json)
            .map_err(|error| format!("MESH_PROBES is not understood ({error}); let the pod be injected anew"))
    }

    /// Asks the application at `ip` what `name` stands for; `None`: there is no such probe.
    pub(crate) async fn ask(&self, name: &str, ip: IpAddr) -> Option<Finding> {
        let probe = self.0.get(name)?;
        let patience = Duration::from_secs(u64::from(probe.timeout_seconds.max(1)));
        let asking = async {
            match &probe.asks {
                Asks::Http { port, path, headers } => {
                    let to = SocketAddr::new(ip, *port);
                    judged(to, path, http(TcpStream::connect(to).await, to, path, headers).await)
                }
                Asks::Https { port, path, headers } => {
                    let to = SocketAddr::new(ip, *port);
                    judged(to, path, http(gullible::connect(to).await, to, path, headers).await)
                }
                Asks::Tcp { port } => match TcpStream::connect((ip, *port)).await {
                    Ok(_) => Finding { is_well: true, said: "it accepts".to_owned() },
                    Err(error) => Finding::ill(format!("port {port}: {error}")),
                },
                Asks::Grpc { port, service } => grpc(SocketAddr::new(ip, *port), service).await,
            }
        };
        let late = || Finding::ill(format!("no answer within {patience:?}"));
        Some(tokio::time::timeout(patience, asking).await.unwrap_or_else(|_| late()))
    }
}

/// The status and the beginning of the body of an answer over this connection.
async fn http<S>(
    connected: std::io::Result<S>,
    to: SocketAddr,
    path: &str,
    headers: &[(String, String)],
) -> Result<(StatusCode, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = connected.map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let request = get(to, path, headers)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), SHOWN_BYTES_MAX);
        // Only shown: a longer or broken body changes nothing.
        let shown = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Ok((status, String::from_utf8_lossy(&shown).into_owned()))
    };
    beside(exchange, connection).await
}

/// Drives a connection beside the exchange over it and drops it afterwards; its own error before is one of the exchange.
async fn beside<T>(
    exchange: impl Future<Output = Result<T, String>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<T, String> {
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    // Both live on until the exchange is over, so nothing is lost where a branch is not taken.
    tokio::select! {
        done = &mut exchange => done,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// What the kubelet would make of an answer.
fn judged(to: SocketAddr, path: &str, answer: Result<(StatusCode, String), String>) -> Finding {
    match answer {
        Ok((status, said)) => {
            let is_well = (200..400).contains(&status.as_u16());
            Finding { is_well, said: format!("{}\n{said}", status.as_u16()) }
        }
        Err(problem) => Finding::ill(format!("{to}{path}: {problem}")),
    }
}

fn get(to: SocketAddr, path: &str, headers: &[(String, String)]) -> Result<Request<Full<Bytes>>, String> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut request = Request::new(Full::default());
    *request.uri_mut() = path.parse().map_err(|error| format!("{error}"))?;
    let fields = request.headers_mut();
    let host = HeaderValue::from_str(&to.to_string()).map_err(|error| error.to_string())?;
    fields.insert(http::header::HOST, host);
    fields.insert(http::header::USER_AGENT, HeaderValue::from_static("kube-probe/mesh"));
    fields.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
    fields.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in headers {
        let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no name of a field"))?;
        fields.insert(name, HeaderValue::from_str(value).map_err(|error| error.to_string())?);
    }
    Ok(request)
}

/// `grpc.health.v1.Health/Check`, whose two messages are small enough to be written here.
async fn grpc(to: SocketAddr, service: &str) -> Finding {
    let asked = async {
        let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
        let request = check(to, service)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            if response.status() != StatusCode::OK {
                return Err(format!("HTTP status {}", response.status().as_u16()));
            }
            let body = http_body_util::Limited::new(response.into_body(), GRPC_ANSWER_BYTES_MAX);
            Ok(body.collect().await.map_err(|error| error.to_string())?.to_bytes())
        };
        beside(exchange, connection).await
    };
    match asked.await {
        // An uncompressed message (flag, length) whose field 1, a varint, is SERVING.
        Ok(answer) if answer.as_ref() == [0, 0, 0, 0, 2, 0x08, 1] => {
            Finding { is_well: true, said: "SERVING".to_owned() }
        }
        Ok(_) => Finding::ill(format!("{to}: it does not say SERVING")),
        Err(problem) => Finding::ill(format!("{to}: {problem}")),
    }
}

fn check(to: SocketAddr, service: &str) -> Result<Request<Full<Bytes>>, String> {
    // A name of 127 bytes at most has a length of one byte in protobuf; Kubernetes' own limit is lower.
    let length = u8::try_from(service.len()).ok().filter(|length| *length < 128);
    let length = length.ok_or_else(|| format!("the service name {service:?} is too long"))?;
    let mut message = Vec::new();
    if length > 0 {
        message.extend([0x0a, length]);
        message.extend(service.as_bytes());
    }
    let size = u32::try_from(message.len()).map_err(|error| error.to_string())?;
    let mut body = vec![0];
    body.extend(size.to_be_bytes());
    body.extend(message);
    Request::post(format!("http://{to}/grpc.health.v1.Health/Check"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .header(http::header::USER_AGENT, "kube-probe/mesh")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn probes(json: &str, port: u16) -> Probes {
        Probes::parse(&json.replace("PORT", &port.to_string())).unwrap()
    }

    /// An application that answers one connection with these bytes, and says what it was asked.
    async fn application(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let read = stream.read(&mut asked).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..read]).into_owned()
        });
        (port, serving)
    }

    #[tokio::test]
    async fn an_http_probe_asks_what_the_kubelet_would_and_judges_alike() {
        for (answer, is_well) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            ("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", false),
            ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", false),
            ("nonsense", false),
        ] {
            let (port, asked) = application(answer).await;
            let probes = probes(
                r#"{"web/readiness": {"http": {"port": PORT, "path": "/ok?x=1", "headers": [["X-A", "b"], ["Host", "shop"]]}}}"#,
                port,
            );
            let finding = probes.ask("web/readiness", HERE).await.unwrap();
            assert_eq!(finding.is_well, is_well, "{answer}: {finding:?}");
            let asked = asked.await.unwrap();
            assert!(asked.starts_with("GET /ok?x=1 HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains("x-a: b") && asked.contains("host: shop"), "{asked}");
        }
    }

    #[tokio::test]
    async fn an_https_probe_believes_any_certificate_and_asks_the_same() {
        mesh_ca::install_crypto();
        let made = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        for (answer, is_well) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            ("HTTP/1.1 503 Oh\r\ncontent-length: 0\r\n\r\n", false),
        ] {
            let listener = TcpListener::bind((HERE, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let acceptor = acceptor.clone();
            let serving = tokio::spawn(async move {
                let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                let mut asked = vec![0; 4096];
                let read = stream.read(&mut asked).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8_lossy(&asked[..read]).into_owned()
            });
            let probes = probes(r#"{"web/livez": {"https": {"port": PORT, "path": "/ok"}}}"#, port);
            let finding = probes.ask("web/livez", HERE).await.unwrap();
            assert_eq!(finding.is_well, is_well, "{finding:?}");
            assert!(serving.await.unwrap().starts_with("GET /ok HTTP/1.1\r\n"));
        }
        let (port, _) = application("HTTP/1.1 200 OK\r\n\r\n").await;
        let probes = probes(r#"{"web/livez": {"https": {"port": PORT}}}"#, port);
        assert!(!probes.ask("web/livez", HERE).await.unwrap().is_well, "it does not speak TLS");
    }

    #[tokio::test]
    async fn a_tcp_probe_is_well_when_the_port_accepts() {
        let (port, _) = application("").await;
        let probes = probes(r#"{"db/liveness": {"tcp": {"port": PORT}, "timeoutSeconds": 2}}"#, port);
        assert!(probes.ask("db/liveness", HERE).await.unwrap().is_well);
        let closed = {
            let listener = TcpListener::bind((HERE, 0)).await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let probes = self::probes(r#"{"db/liveness": {"tcp": {"port": PORT}}}"#, closed);
        let finding = probes.ask("db/liveness", HERE).await.unwrap();
        assert!(!finding.is_well && finding.said.contains("refused"), "{finding:?}");
    }

    #[tokio::test]
    async fn a_grpc_probe_is_well_only_when_it_says_serving() {
        for (body, is_well) in [(&[0, 0, 0, 0, 2, 8, 1][..], true), (&[0, 0, 0, 0, 2, 8, 2][..], false)] {
            let listener = TcpListener::bind((HERE, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let service =
                    hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| async move {
                        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                        let asked = request.into_body().collect().await.unwrap().to_bytes();
                        assert_eq!(asked.as_ref(), b"\0\0\0\0\x05\x0a\x03pay");
                        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from_static(
                            body,
                        ))))
                    });
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
            let probes = probes(r#"{"a/startup": {"grpc": {"port": PORT, "service": "pay"}}}"#, port);
            let finding = probes.ask("a/startup", HERE).await.unwrap();
            assert_eq!(finding.is_well, is_well, "{finding:?}");
        }
    }

    #[tokio::test]
    async fn what_is_not_listed_cannot_be_asked() {
        assert_eq!(Probes::default().ask("web/readiness", HERE).await, None);
        let problem = Probes::parse(r#"{"web/readiness": {"exec": {}}}"#).unwrap_err();
        assert!(problem.contains("MESH_PROBES"), "{problem}");
    }
}
