//! Frames to bytes and back. Strict: what the protocol does not define is a [`Fault`].
//!
//! The decoder takes bytes as they come and keeps at most one small frame; payload of DATA passes through without being
//! kept. It checks each frame by itself; what a frame means for its stream is `state`'s.

use super::guard::Fault;

/// Bytes before a payload.
pub const HEADER_BYTES: usize = 8;
/// Most payload of a DATA frame: with its header it fits one TLS record.
pub const DATA_BYTES_MAX: usize = 16 * 1024 - HEADER_BYTES;
/// Longest name in an OPEN frame: that of a name in DNS.
pub const NAME_BYTES_MAX: usize = 253;
/// Least credit in a frame, so that many small ones cannot be had for nothing. Streams give it in halves of a window.
pub const CREDIT_MIN: u32 = 4 * 1024;

const OPEN: u8 = 1;
const DATA: u8 = 2;
const CREDIT: u8 = 3;
const RESET: u8 = 4;
const GOAWAY: u8 = 5;
const HERE: u8 = 6;

/// Flags of OPEN.
const ASKS: u8 = 1;
const HTTP1: u8 = 2;

/// What the bytes of a stream are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inside {
    /// Whatever the application speaks.
    Bytes,
    /// HTTP/1, as on a connection that agreed on it.
    Http1,
}

/// One frame, or a part of a DATA frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A stream begins.
    Open {
        /// Its number.
        stream: u32,
        /// What it is for.
        name: String,
        /// What its bytes are.
        inside: Inside,
        /// Whether the caller asks for a sign of life.
        asks: bool,
    },
    /// Bytes of a stream; never empty.
    Data {
        /// Which.
        stream: u32,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The sender's direction of a stream has ended.
    End {
        /// Which.
        stream: u32,
    },
    /// More may be sent.
    Credit {
        /// On which stream.
        stream: u32,
        /// How many bytes more.
        amount: u32,
    },
    /// A stream is gone.
    Reset {
        /// Which.
        stream: u32,
    },
    /// No stream shall be opened any more.
    GoAway {
        /// The last one seen; later ones are under way.
        last: u32,
    },
    /// A sign of life.
    Here,
}

/// Writes one frame. The payload of DATA is at most [`DATA_BYTES_MAX`], a name at most [`NAME_BYTES_MAX`].
pub fn encode(event: &Event<'_>, out: &mut Vec<u8>) {
    match event {
        Event::Open { stream, name, inside, asks } => {
            let flags = if *asks { ASKS } else { 0 } | if *inside == Inside::Http1 { HTTP1 } else { 0 };
            header(out, OPEN, flags, (*stream, name.len()));
            out.extend_from_slice(name.as_bytes());
        }
        Event::Data { stream, bytes } => data(*stream, bytes, Last::No, out),
        Event::End { stream } => data(*stream, &[], Last::Yes, out),
        Event::Credit { stream, amount } => {
            header(out, CREDIT, 0, (*stream, 4));
            out.extend_from_slice(&amount.to_be_bytes());
        }
        Event::Reset { stream } => header(out, RESET, 0, (*stream, 0)),
        Event::GoAway { last } => header(out, GOAWAY, 0, (*last, 0)),
        Event::Here => header(out, HERE, 0, (0, 0)),
    }
}

/// Whether a direction ends with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// More may follow.
    No,
    /// It ends.
    Yes,
}

/// Writes one DATA frame; `bytes` may be empty only if it is the last.
pub fn data(stream: u32, bytes: &[u8], last: Last, out: &mut Vec<u8>) {
    debug_assert!(bytes.len() <= DATA_BYTES_MAX && (last == Last::Yes || !bytes.is_empty()));
    header(out, DATA, u8::from(last == Last::Yes), (stream, bytes.len()));
    out.extend_from_slice(bytes);
}

fn header(out: &mut Vec<u8>, kind: u8, flags: u8, (stream, length): (u32, usize)) {
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    out.extend_from_slice(&[kind, flags, high, low, a, b, c, d]);
}

/// Bytes to frames.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a frame that is not complete.
    kept: Vec<u8>,
    /// The DATA frame under way.
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    stream: u32,
    left: usize,
    ends: bool,
}

