use super::*;
use crate::cluster::testing::{self, Answer};
use serde_json::{Value, json};

fn review(error: Option<&str>, audiences: Value, username: &str, extra: Value) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {},
        "status": {
            "authenticated": error.is_none(), "audiences": audiences,
            "error": error.unwrap_or_default(),
            "user": { "username": username, "extra": extra },
        },
    })
}

fn pod(uid: &str, account: &str, phase: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", "namespace": "shop", "uid": uid},
        "spec": {"serviceAccountName": account, "containers": []}, "status": {"phase": phase},
    })
}

fn bound_to(uid: &str) -> Value {
    json!({ POD_NAME: ["web-1"], POD_UID: [uid] })
}

/// What is said when the API server answers so.
fn said(review: Option<Value>, pod: Option<Value>) -> Result<Reviewed, ReviewError> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let cluster = testing::cluster(move |call| match (call.method.as_str(), call.path.as_str()) {
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews") => {
            assert_eq!(call.body["spec"]["audiences"], json!(["meshctl.io"]));
            assert_eq!(call.body["spec"]["token"], "a.b.c");
            review.clone().map_or(Answer::Gone, Answer::Ok)
        }
        ("GET", "/api/v1/namespaces/shop/pods/web-1") => pod.clone().map_or(Answer::NotFound, Answer::Ok),
        other => panic!("unexpected call {other:?}"),
    });
    Reviewer::new(cluster, runtime.handle().clone()).review("a.b.c")
}

#[test]
fn a_token_counts_for_the_pod_it_is_bound_to_and_only_while_that_exists() {
    let good =
        || Some(review(None, json!(["meshctl.io"]), "system:serviceaccount:shop:web", bound_to("u-1")));
    let running = || Some(pod("u-1", "web", "Running"));
    let reviewed = said(good(), running()).unwrap();
    assert_eq!((reviewed.namespace.as_str(), reviewed.account.as_str()), ("shop", "web"));
    assert_eq!((reviewed.pod.as_str(), reviewed.pod_uid.as_str()), ("web-1", "u-1"));
    let of = |audiences, user, extra| Some(review(None, audiences, user, extra));
    let ours = || json!(["meshctl.io"]);
    let account = "system:serviceaccount:shop:web";
    for (review, pod, expected) in [
        (
            Some(review(Some("token has expired"), ours(), account, bound_to("u-1"))),
            running(),
            "token has expired",
        ),
        (of(json!(["https://kubernetes.default.svc"]), account, bound_to("u-1")), running(), "audience"),
        (of(json!(null), account, bound_to("u-1")), running(), "audience"),
        (of(ours(), account, json!({})), running(), "not bound to a pod"),
        (of(ours(), account, json!({ POD_NAME: ["web-1"] })), running(), "not bound to a pod"),
        (
            of(ours(), account, json!({ POD_NAME: ["web-1", "web-2"], POD_UID: ["u-1"] })),
            running(),
            "not bound",
        ),
        (of(ours(), "alice", bound_to("u-1")), running(), "not a service account's"),
        (of(ours(), "system:serviceaccount:Shop:web", bound_to("u-1")), running(), "cannot name it"),
        (good(), None, "does not exist any more"),
        (good(), Some(pod("u-2", "web", "Running")), "does not exist any more"),
        (good(), Some(pod("u-1", "other", "Running")), "another account"),
        (good(), Some(pod("u-1", "web", "Succeeded")), "is over"),
    ] {
        let error = said(review, pod).unwrap_err();
        assert!(matches!(&error, ReviewError::Refused(_)) && error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn nothing_counts_while_the_api_server_is_away_and_the_pod_is_told_to_ask_again() {
    let error = said(None, None).unwrap_err();
    assert!(
        matches!(&error, ReviewError::Unavailable(_)) && error.to_string().contains("ask again"),
        "{error}"
    );
}
