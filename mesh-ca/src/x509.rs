//! What this crate reads from one certificate, by x509-parser, in one place.
//!
//! `verify` judges these facts, `svid` and `authority` show them. Signatures and chains are webpki's matter.
//!
//! # Why
//! webpki tells neither the number of URI SANs (it leaves out those that are not UTF-8), nor the key usage, nor a root's
//! validity and path length; a name that one reader sees and another does not is how identities are forged.

use std::time::{Duration, SystemTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The certificate is not well-formed DER, has an extension twice, or has one that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The facts of one certificate.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Big-endian, without leading zeros.
    pub(crate) serial: Vec<u8>,
    #[cfg(feature = "authority")]
    pub(crate) subject: String,
    pub(crate) issuer: String,
    #[cfg(feature = "authority")]
    pub(crate) subject_is_empty: bool,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// SubjectPublicKeyInfo as it stands.
    pub(crate) public_key_der: Vec<u8>,
    pub(crate) key: KeyStrength,
    /// Dotted object identifier of the signature.
    pub(crate) signature_oid: String,
    /// Every URI SAN as bytes, whatever they are.
    pub(crate) uris: Vec<Vec<u8>>,
    /// Every DNS SAN as bytes.
    pub(crate) dns: Vec<Vec<u8>>,
    pub(crate) is_ca: bool,
    pub(crate) path_len: Option<u32>,
    pub(crate) usage: Option<Usage>,
    pub(crate) purposes: Option<Purposes>,
}

/// Key usage, as far as it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) digital_signature: bool,
    pub(crate) signs_certificates: bool,
    pub(crate) signs_crls: bool,
}

/// Extended key usage, as far as it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Purposes {
    pub(crate) server: bool,
    pub(crate) client: bool,
}

/// Whether a public key is one we accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyStrength {
    Strong,
    Weak,
}

/// The fewest bits of an RSA modulus we accept (NIST SP 800-131A rev. 2).
const RSA_BITS_MIN: usize = 2048;
/// The most, since verification time grows with the square.
const RSA_BITS_MAX: usize = 8192;

impl Facts {
    /// Reads a certificate; bytes after its end are an error.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, Malformed> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Malformed)?;
        if !rest.is_empty() {
            return Err(Malformed);
        }
        let mut facts = Self {
            serial: strip_zeros(certificate.raw_serial()).to_vec(),
            #[cfg(feature = "authority")]
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            #[cfg(feature = "authority")]
            subject_is_empty: certificate.subject().iter_rdn().next().is_none(),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
            public_key_der: certificate.public_key().raw.to_vec(),
            key: strength(certificate.public_key()),
            signature_oid: certificate.signature_algorithm.algorithm.to_id_string(),
            uris: Vec::new(),
            dns: Vec::new(),
            is_ca: false,
            path_len: None,
            usage: None,
            purposes: None,
        };
        // The map is refused when one extension appears twice.
        for extension in certificate.extensions_map().map_err(|_| Malformed)?.into_values() {
            facts.take_extension(extension.parsed_extension())?;
        }
        Ok(facts)
    }

    fn take_extension(&mut self, extension: &ParsedExtension<'_>) -> Result<(), Malformed> {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    self.take_name(name);
                }
            }
            ParsedExtension::BasicConstraints(basic) => {
                self.is_ca = basic.ca;
                self.path_len = basic.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => {
                self.usage = Some(Usage {
                    digital_signature: usage.digital_signature(),
                    signs_certificates: usage.key_cert_sign(),
                    signs_crls: usage.crl_sign(),
                });
            }
            ParsedExtension::ExtendedKeyUsage(purposes) => {
                self.purposes = Some(Purposes { server: purposes.server_auth, client: purposes.client_auth });
            }
            ParsedExtension::ParseError { .. } | ParsedExtension::Unparsed => return Err(Malformed),
            _ => {}
        }
        Ok(())
    }

    fn take_name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::URI(text) => self.uris.push(text.as_bytes().to_vec()),
            GeneralName::DNSName(text) => self.dns.push(text.as_bytes().to_vec()),
            // A name the parser could not read still counts as one of its kind: context tags 6 (URI) and 2 (DNS).
            GeneralName::Invalid(tag, bytes) if tag.0 == 6 => self.uris.push(bytes.to_vec()),
            GeneralName::Invalid(tag, bytes) if tag.0 == 2 => self.dns.push(bytes.to_vec()),
            _ => {}
        }
    }

    /// Whether the certificate's signature uses SHA-256 or better (or Ed25519).
    pub(crate) fn has_strong_signature(&self) -> bool {
        // RFC 4055, RFC 5758, RFC 8410. RSASSA-PSS names its hash in its parameters; webpki knows only SHA-2 there.
        const STRONG: [&str; 7] = [
            "1.2.840.113549.1.1.11", // sha256WithRSAEncryption
            "1.2.840.113549.1.1.12", // sha384WithRSAEncryption
            "1.2.840.113549.1.1.13", // sha512WithRSAEncryption
            "1.2.840.113549.1.1.10", // RSASSA-PSS
            "1.2.840.10045.4.3.2",   // ecdsa-with-SHA256
            "1.2.840.10045.4.3.3",   // ecdsa-with-SHA384
            "1.3.101.112",           // Ed25519
        ];
        STRONG.contains(&self.signature_oid.as_str())
    }
}

/// Reads the strength of a DER SubjectPublicKeyInfo.
#[cfg(feature = "authority")]
pub(crate) fn key_strength(spki_der: &[u8]) -> Result<KeyStrength, Malformed> {
    match SubjectPublicKeyInfo::from_der(spki_der) {
        Ok(([], spki)) => Ok(strength(&spki)),
        _ => Err(Malformed),
    }
}

fn strength(key: &SubjectPublicKeyInfo<'_>) -> KeyStrength {
    let algorithm = &key.algorithm;
    let strong = if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
        curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
    } else if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
        match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&modulus_bits(rsa.modulus)),
            _ => false,
        }
    } else {
        algorithm.algorithm == OID_SIG_ED25519
    };
    if strong { KeyStrength::Strong } else { KeyStrength::Weak }
}

fn modulus_bits(modulus: &[u8]) -> usize {
    let bytes = strip_zeros(modulus);
    let top = bytes.first().map_or(0, |b| b.leading_zeros() as usize);
    bytes.len().saturating_mul(8).saturating_sub(top)
}

/// A big-endian number without leading zeros.
pub(crate) fn strip_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|d| char::from_digit(u32::from(d), 16)).collect()
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    for (to, from) in
        hash.iter_mut().zip(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
    {
        *to = *from;
    }
    hash
}

fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    let shifted = if time.timestamp() < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    shifted.unwrap_or(SystemTime::UNIX_EPOCH)
}
