//! What a connection speaks, judged by its first bytes. Pure: the caller reads, and asks again with more.
//!
//! Used by the calling side's proxy for ports without a declared protocol, and by the called side's to see the server
//! name of an application's own TLS. Never waits, never consumes.
//!
//! # Why
//! Only the first proxy detects; ALPN tells the second.

use super::hello::{self, Hello, Reading};
use mesh_proto::policy::model::Protocol;

/// Bytes that are enough to name the protocol in every case; a ClientHello may take all of them (hybrid key shares make
/// it about 1.8 KiB, long extension lists more).
pub const DETECT_BYTES_MAX: usize = 16 * 1024;

/// The connection preface of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method looked for before the first space; longer tokens are not HTTP in practice.
const METHOD_BYTES_MAX: usize = 32;

/// What the first bytes say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Not decided yet: read more.
    More,
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS, with what its ClientHello says of the server meant; or what some server might take for it.
    Tls(Hello),
    /// None of these.
    Tcp,
}

impl Finding {
    /// The policy's word for it; `None` while undecided. gRPC is told from HTTP/2 by its requests, not here.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::More => None,
            Self::Http1 => Some(Protocol::Http1),
            Self::Http2 => Some(Protocol::Http2),
            Self::Tls(_) => Some(Protocol::Tls),
            Self::Tcp => Some(Protocol::Tcp),
        }
    }
}

/// Judges the first bytes of a client. With `DETECT_BYTES_MAX` bytes or more the answer is never [`Finding::More`].
pub fn detect(bytes: &[u8]) -> Finding {
    let finding = match bytes.first() {
        None => Finding::More,
        Some(b'P')
            if PREFACE.starts_with(bytes.get(..PREFACE.len().min(bytes.len())).unwrap_or_default()) =>
        {
            if bytes.len() >= PREFACE.len() {
                Finding::Http2
            } else {
                Finding::More
            }
        }
        Some(_) => match hello::read(bytes) {
            Reading::More => Finding::More,
            Reading::Done(hello) => Finding::Tls(hello),
            Reading::NotTls => http1(bytes),
        },
    };
    match finding {
        Finding::More if bytes.len() >= DETECT_BYTES_MAX => Finding::Tcp,
        finding => finding,
    }
}

/// A request line: `token SP target SP HTTP/1.`. Empty lines before it are allowed by RFC 9112, section 2.2, but here
/// they make it TCP: a client of HTTP that begins so is unknown, one of another protocol is not.
fn http1(bytes: &[u8]) -> Finding {
    let Some(space) = bytes.iter().take(METHOD_BYTES_MAX + 1).position(|b| *b == b' ') else {
        let all_token = bytes.iter().all(|b| is_token(*b));
        return if all_token && bytes.len() <= METHOD_BYTES_MAX { Finding::More } else { Finding::Tcp };
    };
    let (method, rest) = bytes.split_at(space);
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return Finding::Tcp;
    }
    let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
    let line_is_whole = line.len() < rest.len();
    let version =
        line.iter().rposition(|b| *b == b' ').filter(|at| *at > 0).and_then(|at| line.get(at + 1..));
    match version {
        Some(version) if line_is_whole => {
            if version.starts_with(b"HTTP/1.") {
                Finding::Http1
            } else {
                Finding::Tcp
            }
        }
        Some(version) if version.starts_with(b"HTTP/1.") => Finding::Http1,
        _ if line_is_whole => Finding::Tcp,
        // A target may be long; bytes no target can hold settle it early.
        _ if rest.iter().any(|b| *b < 0x20 && *b != b'\r') => Finding::Tcp,
        _ => Finding::More,
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
