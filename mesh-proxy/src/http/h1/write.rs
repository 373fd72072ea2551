//! Heads made anew: what goes out is written from the parsed parts, framing and hop-by-hop fields from our own decision.

use super::framing::BodyLength;
use super::head::ResponseHead;
use crate::http::Origin;
use crate::http::canonical::{Canonical, is_forwarded, is_nominated};
use crate::http::field::Known;
use crate::refusal::{DECISION_FIELD, REASON_FIELD};

/// Appends the head of a canonical request, with complete header lines of our own behind its fields.
pub(crate) fn request(out: &mut Vec<u8>, request: &Canonical<'_>, append: &[u8]) {
    let Some(head) = request.h1() else { return };
    out.reserve(head.target().len() + append.len() + 512);
    put(out, &[request.method.as_bytes(), b" ", request.path.as_bytes()]);
    if let Some(query) = request.query {
        put(out, &[b"?", query]);
    }
    put(out, &[b" HTTP/1.1\r\nhost: ", request.host.authority().as_bytes(), b"\r\n"]);
    let is_replaced = |known: Known| known == Known::TraceContext && !append.is_empty();
    head.copy_fields(out, |name, known| is_forwarded(head, name, known) && !is_replaced(known));
    framing(out, head.body());
    if let Some(protocol) = request.upgrade {
        put(out, &[b"connection: upgrade\r\nupgrade: ", protocol.as_bytes(), b"\r\n"]);
    }
    put(out, &[append, b"\r\n"]);
}

/// How an answer is written to a caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    /// The body's framing towards the caller.
    pub(crate) body: BodyLength,
    /// What to say about the connection.
    pub(crate) connection: Connection<'a>,
    /// Where it came from.
    pub(crate) origin: Origin,
}

/// The `Connection` field of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Connection<'a> {
    /// Nothing: goes on by the version's default.
    Default,
    /// It goes on although the caller speaks 1.0.
    KeepAlive,
    /// It ends.
    Close,
    /// It now carries this protocol.
    Upgrade(&'a str),
}

/// Appends the head of a response whose ranges belong to `bytes`.
pub(crate) fn response(out: &mut Vec<u8>, head: &ResponseHead, bytes: &[u8], answer: Answer<'_>) {
    out.reserve(head.length() + 64);
    let digits =
        [head.status() / 100, head.status() / 10 % 10, head.status() % 10].map(|digit| b'0' + digit as u8);
    put(out, &[b"HTTP/1.1 ", &digits, b" ", head.reason(bytes), b"\r\n"]);
    head.copy_fields(bytes, out, |name, known| match known {
        Known::Reserved => answer.origin == Origin::MeshPeer && is_explanation(name),
        known => {
            known.is_copied() && !(head.nominates() && is_nominated(connection_values(head, bytes), name))
        }
    });
    framing(out, answer.body);
    match answer.connection {
        Connection::Default => {}
        Connection::KeepAlive => put(out, &[b"connection: keep-alive\r\n"]),
        Connection::Close => put(out, &[b"connection: close\r\n"]),
        Connection::Upgrade(protocol) => {
            put(out, &[b"connection: upgrade\r\nupgrade: ", protocol.as_bytes(), b"\r\n"]);
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn connection_values<'b>(head: &'b ResponseHead, bytes: &'b [u8]) -> impl Iterator<Item = &'b [u8]> {
    head.fields(bytes).filter(|(_, _, known)| *known == Known::Connection).map(|(_, value, _)| value)
}

/// Whether the field explains a refusal of another proxy.
pub(crate) fn is_explanation(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(REASON_FIELD.as_bytes()) || name.eq_ignore_ascii_case(DECISION_FIELD.as_bytes())
}

fn framing(out: &mut Vec<u8>, body: BodyLength) {
    match body {
        BodyLength::None | BodyLength::UntilClose => {}
        BodyLength::Exact(bytes) => {
            out.extend_from_slice(b"content-length: ");
            number(out, bytes);
            out.extend_from_slice(b"\r\n");
        }
        BodyLength::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
}

/// Appends the size line of a chunk.
pub(crate) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (size >> (place * 4)) & 0xf;
        out.push(b"0123456789abcdef".get(digit).copied().unwrap_or(b'0'));
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a decimal number, without the machinery of `fmt`.
fn number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut rest = number;
    let mut start = digits.len();
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        start = place;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}
