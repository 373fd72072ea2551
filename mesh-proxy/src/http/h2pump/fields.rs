//! The heads and trailers of HTTP/2 messages as they go on: our reserved names and connection fields never do.
//!
//! # Why
//! Nearly all messages have no field that stays behind: their map is cloned or moved as a whole, which hashes no name
//! and copies no text, and the target that was judged is the one that came. Only the others are built anew.

use super::super::Origin;
use super::super::canonical::Canonical;
use super::super::field::{self, Known, Trailer};
use super::super::h1::is_explanation;
use http::header::{HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderMap, Request, Response, Version};

/// The canonical request with fields of our own; `None` if its parts do not make a URI, which canonical ones do.
pub(super) fn request(canonical: &Canonical<'_>, append: &HeaderMap) -> Option<Request<()>> {
    let head = canonical.h2()?;
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = target(canonical, &head.uri)?;
    *request.version_mut() = Version::HTTP_2;
    let passes = |name: &HeaderName, value: &HeaderValue| match field::classify(name.as_str().as_bytes()) {
        // Ours to keep: the other side checks the body against it, as `h2` did here.
        Known::ContentLength => true,
        Known::Te => value.as_bytes() == b"trailers",
        Known::TraceContext => append.is_empty(),
        known => known.is_copied(),
    };
    let headers = request.headers_mut();
    *headers = match head.headers.iter().all(|(name, value)| passes(name, value)) {
        true => head.headers.clone(),
        false => only(&head.headers, passes),
    };
    for (name, value) in append {
        headers.append(name.clone(), value.clone());
    }
    Some(request)
}

/// The canonical target; shares the text of the one that came where that is the same.
fn target(canonical: &Canonical<'_>, came: &Uri) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    let authority = canonical.host.authority();
    parts.authority = Some(match came.authority() {
        Some(came) if came.as_str() == authority => came.clone(),
        _ => authority.parse().ok()?,
    });
    let is_same = |came: &&PathAndQuery| {
        came.path() == canonical.path && came.query().map(str::as_bytes) == canonical.query
    };
    parts.path_and_query = Some(match came.path_and_query().filter(is_same) {
        Some(came) => came.clone(),
        None => {
            let mut text = canonical.path.as_bytes().to_vec();
            if let Some(query) = canonical.query {
                text.push(b'?');
                text.extend_from_slice(query);
            }
            PathAndQuery::try_from(text).ok()?
        }
    });
    Uri::from_parts(parts).ok()
}

/// A response's head as the caller gets it.
pub(super) fn response(head: http::response::Parts, origin: Origin) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = Version::HTTP_2;
    let passes = |name: &HeaderName, _: &HeaderValue| {
        let bytes = name.as_str().as_bytes();
        match field::classify(bytes) {
            Known::ContentLength => true,
            Known::Reserved => origin == Origin::MeshPeer && is_explanation(bytes),
            known => known.is_copied(),
        }
    };
    *response.headers_mut() = match head.headers.iter().all(|(name, value)| passes(name, value)) {
        true => head.headers,
        false => only(&head.headers, passes),
    };
    response
}

/// Trailers without what must not stand there; another proxy of the mesh may explain there why it ended an answer.
pub(super) fn trailers(fields: HeaderMap, origin: Origin) -> HeaderMap {
    let passes = |name: &HeaderName, _: &HeaderValue| {
        let bytes = name.as_str().as_bytes();
        field::trailer(bytes) == Trailer::Passed || origin == Origin::MeshPeer && is_explanation(bytes)
    };
    match fields.iter().all(|(name, value)| passes(name, value)) {
        true => fields,
        false => only(&fields, passes),
    }
}

/// The fields that pass.
fn only(fields: &HeaderMap, passes: impl Fn(&HeaderName, &HeaderValue) -> bool) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields.iter().filter(|(name, value)| passes(name, value)) {
        kept.append(name.clone(), value.clone());
    }
    kept
}

/// The gRPC status in headers or trailers.
pub(super) fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    std::str::from_utf8(fields.get("grpc-status")?.as_bytes()).ok()?.parse().ok()
}
