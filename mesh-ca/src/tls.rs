//! TLS between parts of the mesh: configurations, the handshake, and the names in it.
//!
//! The proxy's listeners and connectors and the control plane's port get everything about TLS from here. TLS 1.3 only,
//! hybrid X25519MLKEM768 first, both ends verified by `verify` inside the handshake, one of our protocols (ALPN)
//! mandatory, no resumption: a session is never older than the trust and the revocations it was judged by.
//!
//! It never opens a connection and never decides what a peer may do. Servers that are not of the mesh have [`outside`].
//!
//! # Why
//! No session tickets: rustls resumes without looking at the certificate again, so a revoked peer would come back until
//! the ticket ends. A pooled connection costs less than any ticket. A full handshake takes 1.8 ms of one core for both ends
//! together (`cargo bench -p mesh-ca --profile quick`, two cores under a load of 5).
//! A configuration is cheap (1 µs to make; the chain, the key and the roots are shared), so the client has one for
//! each expected identity instead of one verifier that is told later whom to expect.

use crate::bundle::TrustBundles;
use crate::svid::Svid;
use crate::verify::{PeerError, PeerIdentity, Role, peer_identity};
use mesh_proto::config::Revocations;
use mesh_proto::identity::{SpiffeId, TrustDomain};
use mesh_proto::name::{Port, ServiceRef};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;

mod handshake;
pub mod outside;
mod verifier;
pub use handshake::{Secured, accept, accept_control, agreed, connect, connect_control};
use verifier::{Presented, Trust, Verifier};

/// ALPN of the control plane's port: gRPC.
pub const ALPN_H2: &[u8] = b"h2";

/// What is inside a connection between two proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alpn {
    /// HTTP/1.1.
    MeshH1,
    /// HTTP/2.
    MeshH2,
    /// Many streams of bytes, each for a port of its own.
    MeshMux,
    /// Anything else, as bytes.
    MeshTcp,
}

impl Alpn {
    /// All of them. Where a caller offers several, the first of these counts: who can take streams is given streams.
    pub const ALL: [Self; 4] = [Self::MeshMux, Self::MeshH1, Self::MeshH2, Self::MeshTcp];

    /// As it stands in the handshake.
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::MeshH1 => b"mesh-h1",
            Self::MeshH2 => b"mesh-h2",
            Self::MeshMux => b"mesh-mux",
            Self::MeshTcp => b"mesh-tcp",
        }
    }

    /// Reads one from the handshake.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.as_bytes() == bytes)
    }
}

/// Why a configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The library refused the versions or algorithms.
    #[error("TLS could not be set up: {0}")]
    Setup(rustls::Error),
    /// A name is too long for TLS.
    #[error(
        "{0:?} is not a name that TLS can carry; shorten the trust domain, or use only letters, digits, '.' and '-'"
    )]
    Name(String),
    /// There are no roots for our own trust domain.
    #[error("there is no trust bundle for {0}, so no peer could be believed")]
    NoBundle(TrustDomain),
}

/// What this end proves itself with, and what it believes others by.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Our chain and key.
    pub svid: Arc<Svid>,
    /// Whom we believe.
    pub bundles: Arc<TrustBundles>,
    /// Whom we no longer believe.
    pub revocations: Arc<Revocations>,
}

impl Credentials {
    /// For the mesh listener: a client certificate and one of the mesh's protocols are mandatory.
    ///
    /// # Errors
    /// There is no bundle for our own trust domain, or the library refused.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.server_config_for(&Alpn::ALL)
    }

    /// As [`server_config`](Self::server_config), with some of the mesh's protocols only.
    ///
    /// # Errors
    /// As [`server_config`](Self::server_config).
    pub fn server_config_for(&self, protocols: &[Alpn]) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = self.verifier(Role::Client, None)?.mandatory();
        let alpn = protocols.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
        server_config(verifier, Presented::new(self.svid.certified().clone(), alpn))
    }

    /// For a connection to another proxy, which must prove to be exactly `expected` and speak `alpn`.
    ///
    /// # Errors
    /// As [`server_config`](Self::server_config).
    pub fn client_config(&self, expected: &SpiffeId, alpn: Alpn) -> Result<Arc<ClientConfig>, TlsError> {
        self.client_config_for(expected, &[alpn])
    }

    /// As [`client_config`](Self::client_config), with several protocols of which the peer chooses.
    ///
    /// # Errors
    /// As [`server_config`](Self::server_config).
    pub fn client_config_for(
        &self,
        expected: &SpiffeId,
        protocols: &[Alpn],
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = self.verifier(Role::Server, Some(expected.clone()))?;
        let offered = protocols.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
        client_config(verifier, Some(self.svid.clone()), offered)
    }

    /// For the control plane's port: ALPN `h2`; a client certificate is verified if there is one.
    ///
    /// Who joins by token has none yet. Our roots are sent along, so that one who only knows a root's hash can verify.
    ///
    /// # Errors
    /// As [`server_config`](Self::server_config).
    pub fn control_server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = self.verifier(Role::Client, None)?;
        let mut presented = Presented::new(self.svid.certified().clone(), vec![ALPN_H2.to_vec()]);
        let roots = self.bundles.roots(&self.svid.id().trust_domain());
        presented.append(roots.iter().map(|root| root.der.clone()));
        server_config(verifier, presented)
    }

    /// For a connection to the control plane, which must prove to be exactly `expected`.
    ///
    /// # Errors
    /// As [`server_config`](Self::server_config).
    pub fn control_client_config(&self, expected: &SpiffeId) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = self.verifier(Role::Server, Some(expected.clone()))?;
        client_config(verifier, Some(self.svid.clone()), vec![ALPN_H2.to_vec()])
    }

    fn verifier(&self, role: Role, expected: Option<SpiffeId>) -> Result<Verifier, TlsError> {
        let domain = self.svid.id().trust_domain();
        if self.bundles.roots(&domain).is_empty() {
            return Err(TlsError::NoBundle(domain));
        }
        let (bundles, revocations) = (self.bundles.clone(), self.revocations.clone());
        Ok(Verifier::new(Trust::Bundles { bundles, revocations, expected }, role))
    }
}

