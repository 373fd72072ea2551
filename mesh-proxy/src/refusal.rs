//! Every reason for which the proxy refuses a connection or a request, and what the caller gets to see of it.
//!
//! Every stage that refuses names a [`Refusal`]; this module alone maps it to an HTTP status, a gRPC code, a metric
//! label and a text with the next step. It decides nothing, logs nothing and counts nothing.
//!
//! # Why
//! One closed enum, because a reason that exists in one place and is spelt in five (status, label, log, text, gRPC)
//! drifts. The text is fixed for each reason: nothing that a caller sent is ever echoed into an answer.

mod render;
#[cfg(test)]
mod tests;

pub use render::{BodyOf, DECISION_FIELD, Dialect, Persistence, REASON_FIELD, Refused};

use mesh_proto::matching::{HostProblem, PathProblem};
use std::borrow::Cow;
use std::time::Duration;

/// Declares [`Malformed`]: each fault with its code and its sentence.
macro_rules! malformed {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)+) => {
        /// What about a message has no single reading. The codes are stable; they are metric labels and log values.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Malformed { $($(#[$doc])* $name,)+ }

        impl Malformed {
            /// All of them, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The stable word for it: `a-z_`.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// A sentence about it, without a full stop.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

malformed! {
    /// Not a request or status line, or not version 1.0 or 1.1.
    StartLine = "start_line", "the start line is not HTTP/1.0 or HTTP/1.1";
    /// A line that ends in LF alone.
    BareLineFeed = "bare_lf", "a line ends in LF without CR";
    /// A control byte, a bare CR, a NUL, or a name that is not a token.
    Field = "field", "a header line has a byte that is not allowed, a space before its colon, or continues the line before";
    /// No `Host`, several, or one that is not a host.
    Host = "host", "the host is missing, repeated or not a host name";
    /// `Host` and the authority of the target differ.
    HostMismatch = "host_mismatch", "the Host header is not the authority of the request target";
    /// The target is none of origin-form, absolute-form or `*`.
    Target = "target", "the request target has no single reading";
    /// Two lengths, or a length that is not a number.
    ContentLength = "content_length", "the content length is repeated or not a number";
    /// Both a length and a transfer coding.
    TwoFramings = "two_framings", "the message has both a content length and a transfer coding";
    /// A transfer coding other than exactly one `chunked`.
    TransferEncoding = "transfer_encoding", "the transfer coding is not exactly one `chunked`, or the message is HTTP/1.0";
    /// A chunk's size line, extension or end is wrong.
    Chunk = "chunk", "a chunk is malformed";
    /// A trailer that would change how the message is read.
    Trailer = "trailer", "a trailer is malformed or would change the framing";
    /// A field that has one value came twice.
    RepeatedField = "repeated_field", "a header that has one value is repeated";
    /// `_` in place of `-` in a name that decisions depend on.
    LookAlike = "look_alike", "a header name imitates a reserved or judged name";
    /// `Connection` names a field that decisions depend on.
    ConnectionOption = "connection_option", "the Connection header names a field that must not be removed";
    /// A pseudo-header is missing, repeated or out of place.
    PseudoField = "pseudo_field", "the pseudo-headers are not those of one request";
    /// An upgrade answer that was not asked for, or to another protocol.
    Upgrade = "upgrade", "the connection was upgraded to what was not asked for";
    /// More interim answers than a caller could want.
    Interim = "interim", "there are too many interim responses";
    /// Bytes after the end of the message.
    Surplus = "surplus", "there are bytes after the end of the message";
    /// The body is longer or shorter than its declared length.
    LengthMismatch = "length_mismatch", "the body does not have the declared length";
}

/// Why something was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// The request has no single reading.
    BadRequest(Malformed),
    /// The path has no canonical form.
    BadPath(PathProblem),
    /// The host has no canonical form.
    BadHost(HostProblem),
    /// The head is larger, or has more fields, than allowed.
    HeaderTooLarge,
    /// The caller did not finish its request in time.
    RequestTimeout,
    /// `CONNECT` is not served.
    ConnectMethod,
    /// The upgrade is not one that the policy allows.
    UpgradeRefused,
    /// The caller's identity is quarantined or revoked.
    Quarantined,
    /// The caller's segment may not talk to this one.
    Isolated,
    /// A deny rule matches.
    DeniedByRule,
    /// A mesh-wide guard-rail is not satisfied.
    GuardrailNotMet,
    /// A rule can only be judged on HTTP, and this is not HTTP.
    NeedsHttp,
    /// No rule allows it.
    NoRuleAllows,
    /// A rate limit is exhausted.
    Limited {
        /// Until the next request is free.
        retry_after: Duration,
    },
    /// Too many requests of one key are in flight.
    TooManyConcurrent,
    /// Too many connections.
    TooManyConnections,
    /// The caller alone has as many connections as one may have.
    CallerShareUsed,
    /// Too many connections of one origin that have not proven who they are.
    TooManyHandshakes,
    /// The caller sent no whole ClientHello in time.
    HelloTimeout,
    /// The ClientHello is malformed, or could be read in two ways.
    UnreadableHello,
    /// A deny rule asks for the server name, and the caller's TLS shows none.
    NameUnreadable,
    /// The caller's certificate has expired since it connected, and it has shown no newer one.
    PeerExpired,
    /// The body is larger than a limit allows.
    BodyTooLarge,
    /// No mesh TLS on a port where it is mandatory.
    PlaintextRefused,
    /// The TLS handshake of the caller failed.
    HandshakeFailed,
    /// The connection speaks another protocol than the port was declared for.
    WrongProtocol,
    /// The port that the caller's server name asks for is not declared.
    UnknownPort,
    /// No service of that name is known.
    UnknownDestination,
    /// The service has no endpoint.
    NoEndpoints,
    /// No endpoint accepted a connection.
    ConnectFailed,
    /// No endpoint answered a connection attempt in time.
    ConnectTimeout,
    /// The endpoint proved another identity than the one that discovery promised.
    WrongPeer,
    /// The endpoint's certificate has expired since it was connected to, and it has shown no newer one.
    EndpointExpired,
    /// The TLS handshake with the endpoint failed.
    UpstreamTls,
    /// The proxy's own certificate has expired.
    CertificateExpired,
    /// The endpoint answered with something that has no single reading.
    BadResponse(Malformed),
    /// The head of the response is larger, or has more fields, than allowed.
    ResponseTooLarge,
    /// The endpoint closed the connection before it answered.
    UpstreamClosed,
    /// The endpoint did not answer in time.
    UpstreamTimeout,
    /// The endpoint reset the stream.
    UpstreamReset,
    /// The caller went away; nobody reads the answer.
    CallerGone,
    /// The proxy holds as many bytes as it may for receivers that take none.
    BodiesHeld,
    /// The proxy sheds load.
    Overloaded,
    /// The proxy has no certificate or no complete snapshot yet.
    NotReady,
    /// The proxy is shutting down.
    Draining,
}

impl Refusal {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest(_) | Self::BadPath(_) | Self::BadHost(_) | Self::ConnectMethod => 400,
            Self::Quarantined
            | Self::Isolated
            | Self::DeniedByRule
            | Self::GuardrailNotMet
            | Self::NeedsHttp
            | Self::NoRuleAllows
            | Self::UnreadableHello
            | Self::NameUnreadable
            | Self::PeerExpired
            | Self::UpgradeRefused
            | Self::PlaintextRefused
            | Self::HandshakeFailed => 403,
            Self::RequestTimeout | Self::HelloTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::Limited { .. }
            | Self::TooManyConcurrent
            | Self::TooManyConnections
            | Self::CallerShareUsed
            | Self::TooManyHandshakes => 429,
            Self::HeaderTooLarge => 431,
            Self::CallerGone => 499,
            Self::BadResponse(_)
            | Self::ResponseTooLarge
            | Self::UpstreamClosed
            | Self::UpstreamReset
            | Self::WrongPeer
            | Self::EndpointExpired
            | Self::UpstreamTls
            | Self::WrongProtocol => 502,
            Self::UnknownDestination
            | Self::UnknownPort
            | Self::NoEndpoints
            | Self::ConnectFailed
            | Self::CertificateExpired
            | Self::BodiesHeld
            | Self::Overloaded
            | Self::NotReady
            | Self::Draining => 503,
            Self::ConnectTimeout | Self::UpstreamTimeout => 504,
        }
    }

    /// The gRPC status code (google.rpc.Code).
    pub fn grpc_code(self) -> u8 {
        match self.status() {
            403 => 7,
            413 | 429 | 431 => 8,
            408 | 504 => 4,
            400 => 13,
            499 => 1,
            _ => 14,
        }
    }

    /// The value of the metric label `reason`, of the log field, and of `x-mesh-reason`. A closed set.
    pub fn label(self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::BadPath(_) | Self::BadHost(_) => "bad_request",
            Self::HeaderTooLarge => "header_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::ConnectMethod => "connect_method",
            Self::UpgradeRefused => "upgrade_refused",
            Self::Quarantined => "quarantined",
            Self::Isolated => "isolated",
            Self::DeniedByRule => "denied_by_rule",
            Self::GuardrailNotMet => "guardrail_not_met",
            Self::NeedsHttp => "needs_http",
            Self::NoRuleAllows => "no_rule_allows",
            Self::Limited { .. } => "limited",
            Self::TooManyConcurrent => "too_many_concurrent",
            Self::TooManyConnections => "too_many_connections",
            Self::CallerShareUsed => "caller_share_used",
            Self::TooManyHandshakes => "too_many_handshakes",
            Self::HelloTimeout => "hello_timeout",
            Self::UnreadableHello => "unreadable_hello",
            Self::NameUnreadable => "name_unreadable",
            Self::PeerExpired => "peer_expired",
            Self::BodyTooLarge => "body_too_large",
            Self::PlaintextRefused => "plaintext_refused",
            Self::HandshakeFailed => "handshake_failed",
            Self::WrongProtocol => "wrong_protocol",
            Self::UnknownPort => "unknown_port",
            Self::UnknownDestination => "unknown_destination",
            Self::NoEndpoints => "no_endpoints",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::WrongPeer => "wrong_peer",
            Self::EndpointExpired => "endpoint_expired",
            Self::UpstreamTls => "upstream_tls",
            Self::CertificateExpired => "certificate_expired",
            Self::BadResponse(_) => "bad_response",
            Self::ResponseTooLarge => "response_too_large",
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamReset => "upstream_reset",
            Self::CallerGone => "caller_gone",
            Self::BodiesHeld => "bodies_held",
            Self::Overloaded => "overloaded",
            Self::NotReady => "not_ready",
            Self::Draining => "draining",
        }
    }

    /// What exactly is wrong, where the label leaves it open; otherwise the label again.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadRequest(fault) | Self::BadResponse(fault) => fault.code(),
            Self::BadPath(problem) => problem.code(),
            Self::BadHost(problem) => problem.code(),
            other => other.label(),
        }
    }

    /// What happened, to whom, and what to do next; one sentence each, nothing of the request in it.
    pub fn text(self) -> Cow<'static, str> {
        match self {
            Self::BadPath(problem) => Cow::Owned(problem.to_string()),
            Self::BadHost(problem) => Cow::Owned(problem.to_string()),
            other => Cow::Borrowed(other.fixed_text()),
        }
    }

    fn fixed_text(self) -> &'static str {
        match self {
            Self::BadRequest(fault) | Self::BadResponse(fault) => fault.text(),
            Self::BadPath(_) => "the path has no single reading",
            Self::BadHost(_) => "the host has no single reading",
            Self::HeaderTooLarge => "the request head is too large; send fewer or shorter headers",
            Self::RequestTimeout => "the request was not complete in time; send it without pauses",
            Self::ConnectMethod => "CONNECT is not served; call the service by its name",
            Self::UpgradeRefused => "this upgrade is not allowed here; allow it in an AccessPolicy",
            Self::Quarantined => "the caller's identity is quarantined or revoked; see `meshctl ca status`",
            Self::Isolated => "the caller's segment may not talk to this one; see `meshctl get segment`",
            Self::DeniedByRule => "a deny rule matches this request",
            Self::GuardrailNotMet => "a mesh-wide guard-rail is not satisfied by this request",
            Self::NeedsHttp => {
                "a rule or limit for this port can only be judged on HTTP; declare the port's protocol"
            }
            Self::NoRuleAllows => "no rule allows this request",
            Self::Limited { .. } => "a rate limit is exhausted; try again later",
            Self::TooManyConcurrent => "too many requests of this caller are in flight; try again later",
            Self::TooManyConnections => "too many connections; try again later",
            Self::CallerShareUsed => {
                "this caller alone has half of all connections the proxy takes; close some, or add instances"
            }
            Self::TooManyHandshakes => {
                "too many connections from this address have not proven who they are; see the caller's log"
            }
            Self::HelloTimeout => {
                "no whole TLS hello came in time; run the caller with `meshctl run`, see `meshctl check`"
            }
            Self::UnreadableHello => {
                "the TLS hello is malformed or has two readings; run the caller with `meshctl run`"
            }
            Self::NameUnreadable => {
                "a deny rule asks for the server name and the TLS shows none; send it (SNI), without ECH"
            }
            Self::PeerExpired => {
                "the caller's certificate has expired, and no newer one was shown; see `meshctl identity` at the caller"
            }
            Self::BodyTooLarge => "the body is larger than a limit of this service allows",
            Self::PlaintextRefused => "this port takes mesh TLS only; run the caller with `meshctl run`",
            Self::HandshakeFailed => "the TLS handshake failed; see the log of the called proxy",
            Self::WrongProtocol => {
                "the connection speaks another protocol than this port; see `meshctl get service`"
            }
            Self::UnknownPort => "the workload does not declare this port; name it with `meshctl run --port`",
            Self::UnknownDestination => "no service of this name is known; see `meshctl get service`",
            Self::NoEndpoints => "the service has no running endpoint; see `meshctl status`",
            Self::ConnectFailed => "no endpoint of the service accepts a connection; see `meshctl status`",
            Self::ConnectTimeout => "no endpoint of the service answered in time; see `meshctl status`",
            Self::WrongPeer => "the endpoint is not the service it stands for; see `meshctl identity`",
            Self::EndpointExpired => {
                "the endpoint's certificate has expired, and no newer one was shown; see `meshctl identity` there"
            }
            Self::UpstreamTls => {
                "the TLS handshake with the endpoint failed; see the log of the calling proxy"
            }
            Self::CertificateExpired => "the proxy's own certificate has expired; see `meshctl identity`",
            Self::ResponseTooLarge => "the head of the response is too large",
            Self::UpstreamClosed => "the endpoint closed the connection before it answered",
            Self::UpstreamTimeout => "the endpoint did not answer in time",
            Self::UpstreamReset => "the endpoint reset the stream",
            Self::CallerGone => "the caller went away before the answer",
            Self::BodiesHeld => {
                "the proxy holds too many bytes that were not read; read answers as they come, or try again later"
            }
            Self::Overloaded => "the proxy sheds load; try again later",
            Self::NotReady => "the proxy is not ready yet; see `meshctl status`",
            Self::Draining => "the proxy is shutting down; try again",
        }
    }

    /// Seconds for `retry-after`, at least 1; `None` where trying again is not the answer.
    pub fn retry_after_secs(self) -> Option<u64> {
        match self {
            Self::Limited { retry_after } => {
                Some(retry_after.as_secs().saturating_add(u64::from(retry_after.subsec_nanos() > 0)).max(1))
            }
            Self::TooManyConcurrent
            | Self::TooManyConnections
            | Self::CallerShareUsed
            | Self::TooManyHandshakes
            | Self::BodiesHeld
            | Self::Overloaded
            | Self::NotReady
            | Self::Draining => Some(1),
            _ => None,
        }
    }

    /// Whether an HTTP/1 connection must end after this answer, because what follows on it cannot be told apart.
    pub fn ends_connection(self) -> bool {
        matches!(
            self,
            Self::BadRequest(_)
                | Self::BadPath(_)
                | Self::BadHost(_)
                | Self::HeaderTooLarge
                | Self::RequestTimeout
                | Self::ConnectMethod
                | Self::BodyTooLarge
                | Self::PlaintextRefused
                | Self::HandshakeFailed
                | Self::WrongProtocol
                | Self::TooManyConnections
                | Self::CallerShareUsed
                | Self::TooManyHandshakes
                | Self::HelloTimeout
                | Self::UnreadableHello
                | Self::NameUnreadable
                | Self::PeerExpired
                | Self::CallerGone
                | Self::Overloaded
                | Self::Draining
        )
    }
}
