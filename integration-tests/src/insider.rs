//! Somebody inside the mesh who does not use our proxy: holds a real SVID and does with it what it likes.
//!
//! For the tests that look at one side alone: hostile clients of the inbound side, impostors behind an endpoint.

use mesh_ca::bundle::TrustBundles;
use mesh_ca::client::{Identity, UnixIssuer, first};
use mesh_ca::tls::{self, Alpn, Credentials};
use mesh_proto::name::InstanceName;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;

/// An identity in our hands, and the threads that use it. Everything ends with its drop.
pub struct Insider {
    runtime: Runtime,
    identity: Identity,
    credentials: Credentials,
}

impl Insider {
    /// Asks the control plane for an SVID of this account, as any process of the mesh's owner may.
    #[track_caller]
    pub fn new(state: &Path, account: &str) -> Self {
        mesh_ca::install_crypto();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("a runtime: {error}"));
        let instance: InstanceName = "insider".parse().unwrap_or_else(|error| panic!("{error}"));
        let issuer = UnixIssuer {
            socket: state.join("control.sock"),
            namespace: "default".parse().unwrap_or_else(|error| panic!("{error}")),
            account: account.parse().unwrap_or_else(|error| panic!("{error}")),
            instance: instance.clone(),
            lifetime: None,
        };
        let identity = runtime
            .block_on(first(&issuer, &instance))
            .unwrap_or_else(|error| panic!("an SVID for {account}: {error}"));
        let bundles = TrustBundles::from_config(&identity.bundles).unwrap_or_else(|error| panic!("{error}"));
        let credentials = Credentials {
            svid: identity.svid.clone(),
            bundles: Arc::new(bundles),
            revocations: Arc::default(),
        };
        Self { runtime, identity, credentials }
    }

    /// A local port whose connections come out, inside mesh TLS of this identity, at a workload's mesh listener.
    #[track_caller]
    pub fn relay(&self, mesh: SocketAddr, service: &str, port: u16, alpn: Alpn) -> SocketAddr {
        self.relay_from(Ipv4Addr::LOCALHOST, mesh, (service, port), alpn)
    }

    /// The same, with connections that come from this address of the machine.
    #[track_caller]
    pub fn relay_from(
        &self,
        from: Ipv4Addr,
        mesh: SocketAddr,
        (service, port): (&str, u16),
        alpn: Alpn,
    ) -> SocketAddr {
        let domain = self.identity.svid.id().trust_domain();
        let expected = format!("spiffe://{domain}/ns/default/sa/{service}");
        let expected = expected.parse().unwrap_or_else(|error| panic!("{error}"));
        let config =
            self.credentials.client_config(&expected, alpn).unwrap_or_else(|error| panic!("{error}"));
        let name = format!("{port}.{service}.default.{domain}");
        let name = rustls::pki_types::ServerName::try_from(name).unwrap_or_else(|error| panic!("{error}"));
        let listener = self.listen();
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        self.runtime.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (config, name) = (config.clone(), name.clone());
                tokio::spawn(async move {
                    let socket = TcpSocket::new_v4()?;
                    socket.bind((from, 0).into())?;
                    let far = socket.connect(mesh).await?;
                    let mut far = tls::connect(config, name, far).await?.stream;
                    copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        address
    }

    /// A mesh listener that proves this identity and answers every HTTP/1 request with the same text.
    #[track_caller]
    pub fn serve(&self, text: &'static str) -> SocketAddr {
        let config = self.credentials.server_config().unwrap_or_else(|error| panic!("{error}"));
        let listener = self.listen();
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        self.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let config = config.clone();
                tokio::spawn(async move {
                    let mut stream = tls::accept(config, stream).await?.stream;
                    let mut request = [0; 4096];
                    while stream.read(&mut request).await? > 0 {
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                        stream.write_all(answer.as_bytes()).await?;
                    }
                    Ok::<(), std::io::Error>(())
                });
            }
        });
        address
    }

    fn listen(&self) -> TcpListener {
        self.runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .unwrap_or_else(|error| panic!("a port for the insider: {error}"))
    }
}
