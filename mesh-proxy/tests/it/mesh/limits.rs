//! Limits on what callers may ask.

use super::apps;
use super::requests::{ask, get};
use super::world::{Pair, allow, calls, limit, soon};
use mesh_proto::limit::Unit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_caller_over_its_rate_gets_429_and_the_others_are_untouched() {
    let pair = Pair::start(apps::http1().await, vec![allow("*")]).await;
    pair.control.change(|state| {
        state.limits.insert("api".to_owned(), vec![limit(Unit::Requests, 3)]);
    });
    let other = calls("mobile", "api").start(&pair.control).await;
    pair.control.settled().await;
    for _ in 0..3 {
        assert_eq!(get(pair.web.to(), "/", "api").await.status, 200);
    }
    let limited = get(pair.web.to(), "/", "api").await;
    assert_eq!((limited.status, limited.fields["x-mesh-reason"].as_str()), (429, "limited"), "{limited:?}");
    let seconds: u64 = limited.fields["retry-after"].parse().unwrap();
    assert!((1..=20).contains(&seconds), "{seconds}");
    assert_eq!(get(other.to(), "/", "api").await.status, 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let pair = Pair::start(apps::http1().await, vec![allow("web")]).await;
    pair.control.change(|state| {
        let mut bound = limit(Unit::Requests, 1_000);
        bound.body_bytes_max = Some(10);
        state.limits.insert("api".to_owned(), vec![bound]);
    });
    pair.control.settled().await;
    let post = |body: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: api\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert_eq!(ask(pair.web.to(), &post("0123456789")).await.status, 200);
    assert_eq!(ask(pair.web.to(), &post("0123456789a")).await.status, 413);
}

#[tokio::test]
async fn connections_are_counted_where_a_limit_counts_connections() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    pair.control.change(|state| {
        state.limits.insert("api".to_owned(), vec![limit(Unit::Connections, 1)]);
    });
    pair.control.settled().await;
    let mut first = TcpStream::connect(pair.web.to()).await.unwrap();
    first.write_all(b"\x01a").await.unwrap();
    let mut echoed = [0; 2];
    soon("the echo", first.read_exact(&mut echoed)).await.unwrap();
    let mut second = TcpStream::connect(pair.web.to()).await.unwrap();
    second.write_all(b"\x01b").await.unwrap();
    let mut heard = Vec::new();
    let _ = soon("the end", second.read_to_end(&mut heard)).await;
    assert!(heard.is_empty(), "{heard:?}");
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"limited\"}").await;
}

/// Sends to the caller's proxy and hears whether it comes back.
async fn echoes(to: std::net::SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut echoed = vec![0; bytes.len()];
    soon("an echo or the end", stream.read_exact(&mut echoed)).await.is_ok()
}

#[tokio::test]
async fn a_limit_of_requests_is_not_evaded_by_bytes_that_look_like_none() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    // An empty line before the request makes it opaque bytes; many servers read the request all the same.
    let hidden = b"\r\nGET / HTTP/1.1\r\nHost: api\r\n\r\n";
    assert!(echoes(pair.web.to(), hidden).await);
    pair.control.change(|state| {
        state.limits.insert("api".to_owned(), vec![limit(Unit::Requests, 1_000)]);
    });
    pair.control.settled().await;
    assert!(!echoes(pair.web.to(), hidden).await);
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"needs_http\"}").await;
}

#[tokio::test]
async fn a_tls_tunnel_takes_one_place() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    pair.control.change(|state| {
        let mut one = limit(Unit::Connections, 1);
        one.concurrent = Some(1);
        state.limits.insert("api".to_owned(), vec![one]);
    });
    pair.control.settled().await;
    let mut hello = vec![0x16, 3, 1, 0, 47, 1, 0, 0, 43, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0x13, 1, 1, 0, 0, 0]);
    assert!(echoes(pair.web.to(), &hello).await);
    assert!(!echoes(pair.web.to(), &hello).await, "the second of one");
}