impl Decoder {
    /// The next frame of `input`, which is advanced behind it; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The bytes are not of this protocol; what follows them means nothing.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Fault> {
        if self.body.is_none() {
            if self.kept.is_empty()
                && let Some((header, rest)) = input.split_first_chunk::<HEADER_BYTES>()
                && let Some(body) = Body::read(header)?
            {
                // The most frequent case: nothing needs to be kept.
                *input = rest;
                self.body = Some(body);
            } else {
                return self.whole(input);
            }
        }
        Ok(self.body(input))
    }

    /// The next piece of the DATA frame under way.
    fn body<'a>(&mut self, input: &mut &'a [u8]) -> Option<Event<'a>> {
        let body = self.body.as_mut()?;
        let stream = body.stream;
        if body.left == 0 {
            self.body = None;
            return Some(Event::End { stream });
        }
        let (bytes, rest) = input.split_at_checked(body.left).unwrap_or((input, &[]));
        if bytes.is_empty() {
            return None;
        }
        *input = rest;
        body.left -= bytes.len();
        if body.left == 0 && !body.ends {
            self.body = None;
        }
        Some(Event::Data { stream, bytes })
    }

    /// A frame that is looked at only when it is complete.
    fn whole<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Fault> {
        if !self.keep(input, HEADER_BYTES) {
            return Ok(None);
        }
        let Some((header, _)) = self.kept.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        if let Some(body) = Body::read(header)? {
            self.kept.clear();
            self.body = Some(body);
            return Ok(self.body(input));
        }
        let [kind, flags, high, low, a, b, c, d] = *header;
        let (length, stream) =
            (usize::from(u16::from_be_bytes([high, low])), u32::from_be_bytes([a, b, c, d]));
        check(kind, flags, length)?;
        if !self.keep(input, HEADER_BYTES + length) {
            return Ok(None);
        }
        let kept = std::mem::take(&mut self.kept);
        let payload = kept.get(HEADER_BYTES..).unwrap_or_default();
        Ok(Some(match kind {
            OPEN => {
                let name = String::from_utf8(payload.to_vec()).map_err(|_| Fault::BadFrame)?;
                let inside = if flags & HTTP1 == 0 { Inside::Bytes } else { Inside::Http1 };
                Event::Open { stream, name, inside, asks: flags & ASKS != 0 }
            }
            CREDIT => {
                let amount = payload.try_into().map(u32::from_be_bytes).map_err(|_| Fault::BadFrame)?;
                Event::Credit { stream, amount }
            }
            RESET => Event::Reset { stream },
            GOAWAY => Event::GoAway { last: stream },
            _ => Event::Here,
        }))
    }

    /// Moves bytes over until `count` are kept; whether they are.
    fn keep(&mut self, input: &mut &[u8], count: usize) -> bool {
        let missing = count.saturating_sub(self.kept.len());
        let (bytes, rest) = input.split_at_checked(missing).unwrap_or((input, &[]));
        self.kept.extend_from_slice(bytes);
        *input = rest;
        self.kept.len() >= count
    }
}

impl Body {
    /// `None` when it is no DATA frame.
    fn read(header: &[u8; HEADER_BYTES]) -> Result<Option<Self>, Fault> {
        let [DATA, flags, high, low, a, b, c, d] = *header else { return Ok(None) };
        let left = usize::from(u16::from_be_bytes([high, low]));
        check(DATA, flags, left)?;
        Ok(Some(Self { stream: u32::from_be_bytes([a, b, c, d]), left, ends: flags == 1 }))
    }
}

/// Whether a header is one of the protocol.
fn check(kind: u8, flags: u8, length: usize) -> Result<(), Fault> {
    let (flags_max, lengths) = match kind {
        OPEN => (ASKS | HTTP1, 1..=NAME_BYTES_MAX),
        DATA => (1, 0..=DATA_BYTES_MAX),
        CREDIT => (0, 4..=4),
        RESET | GOAWAY | HERE => (0, 0..=0),
        _ => return Err(Fault::UnknownFrame),
    };
    match (kind, flags, length) {
        (DATA, 0, 0) => Err(Fault::EmptyData),
        _ if flags > flags_max || !lengths.contains(&length) => Err(Fault::BadFrame),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
