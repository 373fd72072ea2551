//! The objects that make the mesh on a cluster. Pure: the same values give the same objects, in the order of their making.
//!
//! `rights` is who may do what, `webhooks` where the API server asks, `sessions` how it vouches for users. No secret is among
//! them: the key is made at the installation, from the random source, and never overwritten.
//!
//! # Why
//! Built as values rather than filled into text: a value from a user cannot break out of its place.

mod rights;
mod sessions;
mod webhooks;

use super::values::Values;
use serde_json::{Value, json};

/// The namespace of the control plane.
pub(crate) const NAMESPACE: &str = "mesh-system";
/// The name of its Deployment, Service and account.
pub(crate) const CONTROL: &str = "mesh-control";
/// The group of the mesh's own kinds.
pub(crate) const GROUP: &str = "meshctl.io";
/// The name of both webhook configurations.
pub(crate) const WEBHOOKS: &str = "meshctl";
/// The ConfigMap with what was chosen at the installation.
pub(crate) const VALUES: &str = "mesh-values";
/// What in it is not a value: the version that wrote it.
pub(crate) const VERSION_KEY: &str = "version";
/// The Secret with the key that the authority's state is sealed under, and its file name.
pub(crate) const SEAL_KEY: (&str, &str) = ("mesh-seal-key", "seal.key");
/// The user and group of the control plane: what "nobody in particular" is called in images without a base.
const USER: u32 = 65_532;

/// The first minor version with validating admission policies for everybody (Kubernetes 1.30).
pub(crate) const SESSIONS_MINOR_MIN: u32 = 30;

/// The definitions of the mesh's kinds, as `deploy/crds` has them.
const DEFINITIONS: [&str; 9] = [
    include_str!("../../../deploy/crds/accesspolicies.yaml"),
    include_str!("../../../deploy/crds/meshaccesspolicies.yaml"),
    include_str!("../../../deploy/crds/ratelimits.yaml"),
    include_str!("../../../deploy/crds/meshratelimits.yaml"),
    include_str!("../../../deploy/crds/roles.yaml"),
    include_str!("../../../deploy/crds/rolebindings.yaml"),
    include_str!("../../../deploy/crds/segments.yaml"),
    include_str!("../../../deploy/crds/meshconfigs.yaml"),
    include_str!("../../../deploy/crds/adminsessions.yaml"),
];

/// The mesh's kinds on a cluster, by the name of their lists.
pub(crate) const PLURALS: [&str; 8] = [
    "accesspolicies",
    "meshaccesspolicies",
    "ratelimits",
    "meshratelimits",
    "roles",
    "rolebindings",
    "segments",
    "meshconfigs",
];

/// Everything that an installation makes, except for the keys; what others need comes first.
pub(crate) fn objects(values: &Values) -> Vec<Value> {
    // What was chosen comes first: an installation that breaks off goes on with it.
    let mut objects = vec![namespace(), chosen(values)];
    // Before the kind that they guard.
    objects.extend(sessions::objects());
    objects.extend(definitions());
    objects.extend(rights::objects());
    objects.extend([service(), disruption_budget(), deployment(values)]);
    objects.extend(webhooks::objects());
    objects
}

/// Without what a cluster of that minor version does not know: before 1.30 it cannot vouch for users, and so there are no
/// sessions of users either.
pub(crate) fn for_version(objects: Vec<Value>, minor: u32) -> Vec<Value> {
    if minor >= SESSIONS_MINOR_MIN {
        return objects;
    }
    objects.into_iter().filter(|object| !sessions::needs(object)).collect()
}

/// The definitions of the mesh's kinds.
#[expect(clippy::expect_used, reason = "files of this repository, read by a test")]
pub(crate) fn definitions() -> Vec<Value> {
    DEFINITIONS.iter().map(|text| serde_saphyr::from_str(text).expect("a definition is YAML")).collect()
}

/// A key's Secret, with its content in hexadecimal.
pub(crate) fn secret((name, file): (&str, &str), key: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": meta(name, Some(NAMESPACE)),
        "type": "Opaque",
        "immutable": true,
        "stringData": { file: key },
    })
}

fn labels() -> Value {
    json!({
        "app.kubernetes.io/name": "meshctl",
        "app.kubernetes.io/part-of": "meshctl",
        "app.kubernetes.io/managed-by": "meshctl",
    })
}

fn meta(name: &str, namespace: Option<&str>) -> Value {
    let mut meta = json!({ "name": name, "labels": labels() });
    if let (Some(namespace), Some(map)) = (namespace, meta.as_object_mut()) {
        map.insert("namespace".to_owned(), namespace.into());
    }
    meta
}

