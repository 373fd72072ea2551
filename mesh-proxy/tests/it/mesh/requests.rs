//! HTTP through two proxies.

use super::apps;
use super::control::Control;
use super::world::{Pair, Plan, allow, calls, id, policy, serves, soon};
use mesh_proto::config::{Endpoint, EndpointState};
use mesh_proto::policy::model::{Action, Operation, Protocol};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) body: String,
}

pub(crate) async fn get(address: SocketAddr, path: &str, host: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await
}

/// Sends a request that ends its connection, and reads the answer to its end.
pub(crate) async fn ask(address: SocketAddr, request: &str) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let text = soon(&format!("an answer to {request:?}"), exchange).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let fields = lines.filter_map(|line| line.split_once(": "));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Answer { status, fields, body: body.to_owned() }
}

#[tokio::test]
async fn a_request_reaches_the_application_and_its_answer_comes_back() {
    let pair = Pair::start(apps::http1().await, vec![allow("web")]).await;
    let answer = get(pair.web.to(), "/a//b?x=%20", "API.example.:80").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body, "GET /a/b?x=%20 HTTP/1.1\napi.example\n");
    let body = "x".repeat(300_000);
    let request = format!(
        "POST /p HTTP/1.1\r\nhost: api\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = ask(pair.web.to(), &request).await;
    assert!(answer.status == 200 && answer.body.ends_with(&body), "{}", answer.status);
    let line = pair
        .api
        .metric(
            "mesh_requests_total{direction=\"inbound\",protocol=\"http1\",outcome=\"allowed\",class=\"2xx\"}",
        )
        .await;
    assert!(line.ends_with(" 2"), "{line}");
}

#[tokio::test]
async fn a_connection_carries_many_requests() {
    let pair = Pair::start(apps::http1().await, vec![allow("web")]).await;
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    for n in 0..5 {
        let request = format!("GET /{n} HTTP/1.1\r\nhost: api\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        let expected = format!("GET /{n} HTTP/1.1\napi\n");
        soon("an answer", async {
            while !text.ends_with(expected.as_bytes()) {
                assert_ne!(
                    stream.read_buf(&mut text).await.unwrap(),
                    0,
                    "{}",
                    String::from_utf8_lossy(&text)
                );
            }
        })
        .await;
    }
    // One handshake served them all.
    let line = pair.api.metric("mesh_connections_total{direction=\"inbound\",tls=\"mutual\"}").await;
    assert!(line.ends_with(" 1"), "{line}");
}

#[tokio::test]
async fn a_response_streams() {
    let go = Arc::new(Notify::new());
    let pair = Pair::start(apps::trickle(Arc::clone(&go)).await, vec![allow("web")]).await;
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    soon("the first chunk", async {
        while !String::from_utf8_lossy(&text).contains("first") {
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0);
        }
    })
    .await;
    assert!(!String::from_utf8_lossy(&text).contains("second"));
    go.notify_one();
    soon("the rest", stream.read_to_end(&mut text)).await.unwrap();
    assert!(String::from_utf8_lossy(&text).contains("second"));
}

#[tokio::test]
async fn what_has_two_readings_is_refused_by_the_callers_proxy() {
    let pair = Pair::start(apps::http1().await, vec![allow("web")]).await;
    let request = "GET /a/../b HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";
    let answer = ask(pair.web.to(), request).await;
    assert_eq!((answer.status, answer.fields["x-mesh-reason"].as_str()), (400, "bad_request"));
}

#[tokio::test]
async fn a_path_rule_decides_request_by_request() {
    let operation = Operation { paths: vec!["/open/*".parse().unwrap()], ..Operation::default() };
    let rule = policy("paths", Action::Allow, "web", vec![operation]);
    let pair = Pair::start(apps::http1().await, vec![rule]).await;
    assert_eq!(get(pair.web.to(), "/open/x", "api").await.status, 200);
    let refused = get(pair.web.to(), "/closed", "api").await;
    assert_eq!((refused.status, refused.fields["x-mesh-reason"].as_str()), (403, "no_rule_allows"));
    assert_eq!(refused.fields["x-mesh-decision"].len(), 16, "{refused:?}");
}

