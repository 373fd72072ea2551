//! The heads and trailers of HTTP/2 messages as they go on: our reserved names and connection fields never do.

use super::super::Origin;
use super::super::canonical::Canonical;
use super::super::field::{self, Known, Trailer};
use super::super::h1::is_explanation;
use http::{HeaderMap, Request, Response, Uri, Version, header};

/// The canonical request with fields of our own; `None` if its parts do not make a URI, which canonical ones do.
pub(super) fn request(canonical: &Canonical<'_>, append: &HeaderMap) -> Option<Request<()>> {
    let head = canonical.h2()?;
    let mut target =
        Vec::with_capacity(canonical.path.len() + canonical.query.map_or(0, |query| query.len() + 1));
    target.extend_from_slice(canonical.path.as_bytes());
    if let Some(query) = canonical.query {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    let uri = Uri::builder()
        .scheme("http")
        .authority(canonical.host.authority())
        .path_and_query(target.as_slice())
        .build()
        .ok()?;
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.reserve(head.headers.len() + append.len());
    for (name, value) in &head.headers {
        let passes = match field::classify(name.as_str().as_bytes()) {
            // Ours to keep: the other side checks the body against it, as `h2` did here.
            Known::ContentLength => true,
            Known::Te => value.as_bytes() == b"trailers",
            known => known.is_copied(),
        };
        if passes {
            headers.append(name.clone(), value.clone());
        }
    }
    for (name, value) in append {
        headers.append(name.clone(), value.clone());
    }
    Some(request)
}

/// A response's head as the caller gets it.
pub(super) fn response(head: &http::response::Parts, origin: Origin) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = Version::HTTP_2;
    let headers = response.headers_mut();
    headers.reserve(head.headers.len());
    for (name, value) in &head.headers {
        let bytes = name.as_str().as_bytes();
        let passes = match field::classify(bytes) {
            Known::ContentLength => true,
            Known::Reserved => origin == Origin::MeshPeer && is_explanation(bytes),
            known => known.is_copied(),
        };
        if passes {
            headers.append(name.clone(), value.clone());
        }
    }
    response
}

/// Trailers without what must not stand there.
pub(super) fn trailers(mut fields: HeaderMap) -> HeaderMap {
    let passes = |name: &header::HeaderName| field::trailer(name.as_str().as_bytes()) == Trailer::Passed;
    if !fields.keys().all(passes) {
        let mut kept = HeaderMap::with_capacity(fields.len());
        for (name, value) in fields.iter().filter(|(name, _)| passes(name)) {
            kept.append(name.clone(), value.clone());
        }
        fields = kept;
    }
    fields
}

/// The gRPC status in headers or trailers.
pub(super) fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    std::str::from_utf8(fields.get("grpc-status")?.as_bytes()).ok()?.parse().ok()
}
