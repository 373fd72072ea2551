//! An SVID: a workload's certificate chain and its private key, ready for TLS.
//!
//! `client` makes it from the authority's answer, `tls` presents it. It checks that key and chain belong together and
//! that the leaf is what this mesh would accept from others; it never shows the key.

use crate::csr::{KeyError, WorkloadKey};
use crate::verify::{self, PeerError};
use crate::x509;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// Why a chain and a key are not an SVID.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// The leaf breaks a rule for SVIDs.
    #[error("the issued certificate is not an SVID: {0}")]
    Leaf(PeerError),
    /// The leaf is for another key.
    #[error("the issued certificate for {0} is not for the key that was asked for")]
    OtherKey(SpiffeId),
    /// The key is not usable.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A certificate chain with the private key of its leaf. Cheap to share in an `Arc`.
pub struct Svid {
    id: SpiffeId,
    instance: Option<InstanceName>,
    serial: Vec<u8>,
    issuer: String,
    not_before: SystemTime,
    not_after: SystemTime,
    certified: Arc<CertifiedKey>,
}

impl Svid {
    /// Joins the authority's chain (leaf first) with the key it was issued for.
    ///
    /// # Errors
    /// The chain is empty or its leaf not an SVID, or it is for another key.
    pub fn new(chain_der: Vec<Vec<u8>>, key: WorkloadKey) -> Result<Self, SvidError> {
        let chain: Vec<CertificateDer<'static>> = chain_der.into_iter().map(CertificateDer::from).collect();
        let peer = verify::peer_identity(&chain).map_err(SvidError::Leaf)?;
        let leaf = chain.first().ok_or(SvidError::Leaf(PeerError::NoCertificate))?;
        let facts = x509::Facts::parse(leaf).map_err(|_| SvidError::Leaf(PeerError::Malformed))?;
        if facts.public_key_der != key.public_key_der() {
            return Err(SvidError::OtherKey(peer.id));
        }
        let certified = Arc::new(CertifiedKey::new(chain, key.signer()?));
        Ok(Self {
            id: peer.id,
            instance: peer.instance,
            serial: facts.serial,
            issuer: facts.issuer,
            not_before: facts.not_before,
            not_after: facts.not_after,
            certified,
        })
    }

    /// The identity it proves.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The instance it was issued to.
    pub fn instance(&self) -> Option<&InstanceName> {
        self.instance.as_ref()
    }

    /// The leaf's serial, big-endian, without leading zeros.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The leaf's serial in lower-case hexadecimal.
    pub fn serial_hex(&self) -> String {
        x509::hex(&self.serial)
    }

    /// From when on it is valid (somewhat before it was issued, for skewed clocks).
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The issuer's subject, for people.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Leaf first, then intermediates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// What TLS presents and signs with.
    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("instance", &self.instance)
            .field("serial", &self.serial_hex())
            .finish_non_exhaustive()
    }
}
