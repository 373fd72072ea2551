//! Bytes that reach the data plane: from callers, origins, operators and the control plane.

use mesh_proto::config::Revision;
use mesh_proto::identity::SpiffeId;
use mesh_proto::matching::{self, canonical_host, split_target};
use mesh_proto::name::ServiceRef;
use mesh_proto::resource::{parse, split_documents};
use mesh_proto::wire::item::Items;
use mesh_proto::wire::v1;
use mesh_proxy::accept::detect::{DETECT_BYTES_MAX, Finding, detect};
use mesh_proxy::capture::dns::{NameServer, Services};
use mesh_proxy::http::Limits;
use mesh_proxy::http::bodies::Bodies;
use mesh_proxy::http::canonical::{Canonical, Intake};
use mesh_proxy::http::h1::{BodyLength, RequestHead, ResponseHead, decode};
use mesh_proxy::http::h2pump;
use prost::Message as _;
use std::future::{Future, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// A caller's head: an accepted one is canonical when read again, and what follows it makes no difference.
pub fn h1_request(data: &[u8]) {
    let limits = Limits::default();
    let Ok(Some(head)) = RequestHead::parse(data, &limits) else { return };
    let longer = [data, b"GET / HTTP/1.1\r\n".as_slice()].concat();
    let again =
        RequestHead::parse(&longer, &limits).ok().flatten().expect("a longer buffer holds the same head");
    assert_eq!(head.target(), again.target());
    assert_eq!(head.body(), again.body());
    assert_ne!(head.body(), BodyLength::UntilClose, "a request ends by itself");
    let intake = Intake { judged: &["x-tenant".into()], default_port: Some(80) };
    let Ok(request) = Canonical::from_h1(&head, &intake) else { return };
    if request.path != "*" {
        matching::canonical_path(request.path.as_bytes()).expect("a canonical path is a path");
    }
    assert!(request.method.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_ne!(request.method, "CONNECT");
}

/// An origin's head.
pub fn h1_response(data: &[u8]) {
    let Ok(Some(head)) = ResponseHead::parse(data, &Limits::default()) else { return };
    assert!((100..600).contains(&head.status()) && head.length() <= data.len());
    assert_eq!(head.body("HEAD"), BodyLength::None);
    assert!(data.get(..head.length()).is_some_and(|bytes| bytes.ends_with(b"\r\n\r\n")));
}

/// A chunked body: the first byte says where to cut it, which must make no difference.
pub fn chunked(data: &[u8]) {
    let Some((place, bytes)) = data.split_first() else { return };
    let (front, back) = bytes.split_at(usize::from(*place).min(bytes.len()));
    let whole = decode([bytes], BodyLength::Chunked, 1024);
    let parts = decode([front, back], BodyLength::Chunked, 1024);
    match (whole, parts) {
        (Ok(whole), Ok(parts)) => {
            assert_eq!(whole, parts);
            assert!(whole.data.len() <= whole.used && whole.used <= bytes.len());
        }
        (whole, parts) => assert_eq!(whole.is_err(), parts.is_err()),
    }
}

/// A request target: a canonical path has exactly one spelling, itself.
pub fn canonical_path(data: &[u8]) {
    let Ok((path, _query)) = split_target(data) else { return };
    let Ok(once) = matching::canonical_path(path) else { return };
    let twice = matching::canonical_path(once.as_bytes()).expect("a canonical path is a path");
    assert_eq!(once, twice);
    assert!(once.starts_with('/') && once.is_ascii() && !once.contains("//"));
    assert!(!once.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | ".."))));
}

/// A host: a canonical one has exactly one spelling, itself.
pub fn host(data: &[u8]) {
    let Ok(once) = canonical_host(data, Some(80)) else { return };
    let twice = canonical_host(once.authority().as_bytes(), Some(80)).expect("a canonical host is a host");
    assert_eq!(once.authority(), twice.authority());
    assert!(!once.authority().bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'@' || byte <= b' '));
    assert_ne!(once.port(), Some(80));
}

