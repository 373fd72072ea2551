//! What each fuzz target does with its bytes: parse, and check what must hold of anything that was accepted.
//!
//! The programs in `fuzz_targets/` hand libFuzzer's bytes to these functions; the tests of `mesh-proxy` include this very
//! file and hand them generated ones, so that every change runs them. Nothing here may panic for any input.

use mesh_proto::identity::SpiffeId;
use mesh_proto::matching::{self, canonical_host, split_target};
use mesh_proto::resource::{parse, split_documents};
use mesh_proto::wire::item::Items;
use mesh_proto::wire::v1;
use mesh_proxy::http::Limits;
use mesh_proxy::http::canonical::{Canonical, Intake};
use mesh_proxy::http::h1::{BodyLength, RequestHead, ResponseHead, decode};
use prost::Message as _;

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
    let _ = items.to_snapshot(mesh_proto::config::Revision(1));
}

/// A certificate from a peer.
pub fn svid_der(data: &[u8]) {
    let chain = [rustls::pki_types::CertificateDer::from(data)];
    if let Ok(peer) = mesh_ca::verify::peer_identity(&chain) {
        assert_eq!(peer.id.as_str().parse::<SpiffeId>().as_ref(), Ok(&peer.id));
    }
}
