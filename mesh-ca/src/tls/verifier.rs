//! The rustls side of `verify`: one verifier for both roles and for a pinned root, and what we present.

use crate::bundle::TrustBundles;
use crate::verify::{self, Judge, PeerError, Role, into_rustls};
use crate::x509::sha256;
use mesh_proto::config::{self, Revocations};
use mesh_proto::identity::{SpiffeId, TrustDomain};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The signatures of a TLS 1.3 handshake that we accept (RFC 8446, 4.2.3), without P-521 and RSA PKCS#1.
pub(super) static HANDSHAKE_SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &verify::SIGNATURES,
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::aws_lc_rs::ECDSA_P256_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[webpki::aws_lc_rs::ECDSA_P384_SHA384]),
        (SignatureScheme::ED25519, &[webpki::aws_lc_rs::ED25519]),
        (SignatureScheme::RSA_PSS_SHA256, &[webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA384, &[webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA512, &[webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
    ],
};

/// Whom a verifier believes.
#[derive(Debug)]
pub(super) enum Trust {
    /// Whom the bundles vouch for and nobody has revoked.
    Bundles {
        /// The roots of each trust domain.
        bundles: Arc<TrustBundles>,
        /// Who is out all the same.
        revocations: Arc<Revocations>,
        /// The one identity that will do; `None`: any.
        expected: Option<SpiffeId>,
    },
    /// The control plane below one root, which is known by its SHA-256 and sent by the server.
    Pinned {
        /// Of the root's certificate.
        root_sha256: [u8; 32],
        /// The one domain that will do; `None`: the one that the root vouches for.
        trust_domain: Option<TrustDomain>,
    },
}

/// Verifies a peer, in either role.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    /// What the presenter does in the handshake.
    role: Role,
    mandatory: bool,
}

impl Verifier {
    pub(super) fn new(trust: Trust, role: Role) -> Self {
        Self { trust, role, mandatory: false }
    }

    /// Refuses clients without a certificate.
    pub(super) fn mandatory(self) -> Self {
        Self { mandatory: true, ..self }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        self.judge(&chain, now).map_err(into_rustls)
    }

    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError> {
        let role = self.role;
        match &self.trust {
            Trust::Bundles { bundles, revocations, expected } => {
                Judge { bundles, revocations, role, expected: expected.as_ref() }.verify(chain, now)
            }
            Trust::Pinned { root_sha256, trust_domain } => {
                let claimed = verify::peer_identity(chain)?.id.trust_domain();
                if trust_domain.as_ref().is_some_and(|wanted| *wanted != claimed) {
                    return Err(PeerError::WrongTrustDomain);
                }
                let bundles = &pinned_bundles(chain, *root_sha256, &claimed)?;
                let control = super::control_identity(&claimed);
                let revocations = &Revocations::default();
                Judge { bundles, revocations, role, expected: Some(&control) }.verify(chain, now)
            }
        }
        .map(|_| ())
    }
}

/// The bundle of `domain` with nothing but the pinned root, if the peer has sent it and it may vouch for that domain.
fn pinned_bundles(
    chain: &[CertificateDer<'_>],
    root_sha256: [u8; 32],
    domain: &TrustDomain,
) -> Result<TrustBundles, PeerError> {
    let pinned = chain.iter().find(|der| sha256(der) == root_sha256).ok_or(PeerError::UnknownIssuer)?;
    let bundle = config::Bundle { trust_domain: domain.clone(), roots: vec![pinned.to_vec()], sequence: 0 };
    let bundles = BTreeMap::from([(domain.clone(), bundle)]);
    TrustBundles::from_config(&bundles).map_err(|_| PeerError::UnknownIssuer)
}

/// TLS 1.2 is never offered, so nobody can ask for it.
fn no_tls12() -> rustls::Error {
    rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &HANDSHAKE_SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        HANDSHAKE_SIGNATURES.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    // No hints: a client has one certificate, and the list would tell strangers whom we trust.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &HANDSHAKE_SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        HANDSHAKE_SIGNATURES.supported_schemes()
    }
}

/// What we present in a handshake. As a server, only to those who offer one of our protocols.
#[derive(Debug)]
pub(super) struct Presented {
    certified: Arc<CertifiedKey>,
    alpn: Vec<Vec<u8>>,
}

impl Presented {
    pub(super) fn new(certified: Arc<CertifiedKey>, alpn: Vec<Vec<u8>>) -> Self {
        Self { certified, alpn }
    }

    /// Sends more certificates after our own.
    pub(super) fn append(&mut self, more: impl Iterator<Item = CertificateDer<'static>>) {
        let mut chain = self.certified.cert.clone();
        chain.extend(more);
        self.certified = Arc::new(CertifiedKey::new(chain, self.certified.key.clone()));
    }

    pub(super) fn alpn(&self) -> &[Vec<u8>] {
        &self.alpn
    }
}

impl ResolvesServerCert for Presented {
    /// `None` ends the handshake: rustls alone would go on without a protocol when the client offers no ALPN at all.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let ours = |offered: &[u8]| self.alpn.iter().any(|alpn| alpn == offered);
        hello.alpn().is_some_and(|mut offered| offered.any(ours)).then(|| self.certified.clone())
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
