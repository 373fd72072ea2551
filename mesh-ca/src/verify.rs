//! Who the peer is, and whether we believe it: every rule for a peer's certificate, in one function.
//!
//! `tls` calls `Judge::verify` inside each handshake, in both roles; a proxy calls [`peer_identity`] after a finished
//! one. The rules are those of SPIFFE X509-SVID and of RFC 5280, sharpened: exactly one URI SAN of byte-exact SPIFFE
//! grammar; the bundle that validated the chain is that of the trust domain in the name; not an authority and without
//! signing usages; the extended key usage of its role; validity, path length, constraints of the whole chain, the root
//! included; P-256, P-384, Ed25519 or RSA from 2048 bits, SHA-256 or better; nothing revoked.
//!
//! It never looks at a DNS name or a common name as a principal, never repairs a name, and never asks the network.
//!
//! # Why
//! One function over webpki for both roles, instead of rustls's `WebPkiClientVerifier` and its client-side twin: both
//! take one root store, while the store must be chosen by the name in the leaf before the chain is checked, and neither
//! can say which of our rules was broken. webpki alone does not count URI SANs, nor look at key usage, nor at a root's
//! validity and path length (see `x509`).

use crate::bundle::{Root, TrustBundles};
use crate::x509::{Facts, KeyStrength};
use mesh_proto::config::Revocations;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use std::time::SystemTime;

mod error;
pub use error::{PeerError, handshake_error};
pub(crate) use error::{from_webpki, into_rustls};

/// The most certificates a peer may present: leaf, intermediates, and a root it need not have sent.
pub const CHAIN_MAX: usize = 6;

/// The signatures on certificates that we accept, weakest excluded; webpki's names.
pub(crate) static SIGNATURES: [&dyn SignatureVerificationAlgorithm; 11] = [
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P256_SHA384,
    webpki::aws_lc_rs::ECDSA_P384_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
    webpki::aws_lc_rs::ED25519,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// Who a peer has proved to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its identity.
    pub id: SpiffeId,
    /// Its instance, if the certificate names exactly one.
    pub instance: Option<InstanceName>,
    /// Serials of the leaf, then of everything else it presented, big-endian without leading zeros.
    pub serials: Vec<Vec<u8>>,
    /// When the leaf stops being valid.
    pub not_after: SystemTime,
}

impl PeerIdentity {
    /// Whether any of its serials or its identity has been revoked; asked again of live connections.
    pub fn is_revoked(&self, revocations: &Revocations) -> bool {
        let revoked = |serial: &Vec<u8>| contains_serial(revocations, serial);
        self.serials.iter().any(revoked) || revocations.identities.binary_search(&self.id).is_ok()
    }
}

/// What the presenter of a certificate does in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It connects.
    Client,
    /// It accepts.
    Server,
}

/// Reads who a peer is from the chain of a finished handshake.
///
/// This does not verify: the handshake did. It reads the same bytes by the same rules for names.
///
/// # Errors
/// No certificate, or a leaf without exactly one strict SPIFFE ID.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, PeerError> {
    let facts = read_chain(chain)?;
    let leaf = facts.first().ok_or(PeerError::NoCertificate)?;
    Ok(describe(leaf_id(leaf)?, &facts, leaf))
}

/// Everything a chain is judged by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judge<'a> {
    pub(crate) bundles: &'a TrustBundles,
    pub(crate) revocations: &'a Revocations,
    /// What the presenter does.
    pub(crate) role: Role,
    /// The one identity that will do; `None`: any that its bundle vouches for.
    pub(crate) expected: Option<&'a SpiffeId>,
}

