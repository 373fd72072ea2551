//! A workload's key and its certificate request.
//!
//! `client` makes one key for each SVID; `svid` joins it with the chain the authority returned. The key never leaves
//! the process: it has no `Clone`, `Debug` or serialisation, and its memory is wiped when it is dropped.
//!
//! # Why
//! ECDSA P-256: every peer of the field accepts it, signing takes tens of microseconds, and the chain stays small.
//! Ed25519 would be as good, but FIPS builds and older foreign verifiers refuse it.

use mesh_proto::name::InstanceName;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// Why a key or a request could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The system's random source or the library failed.
    #[error("a P-256 key could not be made: {0}")]
    Generate(String),
    /// The request could not be written or signed.
    #[error("the certificate request for {instance} could not be made: {problem}")]
    Request {
        /// For whom.
        instance: InstanceName,
        /// What the library said.
        problem: String,
    },
    /// The TLS library does not take the key.
    #[error("the key cannot be used for TLS: {0}")]
    Unusable(String),
}

/// A workload's private key, ECDSA P-256.
pub struct WorkloadKey {
    pair: KeyPair,
}

impl WorkloadKey {
    /// Makes a new key from the system's random source.
    ///
    /// # Errors
    /// The random source failed.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate().map_err(|e| KeyError::Generate(e.to_string()))?;
        Ok(Self { pair })
    }

    /// A PKCS#10 request for `instance`, DER, signed with this key as proof of possession.
    ///
    /// The authority takes only the public key from it; the name is there for whoever reads it.
    ///
    /// # Errors
    /// The library could not write or sign it.
    pub fn csr_der(&self, instance: &InstanceName) -> Result<Vec<u8>, KeyError> {
        let error =
            |e: rcgen::Error| KeyError::Request { instance: instance.clone(), problem: e.to_string() };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::DnsName(instance.as_str().try_into().map_err(error)?)];
        Ok(params.serialize_request(&self.pair).map_err(error)?.der().to_vec())
    }

    /// The public key, DER SubjectPublicKeyInfo.
    pub(crate) fn public_key_der(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(&self.pair)
    }

    /// The key in the form the TLS library signs with.
    pub(crate) fn signer(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        // The library copies the key into its own memory, which it wipes itself; this copy is wiped here.
        let der = Zeroizing::new(self.pair.serialize_der());
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()));
        rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(|e| KeyError::Unusable(e.to_string()))
    }
}

impl Drop for WorkloadKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}
