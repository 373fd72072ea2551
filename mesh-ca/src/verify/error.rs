//! Why a peer is refused, as a closed set, and its way through rustls's own errors and back.

use mesh_proto::identity::SpiffeId;
use rustls::{AlertDescription, CertificateError, OtherError};
use std::sync::Arc;

/// Why a peer was refused in the handshake, or refused us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It presented none.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// Not DER, an extension twice, or one that cannot be read.
    #[error("the peer's certificate is not well-formed")]
    Malformed,
    /// A certificate of its chain, the root included, is past its end.
    #[error("the peer's certificate chain has expired")]
    Expired,
    /// A certificate of its chain is not valid yet.
    #[error("the peer's certificate chain is not valid yet; compare the clocks of both machines")]
    NotYetValid,
    /// No root of the bundle of its trust domain vouches for it.
    #[error("no root of the peer's trust domain vouches for its certificate")]
    UnknownIssuer,
    /// Its trust domain, or the one that an issuer names, is not one that we may believe.
    #[error("the peer's trust domain is not trusted here, or its issuer belongs to another")]
    WrongTrustDomain,
    /// An SVID carries exactly one.
    #[error("the peer's certificate has {count} URI names instead of one")]
    NotOneUriSan {
        /// How many it has.
        count: usize,
    },
    /// Its URI name is not a SPIFFE ID.
    #[error("the peer's URI name \"{presented}\" is not a SPIFFE ID")]
    BadSpiffeId {
        /// The name, escaped and cut to 120 characters.
        presented: String,
    },
    /// The extended key usage of its role is missing.
    #[error("the peer's certificate is not meant for this end of a TLS connection")]
    WrongUsage,
    /// No key usage, or none that allows signing a handshake.
    #[error("the peer's certificate does not allow its key to sign a handshake")]
    WrongKeyUsage,
    /// The leaf is an authority, or may sign certificates or revocation lists.
    #[error("the peer presented the certificate of an authority as its own")]
    CaAsLeaf,
    /// An issuer is no authority.
    #[error("an issuer in the peer's chain is not an authority")]
    IssuerNotCa,
    /// More intermediates than an authority above them allows.
    #[error("the peer's chain is longer than one of its authorities allows")]
    PathTooLong,
    /// More certificates than we read.
    #[error("the peer presented too many certificates")]
    ChainTooLong,
    /// A name constraint forbids a name, or cannot be judged.
    #[error("the peer's certificate has a name that its authority may not give")]
    NameConstraint,
    /// A critical extension that we do not know.
    #[error("the peer's certificate has a critical extension that is not known here")]
    UnknownExtension,
    /// A key of the chain is too weak or of an unknown kind.
    #[error("a key in the peer's chain is weaker than P-256, Ed25519 or RSA 2048")]
    WeakKey,
    /// A signature of the chain uses a broken or unknown algorithm.
    #[error("a signature in the peer's chain uses something weaker than SHA-256")]
    WeakSignature,
    /// A signature does not verify: in the chain, or that of the handshake.
    #[error("a signature of the peer does not verify")]
    BadSignature,
    /// A serial of its chain or its identity is revoked.
    #[error("the peer's certificate or identity is revoked")]
    Revoked,
    /// It proved to be somebody else.
    #[error("the peer proved to be {presented}, expected {expected}")]
    WrongPeer {
        /// Who was expected.
        expected: SpiffeId,
        /// Who it is.
        presented: SpiffeId,
    },
    /// It did not agree to one of our protocols.
    #[error("the peer does not speak a protocol of this mesh (ALPN)")]
    NoMeshProtocol,
    /// It is older than TLS 1.3, or shares no cipher suite, key exchange or signature with us.
    #[error("the peer and this proxy have no version or algorithm of TLS in common")]
    NoCommonTls,
    /// It refused us, and said why as far as TLS can.
    #[error("the peer refused this proxy's certificate or offer: {alert}")]
    RefusedUs {
        /// The alert (RFC 8446, section 6.2).
        alert: &'static str,
    },
    /// It broke the TLS protocol.
    #[error("the peer broke the TLS protocol")]
    Misbehaved,
}

impl PeerError {
    /// A short word of a closed set, for logs and metric labels.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Malformed => "malformed_certificate",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::WrongTrustDomain => "wrong_trust_domain",
            Self::NotOneUriSan { count: 0 } => "no_uri_san",
            Self::NotOneUriSan { .. } => "several_uri_sans",
            Self::BadSpiffeId { .. } => "bad_spiffe_id",
            Self::WrongUsage => "wrong_usage",
            Self::WrongKeyUsage => "wrong_key_usage",
            Self::CaAsLeaf => "ca_as_leaf",
            Self::IssuerNotCa => "issuer_not_ca",
            Self::PathTooLong => "path_too_long",
            Self::ChainTooLong => "chain_too_long",
            Self::NameConstraint => "name_constraint",
            Self::UnknownExtension => "unknown_extension",
            Self::WeakKey => "weak_key",
            Self::WeakSignature => "weak_signature",
            Self::BadSignature => "bad_signature",
            Self::Revoked => "revoked",
            Self::WrongPeer { .. } => "wrong_peer",
            Self::NoMeshProtocol => "no_mesh_protocol",
            Self::NoCommonTls => "no_common_tls",
            Self::RefusedUs { .. } => "refused_us",
            Self::Misbehaved => "misbehaved",
        }
    }
}

