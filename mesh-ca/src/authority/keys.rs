//! The authority's own keys and what is signed with them: roots, intermediates, leaves.
//!
//! Every certificate of the mesh is written here, so that its shape can be read in one place. Shapes follow SPIFFE
//! X509-SVID: leaves with CA:FALSE, critical key usage and a URI SAN that is critical because the subject is empty;
//! authorities with the trust domain as URI SAN and a path length.
//!
//! # Why
//! No name constraints: webpki refuses chains whose URI constraints it cannot judge, and others ignore them. The binding
//! of root to trust domain is the verifier's (see `verify`).

use super::AuthorityError;
use crate::x509::{self, Facts, KeyStrength, hex, sha256};
use mesh_proto::identity::{SpiffeId, TrustDomain};
use mesh_proto::name::InstanceName;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
    SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use zeroize::{Zeroize, Zeroizing};

/// Serials are this long: 120 random bits under a first byte that keeps them positive and without leading zeros
/// (RFC 5280, 4.1.2.2: at most 20 bytes; CA/Browser Forum: at least 64 random bits).
pub(super) const SERIAL_BYTES: usize = 16;

/// An authority's private key; no `Clone`, `Debug` or serialisation, wiped when dropped.
pub(super) struct CaKey {
    pair: KeyPair,
}

impl CaKey {
    fn generate() -> Result<Self, AuthorityError> {
        let pair = KeyPair::generate().map_err(make("an authority's key"))?;
        Ok(Self { pair })
    }

    /// Reads a private key in any usual form.
    pub(super) fn from_der(der: &[u8]) -> Result<Self, String> {
        let der = PrivateKeyDer::try_from(der).map_err(str::to_owned)?;
        let pair = KeyPair::try_from(&der).map_err(|e| e.to_string())?;
        Ok(Self { pair })
    }

    /// The private key, for sealing.
    pub(super) fn secret_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.pair.serialized_der().to_vec())
    }
}

impl Drop for CaKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(&self.pair)
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.pair.sign(message)
    }
}

/// A certificate that may sign others, with its key.
pub(super) struct Signer {
    issuer: Issuer<'static, CaKey>,
    pub(super) certificate_der: Vec<u8>,
    pub(super) sha256: [u8; 32],
    pub(super) facts: Facts,
}

/// From when until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Span {
    /// Whole seconds, as certificates have them.
    pub(super) fn new(now: SystemTime, backdate: Duration, lifetime: Duration) -> Self {
        let not_before = whole_seconds(now.checked_sub(backdate).unwrap_or(now));
        Self { not_before, not_after: whole_seconds(now.checked_add(lifetime).unwrap_or(now)) }
    }

    /// Shortened to lie within an issuer's.
    pub(super) fn within(self, issuer: &Facts) -> Self {
        Self {
            not_before: self.not_before.max(issuer.not_before),
            not_after: self.not_after.min(issuer.not_after),
        }
    }
}

/// A leaf and what is recorded of it.
pub(super) struct Leaf {
    pub(super) der: Vec<u8>,
    pub(super) serial: Vec<u8>,
}

impl Signer {
    /// Makes a self-signed root of `domain`.
    pub(super) fn make_root(domain: &TrustDomain, span: Span) -> Result<Self, AuthorityError> {
        let key = CaKey::generate()?;
        // One intermediate below it, and one to spare for an operator who nests.
        let params = authority_params(domain, "root", span, 2)?;
        let der = params.self_signed(&key).map_err(make("the root certificate"))?.der().to_vec();
        Self::new(der, key).map_err(|problem| AuthorityError::Make { what: "the root certificate", problem })
    }

    /// Makes an issuing intermediate below this root.
    pub(super) fn make_intermediate(&self, domain: &TrustDomain, span: Span) -> Result<Self, AuthorityError> {
        const WHAT: &str = "the issuing certificate";
        let key = CaKey::generate()?;
        let params = authority_params(domain, "issuer", span.within(&self.facts), 0)?;
        let der = params.signed_by(&key, &self.issuer).map_err(make(WHAT))?.der().to_vec();
        Self::new(der, key).map_err(|problem| AuthorityError::Make { what: WHAT, problem })
    }

    /// Makes a self-signed authority that signs servers' certificates and nothing else.
    pub(super) fn make_serving(name: &str, span: Span) -> Result<Self, AuthorityError> {
        const WHAT: &str = "the authority for servers";
        let key = CaKey::generate()?;
        let serial = new_serial()?;
        let mut params = params(&serial, span);
        // A name of its own for each, so that two that follow one another are told apart.
        let tail = hex(serial.get(..4).unwrap_or_default());
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{name} {tail}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let der = params.self_signed(&key).map_err(make(WHAT))?.der().to_vec();
        Self::new(der, key).map_err(|problem| AuthorityError::Make { what: WHAT, problem })
    }

