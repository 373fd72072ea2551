//! Who is refused before a byte of theirs is looked at.

use super::apps;
use super::control::{DOMAIN, authority, credentials, svid};
use super::requests::get;
use super::world::{PORT, Pair, allow, id, soon};
use mesh_ca::bundle::TrustBundles;
use mesh_ca::tls::{Alpn, Credentials, server_name};
use mesh_proto::name::Port;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Shakes hands as `who` and tries to send; whether anything but a refusal comes back.
async fn is_served(address: SocketAddr, who: &Credentials) -> bool {
    is_served_as(address, who, "api").await
}

/// The same, by a service name of the caller's choice.
async fn is_served_as(address: SocketAddr, who: &Credentials, service: &str) -> bool {
    let config = who.client_config(&id("api"), Alpn::MeshTcp).unwrap();
    let port = Port::new(PORT).unwrap();
    let name = server_name(port, &service.parse().unwrap(), &DOMAIN.parse().unwrap()).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let Ok(mut secured) = mesh_ca::tls::connect(config, name, stream).await else { return false };
    let mut echoed = [0; 5];
    let exchange = async {
        secured.stream.write_all(b"\x01ping").await?;
        secured.stream.flush().await?;
        secured.stream.read_exact(&mut echoed).await
    };
    soon("an answer or a refusal", exchange).await.is_ok()
}

#[tokio::test]
async fn only_a_valid_certificate_of_this_mesh_is_served() {
    let pair = Pair::start(apps::echo().await, vec![allow("*")]).await;
    let mesh = &pair.control.inner.authority;
    let address = pair.api.ready.mesh_address;
    let now = SystemTime::now();
    let good = credentials(mesh, svid(mesh, &id("web"), None, now));
    assert!(is_served(address, &good).await);

    let day = Duration::from_secs(24 * 3600);
    let expired = svid(mesh, &id("late"), Some(Duration::from_secs(600)), now - day);
    assert!(!is_served(address, &credentials(mesh, expired)).await);
    pair.api.metric("mesh_tls_handshake_failures_total{direction=\"inbound\",reason=\"expired\"}").await;

    let foreign = authority(DOMAIN);
    let forged = Credentials { svid: svid(&foreign, &id("web"), None, now), ..good.clone() };
    assert!(!is_served(address, &forged).await);
    pair.api
        .metric("mesh_tls_handshake_failures_total{direction=\"inbound\",reason=\"unknown_issuer\"}")
        .await;

    // It believes this mesh, but its own trust domain means nothing here.
    let other = authority("other.test");
    let stranger: mesh_proto::identity::SpiffeId = "spiffe://other.test/ns/default/sa/web".parse().unwrap();
    let mut bundles: std::collections::BTreeMap<_, _> = std::collections::BTreeMap::new();
    for bundle in mesh.bundles().into_iter().chain(other.bundles()) {
        bundles.insert(bundle.trust_domain.clone(), bundle);
    }
    let stranger = Credentials {
        svid: svid(&other, &stranger, None, now),
        bundles: Arc::new(TrustBundles::from_config(&bundles).unwrap()),
        revocations: Arc::default(),
    };
    assert!(!is_served(address, &stranger).await);
    pair.api
        .metric("mesh_tls_handshake_failures_total{direction=\"inbound\",reason=\"wrong_trust_domain\"}")
        .await;
}

#[tokio::test]
async fn a_name_that_a_caller_makes_up_is_not_recorded_where_the_services_are_known() {
    let pair = Pair::start(apps::echo().await, vec![allow("*")]).await;
    let mesh = &pair.control.inner.authority;
    let web = credentials(mesh, svid(mesh, &id("web"), None, SystemTime::now()));
    let address = pair.api.ready.mesh_address;
    // Of a control plane that does not say, the first few are believed.
    assert!(is_served_as(address, &web, "default/first").await);
    pair.control.change(|state| state.tells_services = true);
    pair.control.settled().await;
    assert!(is_served_as(address, &web, "default/second").await);
    assert!(is_served_as(address, &web, "default/api").await);
    let by_name = |state: &super::control::State, name: &str| {
        state.edges.iter().any(|edge| edge.service == name && edge.source == id("web").as_str())
    };
    pair.control.until("the names", |state| by_name(state, "default/first")).await;
    pair.control.until("the names", |state| by_name(state, "default/api")).await;
    let state = pair.control.inner.state.lock().unwrap();
    assert!(!by_name(&state, "default/second"), "{:?}", state.edges);
}

