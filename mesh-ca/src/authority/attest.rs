//! Attestation: from evidence to an identity.
//!
//! The server asks `attest` for each request. There are four kinds of evidence: the kernel's word on who is at the
//! other end of a Unix socket ([`unix_peer`]), a one-time join token ([`join_token`]), the token of a cluster's pod
//! ([`pod_token`]), and a valid SVID of this mesh, which renews itself unless it is a pod's. Names inside the certificate request are never evidence.

pub mod join_token;
pub mod pod_token;
pub mod unix_peer;

use super::{Authority, AuthorityError, IssuedRecord};
use crate::tls::CONTROL_NAMESPACE;
use crate::verify::PeerIdentity;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::issue_request::Evidence;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

pub use join_token::Bearer;
pub use pod_token::{ReviewError, Reviewed, TokenReviewer};
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
    #[error(
        "the certificate that {0} connected with has expired or is revoked, so it is no evidence any more; start again with a new token: meshctl ca token{whom}", whom = for_whom(.0)
    )]
    Stale(SpiffeId),
    /// What the certificate was issued on is not known, and its identity is a local user's.
    #[error(
        "there is no record of the certificate of {0}, and a Workload resource gives that identity to a local user; ask on the control plane's machine, or with a new token: meshctl ca token{whom}", whom = for_whom(.0)
    )]
    Unrecorded(SpiffeId),
    /// The cluster does not accept the pod's token, or cannot say.
    #[error(transparent)]
    PodToken(#[from] ReviewError),
    /// A pod renews with its token: it may be gone.
    #[error("the certificate of {0} is a pod's and does not renew itself; ask with the pod's token")]
    PodNeedsToken(SpiffeId),
    /// The authority could not note that the token is used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// What is judged together.
pub(super) struct Claim<'a> {
    pub(super) caller: &'a Caller,
    /// Who judges pods' tokens; `None` where there are no pods.
    pub(super) reviewer: Option<&'a dyn TokenReviewer>,
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
        (_, Some(Evidence::JoinToken(v1::JoinToken { token }))) => authority.redeem_join_token(
            token,
            &Bearer { key_sha256: claim.key_sha256, instance: claim.instance },
            now,
        ),
        (_, Some(Evidence::KubernetesToken(v1::KubernetesToken { token }))) => match claim.reviewer {
            Some(reviewer) => pod_token::attest(reviewer, authority.trust_domain(), token, claim.instance),
            None => Err(AttestError::WrongDoor(
                "this mesh does not run on Kubernetes: there is nobody to review a pod's token",
            )),
        },
        (Caller::Tls(TlsCaller { peer: Some(peer), .. }), None) => {
            renew(authority, owners, (peer, claim), now)
        }
        (_, None) => Err(AttestError::NoEvidence),
    }?;
    if is_reserved(&attested.id) { Err(AttestError::Reserved) } else { Ok(attested) }
}

/// An SVID renews itself: same identity, same instance, and what it was first issued on would be enough today. The handshake
/// may have been long ago, so it is judged again.
fn renew(
    authority: &Authority,
    owners: &Owners<'_>,
    (peer, claim): (&PeerIdentity, &Claim<'_>),
    now: SystemTime,
) -> Result<Attested, AttestError> {
    let instance = claim.instance;
    if peer.not_after < now || peer.is_revoked(&authority.revocations()) {
        return Err(AttestError::Stale(peer.id.clone()));
    }
    if peer.instance.as_ref() != Some(instance) {
        let certified = peer.instance.as_ref().map_or_else(|| peer.id.to_string(), ToString::to_string);
        return Err(AttestError::OtherInstance { certified, asked: instance.clone() });
    }
    let serial = peer.serials.first().map(Vec::as_slice).unwrap_or_default();
    let mut attestor = format!("svid serial={}", crate::x509::hex(serial));
    match authority.record(serial) {
        Some(record) => {
            match record.origin() {
                // The identity may have been given to another user meanwhile.
                Origin::Unix { uid } => {
                    unix_peer::attest(UnixCaller { uid, pid: None }, owners, &peer.id)?;
                }
                Origin::PodToken => return Err(AttestError::PodNeedsToken(peer.id.clone())),
                Origin::JoinToken | Origin::Other => {}
            }
            attestor.push_str(FROM);
            attestor.push_str(record.evidence());
        }
        // Where there are pods it may be one's.
        None if claim.reviewer.is_some() => return Err(AttestError::PodNeedsToken(peer.id.clone())),
        // A crash has lost the record: a machine that joined must not suffer from that.
        None if (owners.named)(&peer.id).is_none() => {}
        None => return Err(AttestError::Unrecorded(peer.id.clone())),
    }
    Ok(Attested { id: peer.id.clone(), attestor })
}

/// Joins an SVID as evidence and what that was issued on.
const FROM: &str = " from ";

/// What a certificate goes back to, through however many renewals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The kernel said that this user asked.
    Unix {
        /// Which.
        uid: u32,
    },
    /// A join token. Nothing else can bring its holder back.
    JoinToken,
    /// A pod's token, which the pod can show again as long as it exists.
    PodToken,
    /// Something else, or not known.
    Other,
}

impl IssuedRecord {
    /// The evidence at the beginning, in words.
    fn evidence(&self) -> &str {
        self.attestor.rsplit_once(FROM).map_or(&*self.attestor, |(_, evidence)| evidence)
    }

    /// What it goes back to.
    pub fn origin(&self) -> Origin {
        let evidence = self.evidence();
        let uid =
            evidence.strip_prefix("unix_peer uid=").and_then(|rest| rest.split(' ').next()?.parse().ok());
        match uid {
            Some(uid) => Origin::Unix { uid },
            None if evidence.starts_with("join_token ") => Origin::JoinToken,
            None if evidence.starts_with(pod_token::ATTESTOR) => Origin::PodToken,
            None => Origin::Other,
        }
    }
}

/// The options of `meshctl ca token` for an identity.
fn for_whom(id: &SpiffeId) -> String {
    match id.workload() {
        Some((namespace, account)) => format!(" --namespace {namespace} --service-account {account}"),
        None => String::new(),
    }
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
