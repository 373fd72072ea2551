//! Both ends of a connection in the forger's hands: what is offered in the handshake, and what came back.

use super::{Forgery, certain};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme, SupportedProtocolVersion};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// How long a proxy may take to end a connection that it refuses.
const PATIENCE: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: target\r\n\r\n";

/// What is put into a handshake.
#[derive(Debug, Clone)]
pub struct Offer {
    /// `None`: no certificate.
    pub shown: Option<Forgery>,
    /// The protocol inside (ALPN).
    pub alpn: &'static [u8],
    /// The one version of TLS that is spoken.
    pub version: &'static SupportedProtocolVersion,
}

impl Offer {
    /// A certificate, and everything else as it should be.
    pub fn of(shown: &Forgery) -> Self {
        Self { shown: Some(shown.clone()), alpn: b"mesh-h1", version: &rustls::version::TLS13 }
    }

    fn resolver(&self) -> Arc<Shown> {
        let key = self.shown.as_ref().map(|forgery| {
            let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(forgery.key.clone()));
            let signer = certain(rustls::crypto::aws_lc_rs::sign::any_supported_type(&der));
            let chain = forgery.chain.iter().cloned().map(CertificateDer::from).collect();
            Arc::new(CertifiedKey::new(chain, signer))
        });
        Arc::new(Shown(key))
    }

    fn client(&self) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_protocol_versions(&[self.version])
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible))
            .with_client_cert_resolver(self.resolver());
        config.alpn_protocols = vec![self.alpn.to_vec()];
        Arc::new(config)
    }

    fn server(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_protocol_versions(&[self.version])
            .with_no_client_auth()
            .with_cert_resolver(self.resolver());
        config.alpn_protocols = vec![self.alpn.to_vec()];
        Arc::new(config)
    }
}

/// What a client of the forger heard from a mesh listener.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The connection ended, with an alert or without, before a byte of an answer.
    Nothing,
    /// The first line of an answer.
    Answer(String),
}

/// Runs the forger's ends. Everything ends with its drop.
pub struct Presenter {
    runtime: Runtime,
    heard: Arc<AtomicUsize>,
}

impl Default for Presenter {
    fn default() -> Self {
        mesh_ca::install_crypto();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self { runtime: certain(runtime), heard: Arc::default() }
    }
}

impl Presenter {
    /// Connects to a mesh listener, asks for `name` in the handshake, and sends a request at once.
    #[track_caller]
    pub fn ask(&self, mesh: SocketAddr, name: &str, offer: &Offer) -> Heard {
        let (config, name) = (offer.client(), certain(ServerName::try_from(name.to_owned())));
        let heard = self.runtime.block_on(within(async {
            let stream = TcpStream::connect(mesh).await?;
            let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
            stream.write_all(REQUEST).await?;
            let mut answer = vec![0; 1024];
            let length = stream.read(&mut answer).await?;
            answer.truncate(length);
            Ok::<_, std::io::Error>(answer)
        }));
        match heard.ok().filter(|bytes| !bytes.is_empty()) {
            None => Heard::Nothing,
            Some(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                Heard::Answer(text.lines().next().unwrap_or_default().to_owned())
            }
        }
    }

    /// Sends a request without TLS.
    #[track_caller]
    pub fn ask_plainly(&self, mesh: SocketAddr) -> Vec<u8> {
        let heard = self.runtime.block_on(within(async {
            let mut stream = TcpStream::connect(mesh).await?;
            stream.write_all(REQUEST).await?;
            let mut answer = Vec::new();
            // Refused connections are reset.
            drop(stream.read_to_end(&mut answer).await);
            Ok::<_, std::io::Error>(answer)
        }));
        certain(heard)
    }

    /// A listener that makes this offer to whoever connects. `None`: it speaks no TLS at all.
    #[track_caller]
    pub fn listen(&self, offer: Option<&Offer>) -> SocketAddr {
        let config = offer.map(Offer::server);
        let listener = certain(self.runtime.block_on(TcpListener::bind("127.0.0.1:0")));
        let address = certain(listener.local_addr());
        let heard = self.heard.clone();
        self.runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (config, heard) = (config.clone(), heard.clone());
                tokio::spawn(async move {
                    let Some(config) = config else {
                        return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    };
                    let mut stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await?;
                    let mut request = [0; 1024];
                    heard.fetch_add(stream.read(&mut request).await?, Ordering::Relaxed);
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await
                });
            }
        });
        address
    }

    /// Bytes of requests that reached any of the listeners.
    pub fn heard_bytes(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }
}

/// Gives a proxy its time; one that keeps a connection for longer fails the test.
async fn within<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    let done = tokio::time::timeout(PATIENCE, work).await;
    certain(done.map_err(|_| format!("the proxy kept the connection for {PATIENCE:?}")))
}

/// Shows a chain without looking at it.
#[derive(Debug)]
struct Shown(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

/// Believes any server.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _issuers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
        ]
    }
}
