//! Start, renewal, a control plane that errs or is gone, and the end.

use super::apps;
use super::requests::get;
use super::world::{Pair, allow, soon};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

#[tokio::test]
async fn a_snapshot_that_cannot_be_used_is_refused_and_the_one_before_stays() {
    let pair = Pair::start(apps::http1().await, vec![allow("web")]).await;
    pair.control.change(|state| {
        state.corrupt = true;
        state.policies.clear();
    });
    pair.control.until("a refusal", |state| !state.refusals.is_empty()).await;
    let reason = pair.control.inner.state.lock().unwrap().refusals[0].clone();
    assert!(reason.contains("digest"), "{reason}");
    // Only one of the two was sent the corrupt one; the other applies the change. The next update heals both.
    pair.control.change(|state| {
        state.policies.insert("api".to_owned(), vec![allow("web")]);
    });
    pair.control.settled().await;
    assert_eq!(get(pair.web.to(), "/", "api").await.status, 200);
}

#[tokio::test]
async fn without_a_control_plane_everything_goes_on() {
    let mut pair = Pair::start(apps::http1().await, vec![allow("web")]).await;
    pair.api.metric("mesh_control_connected 1").await;
    pair.control.die();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !pair.api.admin("/metrics").await.1.contains("mesh_control_connected 0") {
        assert!(tokio::time::Instant::now() < deadline, "the loss is not seen");
    }
    for n in 0..5 {
        assert_eq!(get(pair.web.to(), &format!("/{n}"), "api").await.status, 200);
    }
    assert_eq!(pair.api.admin("/readyz").await.0, 200);
}

#[tokio::test]
async fn a_proxy_that_cannot_connect_renews_long_before_it_is_due_and_learns_the_new_address() {
    let control = super::control::Control::start();
    // Due in half a minute at the earliest.
    control.set_lifetime(Duration::from_secs(90));
    let right = control.set_address("127.0.0.1:1");
    let correcting = async {
        while control.inner.authority.issued().len() < 2 {
            tokio::task::yield_now().await;
        }
        control.set_address(&right);
    };
    // It is ready when it has a snapshot, which it gets from the right address only.
    let (api, ()) = tokio::join!(super::world::serves("api", apps::echo().await).start(&control), correcting);
    api.metric("mesh_control_connected 1").await;
}

#[tokio::test]
async fn certificates_are_renewed_and_old_connections_live_on() {
    let control = super::control::Control::start();
    control.set_lifetime(Duration::from_secs(6));
    control.change(|state| {
        state.policies.insert("api".to_owned(), vec![allow("web")]);
    });
    let api = super::world::serves("api", apps::echo().await).start(&control).await;
    let web = super::world::calls("web", "api").start(&control).await;
    control.settled().await;
    let mut stream = TcpStream::connect(web.to()).await.unwrap();
    stream.write_all(b"\x01ping").await.unwrap();
    let mut echoed = [0; 5];
    soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
    let renewed = async {
        api.metric("mesh_certificate_renewals_total{result=\"ok\"}").await;
        web.metric("mesh_certificate_renewals_total{result=\"ok\"}").await;
    };
    soon("a renewal", renewed).await;
    stream.write_all(b"again").await.unwrap();
    soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"again");
}

#[tokio::test]
async fn the_admin_endpoint_tells_all_but_secrets() {
    let pair = Pair::start(apps::http1().await, vec![allow("web")]).await;
    assert_eq!(pair.web.admin("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(pair.web.admin("/readyz").await.0, 200);
    let (status, config) = pair.api.admin("/config").await;
    assert_eq!(status, 200);
    assert!(config.contains("default/allow-web") && config.contains("/sa/api"), "{config}");
    assert!(!config.to_ascii_lowercase().contains("key"), "{config}");
    let idle = TcpStream::connect(pair.web.to()).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !pair.web.admin("/connections").await.1.contains("default/api") {
        assert!(tokio::time::Instant::now() < deadline, "the connection is not listed");
    }
    drop(idle);
    let rebound =
        super::requests::get(pair.web.ready.admin_address.unwrap(), "/config", "evil.example").await;
    assert_eq!(rebound.status, 403);
}

#[tokio::test]
async fn shutdown_lets_a_request_finish() {
    let go = Arc::new(Notify::new());
    let pair = Pair::start(apps::trickle(Arc::clone(&go)).await, vec![allow("web")]).await;
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    soon("the first chunk", async {
        while !String::from_utf8_lossy(&text).contains("first") {
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0);
        }
    })
    .await;
    pair.api.shutdown.cancel();
    pair.web.shutdown.cancel();
    // Both drain now: new connections are refused while the open request goes on.
    let refused = async {
        while TcpStream::connect(pair.web.to()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon("the listener is closed", refused).await;
    go.notify_one();
    soon("the rest of the answer", stream.read_to_end(&mut text)).await.unwrap();
    assert!(String::from_utf8_lossy(&text).ends_with("0\r\n\r\n"), "{}", String::from_utf8_lossy(&text));
    let Pair { api, web, control: _control } = pair;
    soon("the end", async { tokio::join!(api.stop(), web.stop()) }).await;
}

#[tokio::test]
async fn shutdown_cuts_what_does_not_finish_in_time() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    let mut stream = TcpStream::connect(pair.web.to()).await.unwrap();
    stream.write_all(b"\x01ping").await.unwrap();
    let mut echoed = [0; 5];
    soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
    let Pair { api, web, control: _control } = pair;
    soon("the end within the drain time", async { tokio::join!(api.stop(), web.stop()) }).await;
    let mut rest = Vec::new();
    let _ = soon("the cut", stream.read_to_end(&mut rest)).await;
}
