//! A forger's workshop: holds the mesh's own root, breaks every rule on purpose, and shows what it made to both ends.
//!
//! The mesh is started with the workshop's root ([`Workshop::up_args`]), so that a certificate can be wrong in exactly one
//! respect. A client that believes everybody shows it to a mesh listener; a server that lets everybody in shows it to a
//! caller's proxy. Neither keeps to anything else that our own TLS keeps to.

mod present;
pub use present::{Heard, Offer, Presenter};

use crate::programs;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);
/// The trust domain that the workshop's root vouches for.
const DOMAIN: &str = "mesh.local";

/// A chain, leaf first, and the key that is shown with it.
#[derive(Debug, Clone)]
pub struct Forgery {
    /// In words, for the failure of a test.
    pub what: &'static str,
    /// The reason by which a proxy must refuse it.
    pub reason: &'static str,
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

/// An authority in the forger's hands.
struct Authority {
    der: Vec<u8>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
}

/// Who shows a forgery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It connects.
    Client,
    /// It is connected to.
    Server,
}

/// The workshop.
pub struct Workshop {
    folder: PathBuf,
    issuing: Authority,
    elsewhere: Authority,
    key: KeyPair,
}

fn certain<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("the workshop: {error}"))
}

impl Workshop {
    /// Makes the authorities, and leaves the root's files in `folder`.
    #[track_caller]
    pub fn open(folder: &Path) -> Self {
        mesh_ca::install_crypto();
        let root = Authority::root("the mesh's own root");
        let issuing = root.below("an issuer of the mesh");
        let elsewhere = Authority::root("another mesh's root");
        certain(std::fs::write(folder.join("root.pem"), &root.pem));
        certain(std::fs::write(folder.join("root.key"), &root.key_pem));
        let key = certain(KeyPair::generate());
        Self { folder: folder.to_path_buf(), issuing, elsewhere, key }
    }

    /// Arguments of `meshctl up` that make the workshop's root the mesh's.
    pub fn up_args(&self) -> [String; 4] {
        let path = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        ["--root-cert".to_owned(), path("root.pem"), "--root-key".to_owned(), path("root.key")]
    }

    /// A certificate of `account` that is as it should be: what every forgery starts from.
    pub fn good(&self, account: &str) -> Forgery {
        self.forgery("nothing wrong", "", leaf(account))
    }

