//! A forger's workshop: a public key infrastructure in which every rule can be broken on purpose.

use crate::openssl::openssl;
use crate::world::{Gullible, now};
use mesh_ca::bundle::TrustBundles;
use mesh_ca::tls::Alpn;
use mesh_proto::config::Bundle;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const WEB: &str = "spiffe://mesh.local/ns/default/sa/web";
const SAN_OID: [u64; 4] = [2, 5, 29, 17];

/// An authority of the workshop.
pub(crate) struct Ca {
    pub(crate) der: Vec<u8>,
    pub(crate) key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn join(params: CertificateParams, der: Vec<u8>, key: KeyPair) -> Self {
        Self { der, key_pem: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    /// A self-signed root.
    pub(crate) fn root(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self::join(params, der, key)
    }

    /// An authority below this one.
    pub(crate) fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Self::join(params, der, key)
    }

    /// A leaf below this one, with the given key.
    pub(crate) fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }
}

/// Parameters of an authority, as they should be.
pub(crate) fn ca_params(name: &str, uri: &str, path_len: u8) -> CertificateParams {
    let mut params = params();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Parameters of a leaf, as they should be.
pub(crate) fn leaf_params() -> CertificateParams {
    let mut params = params();
    params.subject_alt_names =
        vec![SanType::URI(WEB.try_into().unwrap()), SanType::DnsName("web-1".try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = at(-1);
    params.not_after = at(1);
    params.serial_number = Some(SerialNumber::from_slice(&[0x41, 1, 2, 3, 4, 5, 6, 7]));
    params.use_authority_key_identifier_extension = true;
    params
}

/// Some hours from now.
pub(crate) fn at(hours: i32) -> OffsetDateTime {
    let shift = HOUR * hours.unsigned_abs();
    let time: SystemTime = if hours < 0 { now() - shift } else { now() + shift };
    time.into()
}

/// One DER element.
pub(crate) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = match length {
        0..128 => vec![tag, length.try_into().unwrap()],
        128..256 => vec![tag, 0x81, length.try_into().unwrap()],
        _ => vec![tag, 0x82, (length >> 8).try_into().unwrap(), (length & 255).try_into().unwrap()],
    };
    bytes.extend_from_slice(content);
    bytes
}

pub(crate) const URI: u8 = 0x86;
pub(crate) const DNS: u8 = 0x82;
pub(crate) const EMAIL: u8 = 0x81;
pub(crate) const IP: u8 = 0x87;

/// A leaf's parameters with exactly these names, whatever their bytes.
pub(crate) fn named(names: &[(u8, &[u8])]) -> CertificateParams {
    let content: Vec<u8> = names.iter().flat_map(|(tag, bytes)| der(*tag, bytes)).collect();
    let mut params = leaf_params();
    params.subject_alt_names.clear();
    params.custom_extensions = vec![extension(&SAN_OID, der(0x30, &content))];
    params
}

/// A critical extension.
pub(crate) fn extension(oid: &[u64], content: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(true);
    extension
}

/// The workshop: our domain's root and intermediate, and another domain's.
pub(crate) struct Workshop {
    pub(crate) root: Ca,
    pub(crate) intermediate: Ca,
    pub(crate) other_root: Ca,
    /// The key that every leaf is for, unless a case says otherwise.
    pub(crate) key: KeyPair,
}

impl Workshop {
    pub(crate) fn open() -> Self {
        let root = Ca::root(ca_params("our root", "spiffe://mesh.local", 1));
        let intermediate = root.below(ca_params("our issuer", "spiffe://mesh.local", 0));
        let other_root = Ca::root(ca_params("their root", "spiffe://other.example", 1));
        Self { root, intermediate, other_root, key: KeyPair::generate().unwrap() }
    }

    /// What the verifying side believes: both domains, each with its root.
    pub(crate) fn bundles(&self) -> TrustBundles {
        bundles(&[("mesh.local", &self.root.der), ("other.example", &self.other_root.der)])
    }

    /// A chain of a leaf below the intermediate.
    pub(crate) fn chain(&self, leaf: &CertificateParams) -> Vec<Vec<u8>> {
        vec![self.intermediate.sign(leaf, &self.key), self.intermediate.der.clone()]
    }

    /// A leaf made by openssl below the intermediate, for keys and digests that our library refuses to make.
    pub(crate) fn openssl_leaf(&self, new_key: &[&str], digest: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| {
            let (ok, text) = openssl(arguments, dir.path());
            assert!(ok, "openssl {arguments:?}: {text}");
        };
        std::fs::write(dir.path().join("ca.der"), &self.intermediate.der).unwrap();
        std::fs::write(dir.path().join("ca.key"), &self.intermediate.key_pem).unwrap();
        let extensions = format!(
            "subjectAltName=critical,URI:{WEB}\nbasicConstraints=critical,CA:FALSE\n\
             keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
        );
        std::fs::write(dir.path().join("ext"), extensions).unwrap();
        run(&["x509", "-inform", "DER", "-in", "ca.der", "-out", "ca.pem"]);
        run(&[&["genpkey", "-out", "leaf.key"], new_key].concat());
        run(&["req", "-new", "-key", "leaf.key", "-subj", "/CN=leaf", "-out", "leaf.csr"]);
        run(&[
            "x509",
            "-req",
            "-in",
            "leaf.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "1",
            "-extfile",
            "ext",
            digest,
            "-outform",
            "DER",
            "-out",
            "leaf.der",
        ]);
        std::fs::read(dir.path().join("leaf.der")).unwrap()
    }
}

pub(crate) fn bundles(roots: &[(&str, &Vec<u8>)]) -> TrustBundles {
    let mut map = BTreeMap::new();
    for (domain, root) in roots {
        let trust_domain: mesh_proto::identity::TrustDomain = domain.parse().unwrap();
        map.insert(trust_domain.clone(), Bundle { trust_domain, roots: vec![(*root).clone()], sequence: 1 });
    }
    TrustBundles::from_config(&map).unwrap()
}

/// Presents a chain without looking at it, as an attacker would.
#[derive(Debug)]
pub(crate) struct Forger(Arc<CertifiedKey>);

impl Forger {
    pub(crate) fn new(chain: &[Vec<u8>], key: &KeyPair) -> Arc<Self> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der()));
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
        let chain = chain.iter().cloned().map(CertificateDer::from).collect();
        Arc::new(Self(Arc::new(CertifiedKey::new(chain, signer))))
    }

    /// As a client that believes everybody.
    pub(crate) fn client(self: Arc<Self>) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible))
            .with_client_cert_resolver(self);
        config.alpn_protocols = vec![Alpn::MeshH1.as_bytes().to_vec()];
        Arc::new(config)
    }

    /// As a server that lets everybody in.
    pub(crate) fn server(self: Arc<Self>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_no_client_auth()
            .with_cert_resolver(self);
        config.alpn_protocols = vec![Alpn::MeshH1.as_bytes().to_vec()];
        Arc::new(config)
    }
}

impl ResolvesClientCert for Forger {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Forger {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
