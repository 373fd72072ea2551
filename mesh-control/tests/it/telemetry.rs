//! Reports of proxies over the real port: whose word counts, and how much of it is listened to.

use crate::fake::{Script, channel};
use crate::plane::{PATIENCE, Plane};
use mesh_ca::client::Identity;
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::telemetry_client::TelemetryClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

/// Sends one report and waits until it has been taken.
async fn report(identity: &Identity, report: v1::ProxyReport) {
    let mut telemetry = TelemetryClient::new(channel(identity).await.unwrap());
    let sent = telemetry.report(tokio_stream::iter([report]));
    tokio::time::timeout(PATIENCE, sent).await.expect("in time").unwrap();
}

fn decision(id: &str, reason: &str) -> v1::ProxyReport {
    let decision = v1::Decision {
        id: id.into(),
        time_ms: 1_000,
        source: "spiffe://mesh.local/ns/default/sa/web".into(),
        source_instance: "web-1".into(),
        destination: "spiffe://mesh.local/ns/default/sa/payments".into(),
        destination_instance: "payments-1".into(),
        port: 8080,
        protocol: "http1".into(),
        host: "payments".into(),
        method: "GET".into(),
        path: "/".into(),
        allowed: reason.is_empty(),
        reason: reason.into(),
        ..Default::default()
    };
    v1::ProxyReport { decisions: vec![decision], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_cannot_say_what_the_called_side_decided() {
    let plane = Plane::start().await;
    let web = Script::new("web").identity(&plane).await;
    let payments = Script::new("payments").identity(&plane).await;
    let other = Script::new("other").identity(&plane).await;
    report(&other, decision("yqm4xw2jjb000000", "")).await;
    report(&web, decision("yqm4xw2jjb000000", "")).await;
    report(&payments, decision("yqm4xw2jjb000000", "no_rule_allows")).await;
    let request = v1::ExplainRequest { decision_id: "yqm4xw2jjb000000".into(), ..Default::default() };
    let explained = plane.admin().await.explain(request).await.unwrap().into_inner();
    assert_eq!((explained.allowed, explained.reason.as_str()), (false, "no_rule_allows"), "{explained:?}");
    for (who, what) in [("sa/web (web-1)", "another proxy's id"), ("sa/other (other-1)", "no part")] {
        plane.audited("denied", |record| record.detail.contains(who) && record.detail.contains(what)).await;
    }
    let warnings = plane.status().await.warnings;
    assert!(warnings.iter().any(|warning| warning.contains("another proxy's id")), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_do_not_make_a_proxy_heard_more_often() {
    let plane = Plane::start().await;
    let web = Script::new("web").identity(&plane).await;
    let mut channels = Vec::new();
    for _ in 0..2 {
        channels.push(channel(&web).await.unwrap());
    }
    let mut open = Vec::new();
    let refused = async {
        let (mut refusals, mut streams) = (mpsc::channel::<Code>(64), tokio::task::JoinSet::new());
        for n in 0..16 {
            let (say, said) = mpsc::channel::<v1::ProxyReport>(1);
            let mut telemetry = TelemetryClient::new(channels[n % 2].clone());
            let refusal = refusals.0.clone();
            streams.spawn(async move {
                if let Err(status) = telemetry.report(ReceiverStream::new(said)).await {
                    let _ = refusal.send(status.code()).await;
                }
            });
            open.push(say);
        }
        for _ in 0..12 {
            assert_eq!(refusals.1.recv().await, Some(Code::ResourceExhausted));
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("twelve of sixteen are refused");
}