    /// Signs an SVID for a public key.
    pub(super) fn sign_leaf(
        &self,
        id: &SpiffeId,
        instance: &InstanceName,
        public_key: &SubjectPublicKeyInfo,
        span: Span,
    ) -> Result<Leaf, AuthorityError> {
        let error = make("the certificate");
        let serial = new_serial()?;
        let mut params = params(&serial, span);
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![
            SanType::URI(id.as_str().try_into().map_err(&error)?),
            SanType::DnsName(instance.as_str().try_into().map_err(&error)?),
        ];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let der = params.signed_by(public_key, &self.issuer).map_err(&error)?.der().to_vec();
        Ok(Leaf { der, serial })
    }

    /// Joins a certificate with its key.
    pub(super) fn new(certificate_der: Vec<u8>, key: CaKey) -> Result<Self, String> {
        let facts =
            Facts::parse(&certificate_der).map_err(|_| "the certificate is not well-formed".to_owned())?;
        if facts.public_key_der != key.subject_public_key_info() {
            return Err("the key does not belong to the certificate".to_owned());
        }
        let der = CertificateDer::from(certificate_der.as_slice());
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| e.to_string())?;
        Ok(Self { issuer, sha256: sha256(&certificate_der), certificate_der, facts })
    }

    /// Checks a root that was brought: is it an authority that may stand above our intermediates?
    pub(super) fn check_as_root(&self, domain: &TrustDomain, now: SystemTime) -> Result<(), String> {
        crate::bundle::Root::read(&self.certificate_der, domain)?;
        let facts = &self.facts;
        if facts.path_len == Some(0) {
            return Err("its path length of 0 leaves no room for an issuing certificate".to_owned());
        }
        if facts.usage.is_none_or(|usage| !usage.signs_certificates) {
            return Err("its key usage does not say that it may sign certificates".to_owned());
        }
        if facts.key == KeyStrength::Weak || !facts.has_strong_signature() {
            return Err("its key or signature is weaker than P-256 and SHA-256".to_owned());
        }
        if facts.subject_is_empty {
            return Err("it has no subject, so nothing below it can name its issuer".to_owned());
        }
        if now < facts.not_before || now > facts.not_after {
            return Err("it is not valid at present".to_owned());
        }
        Ok(())
    }

    pub(super) fn key(&self) -> &CaKey {
        self.issuer.key()
    }
}

/// A server's certificate for DNS names, and its new key (PKCS#8).
pub(super) fn serving_leaf(
    signer: &Signer,
    names: &[String],
    span: Span,
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), AuthorityError> {
    let error = make("the server's certificate");
    let key = CaKey::generate()?;
    let mut params = params(&new_serial()?, span);
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = Vec::new();
    for name in names {
        // The library takes any text for a name.
        if rustls::pki_types::DnsName::try_from(name.as_str()).is_err() {
            let problem = format!("{name:?} is no DNS name");
            return Err(AuthorityError::Make { what: "the server's certificate", problem });
        }
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(&error)?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let der = params.signed_by(&key, &signer.issuer).map_err(&error)?.der().to_vec();
    Ok((der, key.secret_der()))
}

fn authority_params(
    domain: &TrustDomain,
    what: &str,
    span: Span,
    path_len: u8,
) -> Result<CertificateParams, AuthorityError> {
    let serial = new_serial()?;
    let mut params = params(&serial, span);
    // A name of its own for each, so that a chain has one reading; the first 40 characters of the domain fit into the
    // 64 that RFC 5280 (A.1) allows.
    let domain_start: String = domain.as_str().chars().take(40).collect();
    let tail = hex(serial.get(..4).unwrap_or_default());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "mesh");
    params.distinguished_name.push(DnType::CommonName, format!("{domain_start} {what} {tail}"));
    params.subject_alt_names =
        vec![SanType::URI(domain.uri().try_into().map_err(make("an authority's certificate"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(serial: &[u8], span: Span) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(span.not_before);
    params.not_after = OffsetDateTime::from(span.not_after);
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.use_authority_key_identifier_extension = true;
    params
}

fn new_serial() -> Result<Vec<u8>, AuthorityError> {
    let mut serial = [0; SERIAL_BYTES];
    aws_lc_rs::rand::fill(&mut serial)
        .map_err(|_| AuthorityError::Make { what: "a serial", problem: "no random bytes".to_owned() })?;
    // 0x40..=0x7f: positive, and never a leading zero.
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial.to_vec())
}

/// The public key of a request, if its signature proves that the asker has the private one and it is strong.
pub(super) fn public_key_of_request(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, &'static str> {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;
    let Ok(([], csr)) = X509CertificationRequest::from_der(csr_der) else {
        return Err("the certificate request is not well-formed PKCS#10");
    };
    let spki = csr.certification_request_info.subject_pki.raw;
    if x509::key_strength(spki) != Ok(KeyStrength::Strong) {
        return Err("the key of the certificate request is not P-256, P-384, Ed25519 or RSA from 2048 bits");
    }
    csr.verify_signature().map_err(|_| "the certificate request's signature does not verify")?;
    SubjectPublicKeyInfo::from_der(spki)
        .map_err(|_| "the key of the certificate request is of an unknown kind")
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since.as_secs())).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Names what failed in a library's error.
pub(super) fn make(what: &'static str) -> impl Fn(rcgen::Error) -> AuthorityError {
    move |e| AuthorityError::Make { what, problem: e.to_string() }
}
