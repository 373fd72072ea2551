//! Questions and answers.

use super::*;
use k8s_openapi::ByteString;
use mesh_proto::resource::{Catalog, SourceDocument};
use proptest::prelude::*;
use serde_json::{Value, json};

pub(in crate::webhook) fn decider() -> Decider {
    let options = Options {
        proxy_image: "mesh-proxy:1".to_owned(),
        init_image: "mesh-init:1".to_owned(),
        pull_policy: None,
        control: "mesh-control.mesh-system.svc:15012".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        version: "1".to_owned(),
    };
    Decider { options, namespace: "mesh-system".parse().unwrap(), among: among() }
}

/// The checks of a mesh that has nothing yet.
fn among() -> Among {
    Box::new(|key, resource| {
        let catalog = Catalog::default().with_changes([(key.clone(), resource.cloned())]);
        catalog.check(std::slice::from_ref(key), &[], 1_800_000_000)
    })
}

/// A question about a new pod in a namespace.
pub(in crate::webhook) fn review(namespace: &str, object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": namespace,
            "operation": "CREATE", "userInfo": {"username": "ann", "groups": ["dev"]}, "object": object, "oldObject": null,
            "dryRun": true,
        },
    })
}

fn pod() -> Value {
    json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "app", "image": "a"}]}})
}

fn ask(path: &str, review: &Value) -> Value {
    let (status, body) = decider().answer(path, review.to_string().as_bytes());
    assert_eq!(status, StatusCode::OK, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["response"]["uid"], "u-1");
    assert_eq!(
        (&answer["apiVersion"], &answer["kind"]),
        (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
    );
    answer["response"].clone()
}

#[test]
fn a_pod_is_answered_with_a_patch() {
    let response = ask(INJECT, &review("shop", &pod()));
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    let patch: ByteString = serde_json::from_value(response["patch"].clone()).unwrap();
    let patch: Value = serde_json::from_slice(&patch.0).unwrap();
    let paths: Vec<&str> = patch.as_array().unwrap().iter().map(|op| op["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/metadata/annotations", "/metadata/labels", "/spec/initContainers", "/spec/volumes"]);
}

#[test]
fn a_bad_pod_is_denied_with_everything_that_is_wrong() {
    let mut bad = pod();
    bad["metadata"]["annotations"] = json!({"meshctl.io/proxy-cpu": "lots", "meshctl.io/log-level": "loud"});
    let response = ask(INJECT, &review("shop", &bad));
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(422)));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("proxy-cpu") && message.contains("log-level"), "{message}");
}

#[test]
fn what_gets_no_proxy_passes_as_it_is() {
    let mut on_node = pod();
    on_node["spec"]["hostNetwork"] = json!(true);
    let response = ask(INJECT, &review("shop", &on_node));
    assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None));
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("hostNetwork") && warning.chars().count() <= 256 && !warning.ends_with('…'),
        "{warning}"
    );
    for namespace in ["kube-system", "mesh-system"] {
        assert_eq!(ask(INJECT, &review(namespace, &pod())), json!({"uid": "u-1", "allowed": true}));
    }
    let mut update = review("shop", &pod());
    update["request"]["operation"] = json!("UPDATE");
    assert_eq!(ask(INJECT, &update), json!({"uid": "u-1", "allowed": true}));
}

#[test]
fn a_wrong_kind_is_denied_not_passed() {
    let mut wrong = review("shop", &pod());
    wrong["request"]["kind"] = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    let response = ask(INJECT, &wrong);
    assert_eq!(response["allowed"], false);
    assert!(response["status"]["message"].as_str().unwrap().contains("apps/v1/Deployment"));
}

/// A question about one of the mesh's own objects.
fn ours(operation: &str, kind: &str, object: &Value, old: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "u-1", "kind": {"group": "meshctl.io", "version": "v1alpha1", "kind": kind}, "operation": operation,
            "namespace": "shop", "object": object, "oldObject": old},
    })
}

fn policy(spec: Value) -> Value {
    json!({
        "apiVersion": "meshctl.io/v1alpha1", "kind": "AccessPolicy", "spec": spec,
        "metadata": {"name": "web", "namespace": "shop", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "apiVersion": "meshctl.io/v1alpha1", "time": "2026-01-01T00:00:00Z"}]},
    })
}