#[tokio::test]
async fn a_silent_application_is_named() {
    let pair = Pair::start(apps::nobody().await, vec![allow("web")]).await;
    let answer = get(pair.web.to(), "/", "api").await;
    assert_eq!(
        (answer.status, answer.fields["x-mesh-reason"].as_str()),
        (503, "connect_failed"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn an_unknown_service_is_named_promptly() {
    let control = Control::start();
    let web = calls("web", "nowhere").start(&control).await;
    let answer = get(web.to(), "/", "nowhere").await;
    assert_eq!((answer.status, answer.fields["x-mesh-reason"].as_str()), (503, "unknown_destination"));
}

#[tokio::test]
async fn a_failed_connect_is_tried_on_another_endpoint() {
    let pair = Pair::start(apps::http1().await, vec![allow("web")]).await;
    // As many as go at once when a workload is scaled in.
    for number in 0..9 {
        let dead = apps::nobody().await;
        pair.control.change(|state| {
            let endpoint = Endpoint {
                address: dead,
                identity: Some(id("api")),
                instance: format!("api-dead-{number}").parse().unwrap(),
                state: EndpointState::Ready,
                ports: Default::default(),
            };
            state.extra.push(("api".to_owned(), endpoint));
        });
    }
    pair.control.settled().await;
    for n in 0..20 {
        let answer = get(pair.web.to(), &format!("/{n}"), "api").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn an_endpoint_whose_application_is_gone_is_passed_over() {
    let pair = Pair::start(apps::http1().await, vec![allow("web")]).await;
    // As many as are left alone for a moment when a workload is scaled in.
    let mut all_gone = Vec::new();
    for instance in ["api-a", "api-b", "api-c", "api-d", "api-e", "api-f"] {
        let gone = Plan { instance, ..serves("api", apps::nobody().await) };
        all_gone.push(gone.start(&pair.control).await);
    }
    pair.control.settled().await;
    for n in 0..20 {
        let answer = get(pair.web.to(), &format!("/{n}"), "api").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn a_gone_application_without_another_is_said_to_be_gone() {
    let pair = Pair::start(apps::nobody().await, vec![allow("web")]).await;
    let answer = get(pair.web.to(), "/", "api").await;
    assert_eq!(
        (answer.status, answer.fields["x-mesh-reason"].as_str()),
        (503, "connect_failed"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn an_impostor_is_refused_by_the_caller() {
    let control = Control::start();
    control.change(|state| {
        state.policies.insert("thief".to_owned(), vec![allow("*")]);
    });
    let thief = serves("thief", apps::http1().await).start(&control).await;
    control.change(|state| {
        let endpoint = Endpoint {
            address: thief.ready.mesh_address,
            identity: Some(id("bank")),
            instance: "bank-1".parse().unwrap(),
            state: EndpointState::Ready,
            ports: Default::default(),
        };
        state.extra.push(("bank".to_owned(), endpoint));
    });
    let web = calls("web", "bank").start(&control).await;
    let answer = get(web.to(), "/", "bank").await;
    assert_eq!((answer.status, answer.fields["x-mesh-reason"].as_str()), (502, "wrong_peer"), "{answer:?}");
    web.metric("mesh_tls_handshake_failures_total{direction=\"outbound\",reason=\"wrong_peer\"}").await;
}

#[tokio::test]
async fn a_grpc_stream_passes_with_its_trailers() {
    let control = Control::start();
    control.change(|state| {
        state.policies.insert("api".to_owned(), vec![allow("web")]);
    });
    let plan = Plan { declared: Some(Protocol::Grpc), ..serves("api", apps::grpc().await) };
    let _api = plan.start(&control).await;
    let web = calls("web", "api").start(&control).await;
    control.settled().await;
    let stream = TcpStream::connect(web.to()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://api/pkg.Echo/Say")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (response, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let response = soon("headers", response).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut answer = response.into_body();
    for word in ["one", "two"] {
        body.send_data(bytes::Bytes::from(word), false).unwrap();
        let echoed = soon("an echo", answer.data()).await.unwrap().unwrap();
        assert_eq!(&echoed[..], word.as_bytes());
    }
    body.send_data(bytes::Bytes::new(), true).unwrap();
    while let Some(data) = soon("the end", answer.data()).await {
        data.unwrap();
    }
    let trailers = soon("trailers", answer.trailers()).await.unwrap().expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
}
