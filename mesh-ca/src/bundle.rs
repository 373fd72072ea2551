//! Trust bundles: which roots vouch for which trust domain.
//!
//! Built from the snapshot's bundles, used by `verify`. A root vouches for its own domain and for no other: the bundle
//! is chosen by the trust domain in the peer's name before any signature is looked at.
//!
//! # Why
//! webpki treats a root as a bare key and name: it ignores its validity and path length. Both are kept here, so that an
//! expired root stops vouching although it is still in a bundle.

use crate::x509::{Facts, KeyStrength, sha256};
use mesh_proto::config;
use mesh_proto::identity::TrustDomain;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// The most roots in one bundle: two while a rotation is under way, some more for foreign domains.
pub const ROOTS_MAX: usize = 16;

/// Why bundles cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The map's key and the bundle's own domain differ.
    #[error("the bundle filed under {filed} is for {own}")]
    OtherDomain {
        /// The key.
        filed: TrustDomain,
        /// What the bundle says.
        own: TrustDomain,
    },
    /// A bundle without roots can vouch for nobody.
    #[error("the bundle of {0} has no roots")]
    Empty(TrustDomain),
    /// More roots than [`ROOTS_MAX`].
    #[error("the bundle of {domain} has {count} roots, more than {ROOTS_MAX}")]
    TooMany {
        /// Whose bundle.
        domain: TrustDomain,
        /// How many it has.
        count: usize,
    },
    /// One of the roots is not a usable authority certificate.
    #[error("root {index} of the bundle of {domain} cannot be used: {problem}")]
    Root {
        /// Whose bundle.
        domain: TrustDomain,
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// The roots of every trust domain this workload accepts peers from.
#[derive(Debug, PartialEq, Eq)]
pub struct TrustBundles {
    domains: BTreeMap<TrustDomain, Domain>,
}

#[derive(Debug, PartialEq, Eq)]
struct Domain {
    roots: Vec<Root>,
    sequence: u64,
}

/// One root with what webpki does not keep.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) anchor: TrustAnchor<'static>,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) path_len: Option<u32>,
}

impl TrustBundles {
    /// Reads the bundles of a snapshot. All or nothing: a bad bundle never replaces good ones in part.
    ///
    /// # Errors
    /// Names the domain and the root that cannot be used.
    pub fn from_config(bundles: &BTreeMap<TrustDomain, config::Bundle>) -> Result<Self, BundleError> {
        let mut domains = BTreeMap::new();
        for (filed, bundle) in bundles {
            if *filed != bundle.trust_domain {
                let own = bundle.trust_domain.clone();
                return Err(BundleError::OtherDomain { filed: filed.clone(), own });
            }
            domains.insert(filed.clone(), Domain::read(bundle)?);
        }
        Ok(Self { domains })
    }

    /// The sequence number of a domain's bundle, if there is one.
    pub fn sequence(&self, domain: &TrustDomain) -> Option<u64> {
        self.domains.get(domain).map(|d| d.sequence)
    }

    /// SHA-256 of each root of a domain.
    pub fn fingerprints(&self, domain: &TrustDomain) -> Vec<[u8; 32]> {
        self.roots(domain).iter().map(|root| sha256(&root.der)).collect()
    }

    /// The roots that vouch for `domain`; empty when nobody does.
    pub(crate) fn roots(&self, domain: &TrustDomain) -> &[Root] {
        self.domains.get(domain).map_or(&[], |d| &d.roots)
    }
}

impl Domain {
    fn read(bundle: &config::Bundle) -> Result<Self, BundleError> {
        let domain = &bundle.trust_domain;
        if bundle.roots.is_empty() {
            return Err(BundleError::Empty(domain.clone()));
        }
        if bundle.roots.len() > ROOTS_MAX {
            return Err(BundleError::TooMany { domain: domain.clone(), count: bundle.roots.len() });
        }
        let mut roots = Vec::with_capacity(bundle.roots.len());
        for (index, der) in bundle.roots.iter().enumerate() {
            let root = Root::read(der, domain);
            roots.push(root.map_err(|problem| BundleError::Root {
                domain: domain.clone(),
                index,
                problem,
            })?);
        }
        Ok(Self { roots, sequence: bundle.sequence })
    }
}

impl Root {
    /// Reads one root of `domain`.
    pub(crate) fn read(der: &[u8], domain: &TrustDomain) -> Result<Self, &'static str> {
        let facts = Facts::parse(der).map_err(|_| "it is not a well-formed certificate")?;
        if !facts.is_ca {
            return Err("it is not a certificate authority");
        }
        if facts.usage.is_some_and(|usage| !usage.signs_certificates) {
            return Err("its key usage does not allow it to sign certificates");
        }
        if facts.key == KeyStrength::Weak {
            return Err("its key is weaker than P-256, Ed25519 or RSA 2048");
        }
        let uri = domain.uri();
        let foreign = |name: &Vec<u8>| name.starts_with(b"spiffe://") && name != uri.as_bytes();
        if facts.uris.iter().any(foreign) {
            return Err("it names another trust domain");
        }
        let der = CertificateDer::from(der.to_vec());
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|_| "it cannot be used as a trust anchor")?
            .to_owned();
        Ok(Self {
            anchor,
            der,
            not_before: facts.not_before,
            not_after: facts.not_after,
            path_len: facts.path_len,
        })
    }

    pub(crate) fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// The roots of a bundle as PEM (RFC 7468), for files that programs read before they know anybody.
#[cfg(feature = "authority")]
pub fn roots_pem(bundle: &config::Bundle) -> String {
    use base64::Engine as _;
    let mut pem = String::new();
    for root in &bundle.roots {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = base64::engine::general_purpose::STANDARD.encode(root);
        let mut rest = text.as_str();
        while let Some((line, more)) = rest.split_at_checked(64).filter(|(_, more)| !more.is_empty()) {
            pem.extend([line, "\n"]);
            rest = more;
        }
        pem.extend([rest, "\n-----END CERTIFICATE-----\n"]);
    }
    pem
}
