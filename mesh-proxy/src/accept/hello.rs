//! The server name that a TLS client asks for, read from its ClientHello. Pure; [`super::detect()`] calls it.
//!
//! Never judges, and never guesses: what a TLS server could read in another way than this module is [`Hello::Odd`], and a
//! name that is not surely the one meant is none.
//!
//! # Why
//! The ClientHello is read by hand (records, four lengths and two extensions) because only the server name is wanted, and
//! a whole TLS stack's opinion of a stranger's hello is not. A hello that this module could not read was once taken for plain
//! TCP, so that a rule against TLS, or against one server's name, was evaded by one empty record.

use super::detect::DETECT_BYTES_MAX;

/// The largest plaintext record (RFC 8446, section 5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
/// The shortest ClientHello of SSL 2.0 that has a cipher and a challenge (RFC 5246, appendix E.2).
const V2_BYTES_MIN: usize = 9 + 3 + 16;
/// Extension `server_name` (RFC 6066).
const SERVER_NAME: u16 = 0;
/// Extensions that hide the name meant: `encrypted_client_hello` (RFC 9849) and its draft `encrypted_server_name`.
const HIDING: [u16; 2] = [0xfe0d, 0xffce];

/// What a ClientHello says of the server that is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hello {
    /// Its name: lower-case, without a final dot.
    Named(String),
    /// Well-formed, but it names nobody, or hides whom it means.
    Nameless,
    /// It begins like TLS, yet is not one well-formed ClientHello. Some server may understand it all the same.
    Odd,
}

impl Hello {
    /// The name, if it is sure.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::Nameless | Self::Odd => None,
        }
    }
}

/// How far a reading came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reading {
    /// Not decided yet.
    More,
    /// It is no TLS that any server would take.
    NotTls,
    /// It is TLS, or might be.
    Done(Hello),
}

/// Reads the first bytes of a client. With [`DETECT_BYTES_MAX`] bytes or more the answer is never [`Reading::More`].
pub(crate) fn read(bytes: &[u8]) -> Reading {
    let reading = match bytes {
        [] | [0x16] | [0x16, 1] => Reading::More,
        [0x16, 3, ..] => records(bytes),
        // TLCP, which some libraries speak beside TLS.
        [0x16, 1, 1, ..] => Reading::Done(Hello::Odd),
        [first, ..] if first & 0x80 != 0 => version2(bytes),
        _ => Reading::NotTls,
    };
    match reading {
        Reading::More if bytes.len() >= DETECT_BYTES_MAX => Reading::Done(Hello::Odd),
        reading => reading,
    }
}

/// A ClientHello in the form of SSL 2.0, which OpenSSL answers with TLS 1.2 to this day; it has no place for a name.
fn version2(bytes: &[u8]) -> Reading {
    let length = |high: u8, low: u8| usize::from(high & 0x7f) << 8 | usize::from(low);
    match bytes {
        [_] => Reading::More,
        [high, low, ..] if length(*high, *low) < V2_BYTES_MIN => Reading::NotTls,
        [_, _] | [_, _, 1] | [_, _, 1, 0 | 3] => Reading::More,
        [_, _, 1, 3, ..] | [_, _, 1, 0, 2, ..] => Reading::Done(Hello::Odd),
        _ => Reading::NotTls,
    }
}

/// Records of type handshake that carry a ClientHello (RFC 8446, sections 5.1 and 4.1.2); it may be spread over several.
fn records(bytes: &[u8]) -> Reading {
    let mut message = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        match whole(&message) {
            Whole::More => {}
            Whole::Body(body) => return Reading::Done(client_hello(body).unwrap_or(Hello::Odd)),
            Whole::Odd => return Reading::Done(Hello::Odd),
        }
        rest = match rest {
            [0x16, 3, _, high, low, payload @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if length == 0 || length > RECORD_BYTES_MAX {
                    return Reading::Done(Hello::Odd);
                }
                let (now, later) = payload.split_at(length.min(payload.len()));
                message.extend_from_slice(now);
                if now.len() < length && matches!(whole(&message), Whole::More) {
                    return Reading::More;
                }
                later
            }
            [] | [0x16] | [0x16, 3] | [0x16, 3, _] | [0x16, 3, _, _] => return Reading::More,
            _ => return Reading::Done(Hello::Odd),
        };
    }
}

enum Whole<'m> {
    More,
    Body(&'m [u8]),
    Odd,
}

/// Whether the handshake message is whole, and alone: a client waits for an answer before it sends another one.
fn whole(message: &[u8]) -> Whole<'_> {
    match message {
        [] | [1] | [1, _] | [1, _, _] => Whole::More,
        [1, a, b, c, body @ ..] => {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            match body.len() {
                _ if length > DETECT_BYTES_MAX => Whole::Odd,
                so_far if so_far < length => Whole::More,
                so_far if so_far == length => Whole::Body(body),
                _ => Whole::Odd,
            }
        }
        _ => Whole::Odd,
    }
}

/// `None`: malformed.
fn client_hello(body: &[u8]) -> Option<Hello> {
    let [3, _, rest @ ..] = body else { return None };
    let rest = rest.get(32..)?; // random
    let (session, rest) = block8(rest)?;
    let (suites, rest) = block16(rest)?;
    let (compression, rest) = block8(rest)?;
    if session.len() > 32 || suites.is_empty() || suites.len() % 2 != 0 || compression.is_empty() {
        return None;
    }
    if rest.is_empty() {
        return Some(Hello::Nameless);
    }
    let (extensions, []) = block16(rest)? else { return None };
    names(extensions)
}

fn names(mut extensions: &[u8]) -> Option<Hello> {
    let mut found = None;
    let mut is_hidden = false;
    while !extensions.is_empty() {
        let (kind, rest) = extensions.split_first_chunk::<2>()?;
        let kind = u16::from_be_bytes(*kind);
        let (body, rest) = block16(rest)?;
        extensions = rest;
        is_hidden |= HIDING.contains(&kind);
        if kind == SERVER_NAME && found.replace(server_name(body)?).is_some() {
            return None;
        }
    }
    Some(match found {
        Some(name) if !is_hidden => Hello::Named(name),
        _ => Hello::Nameless,
    })
}

/// The one host name of the extension (RFC 6066, section 3); `None` when there are several, or something else.
fn server_name(extension: &[u8]) -> Option<String> {
    let (list, []) = block16(extension)? else { return None };
    let [0, name @ ..] = list else { return None };
    let (name, []) = block16(name)? else { return None };
    let name = std::str::from_utf8(name).ok()?;
    // Servers differ on the final dot; without it the name is the one that rules are written for.
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    (name.len() <= 253 && name.split('.').all(is_label)).then(|| name.to_ascii_lowercase())
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