    /// Every forgery of a certificate for `account`, each wrong in one respect.
    ///
    /// `revoked` is the account whose identity the test has revoked.
    pub fn all(&self, account: &str, revoked: &str, role: Role) -> Vec<Forgery> {
        let with = |what, reason, change: &dyn Fn(&mut CertificateParams)| {
            let mut params = leaf(account);
            change(&mut params);
            self.forgery(what, reason, params)
        };
        let name = uri(account);
        let other_purpose = match role {
            Role::Client => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Server => ExtendedKeyUsagePurpose::ClientAuth,
        };
        let mut foreign = self.forgery("a chain to another mesh's root", "unknown_issuer", leaf(account));
        foreign.chain = vec![self.elsewhere.sign(&leaf(account), &self.key)];
        let mut stolen = self.forgery("a certificate without its key", "bad_signature", leaf(account));
        stolen.key = certain(KeyPair::generate()).serialize_der();
        vec![
            with("an expired one", "expired", &|p| (p.not_before, p.not_after) = (at(-2), at(-1))),
            with("one of tomorrow", "not_yet_valid", &|p| (p.not_before, p.not_after) = (at(1), at(2))),
            foreign,
            with("another trust domain below our root", "wrong_trust_domain", &|p| {
                p.subject_alt_names = vec![san("spiffe://other.example/ns/default/sa/web")];
            }),
            with("one for the other end", "wrong_usage", &|p| {
                p.extended_key_usages = vec![other_purpose.clone()];
            }),
            with("one whose key may not sign", "wrong_key_usage", &|p| {
                p.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
            }),
            with("two names", "several_uri_sans", &|p| p.subject_alt_names = vec![san(&name), san(&name)]),
            with("no name", "no_uri_san", &|p| p.subject_alt_names.clear()),
            with("a name that is not byte-exact", "bad_spiffe_id", &|p| {
                p.subject_alt_names = vec![san("spiffe://mesh.local/ns/default/sa/../sa/web")];
            }),
            with("an authority as its own", "ca_as_leaf", &|p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            }),
            self.forgery("a revoked identity", "revoked", leaf(revoked)),
            self.weak(account),
            stolen,
        ]
    }

    fn forgery(&self, what: &'static str, reason: &'static str, leaf: CertificateParams) -> Forgery {
        let chain = vec![self.issuing.sign(&leaf, &self.key), self.issuing.der.clone()];
        Forgery { what, reason, chain, key: self.key.serialize_der() }
    }

    /// A leaf for RSA of 1024 bits. Our library makes none, so openssl does.
    fn weak(&self, account: &str) -> Forgery {
        let write = |name: &str, text: &str| certain(std::fs::write(self.folder.join(name), text));
        write("issuing.pem", &self.issuing.pem);
        write("issuing.key", &self.issuing.key_pem);
        write(
            "weak.ext",
            &format!(
                "subjectAltName=critical,URI:{}\nbasicConstraints=critical,CA:FALSE\n\
                 keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n",
                uri(account)
            ),
        );
        let run = |line: &str| {
            let mut openssl = Command::new(programs::system("openssl"));
            let done = openssl.args(line.split(' ')).current_dir(&self.folder).output();
            crate::applications::succeeded(line, &done);
        };
        run("req -new -newkey rsa:1024 -nodes -subj /CN=weak -keyout weak.key -out weak.csr");
        run("x509 -req -in weak.csr -CA issuing.pem -CAkey issuing.key -CAcreateserial -days 1 -sha256 \
             -extfile weak.ext -outform DER -out weak.der");
        let leaf = certain(std::fs::read(self.folder.join("weak.der")));
        // The key beside it is never asked for: the certificate is refused before its signature is looked at.
        let chain = vec![leaf, self.issuing.der.clone()];
        Forgery { what: "RSA of 1024 bits", reason: "weak_key", chain, key: self.key.serialize_der() }
    }
}

impl Authority {
    fn root(name: &str) -> Self {
        let (params, key) = (authority(name, 1), certain(KeyPair::generate()));
        let made = certain(params.self_signed(&key));
        Self::of(&made, params, key)
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (authority(name, 0), certain(KeyPair::generate()));
        let made = certain(params.signed_by(&key, &self.issuer));
        Self::of(&made, params, key)
    }

    fn of(made: &rcgen::Certificate, params: CertificateParams, key: KeyPair) -> Self {
        let (der, key_pem) = (made.der().to_vec(), key.serialize_pem());
        Self { der, pem: made.pem(), key_pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        certain(params.signed_by(key, &self.issuer)).der().to_vec()
    }
}

fn authority(name: &str, path_len: u8) -> CertificateParams {
    let mut params = dated();
    params.not_after = at(24 * 30);
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![san(&format!("spiffe://{DOMAIN}"))];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(account: &str) -> CertificateParams {
    let mut params = dated();
    params.subject_alt_names = vec![san(&uri(account))];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn dated() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    (params.not_before, params.not_after) = (at(-1), at(1));
    params.use_authority_key_identifier_extension = true;
    params
}

fn uri(account: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/default/sa/{account}")
}

fn san(uri: &str) -> SanType {
    SanType::URI(certain(uri.try_into()))
}

/// Some hours from now.
#[expect(clippy::disallowed_methods, reason = "the proxies judge by the system's clock")]
fn at(hours: i32) -> time::OffsetDateTime {
    let shift = HOUR * hours.unsigned_abs();
    let now = SystemTime::now();
    if hours < 0 { (now - shift).into() } else { (now + shift).into() }
}
