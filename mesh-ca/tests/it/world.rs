//! A mesh in memory: an authority with a store that can fail, SVIDs from it, and handshakes between them.

use mesh_ca::authority::{Authority, AuthorityConfig, AuthorityStore, Issued, Order};
use mesh_ca::bundle::TrustBundles;
use mesh_ca::csr::WorkloadKey;
use mesh_ca::seal::SealKey;
use mesh_ca::svid::Svid;
use mesh_ca::tls::{self, Credentials, Secured};
use mesh_proto::config::Revocations;
use mesh_proto::identity::{SpiffeId, TrustDomain};
use mesh_proto::name::{InstanceName, Port, ServiceRef};
use rustls::{ClientConfig, ServerConfig};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::io::DuplexStream;

/// The present time.
#[expect(clippy::disallowed_methods, reason = "rustls judges certificates by the system's clock")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

pub(crate) fn domain() -> TrustDomain {
    "mesh.local".parse().unwrap()
}

pub(crate) fn id(account: &str) -> SpiffeId {
    format!("spiffe://mesh.local/ns/default/sa/{account}").parse().unwrap()
}

pub(crate) fn instance(name: &str) -> InstanceName {
    name.parse().unwrap()
}

pub(crate) fn seal_key() -> SealKey {
    SealKey::from_bytes(&[7; 32])
}

/// Keeps every state that was ever saved; fails when told.
#[derive(Default)]
pub(crate) struct MemoryStore {
    pub(crate) states: Mutex<Vec<Vec<u8>>>,
    pub(crate) is_failing: Mutex<bool>,
}

impl MemoryStore {
    /// A store that holds one state.
    pub(crate) fn holding(state: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { states: Mutex::new(vec![state]), is_failing: Mutex::new(false) })
    }

    pub(crate) fn saved(&self) -> Vec<Vec<u8>> {
        self.states.lock().unwrap().clone()
    }

    /// Every save fails from now on.
    pub(crate) fn fail(&self) {
        *self.is_failing.lock().unwrap() = true;
    }

    /// Saves succeed again.
    pub(crate) fn recover(&self) {
        *self.is_failing.lock().unwrap() = false;
    }
}

impl AuthorityStore for MemoryStore {
    fn load(&self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.states.lock().unwrap().last().cloned())
    }

    fn save(&self, state: &[u8]) -> Result<(), String> {
        if *self.is_failing.lock().unwrap() {
            return Err("no space left on device".to_owned());
        }
        self.states.lock().unwrap().push(state.to_vec());
        Ok(())
    }
}

/// An authority and its store.
pub(crate) struct Mesh {
    pub(crate) authority: Arc<Authority>,
    pub(crate) store: Arc<MemoryStore>,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With a changed configuration.
    pub(crate) fn with(change: impl FnOnce(&mut AuthorityConfig)) -> Self {
        let mut config = AuthorityConfig::new(domain());
        change(&mut config);
        let store = Arc::new(MemoryStore::default());
        let authority = Authority::open(config, store.clone(), &seal_key(), now()).unwrap();
        Self { authority: Arc::new(authority), store }
    }

    /// Issues at a time.
    pub(crate) fn issue(&self, id: &SpiffeId, name: &str, at: SystemTime) -> (Issued, WorkloadKey) {
        let key = WorkloadKey::generate().unwrap();
        let csr = key.csr_der(&instance(name)).unwrap();
        let order =
            Order { csr_der: &csr, id, instance: &instance(name), lifetime: None, attestor: "a test" };
        (self.authority.issue(&order, at).unwrap(), key)
    }

    /// An SVID of an account, whose instance is called the same.
    pub(crate) fn svid(&self, account: &str) -> Arc<Svid> {
        let (issued, key) = self.issue(&id(account), account, now());
        Arc::new(Svid::new(issued.chain_der, key).unwrap())
    }

    pub(crate) fn bundles(&self) -> Arc<TrustBundles> {
        let bundles = self.authority.bundles().into_iter().map(|b| (b.trust_domain.clone(), b)).collect();
        Arc::new(TrustBundles::from_config(&bundles).unwrap())
    }

    pub(crate) fn credentials(&self, account: &str) -> Credentials {
        Credentials {
            svid: self.svid(account),
            bundles: self.bundles(),
            revocations: Arc::new(Revocations::default()),
        }
    }
}

pub(crate) type Side = io::Result<Secured<DuplexStream>>;

/// A handshake over memory; the server's and the client's view.
pub(crate) async fn shake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> (Side, Side) {
    let service = ServiceRef { namespace: "default".parse().unwrap(), name: "web".parse().unwrap() };
    let name = tls::server_name(Port::new(8080).unwrap(), &service, &domain()).unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let both = async { tokio::join!(tls::accept(server, near), tls::connect(client, name, far)) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("a handshake in memory ends")
}

/// A verifier that believes any server, as an attacker's client would.
#[derive(Debug)]
pub(crate) struct Gullible;

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        use rustls::SignatureScheme as S;
        vec![S::ECDSA_NISTP256_SHA256, S::ECDSA_NISTP384_SHA384, S::ED25519, S::RSA_PSS_SHA256]
    }
}
