//! How the mesh's parts on a cluster are: replicas, webhooks, and pods that should have a proxy and have none.

use super::access::Cluster;
use super::installation::{is_trusted, webhooks};
use super::removal::some;
use super::{object, ready};
use crate::failure::Failure;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde::Serialize;
use std::collections::BTreeSet;

/// The label with which a namespace or a pod opts in.
const INJECT: &str = "meshctl.io/inject";
/// The label of every pod with a proxy.
const MESHED: &str = "meshctl.io/meshed";

/// How the mesh's parts are.
#[derive(Serialize, Debug)]
pub(crate) struct Health {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// Its version.
    pub(crate) kubernetes: String,
    /// Replicas of the control plane that are wanted.
    pub(crate) replicas_wanted: i32,
    /// Those that answer.
    pub(crate) replicas_ready: usize,
    /// Each of its pods.
    pub(crate) components: Vec<Component>,
    /// Pods with a proxy.
    pub(crate) meshed_pods: usize,
    /// Pods of namespaces that opted in, without one.
    pub(crate) unmeshed_pods: Vec<String>,
    /// What is wrong, one sentence each.
    #[serde(skip)]
    pub(crate) problems: Vec<String>,
}

/// One pod of the control plane.
#[derive(Serialize, Debug)]
pub(crate) struct Component {
    /// Its name.
    pub(crate) pod: String,
    /// Where it runs.
    pub(crate) node: String,
    /// What it runs.
    pub(crate) image: String,
    /// Whether it answers.
    pub(crate) ready: bool,
    /// Why not; empty when it does.
    pub(crate) trouble: String,
    /// How often its container was started again.
    pub(crate) restarts: i32,
}

/// Looks at everything.
///
/// # Errors
/// The API server's refusal.
pub(crate) async fn look(cluster: &Cluster) -> Result<Health, Failure> {
    let (deployment, pods) = ready::look(cluster).await?;
    let components: Vec<Component> = pods.iter().map(Component::of).collect();
    let replicas_wanted =
        deployment.and_then(|deployment| deployment.spec).and_then(|spec| spec.replicas).unwrap_or_default();
    let replicas_ready = components.iter().filter(|component| component.ready).count();
    let mut problems = Vec::new();
    for component in components.iter().filter(|component| !component.ready) {
        problems.push(format!("control plane {}: {}", component.pod, component.trouble));
    }
    if replicas_wanted == 0 {
        // Deleted, or scaled away: what runs goes on, and nothing follows any more.
        problems.push("no control plane is wanted: type meshctl install".to_owned());
    }
    if usize::try_from(replicas_wanted).is_ok_and(|wanted| replicas_ready < wanted) {
        problems.push(format!("{replicas_ready} of {replicas_wanted} control planes are ready"));
    }
    for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
        // Who may not read them is not told that they are wrong.
        if let Ok(found) = object::find(cluster, &webhooks(kind)).await
            && !is_trusted(found.as_ref())
        {
            problems.push(format!("the API server does not trust our {kind}: type meshctl install"));
        }
    }
    let all = all::<Pod>(cluster).await?;
    let unmeshed_pods = unmeshed(&opted_in(cluster).await?, &all);
    if !unmeshed_pods.is_empty() {
        problems.push(format!(
            "{} pods of namespaces in the mesh have no proxy, restart them: {}",
            unmeshed_pods.len(),
            some(&unmeshed_pods)
        ));
    }
    Ok(Health {
        cluster: cluster.name.clone(),
        kubernetes: cluster.version.clone(),
        replicas_wanted,
        replicas_ready,
        components,
        meshed_pods: all.iter().filter(|pod| pod.labels().contains_key(MESHED)).count(),
        unmeshed_pods,
        problems,
    })
}

impl Component {
    fn of(pod: &Pod) -> Self {
        let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
        let started = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        Self {
            pod: pod.name_any(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            image: container.and_then(|container| container.image.clone()).unwrap_or_default(),
            ready: ready::is_ready(pod),
            trouble: ready::trouble(pod).unwrap_or_default(),
            restarts: started.map(|status| status.restart_count).fold(0, i32::saturating_add),
        }
    }
}

/// All objects of a kind in the whole cluster.
///
/// # Errors
/// The API server's refusal.
pub(crate) async fn all<K>(cluster: &Cluster) -> Result<Vec<K>, Failure>
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let objects: Api<K> = Api::all(cluster.client.clone());
    let found = objects.list(&ListParams::default()).await;
    Ok(found.map_err(|error| cluster.failure(&format!("list {}", K::plural(&())), &error))?.items)
}

/// The namespaces that opted in, by name.
///
/// # Errors
/// The API server's refusal.
pub(crate) async fn opted_in(cluster: &Cluster) -> Result<BTreeSet<String>, Failure> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let found = namespaces.list(&ListParams::default().labels(&format!("{INJECT}=enabled"))).await;
    let found = found.map_err(|error| cluster.failure("list namespaces", &error))?;
    Ok(found.items.iter().map(|namespace| namespace.name_any()).collect())
}

/// Pods that should have a proxy, run, and have none.
pub(crate) fn unmeshed(opted_in: &BTreeSet<String>, pods: &[Pod]) -> Vec<String> {
    let should = |pod: &&Pod| {
        let said = pod.labels().get(INJECT).map(String::as_str);
        let is_over = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let in_one = pod.namespace().is_some_and(|namespace| opted_in.contains(&namespace));
        (in_one && said != Some("disabled") || said == Some("enabled"))
            && !pod.labels().contains_key(MESHED)
            && !matches!(is_over, Some("Succeeded" | "Failed"))
            && pod.metadata.deletion_timestamp.is_none()
    };
    let name = |pod: &Pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    pods.iter().filter(should).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(namespace: &str, labels: &Value, phase: &str) -> Pod {
        let pod = json!({
            "metadata": { "name": "p", "namespace": namespace, "labels": labels }, "status": { "phase": phase },
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn pods_that_slipped_in_without_a_proxy_are_found() {
        let opted_in: BTreeSet<String> = ["shop".to_owned()].into();
        for (namespace, labels, phase, is_found) in [
            ("shop", json!({}), "Running", true),
            ("shop", json!({ INJECT: "disabled" }), "Running", false),
            ("shop", json!({ MESHED: "true" }), "Running", false),
            ("shop", json!({}), "Succeeded", false),
            ("other", json!({}), "Running", false),
            ("other", json!({ INJECT: "enabled" }), "Pending", true),
        ] {
            let found = unmeshed(&opted_in, &[pod(namespace, &labels, phase)]);
            assert_eq!(!found.is_empty(), is_found, "{namespace} {labels} {phase}");
        }
    }
}