/// Recovers our reason from an error of a handshake, or of a read that brought the peer's alert.
///
/// `None` when the connection broke for a reason that is not the peer's certificate or offer.
pub fn handshake_error(error: &std::io::Error) -> Option<PeerError> {
    let inner = error.get_ref()?;
    match inner.downcast_ref::<PeerError>() {
        Some(reason) => Some(reason.clone()),
        None => inner.downcast_ref::<rustls::Error>().and_then(from_rustls),
    }
}

/// Wraps a reason so that rustls sends the alert that tells the peer the most, and [`handshake_error`] finds it again.
pub(crate) fn into_rustls(error: PeerError) -> rustls::Error {
    rustls::Error::InvalidCertificate(match error {
        // These have an alert of their own, so that the other side's log says why too.
        PeerError::Expired => CertificateError::Expired,
        PeerError::NotYetValid => CertificateError::NotValidYet,
        PeerError::UnknownIssuer => CertificateError::UnknownIssuer,
        PeerError::Revoked => CertificateError::Revoked,
        PeerError::BadSignature => CertificateError::BadSignature,
        PeerError::WrongUsage => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

/// What rustls says when the resolver of `tls` shows no certificate because no mesh protocol was offered.
const NOT_RESOLVED: &str = "no server certificate chain resolved";

fn from_rustls(error: &rustls::Error) -> Option<PeerError> {
    match error {
        rustls::Error::InvalidCertificate(error) => Some(from_certificate_error(error)),
        rustls::Error::NoCertificatesPresented => Some(PeerError::NoCertificate),
        rustls::Error::NoApplicationProtocol => Some(PeerError::NoMeshProtocol),
        rustls::Error::General(text) if text == NOT_RESOLVED => Some(PeerError::NoMeshProtocol),
        rustls::Error::PeerIncompatible(_) => Some(PeerError::NoCommonTls),
        rustls::Error::PeerMisbehaved(_)
        | rustls::Error::InvalidMessage(_)
        | rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. } => Some(PeerError::Misbehaved),
        // What the peer could not agree to has the same name whichever side noticed it first.
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => Some(PeerError::NoCommonTls),
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            Some(PeerError::NoMeshProtocol)
        }
        rustls::Error::AlertReceived(alert) => Some(PeerError::RefusedUs { alert: alert_name(*alert) }),
        _ => None,
    }
}

fn from_certificate_error(error: &CertificateError) -> PeerError {
    match error {
        CertificateError::Other(other) => {
            other.0.downcast_ref::<PeerError>().cloned().unwrap_or(PeerError::Malformed)
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => PeerError::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => PeerError::NotYetValid,
        CertificateError::Revoked => PeerError::Revoked,
        CertificateError::UnknownIssuer => PeerError::UnknownIssuer,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            PeerError::WrongUsage
        }
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            PeerError::BadSignature
        }
        CertificateError::UnhandledCriticalExtension => PeerError::UnknownExtension,
        _ => PeerError::Malformed,
    }
}

/// Reads what webpki said about a chain as a reason.
pub(crate) fn from_webpki(error: webpki::Error) -> PeerError {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => PeerError::Expired,
        E::CertNotValidYet { .. } => PeerError::NotYetValid,
        E::CertRevoked => PeerError::Revoked,
        E::UnknownIssuer | E::CertDistrusted => PeerError::UnknownIssuer,
        E::CaUsedAsEndEntity => PeerError::CaAsLeaf,
        E::EndEntityUsedAsCa => PeerError::IssuerNotCa,
        E::PathLenConstraintViolated => PeerError::PathTooLong,
        E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded
        | E::MaximumNameConstraintComparisonsExceeded => PeerError::ChainTooLong,
        E::NameConstraintViolation | E::MalformedNameConstraint | E::InvalidNetworkMaskConstraint => {
            PeerError::NameConstraint
        }
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => PeerError::WrongUsage,
        E::UnsupportedCriticalExtension => PeerError::UnknownExtension,
        E::UnsupportedSignatureAlgorithmContext(_) => PeerError::WeakSignature,
        E::InvalidSignatureForPublicKey
        | E::SignatureAlgorithmMismatch
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => PeerError::BadSignature,
        _ => PeerError::Malformed,
    }
}

fn alert_name(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::BadCertificate => "bad_certificate",
        AlertDescription::UnsupportedCertificate => "unsupported_certificate",
        AlertDescription::CertificateRevoked => "certificate_revoked",
        AlertDescription::CertificateExpired => "certificate_expired",
        AlertDescription::CertificateUnknown => "certificate_unknown",
        AlertDescription::UnknownCA => "unknown_ca",
        AlertDescription::AccessDenied => "access_denied",
        AlertDescription::DecryptError => "decrypt_error",
        AlertDescription::ProtocolVersion => "protocol_version",
        AlertDescription::HandshakeFailure => "handshake_failure",
        AlertDescription::CertificateRequired => "certificate_required",
        AlertDescription::NoApplicationProtocol => "no_application_protocol",
        AlertDescription::UnrecognisedName => "unrecognized_name",
        AlertDescription::InternalError => "internal_error",
        _ => "other",
    }
}
