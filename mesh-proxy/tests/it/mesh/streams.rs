//! HTTP/1 exchanges that share a session: each is still judged, counted and cut by itself.

use super::apps;
use super::control::{Control, DOMAIN};
use super::mux::{insider, value};
use super::requests::{ask, get};
use super::world::{Pair, Plan, Proxy, allow, calls, id, policy, serves, soon};
use mesh_proto::policy::model::{Action, Operation, Policy, Protocol};
use mesh_proxy::Multiplexing;
use mesh_proxy::mux::frame::{Event, Inside, Last, data, encode};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

/// Requests that are under way at once: more than the proxy gives connections of their own.
const CROWD: usize = 12;
const INBOUND: &str = "mesh_connections_total{direction=\"inbound\",tls=\"mutual\"}";

/// A caller whose connections are known to be HTTP: none is opened to hear whether the server speaks first.
fn asks(name: &str) -> Plan<'_> {
    Plan { speaks: Some(Protocol::Http1), ..calls(name, "api") }
}

async fn pair(app: SocketAddr, policies: Vec<Policy>) -> Pair {
    let control = Control::start();
    control.change(|state| {
        state.policies.insert("api".to_owned(), policies);
    });
    let api = serves("api", app).start(&control).await;
    let web = asks("web").start(&control).await;
    control.settled().await;
    Pair { control, api, web }
}

/// Answers `/crowd` when as many ask for it at once, `/ws` with an upgrade, and everything else at once.
async fn app() -> SocketAddr {
    let crowd = Arc::new(Barrier::new(CROWD));
    apps::tcp(move |mut stream| {
        let crowd = Arc::clone(&crowd);
        async move {
            while let Some(head) = apps::head(&mut stream).await {
                let answer: &[u8] = match head.split(' ').nth(1) {
                    Some("/ws") => b"HTTP/1.1 101 Switching\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\n",
                    Some("/crowd") => {
                        crowd.wait().await;
                        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
                    }
                    _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                };
                if stream.write_all(answer).await.is_err() || head.starts_with("GET /ws ") {
                    return;
                }
            }
        }
    })
    .await
}

/// Has so many requests under way at once that they share a session.
async fn crowd(web: &Proxy) {
    let to = web.to();
    let asking: Vec<_> =
        (0..CROWD).map(|_| tokio::spawn(async move { get(to, "/crowd", "api").await.status })).collect();
    for one in asking {
        assert_eq!(soon("an answer", one).await.unwrap(), 200);
    }
}

#[tokio::test]
async fn requests_under_way_at_once_share_a_session_and_its_streams_are_kept() {
    let pair = pair(app().await, vec![allow("web")]).await;
    crowd(&pair.web).await;
    assert_eq!(value(&pair.api, "mesh_sessions_total").await, 1);
    let opened = value(&pair.api, INBOUND).await;
    assert_eq!(opened, CROWD as u64, "each is counted");
    for _ in 0..20 {
        assert_eq!(get(pair.web.to(), "/", "api").await.status, 200);
    }
    assert_eq!(value(&pair.api, INBOUND).await, opened, "what was opened is used again");
    let allowed = "mesh_requests_total{direction=\"inbound\",protocol=\"http1\",outcome=\"allowed\"";
    assert!(pair.api.metric(allowed).await.ends_with(" 32"), "each has a record");
    // Kept streams keep nobody from ending.
    soon("the end of the called side", pair.api.stop()).await;
    soon("the end of the calling side", pair.web.stop()).await;
}

#[tokio::test]
async fn each_request_of_a_stream_is_judged() {
    let operation = |path: &str| Operation { paths: vec![path.parse().unwrap()], ..Operation::default() };
    let only = policy("some", Action::Allow, "web", vec![operation("/crowd"), operation("/open")]);
    let pair = pair(app().await, vec![only]).await;
    crowd(&pair.web).await;
    let opened = value(&pair.api, INBOUND).await;
    for (path, status) in [("/open", 200), ("/closed", 403), ("/open", 200), ("/crowd/../open", 400)] {
        assert_eq!(get(pair.web.to(), path, "api").await.status, status, "{path}");
    }
    pair.control.change(|state| state.policies.clear());
    pair.control.settled().await;
    assert_eq!(get(pair.web.to(), "/open", "api").await.status, 403);
    assert_eq!(value(&pair.api, INBOUND).await, opened);
}

