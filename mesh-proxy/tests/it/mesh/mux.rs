//! Opaque connections that share a session: each is still judged, counted and cut by itself.

use super::apps;
use super::control::{Control, DOMAIN, credentials, svid};
use super::world::{PORT, Pair, Plan, Proxy, allow, calls, id, limit, serves, soon};
use mesh_ca::tls::{Alpn, server_name};
use mesh_proto::limit::Unit;
use mesh_proto::name::Port;
use mesh_proxy::Multiplexing;
use mesh_proxy::mux::frame::{Event, Inside, Last, data, encode};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that has carried something.
async fn tunnel(web: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(web).await.unwrap();
    ping(&mut stream).await;
    stream
}

async fn ping(stream: &mut TcpStream) {
    stream.write_all(b"\x01ping").await.unwrap();
    let mut echoed = [0; 5];
    soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"\x01ping");
}

async fn is_cut(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let ended = soon("the cut", stream.read_to_end(&mut rest)).await;
    rest.is_empty() && ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// The value of a metric without labels, or with exactly these.
pub(crate) async fn value(proxy: &Proxy, series: &str) -> u64 {
    let (_, text) = proxy.admin("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or("0");
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn many_connections_share_a_session_and_each_is_counted() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    let mut open = Vec::new();
    for _ in 0..50 {
        open.push(tunnel(pair.web.to()).await);
    }
    for stream in &mut open {
        ping(stream).await;
    }
    assert_eq!(value(&pair.api, "mesh_sessions_total").await, 1);
    assert_eq!(value(&pair.api, "mesh_connections_total{direction=\"inbound\",tls=\"mutual\"}").await, 50);
    let (_, listed) = pair.api.admin("/connections").await;
    assert_eq!(listed.matches("\"direction\": \"inbound\"").count(), 50, "{listed}");
    drop(open);
    let allowed = "mesh_requests_total{direction=\"inbound\",protocol=\"tcp\",outcome=\"allowed\"";
    assert!(pair.api.metric(allowed).await.ends_with(" 50"), "each has a record");
}

#[tokio::test]
async fn more_than_a_session_takes_goes_to_the_next() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    let mut open = Vec::new();
    for _ in 0..mesh_proxy::mux::STREAMS_MAX + 5 {
        open.push(tunnel(pair.web.to()).await);
    }
    assert_eq!(value(&pair.api, "mesh_sessions_total").await, 2);
    for stream in &mut open {
        ping(stream).await;
    }
}

#[tokio::test]
async fn either_side_can_be_without() {
    for (api, web) in [(Multiplexing::Off, Multiplexing::On), (Multiplexing::On, Multiplexing::Off)] {
        let control = Control::start();
        control.change(|state| {
            state.policies.insert("api".to_owned(), vec![allow("web")]);
        });
        let api = Plan { multiplexing: api, ..serves("api", apps::echo().await) }.start(&control).await;
        let web = Plan { multiplexing: web, ..calls("web", "api") }.start(&control).await;
        control.settled().await;
        let mut open = [tunnel(web.to()).await, tunnel(web.to()).await, tunnel(web.to()).await];
        for stream in &mut open {
            ping(stream).await;
        }
        assert_eq!(value(&api, "mesh_sessions_total").await, 0);
        assert_eq!(value(&api, "mesh_connections_total{direction=\"inbound\",tls=\"mutual\"}").await, 3);
    }
}

#[tokio::test]
async fn callers_with_other_identities_have_other_sessions() {
    let pair = Pair::start(apps::echo().await, vec![allow("*")]).await;
    let mobile = calls("mobile", "api").start(&pair.control).await;
    pair.control.settled().await;
    let (mut a, mut b) = (tunnel(pair.web.to()).await, tunnel(mobile.to()).await);
    assert_eq!(value(&pair.api, "mesh_sessions_total").await, 2);
    pair.control.change(|state| state.revocations.identities.push(id("web")));
    assert!(is_cut(&mut a).await);
    ping(&mut b).await;
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"quarantined\"}").await;
}

#[tokio::test]
async fn a_change_of_policy_cuts_streams_and_leaves_the_session() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    let mut open = [tunnel(pair.web.to()).await, tunnel(pair.web.to()).await];
    pair.control.change(|state| state.policies.clear());
    for stream in &mut open {
        assert!(is_cut(stream).await);
    }
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"no_rule_allows\"} 2").await;
    pair.control.change(|state| {
        state.policies.insert("api".to_owned(), vec![allow("web")]);
    });
    pair.control.settled().await;
    tunnel(pair.web.to()).await;
    assert_eq!(value(&pair.api, "mesh_sessions_total").await, 1);
}

#[tokio::test]
async fn a_limit_on_connections_counts_streams() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    pair.control.change(|state| {
        let mut few = limit(Unit::Connections, 1_000);
        few.concurrent = Some(2);
        state.limits.insert("api".to_owned(), vec![few]);
    });
    pair.control.settled().await;
    let mut open = [tunnel(pair.web.to()).await, tunnel(pair.web.to()).await];
    let mut third = TcpStream::connect(pair.web.to()).await.unwrap();
    third.write_all(b"\x01ping").await.unwrap();
    assert!(is_cut(&mut third).await);
    for stream in &mut open {
        ping(stream).await;
    }
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"too_many_concurrent\"} 1").await;
    assert_eq!(value(&pair.api, "mesh_sessions_total").await, 1);
}

