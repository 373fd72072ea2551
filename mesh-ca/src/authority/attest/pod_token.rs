//! Evidence of a cluster's pods: a token that the cluster has bound to the pod and made for this mesh.
//!
//! Whether it is good says the cluster alone, through the [`TokenReviewer`] that the control plane brings, and it is asked
//! for each certificate: what is good now may be revoked with its pod in a moment. The names come from its answer, never
//! from the token's own text.
//!
//! A certificate that a pod got this way does not renew itself: the pod may be gone, and its name another's.

use super::{AttestError, Attested};
use mesh_proto::identity::{SpiffeId, TrustDomain};
use mesh_proto::name::{InstanceName, Namespace, ServiceAccount};

/// The beginning of the words for the record.
pub(super) const ATTESTOR: &str = "pod_token ";
/// A token of Kubernetes has about 1 KiB; with very long names 2.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What the cluster says of a token that it has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reviewed {
    /// The namespace of pod and account.
    pub namespace: Namespace,
    /// The pod's account.
    pub account: ServiceAccount,
    /// The pod that the token is bound to; it exists.
    pub pod: InstanceName,
    /// What tells it from others of its name.
    pub pod_uid: String,
}

/// Why the cluster has not accepted a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// It is not good.
    #[error("the pod's token is not accepted: {0}")]
    Refused(String),
    /// Nobody could say; the same token may be good in a moment.
    #[error("the pod's token could not be reviewed: {0}; ask again")]
    Unavailable(String),
}

/// Asks the cluster.
pub trait TokenReviewer: Send + Sync {
    /// Reviews a token for this mesh's audience. Blocks until there is an answer, at most some seconds.
    ///
    /// # Errors
    /// The token is not good, or nobody could say.
    fn review(&self, token: &str) -> Result<Reviewed, ReviewError>;
}

/// The identity of the pod that shows a token.
pub(super) fn attest(
    reviewer: &dyn TokenReviewer,
    domain: &TrustDomain,
    token: &str,
    instance: &InstanceName,
) -> Result<Attested, AttestError> {
    let refuse = |why: &str| AttestError::PodToken(ReviewError::Refused(why.to_owned()));
    if token.len() > TOKEN_BYTES_MAX {
        return Err(refuse("it is longer than 8 KiB"));
    }
    // Three parts of base64url, as every JWT has; everything else needs nobody's judgement.
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if token.split('.').count() != 3 || !token.split('.').all(is_part) {
        return Err(refuse("it is not of the form of a Kubernetes token"));
    }
    let Reviewed { namespace, account, pod, pod_uid } = reviewer.review(token)?;
    if pod != *instance {
        let certified = format!("the pod {namespace}/{pod}");
        return Err(AttestError::OtherInstance { certified, asked: instance.clone() });
    }
    Ok(Attested {
        id: SpiffeId::for_workload(domain, &namespace, &account),
        attestor: format!("{ATTESTOR}pod={namespace}/{pod} uid={pod_uid}"),
    })
}