#[tokio::test]
async fn an_upgrade_has_a_connection_of_its_own() {
    let pair = pair(app().await, vec![allow("web")]).await;
    crowd(&pair.web).await;
    let opened = value(&pair.api, INBOUND).await;
    let mut open = Vec::new();
    // With streams there would be room for all of them.
    for _ in 0..CROWD {
        let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
        let request = b"GET /ws HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut status = [0; 12];
        soon("the upgrade", stream.read_exact(&mut status)).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 101");
        open.push(stream);
    }
    assert!(value(&pair.api, INBOUND).await > opened);
}

#[tokio::test]
async fn a_large_body_has_a_connection_of_its_own() {
    let pair = pair(apps::http1().await, vec![allow("web")]).await;
    let body = "x".repeat(100_000);
    let request = format!(
        "POST /p HTTP/1.1\r\nhost: api\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (to, request) = (pair.web.to(), Arc::new(request));
    let asking: Vec<_> = (0..CROWD)
        .map(|_| {
            let request = Arc::clone(&request);
            tokio::spawn(async move { ask(to, &request).await })
        })
        .collect();
    for one in asking {
        let answer = soon("an answer", one).await.unwrap();
        assert!(answer.status == 200 && answer.body.ends_with(&body), "{}", answer.status);
    }
    assert_eq!(value(&pair.api, "mesh_sessions_total").await, 0);
}

#[tokio::test]
async fn either_side_can_be_without_streams() {
    for (api, web) in [(Multiplexing::Off, Multiplexing::On), (Multiplexing::On, Multiplexing::Off)] {
        let control = Control::start();
        control.change(|state| {
            state.policies.insert("api".to_owned(), vec![allow("web")]);
        });
        let api = Plan { multiplexing: api, ..serves("api", app().await) }.start(&control).await;
        let web = Plan { multiplexing: web, ..asks("web") }.start(&control).await;
        control.settled().await;
        crowd(&web).await;
        crowd(&web).await;
        assert_eq!(value(&api, "mesh_sessions_total").await, 0);
        assert_eq!(value(&api, INBOUND).await, CROWD as u64);
    }
}

#[tokio::test]
async fn requests_of_other_identities_have_other_sessions() {
    let pair = pair(app().await, vec![allow("*")]).await;
    let mobile = asks("mobile").start(&pair.control).await;
    pair.control.settled().await;
    crowd(&pair.web).await;
    crowd(&mobile).await;
    assert_eq!(value(&pair.api, "mesh_sessions_total").await, 2);
    pair.control.change(|state| state.revocations.identities.push(id("web")));
    pair.control.settled().await;
    assert_ne!(get(pair.web.to(), "/", "api").await.status, 200);
    assert_eq!(get(mobile.to(), "/", "api").await.status, 200);
}

#[tokio::test]
async fn what_a_stream_claims_to_carry_is_what_it_is_judged_as() {
    let named = |stream| Event::Open {
        stream,
        name: format!("80.api.default.{DOMAIN}"),
        inside: Inside::Http1,
        asks: false,
    };
    // Bytes that are no request, and a request to a port that takes none.
    let cases: [(Option<Protocol>, &[u8], &[u8]); 2] = [
        (None, b"\x16\x03\x01 no request\r\n\r\n", b"HTTP/1.1 400 "),
        (Some(Protocol::Tcp), b"GET / HTTP/1.1\r\nhost: api\r\n\r\n", b"HTTP/1.1 502 "),
    ];
    for (declared, sent, expected) in cases {
        let control = Control::start();
        control.change(|state| {
            state.policies.insert("api".to_owned(), vec![allow("web")]);
        });
        let api = Plan { declared, ..serves("api", app().await) }.start(&control).await;
        let web = asks("web").start(&control).await;
        control.settled().await;
        let pair = Pair { control, api, web };
        let mut secured = insider(&pair).await;
        let mut frames = Vec::new();
        encode(&named(1), &mut frames);
        data(1, sent, Last::No, &mut frames);
        secured.stream.write_all(&frames).await.unwrap();
        secured.stream.flush().await.unwrap();
        let mut heard = vec![0; 8 + expected.len()];
        soon("the answer", secured.stream.read_exact(&mut heard)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&heard[8..]), String::from_utf8_lossy(expected));
    }
}