#[tokio::test]
async fn plaintext_is_reset_in_strict_mode() {
    let pair = Pair::start(apps::http1().await, vec![allow("*")]).await;
    let mut stream = TcpStream::connect(pair.api.ready.mesh_address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut heard)).await;
    assert!(heard.is_empty(), "{heard:?}");
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"plaintext_refused\"}").await;
}

#[tokio::test]
async fn plaintext_passes_in_permissive_mode_until_its_end_and_under_policy() {
    let pair = Pair::start(apps::http1().await, vec![allow("anyone")]).await;
    let mesh = pair.api.ready.mesh_address;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    pair.control.change(|state| state.permissive_until = Some(now + 3600));
    pair.control.settled().await;
    assert_eq!(get(mesh, "/", "api").await.status, 200);
    pair.api.metric("mesh_connections_total{direction=\"inbound\",tls=\"plaintext\"}").await;
    pair.control.change(|state| {
        state.policies.insert("api".to_owned(), vec![allow("*")]);
    });
    pair.control.settled().await;
    assert_eq!(get(mesh, "/", "api").await.status, 403, "unmeshed callers are not AnyMeshed");
    pair.control.change(|state| state.permissive_until = Some(now - 1));
    pair.control.settled().await;
    let mut stream = TcpStream::connect(mesh).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut heard)).await;
    assert!(heard.is_empty(), "permissive mode has ended: {heard:?}");
}

#[tokio::test]
async fn a_port_that_is_not_declared_is_refused_with_its_own_reason() {
    let pair = Pair::start(apps::echo().await, vec![allow("*")]).await;
    let mesh = &pair.control.inner.authority;
    let who = credentials(mesh, svid(mesh, &id("web"), None, SystemTime::now()));
    let config = who.client_config(&id("api"), Alpn::MeshTcp).unwrap();
    let name =
        server_name(Port::new(9999).unwrap(), &"api".parse().unwrap(), &DOMAIN.parse().unwrap()).unwrap();
    let stream = TcpStream::connect(pair.api.ready.mesh_address).await.unwrap();
    assert!(soon("the refusal", mesh_ca::tls::connect(config, name, stream)).await.is_err());
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"unknown_port\"}").await;
}

#[tokio::test]
async fn strangers_who_say_nothing_are_sent_away_and_hold_no_place() {
    let pair = Pair::start(apps::echo().await, vec![allow("*")]).await;
    let mesh = &pair.control.inner.authority;
    let address = pair.api.ready.mesh_address;
    let good = credentials(mesh, svid(mesh, &id("web"), None, SystemTime::now()));
    // More than may shake hands at once, from some addresses, and half a hello from another.
    let mut silent = Vec::new();
    for n in 0..1_100_u32 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2 + (n % 5) as u8], 0).into()).unwrap();
        silent.push(soon("a stranger is accepted", socket.connect(address)).await.unwrap());
    }
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"\x16\x03\x01\x01\x00\x01").await.unwrap();
    assert!(is_served(address, &good).await);
    silent.push(half);
    for mut stream in silent {
        let mut heard = Vec::new();
        let _ = soon("the end of a stranger", stream.read_to_end(&mut heard)).await;
        assert!(heard.is_empty(), "{heard:?}");
    }
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"hello_timeout\"} 1101").await;
    let mut odd = TcpStream::connect(address).await.unwrap();
    odd.write_all(b"\x16\x03\x01\x00\x00").await.unwrap();
    let _ = soon("the end", odd.read_to_end(&mut Vec::new())).await;
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"unreadable_hello\"} 1").await;
}

#[tokio::test]
async fn the_default_port_is_no_part_of_a_host_on_the_called_side_either() {
    let pair = Pair::start(apps::http1().await, vec![allow("*")]).await;
    let mesh = &pair.control.inner.authority;
    let who = credentials(mesh, svid(mesh, &id("web"), None, SystemTime::now()));
    let config = who.client_config(&id("api"), Alpn::MeshH1).unwrap();
    let name =
        server_name(Port::new(PORT).unwrap(), &"api".parse().unwrap(), &DOMAIN.parse().unwrap()).unwrap();
    let stream = TcpStream::connect(pair.api.ready.mesh_address).await.unwrap();
    let mut stream = mesh_ca::tls::connect(config, name, stream).await.unwrap().stream;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: API:80\r\nConnection: close\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("the answer", stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("api") && !answer.contains(":80"), "{answer}");
}
