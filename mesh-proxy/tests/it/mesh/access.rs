//! Decisions, and what becomes of open connections when they change.

use super::apps;
use super::requests::get;
use super::world::{Pair, allow, id, soon};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

#[tokio::test]
async fn without_a_policy_nothing_passes() {
    let pair = Pair::start(apps::http1().await, Vec::new()).await;
    let answer = get(pair.web.to(), "/", "api").await;
    assert_eq!((answer.status, answer.fields["x-mesh-reason"].as_str()), (403, "no_rule_allows"));
    assert!(answer.body.contains("meshctl explain"), "{answer:?}");
    let decision = answer.fields["x-mesh-decision"].clone();
    pair.control
        .until("the decision is reported", |state| {
            state.decisions.iter().any(|d| d.id == decision && !d.allowed && d.source.ends_with("/web"))
        })
        .await;
    let log = std::fs::read_to_string(&pair.api.log).unwrap();
    assert!(log.contains(&decision) && log.contains("\"outcome\":\"denied\""), "{log}");
}

/// An open tunnel that has carried something.
async fn tunnel(pair: &Pair) -> TcpStream {
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    stream.write_all(b"\x01ping").await.unwrap();
    let mut echoed = [0; 5];
    soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
    stream
}

#[tokio::test]
async fn a_change_cuts_what_is_no_longer_allowed_and_nothing_else() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    let mut stream = tunnel(&pair).await;
    // Another rule with the same outcome: nothing happens to the tunnel.
    pair.control.change(|state| {
        state.policies.insert("api".to_owned(), vec![allow("*")]);
    });
    pair.control.settled().await;
    stream.write_all(b"still").await.unwrap();
    let mut echoed = [0; 5];
    soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
    let began = Instant::now();
    pair.control.change(|state| {
        state.policies.clear();
    });
    let mut rest = Vec::new();
    let _ = soon("the cut", stream.read_to_end(&mut rest)).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_change_cuts_an_open_response_visibly() {
    let pair = Pair::start(apps::trickle(Arc::new(Notify::new())).await, vec![allow("web")]).await;
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    soon("the first chunk", async {
        while !String::from_utf8_lossy(&text).contains("first") {
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0);
        }
    })
    .await;
    let began = Instant::now();
    pair.control.change(|state| {
        state.policies.clear();
    });
    let _ = soon("the cut", stream.read_to_end(&mut text)).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(!String::from_utf8_lossy(&text).contains("0\r\n\r\n"), "the end of the body must not look whole");
}

#[tokio::test]
async fn a_revoked_identity_loses_its_open_connections_and_gets_no_new_ones() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    let mut stream = tunnel(&pair).await;
    let began = Instant::now();
    pair.control.change(|state| state.revocations.identities.push(id("web")));
    let mut rest = Vec::new();
    let _ = soon("the cut", stream.read_to_end(&mut rest)).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let mut again = TcpStream::connect(pair.web.to()).await.unwrap();
    let _ = again.write_all(b"\x01ping").await;
    let _ = soon("the end", again.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
    pair.api.metric("mesh_tls_handshake_failures_total{direction=\"inbound\",reason=\"revoked\"}").await;
}

#[tokio::test]
async fn what_happened_is_reported_as_an_edge() {
    let pair = Pair::start(apps::http1().await, vec![allow("web")]).await;
    assert_eq!(get(pair.web.to(), "/", "api").await.status, 200);
    pair.control
        .until("the edge is reported", |state| {
            state.edges.iter().any(|edge| {
                edge.source == id("web").as_str()
                    && edge.destination == id("api").as_str()
                    && edge.service == "default/api"
                    && edge.allowed == 1
                    && edge.tls_version == "TLSv1.3"
                    && edge.key_exchange == "X25519MLKEM768"
                    && !edge.latency_us.is_empty()
            })
        })
        .await;
}
