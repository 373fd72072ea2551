//! Workloads come and go: what the others see of it.

use crate::fake::{FakeProxy, Script, message};
use crate::plane::{PATIENCE, Plane};
use mesh_proto::config::EndpointState;
use mesh_proto::wire::v1;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_is_seen_by_those_who_call_it_until_its_stream_ends() {
    let plane = Plane::start().await;
    let web = FakeProxy::join(&plane, &Script::new("web").calls(&["payments"])).await;
    let first = web.wait("a first snapshot", |view| view.updates == 1).await;
    assert_eq!((first.full, first.snapshot().mesh.trust_domain.as_str()), (1, "mesh.local"));
    assert!(!first.snapshot().policy.default_allow);
    let payments = FakeProxy::join(&plane, &Script::new("payments")).await;
    let with = web.wait("the endpoint", |view| view.endpoints("payments") == ["payments-1"]).await;
    assert_eq!(with.full, 1, "a change is sent as a difference");
    let destination = with.destination("payments").unwrap();
    assert_eq!(destination.ports[0].port.number(), 8080);
    let identity = destination.endpoints[0].identity.as_ref().unwrap();
    assert_eq!(identity.as_str(), "spiffe://mesh.local/ns/default/sa/payments");
    drop(payments);
    let gone = web.wait("no endpoint", |view| view.endpoints("payments").is_empty());
    assert!(tokio::time::timeout(Duration::from_secs(1), gone).await.is_ok(), "it took longer than a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_workload_is_marked_and_stays() {
    let plane = Plane::start().await;
    let web = FakeProxy::join(&plane, &Script::new("web").calls(&["payments"])).await;
    let payments = FakeProxy::join(&plane, &Script::new("payments")).await;
    payments.say(v1::proxy_message::Kind::Draining(v1::Draining {})).await;
    web.wait("a draining endpoint", |view| {
        view.destination("payments")
            .is_some_and(|d| d.endpoints.iter().any(|e| e.state == EndpointState::Draining))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_stream_takes_over_without_a_gap() {
    let plane = Plane::start().await;
    let web = FakeProxy::join(&plane, &Script::new("web").calls(&["payments"])).await;
    let script = Script::new("payments");
    let old = FakeProxy::join(&plane, &script).await;
    let before = web.wait("the endpoint", |view| view.endpoints("payments").len() == 1).await;
    let new = FakeProxy::join(&plane, &script).await;
    let ended = old.wait("the end of the old stream", |view| view.ended.is_some()).await;
    assert!(ended.ended.as_ref().unwrap().contains("taken over"), "{ended:?}");
    drop(old);
    new.wait("its snapshot", |view| view.updates == 1).await;
    // Something that does change, so that everything before it has been seen.
    let _more = FakeProxy::join(&plane, &Script { instance: "payments-2".into(), ..script }).await;
    let after = web.wait("the second instance", |view| view.endpoints("payments").len() == 2).await;
    assert_eq!(after.updates, before.updates + 1, "the takeover itself changed nothing for callers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_empties_nobodys_endpoints() {
    let plane = Plane::start().await;
    let web_script = Script::new("web").calls(&["payments"]);
    let web = FakeProxy::join(&plane, &web_script).await;
    let payments = FakeProxy::join(&plane, &Script::new("payments")).await;
    let held = web.wait("the endpoint", |view| view.endpoints("payments").len() == 1).await;
    let plane = plane.restart(|config| config.settle = Duration::from_secs(3)).await;
    drop((web, payments));
    // Only the caller comes back; what it holds is still right, so nothing is sent.
    let again = FakeProxy::join(&plane, &Script { held: held.items.clone(), ..web_script }).await;
    let connected = async {
        while plane.status().await.proxies.len() != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.expect("connected");
    let status = plane.status().await;
    assert!(status.warnings.iter().any(|warning| warning.contains("have not come back")), "{status:?}");
    assert_eq!(status.proxies[0].state, "in-sync");
    let view = again.view.borrow().clone();
    assert_eq!((view.updates, view.endpoints("payments")), (0, vec!["payments-1".to_owned()]));
    // The window ends, and with it the endpoint of the one that stayed away: by a difference, not a resync.
    let settled = again.wait("no endpoint", |view| view.endpoints("payments").is_empty()).await;
    assert_eq!((settled.updates, settled.full), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_holds_something_else_gets_everything_anew() {
    let plane = Plane::start().await;
    let web = FakeProxy::join(&plane, &Script::new("web")).await;
    let right = web.wait("a snapshot", |view| view.updates == 1).await;
    // Before its confirmation has arrived, what a proxy says it holds means nothing.
    let confirmed = async {
        while !plane.status().await.proxies.iter().all(|proxy| proxy.state == "in-sync") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, confirmed).await.expect("confirmed");
    let digest = v1::Digest { revision: 0, digest: right.items.digest().to_vec(), svid_serial: Vec::new() };
    web.say(v1::proxy_message::Kind::Digest(digest)).await;
    let wrong = v1::Digest { revision: 0, digest: vec![7; 32], svid_serial: Vec::new() };
    web.say(v1::proxy_message::Kind::Digest(wrong)).await;
    let again = web.wait("a second whole snapshot", |view| view.full == 2).await;
    assert_eq!(again.updates, 2, "the right digest was answered by nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_gets_only_what_it_asked_for() {
    let plane = Plane::start().await;
    let _payments = FakeProxy::join(&plane, &Script::new("payments")).await;
    let _store = FakeProxy::join(&plane, &Script::new("store")).await;
    let web = FakeProxy::join(&plane, &Script::new("web").calls(&["payments"])).await;
    let view = web.wait("payments", |view| view.endpoints("payments").len() == 1).await;
    assert!(view.destination("store").is_none());
    let service = v1::ServiceName { namespace: "default".into(), name: "store".into() };
    web.say(v1::proxy_message::Kind::Subscribe(v1::Subscribe { services: vec![service], addresses: vec![] }))
        .await;
    let view = web.wait("store", |view| view.endpoints("store").len() == 1).await;
    assert!(view.destination("payments").is_none(), "the set of subscriptions is replaced");
}

/// Says something wrong and returns how the stream ended.
async fn refused(plane: &Plane, certified: &Script, says: v1::ProxyMessage) -> String {
    use mesh_proto::wire::v1::discovery_client::DiscoveryClient;
    let identity = certified.identity(plane).await;
    let mut client = DiscoveryClient::new(crate::fake::channel(&identity).await.unwrap());
    let (say, said) = tokio::sync::mpsc::channel(4);
    say.send(says).await.unwrap();
    let mut stream =
        client.stream(tokio_stream::wrappers::ReceiverStream::new(said)).await.unwrap().into_inner();
    let end = tokio::time::timeout(PATIENCE, stream.message()).await.expect("an answer");
    let status = end.expect_err("refused");
    format!("{:?}: {}", status.code(), status.message())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_the_certificate_does_not_prove_are_refused() {
    let plane = Plane::start().await;
    let script = Script::new("web");
    let hello = script.hello();
    let cases = [
        (v1::Hello { instance: "payments-1".into(), ..hello.clone() }, "is for the instance web-1"),
        (v1::Hello { address: "payments:80".into(), ..hello.clone() }, "is not IP:PORT"),
        (v1::Hello { address: "0.0.0.0:80".into(), ..hello.clone() }, "nobody can connect"),
        (v1::Hello { workload: "No Name".into(), ..hello.clone() }, "workload"),
        (
            v1::Hello {
                ports: vec![v1::InboundPort { port: 70_000, ..Default::default() }],
                ..hello.clone()
            },
            "not a port",
        ),
    ];
    for (hello, expected) in cases {
        let said = format!("{hello:?}");
        let end = refused(&plane, &script, message(v1::proxy_message::Kind::Hello(hello))).await;
        assert!(end.contains(expected), "{said}: {end}");
    }
    let ack = message(v1::proxy_message::Kind::Ack(v1::Ack::default()));
    let end = refused(&plane, &script, ack).await;
    assert!(end.contains("must be Hello"), "{end}");
    assert!(plane.status().await.proxies.is_empty());
}