/// For the first connection of a machine that joins: believes only a chain to the root with this SHA-256, and only the
/// control plane of `trust_domain` (`None`: of the domain that the root vouches for).
///
/// # Errors
/// The library refused.
pub fn pinned_client_config(
    root_sha256: [u8; 32],
    trust_domain: Option<TrustDomain>,
) -> Result<Arc<ClientConfig>, TlsError> {
    client_config(
        Verifier::new(Trust::Pinned { root_sha256, trust_domain }, Role::Server),
        None,
        vec![ALPN_H2.to_vec()],
    )
}

/// For a workload that has evidence but no certificate yet: believes only the control plane of `trust_domain`, by roots
/// that the platform delivered.
///
/// # Errors
/// There is no bundle for the trust domain, or the library refused.
pub fn bootstrap_client_config(
    bundles: Arc<TrustBundles>,
    trust_domain: &TrustDomain,
) -> Result<Arc<ClientConfig>, TlsError> {
    if bundles.roots(trust_domain).is_empty() {
        return Err(TlsError::NoBundle(trust_domain.clone()));
    }
    let trust = Trust::Bundles {
        bundles,
        revocations: Arc::default(),
        expected: Some(control_identity(trust_domain)),
    };
    client_config(Verifier::new(trust, Role::Server), None, vec![ALPN_H2.to_vec()])
}

/// For a server whose clients are not of the mesh and prove nothing in the handshake; `h2` or `http/1.1`, TLS 1.3 only.
///
/// # Errors
/// The key is not usable or not the chain's, or the library refused.
pub fn one_way_server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Setup)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec(), b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The name for one port of one service: `<port>.<service>.<namespace>.<trust-domain>`.
///
/// # Errors
/// The trust domain is too long, or has labels that DNS does not.
pub fn server_name(
    port: Port,
    service: &ServiceRef,
    trust_domain: &TrustDomain,
) -> Result<ServerName<'static>, TlsError> {
    let text = format!("{port}.{}.{}.{trust_domain}", service.name, service.namespace);
    ServerName::try_from(text.clone()).map_err(|_| TlsError::Name(text))
}

/// Reads port and service from a name that [`server_name`] made for `trust_domain`.
pub fn parse_server_name(name: &str, trust_domain: &TrustDomain) -> Option<(Port, ServiceRef)> {
    let rest = name.strip_suffix(trust_domain.as_str())?.strip_suffix('.')?;
    let mut labels = rest.split('.');
    let (port, service, namespace) = (labels.next()?, labels.next()?, labels.next()?);
    // "080" is the same number, but not the name that was made.
    if labels.next().is_some() || port.starts_with('0') {
        return None;
    }
    Some((port.parse().ok()?, ServiceRef { namespace: namespace.parse().ok()?, name: service.parse().ok()? }))
}

/// The identity of the control plane: `spiffe://<trust-domain>/ns/mesh-system/sa/mesh-control`.
#[expect(clippy::expect_used, reason = "both names are valid labels, see the test")]
pub fn control_identity(trust_domain: &TrustDomain) -> SpiffeId {
    let namespace = CONTROL_NAMESPACE.parse().expect("a label");
    let account = CONTROL_ACCOUNT.parse().expect("a label");
    SpiffeId::for_workload(trust_domain, &namespace, &account)
}

/// The namespace of the mesh's own parts; no attestation gives an identity in it to anybody else.
pub const CONTROL_NAMESPACE: &str = "mesh-system";
/// The account of the control plane.
pub const CONTROL_ACCOUNT: &str = "mesh-control";

/// The name that goes into the handshake with the control plane; its identity is what is verified.
#[expect(clippy::expect_used, reason = "a constant, see the test")]
pub fn control_server_name() -> ServerName<'static> {
    ServerName::try_from(CONTROL_ACCOUNT).expect("a DNS name")
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    use rustls::crypto::aws_lc_rs;
    Arc::new(rustls::crypto::CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
            aws_lc_rs::kx_group::SECP384R1,
        ],
        signature_verification_algorithms: verifier::HANDSHAKE_SIGNATURES,
        ..aws_lc_rs::default_provider()
    })
}

fn server_config(verifier: Verifier, presented: Presented) -> Result<Arc<ServerConfig>, TlsError> {
    let alpn = presented.alpn().to_vec();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(presented));
    config.alpn_protocols = alpn;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn client_config(
    verifier: Verifier,
    svid: Option<Arc<Svid>>,
    alpn: Vec<Vec<u8>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match svid {
        Some(svid) => {
            builder.with_client_cert_resolver(Arc::new(Presented::new(svid.certified().clone(), vec![])))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn;
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// Who is at the other end of a finished handshake.
fn identify(chain: Option<&[CertificateDer<'_>]>) -> Result<PeerIdentity, PeerError> {
    peer_identity(chain.ok_or(PeerError::NoCertificate)?)
}

#[cfg(test)]
mod tests;