/// A SPIFFE ID: byte-exact.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str(), text);
    assert!(!id.trust_domain_str().is_empty() && id.path().len() > 1);
}

/// A file of resources: an accepted one is read from its own canonical YAML as the same.
pub fn resource_yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for document in split_documents("fuzz.yaml", text) {
        let Ok(resource) = parse(&document) else { continue };
        let yaml = resource.to_yaml();
        let mut again = split_documents("fuzz.yaml", &yaml).into_iter();
        let first = again.next().expect("canonical YAML is a document");
        let parsed = parse(&first).expect("canonical YAML is a resource");
        assert_eq!(parsed.key(), resource.key());
        assert_eq!(parsed.to_yaml(), yaml);
    }
}

/// What the control plane sends a proxy: an accepted update gives the digest it says.
pub fn wire_update(data: &[u8]) {
    let Ok(update) = v1::Update::decode(data) else { return };
    let Ok(items) = Items::default().apply(update) else { return };
    let _ = items.to_snapshot(Revision(1));
}

/// A certificate from a peer.
pub fn svid_der(data: &[u8]) {
    let chain = [rustls::pki_types::CertificateDer::from(data)];
    if let Ok(peer) = mesh_ca::verify::peer_identity(&chain) {
        assert_eq!(peer.id.as_str().parse::<SpiffeId>().as_ref(), Ok(&peer.id));
    }
}

/// The first bytes of a connection: enough of them always say something, and a server name is one.
pub fn first_bytes(data: &[u8]) {
    match detect(data) {
        Finding::More => assert!(data.len() < DETECT_BYTES_MAX),
        Finding::Tls(hello) => {
            let is_one = |name: &str| {
                (1..=253).contains(&name.len()) && !name.bytes().any(|byte| byte.is_ascii_uppercase())
            };
            assert!(hello.name().is_none_or(is_one), "{hello:?}");
        }
        Finding::Http1 | Finding::Http2 | Finding::Tcp => {}
    }
    let mut long = data.to_vec();
    long.resize(long.len().max(DETECT_BYTES_MAX), b'a');
    assert_ne!(detect(&long), Finding::More);
}

/// Knows every service.
struct Everything;

impl Services for Everything {
    fn exists(&self, _service: &ServiceRef) -> impl Future<Output = bool> + Send {
        ready(true)
    }
}

/// A DNS query of a captured workload: an answer is one, to that query.
pub fn dns_query(data: &[u8]) {
    let server = NameServer {
        namespace: "default".parse().expect("a namespace"),
        trust_domain: "mesh.local".parse().expect("a trust domain"),
        services: Everything,
        addresses: std::sync::Arc::default(),
    };
    let answer = pin!(server.answer(data));
    // Nothing in it waits: the services above are known at once.
    let Poll::Ready(answer) = answer.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("the answer waits for something");
    };
    if let Some(answer) = answer {
        assert_eq!(answer.get(..2), data.get(..2), "the id");
        assert!(answer.get(2).is_some_and(|flags| flags & 0x80 != 0), "it is a response");
    }
}

/// What a client sends on an HTTP/2 connection: it ends, and every request that comes out has one reading.
pub fn h2_connection(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".as_slice(), data].concat();
        let io = tokio::io::join(bytes.as_slice(), tokio::io::sink());
        let (limits, bodies) = (Limits::default(), Bodies::new(1 << 20));
        let opened = h2pump::Connection::open(io, Vec::new(), &limits, &bodies).await;
        let Ok(mut connection) = opened else { return };
        while let Ok(Some(mut stream)) = connection.accept().await {
            let intake = Intake { judged: &["x-tenant".into()], default_port: Some(80) };
            if let Ok(request) = Canonical::from_h2(&stream.take_head(), &intake)
                && request.path != "*"
            {
                matching::canonical_path(request.path.as_bytes()).expect("a canonical path is a path");
            }
            stream.reset(h2::Reason::CANCEL);
        }
    });
}
