//! HTTP/2 and gRPC through two proxies: what callers do to each other, and what is left of streams that end early.

use super::apps;
use super::control::{Control, DOMAIN, credentials, svid};
use super::world::{PORT, Plan, Proxy, allow, calls, id, serves, soon};
use bytes::Bytes;
use mesh_ca::tls::{Alpn, server_name};
use mesh_proto::name::Port;
use mesh_proto::policy::model::Protocol;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A service `api` that [`apps::watch`] answers for, and two callers that are allowed.
struct World {
    control: Control,
    api: Proxy,
    web: Proxy,
    mobile: Proxy,
    go: Arc<Notify>,
}

async fn world() -> World {
    let go = Arc::new(Notify::new());
    let control = Control::start();
    control.change(|state| {
        state.policies.insert("api".to_owned(), vec![allow("web"), allow("mobile")]);
    });
    let app = apps::watch(Arc::clone(&go)).await;
    let api = Plan { declared: Some(Protocol::Grpc), ..serves("api", app) }.start(&control).await;
    let web = calls("web", "api").start(&control).await;
    let mobile = calls("mobile", "api").start(&control).await;
    control.settled().await;
    World { control, api, web, mobile, go }
}

type Client = h2::client::SendRequest<Bytes>;

async fn client(address: SocketAddr) -> (Client, JoinHandle<()>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    (client, tokio::spawn(async move { drop(connection.await) }))
}

fn call(path: &str) -> http::Request<()> {
    let request = http::Request::post(format!("http://api{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// An open call whose first message has come.
async fn watching(client: &mut Client) -> h2::RecvStream {
    let (response, _) = client.send_request(call("/pkg.App/Watch"), true).unwrap();
    let mut body = soon("headers", response).await.unwrap().into_body();
    assert_eq!(soon("the first message", body.data()).await.unwrap().unwrap(), "first");
    let _ = body.flow_control().release_capacity(5);
    body
}

#[tokio::test]
async fn what_one_caller_does_to_a_connection_is_not_done_to_another() {
    let world = world().await;
    let (mut mobile, _mobile) = client(world.mobile.to()).await;
    let mut kept = watching(&mut mobile).await;
    let (mut web, _web) = client(world.web.to()).await;
    let _own = watching(&mut web).await;
    let (response, _) = web.send_request(call("/pkg.App/HangUp"), true).unwrap();
    let response = soon("a refusal", response).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14", "{response:?}");
    world.go.notify_waiters();
    let second = soon("the second message", kept.data()).await.unwrap();
    assert_eq!(second.unwrap(), "second", "the other caller's stream lives on");
}

#[tokio::test]
async fn a_call_that_is_no_longer_allowed_is_told_its_end_and_others_go_on() {
    let world = world().await;
    let (mut mobile, _mobile) = client(world.mobile.to()).await;
    let (mut web, _web) = client(world.web.to()).await;
    let mut kept = watching(&mut mobile).await;
    let mut cut = watching(&mut web).await;
    world.control.change(|state| {
        state.policies.insert("api".to_owned(), vec![allow("mobile")]);
    });
    assert!(soon("the end", cut.data()).await.is_none(), "ended by trailers");
    let trailers = soon("trailers", cut.trailers()).await.unwrap().expect("trailers");
    // PERMISSION_DENIED.
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-mesh-reason"]),
        (&"7".parse().unwrap(), &"no_rule_allows".parse().unwrap())
    );
    assert!(trailers["grpc-message"].to_str().unwrap().contains("meshctl explain"), "{trailers:?}");
    let decision = trailers["x-mesh-decision"].to_str().unwrap().to_owned();
    world
        .control
        .until("the decision is reported", |state| state.decisions.iter().any(|d| d.id == decision))
        .await;
    world.go.notify_waiters();
    assert_eq!(soon("the second message", kept.data()).await.unwrap().unwrap(), "second");
}

/// Waits until a call that ended early was counted, logged and reported.
async fn told(world: &World, proxy: &Proxy, direction: &str) {
    proxy.metric(&format!("mesh_refusals_total{{direction=\"{direction}\",reason=\"caller_gone\"}}")).await;
    let report = world.control.until("the edge is reported", |state| {
        let number = i32::from(direction == "outbound");
        state
            .edges
            .iter()
            .any(|edge| edge.direction == number && edge.failed > 0 && edge.last_reason == "caller_gone")
    });
    report.await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let log = std::fs::read_to_string(&proxy.log).unwrap();
        let is_it = |line: &&str| {
            line.contains("caller_gone") && line.contains("/pkg.App/Watch") && line.contains(direction)
        };
        if log.lines().any(|line| is_it(&line)) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "no line in {log}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_a_record_at_its_own_proxy() {
    let world = world().await;
    let (mut web, connection) = client(world.web.to()).await;
    let _body = watching(&mut web).await;
    connection.abort();
    told(&world, &world.web, "outbound").await;
    told(&world, &world.api, "inbound").await;
}

#[tokio::test]
async fn a_peer_that_hangs_up_leaves_a_record_at_the_called_proxy() {
    let world = world().await;
    let mesh = &world.control.inner.authority;
    let who = credentials(mesh, svid(mesh, &id("web"), None, SystemTime::now()));
    let config = who.client_config(&id("api"), Alpn::MeshH2).unwrap();
    let name =
        server_name(Port::new(PORT).unwrap(), &"api".parse().unwrap(), &DOMAIN.parse().unwrap()).unwrap();
    let stream = TcpStream::connect(world.api.ready.mesh_address).await.unwrap();
    let secured = mesh_ca::tls::connect(config, name, stream).await.unwrap();
    let (mut web, connection) = h2::client::handshake(secured.stream).await.unwrap();
    let connection = tokio::spawn(async move { drop(connection.await) });
    let _body = watching(&mut web).await;
    connection.abort();
    told(&world, &world.api, "inbound").await;
}