#[test]
fn a_good_resource_passes_and_a_bad_one_is_denied_in_the_words_of_apply() {
    let good = policy(json!({"target": {"workload": "web"}, "rules": [{"from": [{"serviceAccount": "a"}]}]}));
    let response = ask(VALIDATE, &ours("CREATE", "AccessPolicy", &good, &Value::Null));
    assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None));
    let mut made = good.clone();
    made["metadata"].as_object_mut().unwrap().remove("name");
    made["metadata"]["generateName"] = json!("web-");
    assert_eq!(ask(VALIDATE, &ours("CREATE", "AccessPolicy", &made, &Value::Null))["allowed"], true);

    let bad = policy(
        json!({"target": {"workload": "Web"}, "rules": [{"from": [{"serviceAccount": "a"}], "action": "alow"}]}),
    );
    let response = ask(VALIDATE, &ours("CREATE", "AccessPolicy", &bad, &Value::Null));
    assert_eq!(response["allowed"], false);
    let message = response["status"]["message"].as_str().unwrap();
    let yaml = json!({"apiVersion": "meshctl.io/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "web"}, "spec": bad["spec"]});
    let document = SourceDocument { file: String::new(), line: 0, yaml: yaml.to_string() };
    let problems = mesh_proto::resource::parse(&document).unwrap_err();
    assert_eq!(problems.len(), 2);
    for problem in problems {
        let said = format!("{}: {}", problem.field, problem.message);
        assert!(message.contains(&said), "{said:?} is not in:\n{message}");
    }
}

#[test]
fn what_another_object_will_mend_is_only_said() {
    let refers = policy(json!({"target": {"workload": "web"}, "rules": [{"from": [{"role": "buyer"}]}]}));
    let response = ask(VALIDATE, &ours("CREATE", "AccessPolicy", &refers, &Value::Null));
    assert_eq!(response["allowed"], true, "{response}");
    assert!(response["warnings"].to_string().contains("buyer"), "{response}");
    assert_eq!(ask(VALIDATE, &ours("DELETE", "AccessPolicy", &Value::Null, &refers))["allowed"], true);
}

#[test]
fn an_old_object_is_not_held_by_what_is_wrong_with_it() {
    let bad = policy(json!({"target": {"workload": "web"}, "rules": "none"}));
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(ask(VALIDATE, &ours("UPDATE", "AccessPolicy", &labelled, &bad))["allowed"], true);
    let mut other = bad.clone();
    other["spec"]["rules"] = json!("all");
    assert_eq!(ask(VALIDATE, &ours("UPDATE", "AccessPolicy", &other, &bad))["allowed"], false);
    assert_eq!(ask(VALIDATE, &ours("DELETE", "AccessPolicy", &Value::Null, &bad))["allowed"], true);
}

#[test]
fn only_kinds_of_the_mesh_are_judged() {
    for kind in ["Deployment", "Service", ""] {
        assert_eq!(
            ask(VALIDATE, &ours("CREATE", kind, &json!({}), &Value::Null))["allowed"],
            false,
            "{kind}"
        );
    }
    for object in [json!({}), json!(1), Value::Null, json!({"metadata": 1})] {
        assert_eq!(
            ask(VALIDATE, &ours("CREATE", "AccessPolicy", &object, &Value::Null))["allowed"],
            false,
            "{object}"
        );
    }
}

#[test]
fn what_is_no_question_is_refused_with_words() {
    for (body, expected) in [
        ("", "AdmissionReview"),
        ("{", "AdmissionReview"),
        ("[]", "AdmissionReview"),
        (
            r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#,
            "must be admission.k8s.io/v1",
        ),
        (r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#, "no request"),
        (r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {}}"#, "uid"),
    ] {
        let (status, said) = decider().answer(INJECT, body.as_bytes());
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(said.contains(expected), "{body}: {said}");
    }
    assert_eq!(decider().answer("/other", b"").0, StatusCode::NOT_FOUND);
    let deep = "[".repeat(100_000);
    assert_eq!(decider().answer(INJECT, deep.as_bytes()).0, StatusCode::BAD_REQUEST);
}

proptest! {
    #[test]
    fn no_bytes_break_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..800, at in 0_usize..800, byte in any::<u8>()) {
        let good = review("shop", &pod()).to_string().into_bytes();
        let mut flipped = good.clone();
        if let Some(place) = flipped.get_mut(at) {
            *place = byte;
        }
        for body in [bytes.as_slice(), good.get(..cut).unwrap_or(&good), &flipped] {
            for path in [INJECT, VALIDATE] {
                let (status, said) = decider().answer(path, body);
                prop_assert!(status == StatusCode::OK || status == StatusCode::BAD_REQUEST, "{status} {said}");
                prop_assert!(!said.is_empty());
            }
        }
    }
}
