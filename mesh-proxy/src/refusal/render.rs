//! The answer a refused caller gets: HTTP/1 bytes, or an HTTP/2 response, or a gRPC trailers-only response.
//!
//! `http::h1` and `http::h2pump` call it; the body names the reason and the command that explains it, never anything
//! that came with the request.

use super::Refusal;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use std::io::Write as _;

/// The response field that names the reason.
pub const REASON_FIELD: &str = "x-mesh-reason";
/// The response field that names the decision, for `meshctl explain`.
pub const DECISION_FIELD: &str = "x-mesh-decision";

/// Characters allowed in a decision id; anything else is left out of the answer.
const DECISION_BYTES_MAX: usize = 64;

/// A refusal together with the decision it belongs to, ready to be written.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Why.
    pub refusal: Refusal,
    /// The decision's id, `[0-9A-Za-z-]`, at most 64 bytes; empty where nothing was decided.
    pub decision: &'a str,
}

impl<'a> Refused<'a> {
    /// Without a decision id, for refusals before any decision.
    pub fn early(refusal: Refusal) -> Self {
        Self { refusal, decision: "" }
    }

    fn decision(&self) -> Option<&'a str> {
        let fits = !self.decision.is_empty()
            && self.decision.len() <= DECISION_BYTES_MAX
            && self.decision.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        fits.then_some(self.decision)
    }

    /// The body: the reason, its text, and the next command where a decision can be explained.
    pub fn body(&self) -> String {
        let mut body = format!("refused by the mesh ({}): {}\n", self.refusal.code(), self.refusal.text());
        if let Some(decision) = self.decision() {
            body.push_str("next: meshctl explain ");
            body.push_str(decision);
            body.push('\n');
        }
        body
    }

    /// Appends a complete HTTP/1.1 response.
    pub fn write_h1(&self, out: &mut Vec<u8>, persistence: Persistence, body: BodyOf) {
        let status = self.refusal.status();
        let text = self.body();
        // Writing to a `Vec` cannot fail.
        let _ = write!(
            out,
            "HTTP/1.1 {status} {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n{REASON_FIELD}: {}\r\n",
            phrase(status),
            text.len(),
            self.refusal.label()
        );
        if let Some(decision) = self.decision() {
            let _ = write!(out, "{DECISION_FIELD}: {decision}\r\n");
        }
        if let Some(seconds) = self.refusal.retry_after_secs() {
            let _ = write!(out, "retry-after: {seconds}\r\n");
        }
        if persistence == Persistence::Close {
            out.extend_from_slice(b"connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if body == BodyOf::Full {
            out.extend_from_slice(text.as_bytes());
        }
    }

    /// The fields that explain it, on HTTP/2.
    fn fields_h2(&self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert(HeaderName::from_static(REASON_FIELD), HeaderValue::from_static(self.refusal.label()));
        if let Some(value) = self.decision().and_then(|id| HeaderValue::from_str(id).ok()) {
            fields.insert(HeaderName::from_static(DECISION_FIELD), value);
        }
        fields
    }

    /// The trailers that end a gRPC answer.
    pub fn trailers_grpc(&self) -> HeaderMap {
        let mut fields = self.fields_h2();
        fields.insert("grpc-status", HeaderValue::from(u16::from(self.refusal.grpc_code())));
        if let Ok(message) = HeaderValue::from_str(&grpc_message(self.body().trim_end())) {
            fields.insert("grpc-message", message);
        }
        fields
    }

    /// An HTTP/2 response and its body; gRPC callers get a trailers-only response with an empty body.
    pub fn response_h2(&self, dialect: Dialect) -> (http::Response<()>, String) {
        let mut response = http::Response::new(());
        let headers = response.headers_mut();
        *headers = match dialect {
            Dialect::Grpc => self.trailers_grpc(),
            Dialect::Http => self.fields_h2(),
        };
        if let Some(seconds) = self.refusal.retry_after_secs() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if dialect == Dialect::Grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            return (response, String::new());
        }
        let body = self.body();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.status_mut() =
            http::StatusCode::from_u16(self.refusal.status()).unwrap_or(http::StatusCode::BAD_GATEWAY);
        (response, body)
    }
}

/// Whether an HTTP/1 connection goes on after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// The next request may follow.
    Keep,
    /// `connection: close`.
    Close,
}

/// Whether the answer may carry its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyOf {
    /// Head and body.
    Full,
    /// Head only: the request was `HEAD`.
    HeadOnly,
}

/// What an HTTP/2 caller speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// Plain HTTP.
    Http,
    /// gRPC: the status is in the trailers.
    Grpc,
}

/// Percent-encodes what may not stand in `grpc-message` (gRPC over HTTP/2, "Responses").
fn grpc_message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The reason phrase of a status that [`Refusal::status`] gives.
fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        499 => "Client Closed Request",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Refused",
    }
}
