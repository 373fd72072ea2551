//! Who may do what: the control plane's own account, with the least it can work with, and roles for the mesh's users.

use super::{CONTROL, GROUP, NAMESPACE, PLURALS, SEAL_KEY, WEBHOOKS, meta};
use serde_json::{Value, json};

const LOOK: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 6] = ["create", "update", "patch", "delete", "deletecollection", "get"];
/// What the control plane gives to every namespace with meshed pods.
const TRUST: &str = "meshctl-trust";

pub(super) fn objects() -> Vec<Value> {
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(CONTROL, Some(NAMESPACE)),
    })];
    objects.push(cluster_role(CONTROL, control()));
    objects.extend(users());
    let subject = json!([{ "kind": "ServiceAccount", "name": CONTROL, "namespace": NAMESPACE }]);
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": meta(CONTROL, None),
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": CONTROL },
        "subjects": subject,
    }));
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": meta(CONTROL, Some(NAMESPACE)),
        "rules": [
            rule("", &["secrets"], &["create"]),
            named("", &["secrets"], &["mesh-authority", "mesh-webhook"], &["get", "list", "watch", "update", "patch"]),
            named("", &["secrets"], &[SEAL_KEY.0], &["get"]),
            rule("", &["configmaps"], &["get", "list", "watch", "create", "update", "patch"]),
            rule("coordination.k8s.io", &["leases"], &["get", "list", "watch", "create", "update", "patch"]),
        ],
    }));
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": meta(CONTROL, Some(NAMESPACE)),
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": CONTROL },
        "subjects": subject,
    }));
    objects
}

/// What the control plane does in the whole cluster.
fn control() -> Value {
    let states: Vec<String> = PLURALS.iter().map(|plural| format!("{plural}/status")).collect();
    let states: Vec<&str> = states.iter().map(String::as_str).collect();
    json!([
        rule("", &["namespaces", "pods", "services"], &LOOK),
        rule("discovery.k8s.io", &["endpointslices"], &LOOK),
        rule("apps", &["replicasets"], &LOOK),
        rule(GROUP, &PLURALS, &LOOK),
        rule(GROUP, &["adminsessions"], &["get", "list", "delete"]),
        rule(GROUP, &states, &["get", "update", "patch"]),
        // A right to create cannot be bound to a name.
        rule("", &["configmaps"], &["create"]),
        named("", &["configmaps"], &[TRUST], &["get", "list", "watch", "update", "patch", "delete"]),
        rule("", &["events"], &["create", "patch"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
        named(
            "admissionregistration.k8s.io",
            &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
            &[WEBHOOKS],
            &["get", "list", "watch", "update", "patch"],
        ),
    ])
}

/// Roles to bind people to; the first two also become part of the cluster's own `view` and `admin`.
fn users() -> Vec<Value> {
    let tenant = ["accesspolicies", "ratelimits"];
    let view = rule(GROUP, &tenant, &LOOK);
    let author = rule(GROUP, &tenant, &WRITE);
    let look = json!([
        rule(GROUP, &PLURALS, &LOOK),
        rule(GROUP, &["status"], &["get"]),
        rule(GROUP, &["adminsessions"], &["create"]),
        rule("", &["namespaces", "pods"], &["get", "list"]),
    ]);
    let with = |more: Value| {
        let mut rules = look.clone();
        if let Some(rules) = rules.as_array_mut() {
            rules.push(more);
        }
        rules
    };
    let certify = rule(GROUP, &["certificates"], &["update"]);
    vec![
        aggregated("meshctl-tenant-viewer", &["view", "edit", "admin"], &view),
        aggregated("meshctl-tenant-author", &["admin"], &author),
        cluster_role("meshctl-viewer", look.clone()),
        cluster_role("meshctl-operator", with(rule(GROUP, &["operations"], &["create"]))),
        cluster_role("meshctl-policy-author", with(rule(GROUP, &PLURALS, &WRITE))),
        cluster_role("meshctl-ca-admin", with(certify)),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": meta("meshctl-session", Some(NAMESPACE)),
            "rules": [
                rule("", &["pods"], &["get", "list"]),
                rule("", &["pods/portforward"], &["create", "get"]),
                rule("apps", &["deployments"], &["get", "list"]),
            ],
        }),
    ]
}

fn aggregated(name: &str, to: &[&str], what: &Value) -> Value {
    let mut role = cluster_role(name, json!([what]));
    if let Some(labels) = role.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        for to in to {
            labels.insert(format!("rbac.authorization.k8s.io/aggregate-to-{to}"), "true".into());
        }
    }
    role
}

#[expect(clippy::needless_pass_by_value, reason = "json! takes it")]
fn cluster_role(name: &str, rules: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": meta(name, None), "rules": rules,
    })
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

fn named(group: &str, resources: &[&str], names: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "resourceNames": names, "verbs": verbs })
}
