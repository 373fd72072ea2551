//! What the names of fields mean to the proxy: which are rewritten, removed, reserved, single-valued or imitated.
//!
//! `h1` classifies each field once while it reads a head; `canonical` and `h2pump` use the same tables. Knows nothing of
//! policies: the names that a policy judges are an argument.

use std::sync::Arc;

/// A field that the proxy does something about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// Passed on as it is.
    Other,
    /// Rewritten to the canonical authority.
    Host,
    /// Framing, made anew.
    ContentLength,
    /// Framing, made anew.
    TransferEncoding,
    /// Hop-by-hop options.
    Connection,
    /// Hop-by-hop, removed.
    HopByHop,
    /// Hop-by-hop; `trailers` survives on HTTP/2.
    Te,
    /// Hop-by-hop; made anew when the upgrade goes on.
    Upgrade,
    /// Passed on to origins that speak 1.1, removed from callers that speak 1.0.
    Expect,
    /// Single-valued, passed on.
    Authorization,
    /// Single-valued, passed on.
    ProxyAuthorization,
    /// Single-valued, passed on.
    ContentType,
    /// Single-valued, passed on.
    Origin,
    /// Single-valued, passed on.
    Referer,
    /// Single-valued, passed on.
    From,
    /// Single-valued, passed on.
    Location,
    /// Which trace the request is part of; passed on, or replaced as a whole when it is traced here.
    TraceContext,
    /// `x-mesh-*` and forwarded identities: ours, never from outside.
    Reserved,
}

impl Known {
    /// Whether a message may carry the field once at most.
    pub(crate) fn is_single(self) -> bool {
        matches!(
            self,
            Self::Host
                | Self::ContentLength
                | Self::TransferEncoding
                | Self::Authorization
                | Self::ProxyAuthorization
                | Self::ContentType
                | Self::Origin
                | Self::Referer
                | Self::From
                | Self::Location
                | Self::Expect
        )
    }

    /// Whether the field itself is copied to the other side; what it said may still be said anew.
    pub(crate) fn is_copied(self) -> bool {
        matches!(
            self,
            Self::Other
                | Self::Expect
                | Self::Authorization
                | Self::ProxyAuthorization
                | Self::ContentType
                | Self::Origin
                | Self::Referer
                | Self::From
                | Self::Location
                | Self::TraceContext
        )
    }

    /// A bit for each, to see repetitions.
    pub(crate) fn bit(self) -> u32 {
        1 << (self as u32)
    }
}

/// Names that must not be imitated with `_` nor removed through `Connection`, besides those a policy judges.
const PROTECTED: &[&str] = &[
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "from",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "proxy-authorization",
    "proxy-connection",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "connection",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "traceparent",
    "tracestate",
];

const RESERVED_PREFIX: &str = "x-mesh-";

/// Names of the trace context, as HTTP/2 has them.
pub(crate) const TRACE_FIELDS: [&str; 7] =
    ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"];

/// What a name means; by length and bytes, without case.
pub(crate) fn classify(name: &[u8]) -> Known {
    let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
    if name
        .get(..RESERVED_PREFIX.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(RESERVED_PREFIX.as_bytes()))
    {
        return Known::Reserved;
    }
    match name.len() {
        2 if is("te") => Known::Te,
        2 if is("b3") => Known::TraceContext,
        4 if is("host") => Known::Host,
        4 if is("from") => Known::From,
        6 if is("expect") => Known::Expect,
        6 if is("origin") => Known::Origin,
        7 if is("upgrade") => Known::Upgrade,
        7 if is("referer") => Known::Referer,
        8 if is("location") => Known::Location,
        10 if is("connection") => Known::Connection,
        10 if is("keep-alive") => Known::HopByHop,
        10 if is("tracestate") || is("x-b3-flags") => Known::TraceContext,
        11 if is("traceparent") || is("x-b3-spanid") => Known::TraceContext,
        12 if is("content-type") => Known::ContentType,
        12 if is("x-b3-traceid") || is("x-b3-sampled") => Known::TraceContext,
        13 if is("authorization") => Known::Authorization,
        14 if is("content-length") => Known::ContentLength,
        14 if is("http2-settings") => Known::HopByHop,
        16 if is("proxy-connection") => Known::HopByHop,
        17 if is("transfer-encoding") => Known::TransferEncoding,
        17 if is("x-b3-parentspanid") => Known::TraceContext,
        19 if is("proxy-authorization") => Known::ProxyAuthorization,
        23 if is("x-forwarded-client-cert") => Known::Reserved,
        _ => Known::Other,
    }
}

/// Whether `name` equals `plain` without case, with `_` taken for `-`.
fn folds_to(name: &[u8], plain: &str) -> bool {
    name.len() == plain.len()
        && name.iter().zip(plain.bytes()).all(|(a, b)| match a {
            b'_' => b == b'-',
            other => other.eq_ignore_ascii_case(&b),
        })
}

/// Whether decisions depend on the name: reserved, protected, or judged by a policy (`judged`, lower case).
pub(crate) fn is_protected(name: &[u8], judged: &[Arc<str>]) -> bool {
    name.get(..RESERVED_PREFIX.len()).is_some_and(|head| folds_to(head, RESERVED_PREFIX))
        || PROTECTED.iter().any(|plain| folds_to(name, plain))
        || judged.iter().any(|plain| folds_to(name, plain))
}

/// Whether the name has a `_` where a reserved, protected or judged name has a `-`: many servers take one for the other
/// (CGI and WSGI turn both into `_`).
pub(crate) fn is_look_alike(name: &[u8], judged: &[Arc<str>]) -> bool {
    // A judged name may itself contain `_`: then it is not an imitation of itself.
    name.contains(&b'_')
        && !judged.iter().any(|plain| name.eq_ignore_ascii_case(plain.as_bytes()))
        && is_protected(name, judged)
}

/// Whether a trailer may be passed on (RFC 9110, section 6.5.1). Framing, routing, authentication and everything that
/// is ours stay out.
pub(crate) fn trailer(name: &[u8]) -> Trailer {
    match classify(name) {
        Known::ContentLength | Known::TransferEncoding | Known::Host => Trailer::Refused,
        Known::Other if name.first() == Some(&b':') => Trailer::Refused,
        Known::Other if name.contains(&b'_') && is_protected(name, &[]) => Trailer::Removed,
        Known::Other if PROTECTED.iter().any(|plain| folds_to(name, plain)) => Trailer::Removed,
        Known::Other => Trailer::Passed,
        _ => Trailer::Removed,
    }
}

/// What becomes of a trailer field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trailer {
    /// Sent on.
    Passed,
    /// Left out.
    Removed,
    /// The message is cut off.
    Refused,
}
