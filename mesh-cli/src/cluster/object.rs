//! Objects of a cluster as plain values: written, read, compared and removed without knowing their kinds beforehand.

use super::access::{Cluster, is_absent};
use crate::failure::Failure;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PropagationPolicy};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use std::fmt;

/// Under this name the API server remembers which fields are ours.
pub(crate) const FIELD_MANAGER: &str = "meshctl";

/// Which object: its kind, where it lives and what it is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Name {
    /// `apps/v1`.
    pub(crate) api_version: String,
    /// `Deployment`.
    pub(crate) kind: String,
    /// `None` for what belongs to the whole cluster.
    pub(crate) namespace: Option<String>,
    /// Its name.
    pub(crate) name: String,
}

impl fmt::Display for Name {
    /// `Deployment mesh-system/mesh-control`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl Name {
    /// The name that an object bears; empty where it has none.
    pub(crate) fn of(object: &Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Self {
            api_version: text("/apiVersion").unwrap_or_default(),
            kind: text("/kind").unwrap_or_default(),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name").unwrap_or_default(),
        }
    }

    /// The group of its kind; empty for Kubernetes' oldest kinds.
    pub(crate) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// The name of its kind in paths and rights.
    pub(crate) fn plural(&self) -> String {
        let kind = self.kind.to_ascii_lowercase();
        match kind.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{kind}s"),
        }
    }

    fn resource(&self) -> ApiResource {
        let version = self.api_version.rsplit('/').next().unwrap_or_default();
        ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(self.group(), version, &self.kind),
            &self.plural(),
        )
    }

    /// The way to all objects beside it.
    pub(crate) fn api(&self, cluster: &Cluster) -> Api<DynamicObject> {
        let resource = self.resource();
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
            None => Api::all_with(cluster.client.clone(), &resource),
        }
    }
}

/// Whether a write is only tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Write {
    /// It is done.
    Do,
    /// The API server says what would become of it.
    Try,
}

/// Makes an object as it is written, whoever else has written the same fields (server-side apply).
///
/// # Errors
/// In the API server's words.
pub(crate) async fn apply(
    cluster: &Cluster,
    object: &Value,
    write: Write,
) -> Result<DynamicObject, kube::Error> {
    let name = Name::of(object);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let params = if write == Write::Try { params.dry_run() } else { params };
    name.api(cluster).patch(&name.name, &params, &Patch::Apply(object)).await
}

/// One object; `None` when there is none, or not even its kind.
///
/// # Errors
/// The API server's refusal.
pub(crate) async fn find(cluster: &Cluster, name: &Name) -> Result<Option<DynamicObject>, Failure> {
    name.api(cluster)
        .get_opt(&name.name)
        .await
        .map_err(|error| cluster.failure(&format!("read {name}"), &error))
}

/// Removes an object and what it owns; true when there was one.
///
/// # Errors
/// The API server's refusal.
pub(crate) async fn remove(cluster: &Cluster, name: &Name) -> Result<bool, Failure> {
    let params =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    match name.api(cluster).delete(&name.name, &params).await {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(cluster.failure(&format!("remove {name}"), &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plurals_are_those_of_the_api() {
        for (kind, expected) in [
            ("NetworkPolicy", "networkpolicies"),
            ("AccessPolicy", "accesspolicies"),
            ("Deployment", "deployments"),
            ("CustomResourceDefinition", "customresourcedefinitions"),
        ] {
            let name = Name::of(&json!({ "kind": kind, "apiVersion": "g/v1", "metadata": { "name": "x" } }));
            assert_eq!(name.plural(), expected);
            assert_eq!(name.group(), "g");
        }
    }
}
