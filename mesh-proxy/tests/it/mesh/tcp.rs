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

/// Nothing says when the caller of a server that speaks first would begin to speak.
#[tokio::test]
async fn a_silent_caller_without_any_rule_is_refused_without_a_word() {
    // Somebody else may come with a TLS of its own, so a caller's server name may matter on this port.
    let named = Operation { sni: vec!["db.example".parse().unwrap()], ..Operation::default() };
    let rules = vec![policy("db", Action::Allow, "somebody-else", vec![named])];
    let pair = Pair::start(apps::banner().await, rules).await;
    let _silent = TcpStream::connect(pair.web.to()).await.unwrap();
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"no_rule_allows\"}").await;
}

#[tokio::test]
async fn a_silent_caller_that_may_come_with_tls_is_heard() {
    let by_name = Operation { sni: vec!["db.example".parse().unwrap()], ..Operation::default() };
    let rules = vec![policy("db", Action::Allow, "web", vec![by_name])];
    let pair = Pair::start(apps::echo().await, rules).await;
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    // The far side has the connection and waits for its first bytes.
    pair.api.metric("mesh_connections_total{direction=\"inbound\",tls=\"mutual\"} 1").await;
    let name = b"db.example";
    let mut extension = vec![0, 0, 0, name.len() as u8 + 5, 0, name.len() as u8 + 3, 0, 0, name.len() as u8];
    extension.extend(name);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0, 0, extension.len() as u8]);
    body.extend(extension);
    let mut named = vec![0x16, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    named.extend(body);
    stream.write_all(&named).await.unwrap();
    let mut echoed = vec![0; named.len()];
    soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(echoed, named);
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

/// A ClientHello that asks for a server, or for none.
fn hello(name: Option<&str>) -> Vec<u8> {
    let mut extensions = vec![0, 43, 0, 3, 2, 3, 4];
    if let Some(name) = name {
        let n = u8::try_from(name.len()).unwrap();
        extensions.extend([0, 0, 0, n + 5, 0, n + 3, 0, 0, n]);
        extensions.extend(name.as_bytes());
    }
    let mut message = vec![1, 0, 0, 0, 3, 3];
    message.extend([7; 32]);
    message.extend([0, 0, 2, 0x13, 1, 1, 0, 0, u8::try_from(extensions.len()).unwrap()]);
    message.extend(extensions);
    message[3] = u8::try_from(message.len() - 4).unwrap();
    let mut record = vec![0x16, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.extend(message);
    record
}

/// The same behind an empty record.
fn odd_hello(name: Option<&str>) -> Vec<u8> {
    [vec![0x16, 3, 1, 0, 0], hello(name)].concat()
}

/// Whether bytes reach the application, which sends them back.
async fn passes(to: std::net::SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut echoed = vec![0; bytes.len()];
    soon("an echo or the end", stream.read_exact(&mut echoed)).await.is_ok()
}

#[tokio::test]
async fn a_deny_by_server_name_is_not_evaded_by_hiding_the_name() {
    let operation = Operation { sni: vec!["admin.example".parse().unwrap()], ..Operation::default() };
    let rules = vec![allow("web"), policy("no-admin", Action::Deny, "web", vec![operation])];
    let pair = Pair::start(apps::echo().await, rules).await;
    let to = pair.web.to();
    assert!(passes(to, &hello(Some("db.example"))).await);
    assert!(passes(to, b"\x01plain").await);
    for name in ["admin.example", "ADMIN.example", "admin.example."] {
        assert!(!passes(to, &hello(Some(name))).await, "{name}");
    }
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"denied_by_rule\"} 3").await;
    assert!(!passes(to, &hello(None)).await);
    assert!(!passes(to, &odd_hello(Some("admin.example"))).await);
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"name_unreadable\"} 2").await;
}

#[tokio::test]
async fn what_only_looks_like_tls_is_not_allowed_as_tls_or_denied_as_bytes() {
    let tls = Operation { protocols: vec![ProtocolMatch::Tls], ..Operation::default() };
    let pair =
        Pair::start(apps::echo().await, vec![policy("tls", Action::Allow, "web", vec![tls.clone()])]).await;
    assert!(passes(pair.web.to(), &hello(None)).await);
    assert!(!passes(pair.web.to(), &odd_hello(None)).await);
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"unreadable_hello\"} 1").await;
    pair.control.change(|state| {
        state
            .policies
            .insert("api".to_owned(), vec![allow("web"), policy("no-tls", Action::Deny, "web", vec![tls])]);
    });
    pair.control.settled().await;
    assert!(passes(pair.web.to(), b"\x01plain").await);
    for name in [None, Some("db.example")] {
        assert!(!passes(pair.web.to(), &hello(name)).await, "{name:?}");
        assert!(!passes(pair.web.to(), &odd_hello(name)).await, "{name:?}");
    }
}
