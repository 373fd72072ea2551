//! Taking the mesh off a cluster, with everything that it made there.
//!
//! The order matters: webhooks first, since a control plane that is gone would hold up every labelled namespace; then the
//! control plane, which would otherwise make its ConfigMaps again; then what lies in other namespaces; the definitions with
//! all objects of their kinds; our namespace last.

use super::access::{Cluster, is_absent};
use super::manifest::{self, CONTROL, NAMESPACE};
use super::object::{self, Name};
use super::{permission, ready};
use crate::failure::Failure;
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// What the control plane gives to every namespace with meshed pods.
pub(crate) const TRUST: &str = "meshctl-trust";
/// The label of every pod with a proxy.
const MESHED: &str = "meshctl.io/meshed=true";
/// Pods that are named in a refusal; the rest is counted.
const NAMED_MAX: usize = 10;
/// Removals under way at the same time.
const OPEN_MAX: usize = 8;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// All that we make bears it.
const OURS: &str = "app.kubernetes.io/part-of=meshctl";

/// The kinds that we make beyond our namespace, in the order of their removal.
const KINDS: [(&str, &str); 7] = [
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
];

/// What is there to be removed.
pub(crate) struct Found {
    /// Webhooks, rights and definitions.
    objects: Vec<Name>,
    /// Namespaces with our ConfigMap.
    trusting: Vec<String>,
    /// Whether our namespace is there.
    namespace: bool,
}

impl Found {
    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.trusting.is_empty() && !self.namespace
    }
}

/// Looks for everything that the mesh made.
///
/// # Errors
/// This user may not remove it; or the API server's refusal.
pub(crate) async fn look(cluster: &Cluster) -> Result<Found, Failure> {
    permission::require(cluster, "a removal", rights()).await?;
    let mut objects = Vec::new();
    for (api_version, kind) in KINDS {
        objects.extend(ours(cluster, api_version, kind).await?);
    }
    let maps: Api<ConfigMap> = Api::all(cluster.client.clone());
    let named = ListParams::default().fields(&format!("metadata.name={TRUST}"));
    let maps = maps.list(&named).await.map_err(|error| cluster.failure("list ConfigMaps", &error))?;
    let trusting = maps.items.iter().filter_map(ResourceExt::namespace).collect();
    let namespace = object::find(cluster, &namespace()).await?.is_some();
    Ok(Found { objects, trusting, namespace })
}

fn rights() -> BTreeSet<permission::Right> {
    let mut rights = BTreeSet::new();
    for (api_version, kind) in KINDS {
        let name = kind_of(api_version, kind);
        for verb in ["list", "get", "delete"] {
            rights.insert(permission::Right::new(verb, name.group(), &name.plural(), None));
        }
    }
    for (verb, group, resource, namespace) in [
        ("list", "", "configmaps", None),
        ("delete", "", "configmaps", None),
        ("list", "", "pods", None),
        ("delete", "", "namespaces", None),
        ("get", "", "namespaces", None),
        ("delete", "apps", "deployments", Some(NAMESPACE)),
        ("get", "apps", "deployments", Some(NAMESPACE)),
    ] {
        rights.insert(permission::Right::new(verb, group, resource, namespace));
    }
    rights
}

fn kind_of(api_version: &str, kind: &str) -> Name {
    Name { api_version: api_version.to_owned(), kind: kind.to_owned(), namespace: None, name: String::new() }
}

fn namespace() -> Name {
    Name { name: NAMESPACE.to_owned(), ..kind_of("v1", "Namespace") }
}

/// The objects of a kind that we made, those that an older release made too.
async fn ours(cluster: &Cluster, api_version: &str, kind: &str) -> Result<Vec<Name>, Failure> {
    let name = kind_of(api_version, kind);
    let found = name.api(cluster).list(&ListParams::default().labels(OURS)).await;
    let found = match found {
        Ok(found) => found,
        // A kind that this cluster does not know.
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(cluster.failure(&format!("list {}", name.plural()), &error)),
    };
    Ok(found.items.iter().map(|object| Name { name: object.name_any(), ..name.clone() }).collect())
}

/// The pods that have a proxy, as `namespace/name`.
///
/// # Errors
/// The API server's refusal.
pub(crate) async fn meshed_pods(cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let pods: Api<Pod> = Api::all(cluster.client.clone());
    let found = pods.list(&ListParams::default().labels(MESHED)).await;
    let found = found.map_err(|error| cluster.failure("list the pods of the mesh", &error))?;
    let is_over = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let running = found.items.iter().filter(|pod| !is_over(pod));
    Ok(running.map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())).collect())
}

/// Some names, and how many more there are.
pub(crate) fn some(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = names.len().saturating_sub(shown.len());
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{rest}", shown.join(", "))
}

