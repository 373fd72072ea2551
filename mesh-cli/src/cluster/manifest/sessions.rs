//! How the API server vouches for a user to the control plane: an `AdminSession` must name the very user who makes it.
//!
//! The control plane reads the object afterwards and so knows who holds the secret whose digest is in it. See
//! `mesh-control::cluster::session`.
//!
//! # Why
//! A rule that the API server itself evaluates rather than a webhook that signs: nothing tells a webhook's server that it is
//! the API server who asks, so any pod could have had itself signed for.

use super::{GROUP, meta};
use serde_json::{Value, json};

/// The name of the rule.
const NAME: &str = "sessions.meshctl.io";

pub(super) fn objects() -> [Value; 2] {
    let user = "object.spec.user == request.userInfo.username";
    let groups = "object.spec.groups == (has(request.userInfo.groups) ? request.userInfo.groups : [])";
    let message = "an AdminSession names the user who makes it, with all groups, and nobody else";
    [
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": meta(NAME, None),
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "matchPolicy": "Equivalent",
                    "resourceRules": [{
                        "apiGroups": [GROUP], "apiVersions": ["*"], "resources": ["adminsessions"],
                        "operations": ["CREATE", "UPDATE"], "scope": "*",
                    }],
                },
                "validations": [
                    { "expression": user, "message": message, "reason": "Forbidden" },
                    { "expression": groups, "message": message, "reason": "Forbidden" },
                ],
            },
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": meta(NAME, None),
            "spec": { "policyName": NAME, "validationActions": ["Deny"] },
        }),
    ]
}

/// Whether an object is of no use, or a danger, without these rules.
pub(super) fn needs(object: &Value) -> bool {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    name == NAME || name == format!("adminsessions.{GROUP}")
}
