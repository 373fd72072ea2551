//! What an upgrade changes on a cluster: each object as it is against as it would be, by the API server's own dry run.

use super::access::{Cluster, is_absent, words};
use super::manifest::{CONTROL, NAMESPACE};
use super::object::{self, Name, Write};
use crate::failure::Failure;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The annotation with the version that injected a pod.
const INJECTED: &str = "meshctl.io/injected";
/// Fields that the API server keeps for itself.
const KEPT: [&str; 6] =
    ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"];

/// One object that changes.
#[derive(Serialize, Debug)]
pub(crate) struct Change {
    /// `Deployment mesh-system/mesh-control`.
    pub(crate) object: String,
    /// `create` or `change`.
    pub(crate) verb: &'static str,
    /// The fields that differ: `spec.replicas: 2 -> 3`.
    pub(crate) fields: Vec<String>,
}

/// What would change, in the order of the objects.
///
/// # Errors
/// The API server's refusal.
pub(crate) async fn plan(cluster: &Cluster, objects: &[Value]) -> Result<Vec<Change>, Failure> {
    let mut changes = Vec::new();
    for object in objects {
        let name = Name::of(object);
        let found = object::find(cluster, &name).await?;
        let tried = match object::apply(cluster, object, Write::Try).await {
            Ok(tried) => tried,
            // Its namespace is yet to be made.
            Err(error) if is_absent(&error) => {
                changes.push(Change { object: name.to_string(), verb: "create", fields: Vec::new() });
                continue;
            }
            Err(error) => {
                return Err(Failure::failed(format!(
                    "cluster {} would refuse {name}: {}",
                    cluster.name,
                    words(&error)
                ))
                .next("meshctl check --pre"));
            }
        };
        match found {
            None => changes.push(Change { object: name.to_string(), verb: "create", fields: Vec::new() }),
            Some(found) => {
                let fields = differences(&plain(&found), &plain(&tried));
                if !fields.is_empty() {
                    changes.push(Change { object: name.to_string(), verb: "change", fields });
                }
            }
        }
    }
    Ok(changes)
}

/// The control plane's Deployment as it is, in a form that can be applied again; `None` when there is none.
///
/// # Errors
/// The API server's refusal.
pub(crate) async fn deployment(cluster: &Cluster) -> Result<Option<Value>, Failure> {
    let name = Name {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        namespace: Some(NAMESPACE.to_owned()),
        name: CONTROL.to_owned(),
    };
    Ok(object::find(cluster, &name).await?.map(|found| {
        let labels = found.metadata.labels.clone().unwrap_or_default();
        let spec = found.data.get("spec").cloned().unwrap_or_default();
        serde_json::json!({
            "apiVersion": name.api_version, "kind": name.kind,
            "metadata": { "name": name.name, "namespace": NAMESPACE, "labels": labels }, "spec": spec,
        })
    }))
}

/// Pods whose proxy another version injected, as `namespace/name`.
pub(crate) fn outdated(pods: &[Pod], version: &str) -> Vec<String> {
    let is_old = |pod: &&Pod| pod.annotations().get(INJECTED).is_some_and(|injected| injected != version);
    let name = |pod: &Pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    pods.iter().filter(is_old).map(name).collect()
}

/// An object without what the API server keeps for itself.
fn plain(object: &DynamicObject) -> Value {
    // It was JSON a moment ago, and is again.
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| !KEPT.contains(&key.as_str()));
    }
    value
}

/// The fields that differ, each with what it is and what it would be.
fn differences(is: &Value, would_be: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", is, would_be, &mut found);
    found
}

fn compare(path: &str, is: &Value, would_be: &Value, found: &mut Vec<String>) {
    match (is, would_be) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&below, &of(a), &of(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{index}]"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{path}: {} -> {}", short(a), short(b))),
    }
}

/// A value on part of a line.
fn short(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let text = match value {
        Value::Null => "nothing".to_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", text.split_at_checked(at).map_or("", |(start, _)| start)),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_told() {
        let is = json!({ "spec": { "replicas": 2, "args": ["a", "b"], "same": 1 } });
        let would_be = json!({ "spec": { "replicas": 3, "args": ["a", "c"], "same": 1, "new": true } });
        assert_eq!(
            differences(&is, &would_be),
            ["spec.args[1]: \"b\" -> \"c\"", "spec.new: nothing -> true", "spec.replicas: 2 -> 3"]
        );
        assert_eq!(differences(&is, &is), Vec::<String>::new());
    }

    #[test]
    fn what_the_api_server_keeps_is_no_change() {
        let object = |version: &str| -> DynamicObject {
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": "x", "resourceVersion": version, "generation": 2 },
                "spec": {}, "status": { "version": version },
            }))
            .unwrap()
        };
        assert_eq!(differences(&plain(&object("1")), &plain(&object("2"))), Vec::<String>::new());
    }

    #[test]
    fn pods_of_another_version_must_restart() {
        let pod = |version: &str| -> Pod {
            let annotations = json!({ INJECTED: version });
            serde_json::from_value(
                json!({ "metadata": { "name": "p", "namespace": "shop", "annotations": annotations } }),
            )
            .unwrap()
        };
        assert_eq!(outdated(&[pod("1"), pod("2")], "2"), ["shop/p"]);
    }
}
