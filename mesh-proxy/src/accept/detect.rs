//! What a connection speaks, judged by its first bytes. Pure: the caller reads, and asks again with more.
//!
//! Used by the calling side's proxy for ports without a declared protocol, and by the called side's to see the server
//! name of an application's own TLS. Never waits, never consumes.
//!
//! # Why
//! Only the first proxy detects; ALPN tells the second. The ClientHello is read by hand (three lengths and one
//! extension) because only the server name is wanted, and a whole TLS stack's opinion of a stranger's hello is not.

use mesh_proto::policy::model::Protocol;

/// Bytes that are enough to name the protocol in every case; a ClientHello may take all of them (hybrid key shares make
/// it about 1.8 KiB, long extension lists more).
pub(crate) const DETECT_BYTES_MAX: usize = 16 * 1024;

/// The connection preface of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method looked for before the first space; longer tokens are not HTTP in practice.
const METHOD_BYTES_MAX: usize = 32;

/// What the first bytes say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// Not decided yet: read more.
    More,
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS, with the server name of its ClientHello.
    Tls {
        /// `None` when the client sent none.
        sni: Option<String>,
    },
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
            Self::Tls { .. } => Some(Protocol::Tls),
            Self::Tcp => Some(Protocol::Tcp),
        }
    }
}

/// Judges the first bytes of a client. With `DETECT_BYTES_MAX` bytes or more the answer is never [`Finding::More`].
pub(crate) fn detect(bytes: &[u8]) -> Finding {
    let finding = match bytes.first() {
        None => Finding::More,
        Some(0x16) => tls(bytes),
        Some(b'P')
            if PREFACE.starts_with(bytes.get(..PREFACE.len().min(bytes.len())).unwrap_or_default()) =>
        {
            if bytes.len() >= PREFACE.len() {
                Finding::Http2
            } else {
                Finding::More
            }
        }
        Some(_) => http1(bytes),
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

/// A TLS record of type handshake that carries a ClientHello (RFC 8446, sections 5.1 and 4.1.2).
fn tls(bytes: &[u8]) -> Finding {
    match bytes.get(1) {
        None => return Finding::More,
        Some(3) => {}
        Some(_) => return Finding::Tcp,
    }
    match bytes.get(5) {
        None => return Finding::More,
        Some(1) => {}
        Some(_) => return Finding::Tcp,
    }
    // The hello may be spread over several records: gather their payloads.
    let mut message = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [0x16, 3, _, high, low, payload @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (now, later) = payload.split_at(length.min(payload.len()));
        message.extend_from_slice(now);
        rest = later;
        if now.len() < length {
            break;
        }
    }
    let [_, a, b, c, body @ ..] = message.as_slice() else { return Finding::More };
    let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    if length > DETECT_BYTES_MAX {
        return Finding::Tcp;
    }
    match body.get(..length) {
        Some(hello) => Finding::Tls { sni: server_name(hello) },
        None => Finding::More,
    }
}

/// The host name of the server_name extension (RFC 6066, section 3), lower-cased; `None` when absent or malformed.
fn server_name(hello: &[u8]) -> Option<String> {
    let rest = hello.get(34..)?; // version and random
    let (_session, rest) = block8(rest)?;
    let (_suites, rest) = block16(rest)?;
    let (_compression, rest) = block8(rest)?;
    let (mut extensions, _) = block16(rest)?;
    while let [high, low, rest @ ..] = extensions {
        let (body, rest) = block16(rest)?;
        extensions = rest;
        if u16::from_be_bytes([*high, *low]) != 0 {
            continue;
        }
        let (list, _) = block16(body)?;
        let [0, name @ ..] = list else { return None };
        let (name, _) = block16(name)?;
        let name = std::str::from_utf8(name).ok()?;
        let is_host = !name.is_empty()
            && name.len() <= 253
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        return is_host.then(|| name.to_ascii_lowercase());
    }
    None
}

fn block8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

fn block16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests;
