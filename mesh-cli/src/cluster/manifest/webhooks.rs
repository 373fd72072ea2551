//! Where the API server asks the control plane: at the making of pods in labelled namespaces, and of the mesh's own
//! objects.
//!
//! The bundle that proves the control plane to the API server is not here: the control plane writes and rotates it.

use super::{CONTROL, GROUP, NAMESPACE, PLURALS, WEBHOOKS, meta};
use serde_json::{Value, json};

/// The label with which a namespace or a pod opts in, and its words.
const LABEL: &str = "meshctl.io/inject";
/// Namespaces whose pods the cluster itself needs to live, and our own.
const SYSTEM: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", NAMESPACE];

pub(super) fn objects() -> Vec<Value> {
    let pods = json!([{
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"], "scope": "Namespaced",
    }]);
    let ours = |resources: &[&str], operations: &[&str]| {
        json!([{
            "apiGroups": [GROUP], "apiVersions": ["v1alpha1"], "resources": resources, "operations": operations, "scope": "*",
        }])
    };
    let not_system = json!({ "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": SYSTEM });
    let is = |operator: &str, word: &str| json!({ "key": LABEL, "operator": operator, "values": [word] });
    let mut by_namespace = webhook("namespace.inject", "/inject", &pods);
    select(&mut by_namespace, "namespaceSelector", &json!([is("In", "enabled"), not_system]));
    select(&mut by_namespace, "objectSelector", &json!([is("NotIn", "disabled")]));
    let mut by_pod = webhook("pod.inject", "/inject", &pods);
    select(&mut by_pod, "namespaceSelector", &json!([is("NotIn", "enabled"), not_system]));
    select(&mut by_pod, "objectSelector", &json!([is("In", "enabled")]));
    let validate = webhook("validate", "/validate", &ours(&PLURALS, &["CREATE", "UPDATE", "DELETE"]));
    vec![
        configuration("MutatingWebhookConfiguration", &[by_namespace, by_pod]),
        configuration("ValidatingWebhookConfiguration", &[validate]),
    ]
}

fn configuration(kind: &str, webhooks: &[Value]) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": meta(WEBHOOKS, None), "webhooks": webhooks,
    })
}

fn webhook(name: &str, path: &str, rules: &Value) -> Value {
    json!({
        "name": format!("{name}.{GROUP}"),
        "admissionReviewVersions": ["v1"],
        "clientConfig": { "service": { "name": CONTROL, "namespace": NAMESPACE, "path": path, "port": 443 } },
        // Closed on doubt: a pod that should be in the mesh does not start outside of it.
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "rules": rules,
        "sideEffects": "None",
        "timeoutSeconds": 10,
    })
}

fn select(webhook: &mut Value, what: &str, expressions: &Value) {
    if let Some(webhook) = webhook.as_object_mut() {
        // Containers that other webhooks add afterwards are covered too.
        webhook.insert("reinvocationPolicy".to_owned(), "IfNeeded".into());
        webhook.insert(what.to_owned(), json!({ "matchExpressions": expressions }));
    }
}