#[tokio::test]
async fn a_reset_is_carried_as_a_reset_both_ways() {
    // An application that resets when it is told to, and says how its caller ended.
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let app = apps::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte).await {
                if byte[0] == b'!' {
                    stream.set_zero_linger().unwrap();
                    return;
                }
                stream.write_all(&byte).await.unwrap();
            }
            let end = stream.read(&mut byte).await;
            let _ = tell.send(end.map_err(|error| error.kind()));
        }
    })
    .await;
    let pair = Pair::start(app, vec![allow("web")]).await;
    let mut stream = tunnel(pair.web.to()).await;
    stream.write_all(b"!").await.unwrap();
    assert!(is_cut(&mut stream).await, "from the application");
    let stream = tunnel(pair.web.to()).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    // The first read got the reset; after it the socket is at its end.
    assert!(soon("the caller's end", told.recv()).await.is_some());
    let mut stream = tunnel(pair.web.to()).await;
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("an orderly end", stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(value(&pair.api, "mesh_sessions_total").await, 1);
}

#[tokio::test]
async fn a_renewed_certificate_makes_a_new_session_and_the_old_one_goes_on() {
    let control = Control::start();
    control.set_lifetime(Duration::from_secs(6));
    control.change(|state| {
        state.policies.insert("api".to_owned(), vec![allow("web")]);
    });
    let api = serves("api", apps::echo().await).start(&control).await;
    let web = calls("web", "api").start(&control).await;
    control.settled().await;
    let mut old = tunnel(web.to()).await;
    soon("a renewal", web.metric("mesh_certificate_renewals_total{result=\"ok\"}")).await;
    let mut new = tunnel(web.to()).await;
    let sessions = value(&api, "mesh_sessions_total").await;
    assert!(sessions >= 2, "{sessions}");
    ping(&mut old).await;
    ping(&mut new).await;
}

/// A caller with a real certificate who speaks frames itself.
pub(crate) async fn insider(pair: &Pair) -> mesh_ca::tls::Secured<TcpStream> {
    let mesh = &pair.control.inner.authority;
    let who = credentials(mesh, svid(mesh, &id("web"), None, SystemTime::now()));
    let config = who.client_config(&id("api"), Alpn::MeshMux).unwrap();
    let name =
        server_name(Port::new(PORT).unwrap(), &"api".parse().unwrap(), &DOMAIN.parse().unwrap()).unwrap();
    let stream = TcpStream::connect(pair.api.ready.mesh_address).await.unwrap();
    let secured = mesh_ca::tls::connect(config, name, stream).await.unwrap();
    assert_eq!(secured.alpn, Alpn::MeshMux);
    secured
}

fn open(stream: u32, port: u16, out: &mut Vec<u8>) {
    encode(
        &Event::Open {
            stream,
            name: format!("{port}.api.default.{DOMAIN}"),
            inside: Inside::Bytes,
            asks: false,
        },
        out,
    );
}

#[tokio::test]
async fn whoever_breaks_a_rule_loses_the_session_by_name_and_nobody_else_does() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    let mut good = tunnel(pair.web.to()).await;
    let rapid = |out: &mut Vec<u8>| {
        for stream in 1..3_000 {
            open(stream, PORT, out);
            encode(&Event::Reset { stream }, out);
        }
    };
    let over = |out: &mut Vec<u8>| {
        open(1, PORT, out);
        (0..3).for_each(|_| data(1, &[1; 16_000], Last::No, out));
    };
    type Script<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: [(&str, Script<'_>); 4] = [
        ("mux_unknown_frame", &|out| out.extend([99; 8])),
        ("mux_reset_flood", &rapid),
        ("mux_credit_exceeded", &over),
        ("mux_too_many_streams", &|out| (1..=300).for_each(|stream| open(stream, PORT, out))),
    ];
    for (reason, write) in cases {
        let mut secured = insider(&pair).await;
        let mut frames = Vec::new();
        write(&mut frames);
        // It may be cut while it still writes.
        let _ = secured.stream.write_all(&frames).await;
        let _ = secured.stream.flush().await;
        let mut heard = Vec::new();
        let _ = soon("the end of the session", secured.stream.read_to_end(&mut heard)).await;
        pair.api.metric(&format!("mesh_refusals_total{{direction=\"inbound\",reason=\"{reason}\"}} 1")).await;
        ping(&mut good).await;
    }
}

#[tokio::test]
async fn a_stream_for_a_port_that_is_not_declared_is_reset_and_the_others_go_on() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    let mut secured = insider(&pair).await;
    let mut frames = Vec::new();
    open(1, 9999, &mut frames);
    encode(
        &Event::Open { stream: 2, name: "nonsense".to_owned(), inside: Inside::Bytes, asks: false },
        &mut frames,
    );
    open(3, PORT, &mut frames);
    data(3, b"\x01hello", Last::No, &mut frames);
    secured.stream.write_all(&frames).await.unwrap();
    secured.stream.flush().await.unwrap();
    let mut expected = Vec::new();
    encode(&Event::Reset { stream: 1 }, &mut expected);
    encode(&Event::Reset { stream: 2 }, &mut expected);
    data(3, b"\x01hello", Last::No, &mut expected);
    let mut heard = vec![0; expected.len()];
    soon("the answers", secured.stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, expected);
    pair.api.metric("mesh_refusals_total{direction=\"inbound\",reason=\"unknown_port\"} 2").await;
}

#[tokio::test]
async fn a_bulk_stream_keeps_new_ones_off_its_session() {
    let pair = Pair::start(apps::echo().await, vec![allow("web")]).await;
    let mut bulk = tunnel(pair.web.to()).await;
    let bytes = vec![1; 64 * 1024];
    for _ in 0..40 {
        bulk.write_all(&bytes).await.unwrap();
        let mut echoed = vec![0; bytes.len()];
        soon("the echo", bulk.read_exact(&mut echoed)).await.unwrap();
    }
    tunnel(pair.web.to()).await;
    assert_eq!(value(&pair.api, "mesh_sessions_total").await, 2);
}