/// Removes what was found, and waits until it is gone. `tell` hears of each step.
///
/// # Errors
/// What could not be removed, and what holds it.
pub(crate) async fn remove(
    cluster: &Cluster,
    found: Found,
    deadline: Duration,
    mut tell: impl FnMut(&str),
) -> Result<(), Failure> {
    let Found { objects, trusting, namespace: has_namespace } = found;
    let of = |kind: &str| objects.iter().filter(|name| name.kind == kind).cloned().collect::<Vec<_>>();
    let webhooks = [of("MutatingWebhookConfiguration"), of("ValidatingWebhookConfiguration")].concat();
    all(cluster, webhooks).await?;
    tell("webhooks");
    let deployment = Name {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        namespace: Some(NAMESPACE.to_owned()),
        name: CONTROL.to_owned(),
    };
    object::remove(cluster, &deployment).await?;
    until_gone("the control plane's pods", deadline, async || {
        Ok(if ready::pods(cluster).await?.is_empty() { None } else { Some(String::new()) })
    })
    .await?;
    tell("control plane");
    remove_trust(cluster, &trusting).await?;
    tell(&format!("ConfigMap {TRUST} in {} namespaces", trusting.len()));
    let definitions = of("CustomResourceDefinition");
    all(cluster, definitions.clone()).await?;
    all(cluster, [of("ClusterRoleBinding"), of("ClusterRole")].concat()).await?;
    for name in &definitions {
        gone(cluster, name, deadline).await?;
    }
    // After the kind that they guard.
    all(cluster, [of("ValidatingAdmissionPolicyBinding"), of("ValidatingAdmissionPolicy")].concat()).await?;
    tell(&format!("{} kinds of {} with their objects, rights", definitions.len(), manifest::GROUP));
    if has_namespace {
        object::remove(cluster, &namespace()).await?;
        gone(cluster, &namespace(), deadline).await?;
        tell(&format!("namespace {NAMESPACE}"));
    }
    Ok(())
}

async fn all(cluster: &Cluster, names: Vec<Name>) -> Result<(), Failure> {
    let removals = stream::iter(names).map(|name| async move { object::remove(cluster, &name).await });
    let done: Vec<_> = removals.buffer_unordered(OPEN_MAX).collect().await;
    done.into_iter().collect::<Result<Vec<bool>, Failure>>().map(drop)
}

async fn remove_trust(cluster: &Cluster, namespaces: &[String]) -> Result<(), Failure> {
    for namespace in namespaces {
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
        match maps.delete(TRUST, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => {
                return Err(cluster.failure(&format!("remove ConfigMap {namespace}/{TRUST}"), &error));
            }
        }
    }
    Ok(())
}

async fn gone(cluster: &Cluster, name: &Name, deadline: Duration) -> Result<(), Failure> {
    until_gone(&name.to_string(), deadline, async || {
        let found = object::find(cluster, name).await?;
        Ok(found.map(|found| holders(&found.metadata.finalizers.unwrap_or_default(), &found.data)))
    })
    .await
}

/// What keeps an object that is to go, as far as it says so.
fn holders(finalizers: &[String], data: &serde_json::Value) -> String {
    let conditions = data.pointer("/status/conditions").and_then(serde_json::Value::as_array);
    let messages = conditions.into_iter().flatten().filter(|c| {
        let kind = c["type"].as_str().unwrap_or_default();
        c["status"] == "True" && (kind.contains("Remaining") || kind.contains("Failure"))
    });
    let messages: Vec<&str> = messages.filter_map(|c| c["message"].as_str()).collect();
    match (messages.is_empty(), finalizers.is_empty()) {
        (false, _) => messages.join("; "),
        (true, false) => format!("held by finalizers {}", finalizers.join(", ")),
        (true, true) => String::new(),
    }
}

/// Waits while `there` says what holds it.
#[expect(clippy::disallowed_methods, reason = "the deadline of a command that waits for a cluster")]
async fn until_gone(
    what: &str,
    deadline: Duration,
    there: impl AsyncFn() -> Result<Option<String>, Failure>,
) -> Result<(), Failure> {
    let until = Instant::now() + deadline;
    while let Some(why) = there().await? {
        if Instant::now() >= until {
            let why = if why.is_empty() { why } else { format!(": {why}") };
            return Err(Failure::failed(format!("{what} did not go within {} s{why}", deadline.as_secs()))
                .next("meshctl uninstall --force   # again: it goes on where it stopped"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn many_names_are_counted() {
        let names: Vec<String> = (0..12).map(|i| format!("shop/web-{i}")).collect();
        assert!(some(&names).ends_with("shop/web-9 and 2 more"), "{}", some(&names));
        assert_eq!(some(&names[..1]), "shop/web-0");
    }

    #[test]
    fn what_holds_a_namespace_is_told() {
        let status = json!({ "status": { "conditions": [
            { "type": "NamespaceContentRemaining", "status": "True", "message": "pods. has 1 resource instances" },
            { "type": "NamespaceDeletionDiscoveryFailure", "status": "False", "message": "fine" },
        ] } });
        assert_eq!(holders(&["kubernetes".to_owned()], &status), "pods. has 1 resource instances");
        assert_eq!(holders(&["x".to_owned()], &json!({})), "held by finalizers x");
    }
}
