//! The way to a cluster's control plane under the user's own credentials: an `AdminSession`, and a port-forward.
//!
//! The API server says who the user is, and compares it with the object; the control plane reads the object. See
//! `mesh-control::cluster::session` for why that is enough.

use super::access::{Cluster, is_absent, status};
use super::manifest::{CONTROL, GROUP, NAMESPACE};
use super::ready;
use crate::failure::{Failure, Kind, chain};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;
use std::io;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint, Uri};

/// The control plane's admin port, on its pod's loopback.
const ADMIN_PORT: u16 = 15_010;
/// A port-forward through the API server and the node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The control planes that are ready, by their pods' names, the oldest first: it remembers the most.
///
/// # Errors
/// None is ready.
pub(crate) async fn replicas(cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let pods = ready::pods(cluster).await?;
    let mut found: Vec<&Pod> = pods.iter().filter(|pod| ready::is_ready(pod)).collect();
    found.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone()));
    let names: Vec<String> = found.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
    match names.is_empty() {
        true => Err(none_ready(cluster, &pods)),
        false => Ok(names),
    }
}

/// Opens a channel to the control plane in this pod.
///
/// # Errors
/// It cannot be reached with this user's rights, or does not answer.
pub(crate) async fn channel(cluster: &Cluster, pod: &str) -> Result<Channel, Failure> {
    let name = pod.to_owned();
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    // Once by hand first: tonic wraps the API server's refusal so deeply that its words are lost.
    let first = api.portforward(&name, &[ADMIN_PORT]).await;
    let mut first = first.map_err(|error| no_forward(cluster, &name, &error))?.take_stream(ADMIN_PORT);
    let connector = tower::service_fn(move |_: Uri| {
        let (api, name, first) = (api.clone(), name.clone(), first.take());
        async move {
            let stream = match first {
                Some(stream) => Box::new(stream) as Box<dyn Stream>,
                None => {
                    let forward = api.portforward(&name, &[ADMIN_PORT]).await.map_err(io::Error::other)?;
                    let mut forward = forward;
                    let stream = forward.take_stream(ADMIN_PORT);
                    Box::new(stream.ok_or_else(|| io::Error::other("the port-forward has no stream"))?)
                }
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // The name is never resolved: the connector knows the way.
    Endpoint::from_static("http://control.mesh")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|error| {
            Failure::new(
                Kind::Unreachable,
                format!("control plane {pod} on cluster {} does not answer: {}", cluster.name, chain(&error)),
            )
            .next("meshctl status")
        })
}

/// What a port-forward gives.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for S {}

/// Makes a session; what calls bear to prove who makes them.
///
/// # Errors
/// The user may not, or the cluster cannot vouch for users.
pub(crate) async fn token(cluster: &Cluster) -> Result<String, Failure> {
    let reviews: Api<SelfSubjectReview> = Api::all(cluster.client.clone());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let review = review.map_err(|error| cluster.failure("ask who this user is", &error))?;
    let user = review.status.and_then(|status| status.user_info).unwrap_or_default();
    let secret = mesh_ca::seal::random_key_text()
        .ok_or_else(|| Failure::failed("this machine's random source failed; no session was made"))?;
    let digest = mesh_ca::seal::digest_text(&secret);
    let kind = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(GROUP, "v1alpha1", "AdminSession"),
        "adminsessions",
    );
    let mut session = DynamicObject::new("", &kind);
    session.metadata.name = None;
    session.metadata.generate_name = Some("meshctl-".to_owned());
    session.data = json!({ "spec": {
        "user": user.username.unwrap_or_default(), "groups": user.groups.unwrap_or_default(), "digest": digest,
    } });
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &kind);
    match api.create(&PostParams::default(), &session).await {
        Ok(made) => Ok(format!("{}.{}", made.metadata.name.unwrap_or_default(), &*secret)),
        Err(error) => Err(no_session(cluster, &error)),
    }
}

fn no_session(cluster: &Cluster, error: &kube::Error) -> Failure {
    if is_absent(error) {
        return Failure::new(
            Kind::Unreachable,
            format!(
                "the mesh on cluster {} has no sessions for users (it needs Kubernetes 1.30)",
                cluster.name
            ),
        )
        .next("meshctl check --kubernetes");
    }
    let failure = cluster.failure("begin a session", error);
    match status(error) {
        Some(status) if status.code == 403 => failure
            .next("kubectl create clusterrolebinding NAME --clusterrole=meshctl-viewer --user=USER   # by an administrator"),
        _ => failure,
    }
}

fn none_ready(cluster: &Cluster, pods: &[Pod]) -> Failure {
    let mut text = match pods {
        [] => format!("no control plane runs on cluster {}", cluster.name),
        _ => format!("no control plane on cluster {} is ready", cluster.name),
    };
    for pod in pods {
        let trouble = ready::trouble(pod).unwrap_or_default();
        text.push_str(&format!("\n  pod {}: {trouble}", pod.metadata.name.as_deref().unwrap_or_default()));
    }
    let failure = Failure::new(Kind::Unreachable, text);
    match pods {
        [] => failure.next("meshctl install").next("meshctl --local …   # for the mesh of this machine"),
        _ => failure.next(format!("kubectl --namespace {NAMESPACE} describe deployment {CONTROL}")),
    }
}

fn no_forward(cluster: &Cluster, pod: &str, error: &kube::Error) -> Failure {
    let failure = cluster.failure(&format!("reach pod {NAMESPACE}/{pod}"), error);
    match status(error) {
        Some(status) if status.code == 403 => failure.next(format!(
            "kubectl --namespace {NAMESPACE} create rolebinding NAME --role=meshctl-session --user=USER   # by an administrator"
        )),
        _ => failure,
    }
}
