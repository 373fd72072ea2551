//! Attestation: from evidence to an identity.
//!
//! The server asks `attest` for each request. There are three kinds of evidence: the kernel's word on who is at the
//! other end of a Unix socket ([`unix_peer`]), a one-time join token ([`join_token`]), and a valid SVID of this mesh, which
//! renews itself. Names inside the certificate request are never evidence.

pub mod join_token;
pub mod unix_peer;

use super::{Authority, AuthorityError};
use crate::tls::CONTROL_NAMESPACE;
use crate::verify::PeerIdentity;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::issue_request::Evidence;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

pub use unix_peer::{Owners, UnixCaller};

/// Who is at the other end of a connection to the control plane, as the transport knows it.
///
/// [`Accepted`](super::server::Accepted) puts it into the extensions of every request.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Over the Unix socket.
    Unix(UnixCaller),
    /// Over TLS.
    Tls(TlsCaller),
}

/// Who is at the other end of a TLS connection.
#[derive(Debug, Clone)]
pub struct TlsCaller {
    /// From where.
    pub address: SocketAddr,
    /// The verified identity; `None` for one that presented no certificate (a machine that joins).
    pub peer: Option<Arc<PeerIdentity>>,
}

/// What evidence has proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The identity that is due.
    pub id: SpiffeId,
    /// What proved it, in words, for the record.
    pub attestor: String,
}

/// Why evidence proved nothing.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// There is none.
    #[error(
        "the request carries no evidence: neither a join token nor a certificate of this mesh, and not the Unix socket"
    )]
    NoEvidence,
    /// The kind of evidence does not fit the way it came.
    #[error("{0}")]
    WrongDoor(&'static str),
    /// A name in the request is not one.
    #[error("{0}")]
    BadName(String),
    /// Only the control plane itself has identities in this namespace.
    #[error("the namespace {CONTROL_NAMESPACE} is the mesh's own")]
    Reserved,
    /// The Unix user may not have this identity.
    #[error(
        "uid {uid} may not run {id}; name it as `uid` in a Workload resource of that identity, or run as uid {allowed}"
    )]
    NotOwner {
        /// Who asked.
        uid: u32,
        /// For what.
        id: SpiffeId,
        /// Who may.
        allowed: u32,
    },
    /// The token is unknown, used, or its time is over; these are not told apart.
    #[error(
        "the join token is not valid (any more); make a new one with: meshctl ca token --service-account NAME"
    )]
    Token,
    /// Too many wrong tokens.
    #[error("too many wrong join tokens; wait a minute")]
    TooManyGuesses,
    /// A certificate renews the instance it was issued to and no other.
    #[error("the certificate of {certified} cannot ask for the instance {asked}")]
    OtherInstance {
        /// Whom the certificate names.
        certified: String,
        /// Whom the request names.
        asked: InstanceName,
    },
    /// The certificate was good when the connection was made, and is not any more.
    #[error("the certificate that {0} connected with has expired or is revoked; it needs other evidence")]
    Stale(SpiffeId),
    /// The authority could not note that the token is used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// What is judged together.
pub(super) struct Claim<'a> {
    pub(super) caller: &'a Caller,
    pub(super) evidence: Option<&'a Evidence>,
    pub(super) instance: &'a InstanceName,
    /// SHA-256 of the request's public key.
    pub(super) key_sha256: [u8; 32],
}

/// Decides which identity the evidence proves.
pub(super) fn attest(
    authority: &Authority,
    owners: &Owners<'_>,
    claim: &Claim<'_>,
    now: SystemTime,
) -> Result<Attested, AttestError> {
    let attested = match (claim.caller, claim.evidence) {
        (Caller::Unix(caller), Some(Evidence::UnixPeer(names))) => {
            unix_peer::attest(*caller, owners, &workload(authority, names)?)
        }
        (Caller::Tls(_), Some(Evidence::UnixPeer(_))) => {
            Err(AttestError::WrongDoor("Unix credentials are evidence on the Unix socket only"))
        }
        (_, Some(Evidence::JoinToken(v1::JoinToken { token }))) => {
            authority.redeem_join_token(token, claim.key_sha256, now)
        }
        (Caller::Tls(TlsCaller { peer: Some(peer), .. }), None) => {
            renew(authority, peer, claim.instance, now)
        }
        (_, None) => Err(AttestError::NoEvidence),
    }?;
    if is_reserved(&attested.id) { Err(AttestError::Reserved) } else { Ok(attested) }
}

/// An SVID renews itself: same identity, same instance. The handshake may have been long ago, so it is judged again.
fn renew(
    authority: &Authority,
    peer: &PeerIdentity,
    instance: &InstanceName,
    now: SystemTime,
) -> Result<Attested, AttestError> {
    if peer.not_after < now || peer.is_revoked(&authority.revocations()) {
        return Err(AttestError::Stale(peer.id.clone()));
    }
    if peer.instance.as_ref() != Some(instance) {
        let certified = peer.instance.as_ref().map_or_else(|| peer.id.to_string(), ToString::to_string);
        return Err(AttestError::OtherInstance { certified, asked: instance.clone() });
    }
    let serial = peer.serials.first().map(|serial| crate::x509::hex(serial)).unwrap_or_default();
    Ok(Attested { id: peer.id.clone(), attestor: format!("svid serial={serial}") })
}

fn workload(authority: &Authority, names: &v1::UnixPeer) -> Result<SpiffeId, AttestError> {
    let bad = |e: mesh_proto::name::NameError| AttestError::BadName(e.to_string());
    let namespace = names.namespace.parse().map_err(bad)?;
    let account = names.service_account.parse().map_err(bad)?;
    Ok(SpiffeId::for_workload(authority.trust_domain(), &namespace, &account))
}

/// Whether an identity lies in the mesh's own namespace.
pub(super) fn is_reserved(id: &SpiffeId) -> bool {
    id.workload().is_none_or(|(namespace, _)| namespace.as_str() == CONTROL_NAMESPACE)
}