fn selector() -> Value {
    json!({ "app.kubernetes.io/name": CONTROL, "app.kubernetes.io/part-of": "meshctl" })
}

fn namespace() -> Value {
    let mut labels = labels();
    if let Some(labels) = labels.as_object_mut() {
        for mode in ["audit", "enforce", "warn"] {
            labels.insert(format!("pod-security.kubernetes.io/{mode}"), "restricted".into());
        }
        labels.insert("meshctl.io/inject".to_owned(), "disabled".into());
    }
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE, "labels": labels } })
}

/// What was chosen, for the next installation and upgrade. Nothing in it is secret.
fn chosen(values: &Values) -> Value {
    let mut data = values.chosen();
    data.insert(VERSION_KEY.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(VALUES, Some(NAMESPACE)), "data": data })
}

fn service() -> Value {
    let port = |name: &str, port: u16, target: &str| json!({ "name": name, "port": port, "protocol": "TCP", "targetPort": target });
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": meta(CONTROL, Some(NAMESPACE)),
        "spec": {
            "selector": selector(),
            "ports": [
                port("discovery", 15012, "discovery"),
                port("webhook", 443, "webhook"),
                port("metrics", 15014, "metrics"),
            ],
        },
    })
}

fn disruption_budget() -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": meta(CONTROL, Some(NAMESPACE)),
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": selector() } },
    })
}

fn deployment(values: &Values) -> Value {
    let mut template_labels = selector();
    if let Some(labels) = template_labels.as_object_mut() {
        labels.insert("app.kubernetes.io/managed-by".to_owned(), "meshctl".into());
        labels.insert("meshctl.io/inject".to_owned(), "disabled".into());
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": meta(CONTROL, Some(NAMESPACE)),
        "spec": {
            "replicas": values.replicas,
            "revisionHistoryLimit": 3,
            "selector": { "matchLabels": selector() },
            // A replica is replaced only when its successor answers.
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": {
                    "labels": template_labels,
                    "annotations": { "kubectl.kubernetes.io/default-container": CONTROL },
                },
                "spec": pod(values),
            },
        },
    })
}

fn pod(values: &Values) -> Value {
    json!({
        "serviceAccountName": CONTROL,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {
                "labelSelector": { "matchLabels": selector() },
                "topologyKey": "kubernetes.io/hostname",
            },
        }] } },
        "containers": [container(values)],
        "volumes": [
            { "name": "state", "emptyDir": { "sizeLimit": "1Gi" } },
            // Read by the group of the pod alone: the files of a Secret belong to root.
            // Not there at the first start of a chart, which can hold no key: the control plane makes it then.
            { "name": "seal", "secret": { "secretName": SEAL_KEY.0, "defaultMode": 0o440, "optional": true } },
        ],
    })
}

fn container(values: &Values) -> Value {
    let port = |name: &str, port: u16| json!({ "name": name, "containerPort": port, "protocol": "TCP" });
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": "metrics" },
            "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 3,
        })
    };
    json!({
        "name": CONTROL,
        "image": values.image(CONTROL),
        "imagePullPolicy": values.image_pull_policy,
        "args": arguments(values),
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_IP", "status.podIP"),
        ],
        "ports": [port("discovery", 15012), port("webhook", 15017), port("metrics", 15014)],
        // A minute to begin, then half a minute without an answer before it is ended.
        "startupProbe": probe("/healthz", 1, 60),
        "livenessProbe": probe("/healthz", 10, 3),
        "readinessProbe": probe("/readyz", 2, 2),
        "resources": {
            "requests": { "cpu": values.cpu, "memory": values.memory },
            "limits": { "memory": values.memory_limit },
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            { "name": "state", "mountPath": "/var/lib/mesh-control" },
            { "name": "seal", "mountPath": "/var/run/mesh-control/seal", "readOnly": true },
        ],
    })
}

fn arguments(values: &Values) -> Vec<String> {
    let mut arguments = vec!["--kubernetes".to_owned()];
    let mut add = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
    add("state-dir", "/var/lib/mesh-control".to_owned());
    add("trust-domain", values.trust_domain.clone());
    add("proxy-image", values.image("mesh-proxy"));
    add("init-image", values.image("mesh-init"));
    add("pull-policy", values.image_pull_policy.clone());
    add("log", values.log_level.clone());
    add("log-format", values.log_format.clone());
    for (name, seconds) in [
        ("svid-lifetime", values.svid_lifetime),
        ("intermediate-lifetime", values.intermediate_lifetime),
        ("root-lifetime", values.root_lifetime),
    ] {
        if let Some(seconds) = seconds {
            add(name, seconds.to_string());
        }
    }
    arguments
}

#[cfg(test)]
mod tests;
