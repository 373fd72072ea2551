//! The port as an API server meets it, and as a stranger does.

use super::*;
use crate::webhook::decide::tests::{decider, review};
use mesh_ca::authority::serving::ServingAuthority;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

const NAME: &str = "mesh-control.mesh-system.svc";

struct Running {
    address: SocketAddr,
    client: TlsConnector,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    _config: watch::Sender<Option<Arc<ServerConfig>>>,
}

async fn start() -> Running {
    let (now, life) = (crate::clock::wall(), Duration::from_secs(3600));
    let authority = ServingAuthority::make("webhook", now, life).unwrap();
    let (config, _) = authority.server_config(&[NAME.to_owned()], now, life).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap()).unwrap();
    mesh_ca::install_crypto();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let (sender, config) = watch::channel(Some(config));
    let served = tokio::spawn(serve(listener, config, Arc::new(decider()), stop.clone()));
    Running { address, client: TlsConnector::from(Arc::new(client)), stop, served, _config: sender }
}

impl Running {
    /// Sends these bytes in TLS and gives all that comes back.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut stream = self.client.connect(NAME.try_into().unwrap(), stream).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A server that closes without a farewell has still said what it had to say.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        let answer = self.exchange(format!("{head}{body}").as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_default(), body.to_owned())
    }
}

#[tokio::test]
async fn the_api_server_is_answered() {
    let running = start().await;
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app"}]}});
    let (status, body) = running.post("/inject?timeout=10s", &review("shop", &pod).to_string()).await;
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["response"]["allowed"], true);
    assert!(answer["response"]["patch"].is_string(), "{body}");
    running.stop.cancel();
    tokio::time::timeout(Duration::from_secs(30), running.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn strangers_are_refused_with_words() {
    let running = start().await;
    for (path, body, expected) in
        [("/inject", "nonsense", 400), ("/inject", "", 400), ("/elsewhere", "{}", 404)]
    {
        let (status, said) = running.post(path, body).await;
        assert_eq!(status, expected, "{path}: {said}");
        assert!(said.ends_with('\n'), "{said:?}");
    }
    let got = running.exchange(b"GET /inject HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 405"), "{got}");
    let announced =
        "POST /inject HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("800000\r\n{}\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n", "x".repeat(0x80_0000));
    let got = running.exchange(format!("{announced}{chunk}").as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 413"), "{}", got.get(..200).unwrap_or(&got));
}
