//! From a document to what proxies enforce, and back: apply, receipts, get, diff, history, rollback, delete.

use crate::fake::{Answers, FakeProxy, Script};
use crate::plane::{Plane, allow, documents};
use mesh_proto::wire::v1;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_policy_reaches_its_target_alone_and_is_receipted() {
    let plane = Plane::start().await;
    let payments = FakeProxy::join(&plane, &Script::new("payments")).await;
    let store = FakeProxy::join(&plane, &Script::new("store")).await;
    for proxy in [&payments, &store] {
        proxy.wait("a snapshot", |view| view.updates == 1).await;
    }
    let applied = plane.apply(&allow("web", "payments")).await.unwrap();
    assert_eq!((applied.revision, applied.affected_proxies), (1, 1), "{applied:?}");
    assert_eq!(applied.changes[0].verb, "created");
    let receipt = plane.wait_for(1).await;
    assert_eq!((receipt.enforced, receipt.affected, receipt.done), (1, 1, true), "{receipt:?}");
    let view = payments.wait("the policy", |view| view.policies() == 1).await;
    assert_eq!((view.revision, view.full), (1, 1));
    let policy = view.snapshot().policy.policies[0].clone();
    assert_eq!((&*policy.file, policy.rules[0].line > 0), ("test.yaml", true), "{policy:?}");
    assert_eq!(store.view.borrow().policies(), 0);
    let got = plane.admin().await.get(v1::GetRequest::default()).await.unwrap().into_inner();
    assert_eq!(got.objects[0].status, "Enforced 1/1", "{got:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_document_again_is_no_change() {
    let plane = Plane::start().await;
    plane.apply(&allow("web", "payments")).await.unwrap();
    let again = plane.apply(&allow("web", "payments")).await.unwrap();
    assert_eq!((again.revision, again.changes[0].verb.as_str()), (0, "unchanged"), "{again:?}");
    let moved = plane.apply(&format!("# a comment\n{}", allow("web", "payments"))).await.unwrap();
    assert_eq!(
        (moved.revision, moved.changes[0].verb.as_str()),
        (2, "unchanged"),
        "its lines are new: {moved:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_shows_everything_and_changes_nothing() {
    let plane = Plane::start().await;
    let payments = FakeProxy::join(&plane, &Script::new("payments")).await;
    payments.wait("a snapshot", |view| view.updates == 1).await;
    plane.apply(&allow("web", "payments")).await.unwrap();
    let request = v1::ApplyRequest { documents: documents(&allow("shop", "payments")), dry_run: true };
    let dry = plane.admin().await.apply(request).await.unwrap().into_inner();
    assert_eq!((dry.revision, dry.affected_proxies), (0, 1), "{dry:?}");
    let diff = &dry.changes[0].diff;
    assert!(diff.contains("-") && diff.contains("web") && diff.contains("shop"), "{diff}");
    assert_eq!(plane.status().await.revision, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mistake_is_named_at_once_and_nothing_is_stored() {
    let plane = Plane::start().await;
    let bad = format!(
        "{}---\napiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: x\nspec:\n  tarted: {{}}\n---\n\
         apiVersion: meshctl.io/v1alpha1\nkind: Nonsense\nmetadata:\n  name: y\n",
        allow("web", "payments")
    );
    let status = plane.apply(&bad).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let text = status.message();
    assert!(text.contains("tarted") && text.contains("Nonsense") && text.contains("test.yaml:"), "{text}");
    assert_eq!(plane.status().await.revision, 0);
    let twice = format!("{}---\n{}", allow("web", "payments"), allow("web", "payments"));
    let status = plane.apply(&twice).await.unwrap_err();
    assert!(status.message().contains("there twice"), "{status:?}");
    let domain = "apiVersion: meshctl.io/v1alpha1\nkind: MeshConfig\nmetadata:\n  name: mesh\nspec:\n  trustDomain: other\n";
    let status = plane.apply(domain).await.unwrap_err();
    assert!(status.message().contains("cannot be changed"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_refuses_is_named_in_receipts_and_keeps_what_it_had() {
    let plane = Plane::start().await;
    let script = Script { answers: Answers::Refusing, ..Script::new("payments") };
    let payments = FakeProxy::join(&plane, &script).await;
    payments.wait("a snapshot", |view| view.updates == 1).await;
    let applied = plane.apply(&allow("web", "payments")).await.unwrap();
    let receipt = plane.wait_for(applied.revision).await;
    assert_eq!((receipt.enforced, receipt.affected), (0, 1), "{receipt:?}");
    assert_eq!(receipt.refused, ["payments-1: it is broken"]);
    let status = plane.status().await;
    assert_eq!((status.proxies[0].state.as_str(), status.proxies[0].revision), ("refused", 0), "{status:?}");
    assert!(status.warnings.iter().any(|warning| warning.contains("it is broken")), "{status:?}");
    assert_eq!(payments.view.borrow().policies(), 0);
    // Taken back: what the proxy holds is right again, and nothing is sent.
    let object =
        v1::ObjectRef { kind: "accesspolicy".into(), namespace: "default".into(), name: "payments".into() };
    let deleted =
        plane.admin().await.delete(v1::DeleteRequest { objects: vec![object], dry_run: false }).await;
    let receipt = plane.wait_for(deleted.unwrap().into_inner().revision).await;
    assert!(receipt.done && receipt.refused.is_empty(), "{receipt:?}");
    assert_eq!(plane.status().await.proxies[0].state, "in-sync");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_past_revision_can_be_shown_compared_and_brought_back() {
    let plane = Plane::start().await;
    plane.apply(&allow("web", "payments")).await.unwrap();
    plane.apply(&allow("shop", "payments")).await.unwrap();
    let mut admin = plane.admin().await;
    let at_1 = admin.get(v1::GetRequest { revision: 1, ..Default::default() }).await.unwrap().into_inner();
    assert!(at_1.objects[0].yaml.contains("web"), "{at_1:?}");
    let diff = admin.diff(v1::DiffRequest::default()).await.unwrap().into_inner();
    assert_eq!((diff.changes.len(), diff.changes[0].verb.as_str()), (1, "configured"), "{diff:?}");
    let back = v1::RollbackRequest { revision: 1, dry_run: false };
    let back = admin.rollback(back).await.unwrap().into_inner();
    assert_eq!(back.revision, 3);
    let history = admin.history(v1::HistoryRequest::default()).await.unwrap().into_inner();
    let verbs: Vec<_> = history.entries.iter().map(|entry| (entry.revision, entry.verb.as_str())).collect();
    assert_eq!(verbs, [(3, "rollback"), (2, "apply"), (1, "apply")]);
    assert!(history.entries[0].actor.starts_with("uid "), "{history:?}");
    let plane = plane.restart(|_| {}).await;
    let got = plane.admin().await.get(v1::GetRequest::default()).await.unwrap().into_inner();
    assert_eq!((got.revision, got.objects.len()), (3, 1));
    assert!(got.objects[0].yaml.contains("web"), "{got:?}");
    let audit = v1::AuditRequest { limit: 100, verify: true };
    let audit = plane.admin().await.audit(audit).await.unwrap().into_inner();
    assert!(audit.verified.contains("chain intact"), "{audit:?}");
    assert!(audit.records.iter().any(|record| record.verb == "rollback" && record.actor.starts_with("uid ")));
    let none = plane.admin().await.rollback(v1::RollbackRequest { revision: 99, dry_run: false }).await;
    assert!(none.unwrap_err().message().contains("no revision 99"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_names_rule_file_and_line_and_what_exists() {
    let plane = Plane::start().await;
    let _web = FakeProxy::join(&plane, &Script::new("web")).await;
    let payments = FakeProxy::join(&plane, &Script::new("payments")).await;
    payments.wait("a snapshot", |view| view.updates == 1).await;
    plane.apply(&allow("web", "payments")).await.unwrap();
    let mut admin = plane.admin().await;
    let ask = |from: &str, to: &str| v1::ExplainRequest {
        from: from.into(),
        to: to.into(),
        method: "POST".into(),
        path: "/charge".into(),
        ..Default::default()
    };
    let yes = admin.explain(ask("web", "payments")).await.unwrap().into_inner();
    assert!(yes.allowed, "{yes:?}");
    let decision = yes.decision.unwrap();
    assert!(decision.rule.contains("test.yaml:") && decision.port == 8080, "{decision:?}");
    let no = admin.explain(ask("spiffe://mesh.local/ns/default/sa/intruder", "payments-1")).await.unwrap();
    assert_eq!((no.get_ref().allowed, no.get_ref().reason.as_str()), (false, "no_rule_allows"), "{no:?}");
    let status = admin.explain(ask("web", "paymints")).await.unwrap_err();
    assert!(status.message().contains("default/payments"), "{status:?}");
    let status = admin
        .explain(v1::ExplainRequest { path: "/a/../b".into(), ..ask("web", "payments") })
        .await
        .unwrap_err();
    assert!(status.message().contains("refuses such a request"), "{status:?}");
    let status = admin.explain(v1::ExplainRequest { decision_id: "nope".into(), ..Default::default() }).await;
    assert!(status.unwrap_err().message().contains("no decision"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reported_decision_can_be_explained_by_its_id() {
    use mesh_proto::wire::v1::telemetry_client::TelemetryClient;
    let plane = Plane::start().await;
    let payments = FakeProxy::join(&plane, &Script::new("payments")).await;
    payments.wait("a snapshot", |view| view.updates == 1).await;
    let decision = v1::Decision {
        id: "abc-1".into(),
        time_ms: 1_000,
        source: "spiffe://mesh.local/ns/default/sa/intruder".into(),
        destination: "spiffe://mesh.local/ns/default/sa/payments".into(),
        destination_instance: "payments-1".into(),
        port: 8080,
        protocol: "http1".into(),
        host: "payments".into(),
        method: "GET".into(),
        path: "/".into(),
        reason: "no_rule_allows".into(),
        ..Default::default()
    };
    let foreign =
        v1::Decision { id: "abc-2".into(), destination: decision.source.clone(), ..decision.clone() };
    let report = v1::ProxyReport { decisions: vec![decision, foreign], ..Default::default() };
    let mut client = TelemetryClient::new(crate::fake::channel(&payments.identity).await.unwrap());
    client.report(tokio_stream::iter([report])).await.unwrap();
    // What is decided meanwhile does not change what is said of the past.
    plane.apply(&allow("intruder", "payments")).await.unwrap();
    let mut admin = plane.admin().await;
    let ask = |id: &str| v1::ExplainRequest { decision_id: id.into(), ..Default::default() };
    let told = admin.explain(ask("abc-1")).await.unwrap().into_inner();
    assert!(
        !told.allowed && told.text.contains("today, at revision 1, it would be allowed"),
        "{}",
        told.text
    );
    assert!(admin.explain(ask("abc-2")).await.is_err(), "a proxy spoke for somebody else");
    let listed = admin.decisions(v1::DecisionsRequest { limit: 0, denied_only: true }).await.unwrap();
    assert_eq!(listed.get_ref().decisions.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_of_fifty_proxies_changes_within_a_second() {
    const PROXIES: usize = 50;
    const CHANGES: usize = 20;
    let plane = Plane::start().await;
    let mut fleet = Vec::new();
    for n in 0..PROXIES {
        let script = Script { instance: format!("payments-{n}"), ..Script::new("payments") };
        fleet.push(FakeProxy::join(&plane, &script.calls(&["payments"])).await);
    }
    for proxy in &fleet {
        proxy.wait("everybody", |view| view.endpoints("payments").len() == PROXIES).await;
    }
    let mut took = Vec::new();
    for n in 0..CHANGES {
        let applied = plane.apply(&allow(&format!("caller-{n}"), "payments")).await.unwrap();
        assert_eq!(applied.affected_proxies as usize, PROXIES);
        let receipt = plane.wait_for(applied.revision).await;
        assert_eq!((receipt.enforced as usize, receipt.affected as usize), (PROXIES, PROXIES), "{receipt:?}");
        took.push(Duration::from_micros(receipt.elapsed_us));
    }
    took.sort();
    // Each figure is that of the slowest of 50 proxies, so the greatest of 20 is beyond the p99 of all 1,000.
    println!(
        "policy change to the last of {PROXIES} proxies: median {:?}, worst {:?}",
        took[CHANGES / 2],
        took[CHANGES - 1]
    );
    assert!(took[CHANGES - 1] < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edges_add_up_what_proxies_report() {
    use mesh_proto::wire::v1::telemetry_client::TelemetryClient;
    let plane = Plane::start().await;
    let payments = FakeProxy::join(&plane, &Script::new("payments")).await;
    let edge = v1::EdgeStats {
        source: "spiffe://mesh.local/ns/default/sa/web".into(),
        destination: "spiffe://mesh.local/ns/default/sa/payments".into(),
        service: "default/payments".into(),
        port: 8080,
        protocol: "http1".into(),
        tls_version: "TLSv1.3".into(),
        allowed: 3,
        latency_us: vec![v1::Bucket { index: mesh_proto::ops::histogram::index(1_000), count: 3 }],
        ..Default::default()
    };
    let event =
        v1::SecurityEvent { kind: "expired".into(), peer: "10.0.0.1".into(), count: 2, ..Default::default() };
    let event = v1::SecurityEvent { time_ms: u64::MAX, ..event };
    let report = v1::ProxyReport { edges: vec![edge], events: vec![event], ..Default::default() };
    let mut client = TelemetryClient::new(crate::fake::channel(&payments.identity).await.unwrap());
    client.report(tokio_stream::iter([report.clone(), report])).await.unwrap();
    let edges = plane.admin().await.edges(v1::EdgesRequest {}).await.unwrap().into_inner().edges;
    assert_eq!(edges.len(), 1, "{edges:?}");
    assert_eq!(edges[0].stats.as_ref().unwrap().allowed, 6);
    assert!((500..2_000).contains(&edges[0].p99_us), "{edges:?}");
    let warnings = plane.status().await.warnings;
    assert!(warnings.iter().any(|warning| warning.contains("payments-1: 4 × expired")), "{warnings:?}");
}
