//! Whose pod a token is: the API server's word, asked for each certificate and never kept.
//!
//! A token counts when the API server accepts it for the audience [`AUDIENCE`], says which pod it is bound to, and that very
//! pod (by its uid) exists, runs as the token's account and is not over. When the API server does not answer nothing
//! counts, and the pod is told to ask again.
//!
//! # Why the pod is looked up as well
//! The API server's own judgement of a bound token may be some time behind the pod's end. A certificate lives for hours, so
//! it is not given to what is going away.

use super::Cluster;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use mesh_ca::authority::attest::{ReviewError, Reviewed, TokenReviewer};
use mesh_proto::name::{Namespace, ServiceAccount};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// The audience that projected tokens are made for.
pub(crate) const AUDIENCE: &str = "meshctl.io";
/// The extras in which the API server names the pod of a bound token (Kubernetes, bound service account tokens).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Reviews under way at once: a start of a hundred pods is done in a second, and the API server is not flooded.
const REVIEWS_MAX: usize = 32;
/// How long a review may take, with the wait for its turn. A proxy gives its request ten seconds.
const DEADLINE: Duration = Duration::from_secs(6);

/// Asks the API server.
pub(crate) struct Reviewer {
    cluster: Cluster,
    runtime: Handle,
    turns: Semaphore,
}

impl Reviewer {
    /// A reviewer; `runtime` does the waiting for the API server.
    pub(crate) fn new(cluster: Cluster, runtime: Handle) -> Self {
        Self { cluster, runtime, turns: Semaphore::new(REVIEWS_MAX) }
    }

    async fn ask(&self, token: &str) -> Result<Reviewed, ReviewError> {
        let _turn = self.turns.acquire().await.map_err(|_| away("the control plane is going down"))?;
        let spec =
            TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.cluster.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await.map_err(|error| away(&error))?;
        let bound = bound(answer.status.unwrap_or_default())?;
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), bound.namespace.as_str());
        let pod = pods.get_opt(&bound.pod).await.map_err(|error| away(&error))?;
        existing(bound, pod)
    }
}

impl TokenReviewer for Reviewer {
    fn review(&self, token: &str) -> Result<Reviewed, ReviewError> {
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(DEADLINE, self.ask(token)).await;
            answer.unwrap_or_else(|_| {
                Err(away(&format_args!("the API server gave no answer within {DEADLINE:?}")))
            })
        })
    }
}

fn away(problem: &(impl std::fmt::Display + ?Sized)) -> ReviewError {
    ReviewError::Unavailable(problem.to_string())
}

fn refused(problem: impl Into<String>) -> ReviewError {
    ReviewError::Refused(problem.into())
}

/// What the API server says of a token that it accepts.
#[derive(Debug)]
struct Bound {
    namespace: Namespace,
    account: ServiceAccount,
    pod: String,
    pod_uid: String,
}

fn bound(status: TokenReviewStatus) -> Result<Bound, ReviewError> {
    let TokenReviewStatus { audiences, authenticated, error, user } = status;
    if authenticated != Some(true) {
        // Its words name what is wrong (expired, other audience) and never the token.
        let why: String = error.unwrap_or_default().chars().filter(|c| !c.is_control()).take(300).collect();
        let why = if why.is_empty() { "the API server does not know it".to_owned() } else { why };
        return Err(refused(why));
    }
    // A server that does not know audiences says nothing of them, and accepts any token of the cluster.
    if !audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        return Err(refused(format!("it was not made for the audience {AUDIENCE}")));
    }
    let user = user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let (namespace, account) = account.ok_or_else(|| refused("it is not a service account's"))?;
    let name = |error: mesh_proto::name::NameError| refused(format!("the mesh cannot name it: {error}"));
    let extra = |key| {
        let values = user.extra.as_ref().and_then(|extra| extra.get(key)).map(Vec::as_slice);
        match values {
            Some([value]) if !value.is_empty() => Ok(value.clone()),
            _ => Err(refused("it is not bound to a pod")),
        }
    };
    Ok(Bound {
        namespace: namespace.parse().map_err(name)?,
        account: account.parse().map_err(name)?,
        pod: extra(POD_NAME)?,
        pod_uid: extra(POD_UID)?,
    })
}

/// The pod's part: it must be there, and be the one.
fn existing(bound: Bound, pod: Option<Pod>) -> Result<Reviewed, ReviewError> {
    let Bound { namespace, account, pod: name, pod_uid } = bound;
    let gone = || refused(format!("its pod {namespace}/{name} does not exist any more"));
    let pod = pod.filter(|pod| pod.metadata.uid.as_ref() == Some(&pod_uid)).ok_or_else(gone)?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Err(refused(format!("its pod {namespace}/{name} is over")));
    }
    let runs_as =
        pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    if runs_as != account.as_str() {
        return Err(refused(format!("its pod {namespace}/{name} runs as another account")));
    }
    let instance = name.parse().map_err(|error| refused(format!("the mesh cannot name its pod: {error}")))?;
    Ok(Reviewed { namespace, account, pod: instance, pod_uid })
}

#[cfg(test)]
mod tests;
