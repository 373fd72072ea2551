//! Opaque connections through two proxies.

use super::apps;
use super::control::Control;
use super::world::{Pair, Plan, allow, calls, policy, serves, soon};
use mesh_proto::policy::model::{Action, Operation, Protocol, ProtocolMatch};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn bytes_pass_and_half_close_is_kept() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    let sent: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = stream.split();
    let send = async {
        write.write_all(b"\x00\x01binary").await.unwrap();
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let receive = async { read.read_to_end(&mut heard).await.unwrap() };
    soon("the echo", async { tokio::join!(send, receive) }).await;
    assert_eq!(heard.len(), sent.len() + 8);
    assert!(heard[8..] == sent[..]);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_kept_waiting() {
    let pair = Pair::start(apps::banner().await, vec![allow("web")]).await;
    for round in 0..3 {
        let began = Instant::now();
        let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
        let mut banner = [0; 11];
        soon("the banner", stream.read_exact(&mut banner)).await.unwrap();
        assert_eq!(&banner, b"220 hello\r\n");
        assert!(began.elapsed() < Duration::from_secs(2), "round {round}: {:?}", began.elapsed());
        stream.write_all(b"EHLO me\r\n").await.unwrap();
        let mut echoed = [0; 9];
        soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
        assert_eq!(&echoed, b"EHLO me\r\n");
    }
}

#[tokio::test]
async fn what_is_not_allowed_is_reset_and_never_reaches_the_application() {
    let pair = Pair::start(apps::banner().await, vec![allow("somebody-else")]).await;
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    stream.write_all(b"\x01\x02\x03").await.unwrap();
    let mut heard = Vec::new();
    let ended = soon("the end", stream.read_to_end(&mut heard)).await;
    assert!(heard.is_empty(), "{heard:?}");
    drop(ended);
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"no_rule_allows\"}").await;
}

#[tokio::test]
async fn a_port_that_is_judged_on_http_takes_no_other_bytes() {
    let operation = Operation { paths: vec!["/admin".parse().unwrap()], ..Operation::default() };
    let rules = vec![allow("web"), policy("no-admin", Action::Deny, "web", vec![operation])];
    let pair = Pair::start(apps::echo().await, rules).await;
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    stream.write_all(b"\x01GET /admin HTTP/1.1\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut heard)).await;
    assert!(heard.is_empty(), "{heard:?}");
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"needs_http\"}").await;
}

#[tokio::test]
async fn only_tls_means_only_tls() {
    let operation = Operation { protocols: vec![ProtocolMatch::Tls], ..Operation::default() };
    let pair =
        Pair::start(apps::echo().await, vec![policy("tls", Action::Allow, "web", vec![operation])]).await;
    // A ClientHello without extensions is enough to be TLS; the application echoes it.
    let mut hello = vec![0x16, 3, 1, 0, 47, 1, 0, 0, 43, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0x13, 1, 1, 0, 0, 0]);
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut echoed = vec![0; hello.len()];
    soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(echoed, hello);
    let mut plain = TcpStream::connect(pair.web.to()).await.unwrap();
    plain.write_all(b"\x01plain").await.unwrap();
    let mut heard = Vec::new();
    let _ = soon("the end", plain.read_to_end(&mut heard)).await;
    assert!(heard.is_empty(), "{heard:?}");
}

#[tokio::test]
async fn a_port_declared_for_requests_takes_no_other_bytes() {
    let control = Control::start();
    control.change(|state| {
        state.policies.insert("api".to_owned(), vec![allow("web")]);
    });
    let plan = Plan { declared: Some(Protocol::Http1), ..serves("api", apps::echo().await) };
    let api = plan.start(&control).await;
    // Its caller was told otherwise.
    let plan = Plan { speaks: Some(Protocol::Tcp), ..calls("web", "api") };
    let web = plan.start(&control).await;
    control.settled().await;
    let mut stream = TcpStream::connect(web.to()).await.unwrap();
    stream.write_all(b"\x01bytes").await.unwrap();
    let mut heard = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut heard)).await;
    assert!(heard.is_empty(), "{heard:?}");
    api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"wrong_protocol\"}").await;
}

#[tokio::test]
async fn a_client_that_thinks_before_it_speaks_gets_one_connection() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    // The upstream is opened because the client is silent; it is used when the client speaks after all.
    pair.api.metric("mesh_connections_total{direction=\"inbound\",tls=\"mutual\"} 1").await;
    stream.write_all(b"\x01late").await.unwrap();
    let mut echoed = [0; 5];
    soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
    let line = pair.api.metric("mesh_connections_total{direction=\"inbound\",tls=\"mutual\"}").await;
    assert!(line.ends_with(" 1"), "{line}");
}