impl Judge<'_> {
    /// Verifies a presented chain, leaf first, at `now`.
    ///
    /// The order is from name to key to chain to revocation, so that the reason is the most telling one.
    pub(crate) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PeerIdentity, PeerError> {
        let facts = read_chain(chain)?;
        let (leaf, issuers) = facts.split_first().ok_or(PeerError::NoCertificate)?;
        let id = leaf_id(leaf)?;
        check_leaf_usage(leaf, self.role)?;
        check_strength(&facts)?;
        let domain = id.trust_domain();
        let roots = self.bundles.roots(&domain);
        if roots.is_empty() {
            return Err(PeerError::WrongTrustDomain);
        }
        // RFC 5280, 6.1.4 (k) and (n); webpki looks at the first alone.
        let may_sign =
            |issuer: &Facts| issuer.is_ca && issuer.usage.is_none_or(|usage| usage.signs_certificates);
        if !issuers.iter().all(may_sign) {
            return Err(PeerError::IssuerNotCa);
        }
        let uri = domain.uri();
        let foreign = |name: &Vec<u8>| name.starts_with(b"spiffe:") && name != uri.as_bytes();
        if issuers.iter().any(|issuer| issuer.uris.iter().any(foreign)) {
            return Err(PeerError::WrongTrustDomain);
        }
        self.verify_chain(chain, roots, now)?;
        if self.revocations.identities.binary_search(&id).is_ok() {
            return Err(PeerError::Revoked);
        }
        match self.expected {
            Some(expected) if *expected != id => {
                Err(PeerError::WrongPeer { expected: expected.clone(), presented: id })
            }
            _ => Ok(describe(id, &facts, leaf)),
        }
    }

    fn verify_chain(
        &self,
        chain: &[CertificateDer<'_>],
        roots: &[Root],
        now: UnixTime,
    ) -> Result<(), PeerError> {
        let (leaf, issuers) = chain.split_first().ok_or(PeerError::NoCertificate)?;
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(from_webpki)?;
        let anchors: Vec<TrustAnchor<'_>> = roots.iter().map(|root| borrow(&root.anchor)).collect();
        let usage = match self.role {
            Role::Client => webpki::KeyUsage::client_auth(),
            Role::Server => webpki::KeyUsage::server_auth(),
        };
        let accept = |path: &webpki::VerifiedPath<'_>| self.check_path(path, roots, now);
        leaf.verify_for_usage(&SIGNATURES, &anchors, issuers, now, usage, None, Some(&accept))
            .map(|_| ())
            .map_err(from_webpki)
    }

    /// What webpki leaves to others about a path it has found: the root's validity and path length, and revocation.
    fn check_path(
        &self,
        path: &webpki::VerifiedPath<'_>,
        roots: &[Root],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let anchor = path.anchor();
        let same = |root: &&Root| {
            root.anchor.subject == anchor.subject
                && root.anchor.subject_public_key_info == anchor.subject_public_key_info
        };
        let time = SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(now.as_secs()));
        // Two roots of one key and name are one authority: any valid one will do.
        let valid = |root: &&Root| time.is_some_and(|time| root.is_valid_at(time));
        let Some(root) = roots.iter().filter(same).find(valid) else {
            return Err(webpki::Error::CertExpired { time: now, not_after: now });
        };
        let issuers = path.intermediate_certificates().count();
        if root.path_len.is_some_and(|max| usize::try_from(max).is_ok_and(|max| issuers > max)) {
            return Err(webpki::Error::PathLenConstraintViolated);
        }
        let leaf = std::iter::once(path.end_entity().serial());
        let mut serials = leaf.chain(path.intermediate_certificates().map(|issuer| issuer.serial()));
        if serials.any(|serial| contains_serial(self.revocations, crate::x509::strip_zeros(serial))) {
            return Err(webpki::Error::CertRevoked);
        }
        Ok(())
    }
}

fn borrow<'a>(anchor: &'a TrustAnchor<'static>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: anchor.subject.as_ref().into(),
        subject_public_key_info: anchor.subject_public_key_info.as_ref().into(),
        name_constraints: anchor.name_constraints.as_ref().map(|der| der.as_ref().into()),
    }
}

fn contains_serial(revocations: &Revocations, serial: &[u8]) -> bool {
    revocations.serials.binary_search_by(|revoked| revoked.as_slice().cmp(serial)).is_ok()
}

fn read_chain(chain: &[CertificateDer<'_>]) -> Result<Vec<Facts>, PeerError> {
    if chain.is_empty() {
        return Err(PeerError::NoCertificate);
    }
    if chain.len() > CHAIN_MAX {
        return Err(PeerError::ChainTooLong);
    }
    chain.iter().map(|der| Facts::parse(der).map_err(|_| PeerError::Malformed)).collect()
}

/// The one SPIFFE ID of a leaf (X509-SVID, section 2 and 5.1).
fn leaf_id(leaf: &Facts) -> Result<SpiffeId, PeerError> {
    let [uri] = leaf.uris.as_slice() else {
        return Err(PeerError::NotOneUriSan { count: leaf.uris.len() });
    };
    std::str::from_utf8(uri).ok().and_then(|text| text.parse().ok()).ok_or_else(|| PeerError::BadSpiffeId {
        presented: uri.escape_ascii().to_string().chars().take(120).collect(),
    })
}

/// X509-SVID, sections 3.2, 4.3, 4.4 and 5.2: a leaf is no authority, and is meant for what it is used for.
fn check_leaf_usage(leaf: &Facts, role: Role) -> Result<(), PeerError> {
    if leaf.is_ca {
        return Err(PeerError::CaAsLeaf);
    }
    match leaf.usage {
        None => return Err(PeerError::WrongKeyUsage),
        Some(usage) if usage.signs_certificates || usage.signs_crls => return Err(PeerError::CaAsLeaf),
        Some(usage) if !usage.digital_signature => return Err(PeerError::WrongKeyUsage),
        Some(_) => {}
    }
    let fits = leaf.purposes.is_some_and(|purposes| match role {
        Role::Client => purposes.client,
        Role::Server => purposes.server,
    });
    if fits { Ok(()) } else { Err(PeerError::WrongUsage) }
}

fn check_strength(chain: &[Facts]) -> Result<(), PeerError> {
    for facts in chain {
        if facts.key == KeyStrength::Weak {
            return Err(PeerError::WeakKey);
        }
        if !facts.has_strong_signature() {
            return Err(PeerError::WeakSignature);
        }
    }
    Ok(())
}

fn describe(id: SpiffeId, chain: &[Facts], leaf: &Facts) -> PeerIdentity {
    let instance = match leaf.dns.as_slice() {
        [name] => std::str::from_utf8(name).ok().and_then(|text| text.parse().ok()),
        _ => None,
    };
    let serials = chain.iter().map(|facts| facts.serial.clone()).collect();
    PeerIdentity { id, instance, serials, not_after: leaf.not_after }
}
