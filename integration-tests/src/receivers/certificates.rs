//! An authority of the world outside the mesh, and what it has signed for receivers and for who sends to them.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The same as text.
    pub ca_text: String,
    /// A certificate for 127.0.0.1 and `localhost`, and its key.
    pub server: PathBuf,
    /// The key of it.
    pub server_key: PathBuf,
    /// A client's certificate and key in one file.
    pub client: PathBuf,
}

fn certain<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("certificates of receivers: {error}"))
}

impl Certificates {
    /// Makes all of them in `folder/name`.
    #[track_caller]
    pub fn new(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        certain(std::fs::create_dir_all(&folder));
        let write = |file: &str, text: &str| {
            let path = folder.join(file);
            certain(std::fs::write(&path, text));
            path
        };
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = certain(CertifiedIssuer::self_signed(params, certain(KeyPair::generate())));
        let signed = |purpose, subject: &str| {
            let mut params = named(subject);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![purpose];
            params.subject_alt_names = vec![
                SanType::DnsName(certain("localhost".try_into())),
                SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            ];
            let key = certain(KeyPair::generate());
            (certain(params.signed_by(&key, &ca)).pem(), key.serialize_pem())
        };
        let (server, server_key) = signed(ExtendedKeyUsagePurpose::ServerAuth, "a receiver");
        let (client, client_key) = signed(ExtendedKeyUsagePurpose::ClientAuth, "a sender");
        Self {
            ca: write("ca.pem", &ca.pem()),
            ca_text: ca.pem(),
            server: write("server.pem", &server),
            server_key: write("server.key", &server_key),
            client: write("client.pem", &format!("{client}{client_key}")),
        }
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}
