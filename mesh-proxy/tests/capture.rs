//! A captured namespace on the real kernel: everything the workload sends arrives at the listeners or is refused.
//! Needs root, `ip` and `nft`; without them these tests fail with what is missing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking with what it saw")]

use mesh_proxy::capture::dialer::Dialer;
use mesh_proxy::capture::namespace::{Namespace, remove_orphans};
use mesh_proxy::capture::original_dst::original_dst;
use mesh_proxy::capture::rules::OUTBOUND_PORT;
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;
use tokio::io::AsyncReadExt;

fn namespace(instance: &str) -> Namespace {
    Namespace::create(&instance.parse().unwrap(), std::process::id())
        .unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn every_tcp_connection_arrives_with_its_destination_over_both_families() {
    let namespace = namespace("capture-tcp");
    let any = SocketAddr::from(([0_u16; 8], OUTBOUND_PORT));
    let listener = tokio::net::TcpListener::from_std(namespace.listen(any).unwrap()).unwrap();
    for to in
        ["240.240.0.7:8080", "10.1.2.3:443", "8.8.8.8:22", "[fd00:6d65:7368:1::7]:8080", "[2001:db8::1]:80"]
    {
        let to: SocketAddr = to.parse().unwrap();
        let client = namespace.clone();
        let dialled = tokio::task::spawn_blocking(move || {
            client.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(5))).unwrap().unwrap()
        });
        let (accepted, _) = listener.accept().await.unwrap();
        assert_eq!(original_dst(&accepted).unwrap(), to);
        drop(dialled.await.unwrap());
    }
    // Somebody who dials the listener itself has no destination.
    let client = namespace.clone();
    let own = SocketAddr::from(([127, 0, 0, 1], OUTBOUND_PORT));
    let dialled =
        tokio::task::spawn_blocking(move || client.enter(|| TcpStream::connect(own)).unwrap().unwrap());
    let (accepted, _) = listener.accept().await.unwrap();
    assert!(original_dst(&accepted).is_err());
    drop(dialled.await.unwrap());
}

#[test]
fn what_is_not_tcp_is_refused_at_once() {
    let namespace = namespace("capture-udp");
    for to in ["8.8.8.8:443", "10.0.0.1:123", "[2001:db8::1]:443"] {
        let to: SocketAddr = to.parse().unwrap();
        let sent = namespace
            .enter(|| {
                let any: SocketAddr =
                    if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
                let socket = UdpSocket::bind(any).unwrap();
                socket.send_to(b"escape", to)
            })
            .unwrap();
        assert!(sent.is_err(), "a datagram to {to} went out");
    }
}

#[test]
fn with_nobody_listening_a_connection_is_refused_and_does_not_hang() {
    let namespace = namespace("capture-none");
    let to = SocketAddr::from(([10, 0, 0, 1], 80));
    let refused =
        namespace.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(5))).unwrap().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn the_proxy_reaches_the_workload_from_outside() {
    let namespace = namespace("capture-dial");
    let listener = namespace.listen(SocketAddr::from(([127, 0, 0, 1], 8080))).unwrap();
    listener.set_nonblocking(false).unwrap();
    let application = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"from inside").unwrap();
    });
    let dialer = Dialer::start(&namespace).unwrap();
    let mut stream = dialer.connect(SocketAddr::from(([127, 0, 0, 1], 8080))).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "from inside");
    application.join().unwrap();
    let refused = dialer.connect(SocketAddr::from(([127, 0, 0, 1], 8081))).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn the_namespace_of_a_dead_owner_is_removed_and_its_processes_end() {
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    let owner = dead.id();
    dead.wait().unwrap();
    let left_behind = Namespace::create(&"capture-orphan".parse().unwrap(), owner).unwrap();
    let mut process =
        left_behind.enter(|| std::process::Command::new("sleep").arg("1000").spawn()).unwrap().unwrap();
    let name = left_behind.name().to_owned();
    let there = || std::path::Path::new("/run/netns").join(&name).exists();
    assert!(there());
    remove_orphans();
    assert!(!there(), "{name} is still there");
    assert!(!process.wait().unwrap().success(), "the left-over process was ended");
}
