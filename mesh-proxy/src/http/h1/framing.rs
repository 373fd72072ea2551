//! Where a message ends, and nothing else (RFC 9112, sections 6 and 7).
//!
//! [`length`] reads the framing fields of a head; a [`Decoder`] then says of the bytes in a buffer which of them are
//! body. It never copies, never waits and never writes: [`super::super::exchange`] moves what it points at, and frames it
//! anew for the other side.
//!
//! # Why
//! What two servers may read in two ways is an error here, never a guess: two lengths, a length beside a coding, a coding
//! other than exactly one `chunked`, a coding in HTTP/1.0, a chunk line with anything but hexadecimal digits before its
//! extension, a line that ends in LF alone. Chunk extensions mean nothing to anybody; they are bounded and dropped.

use super::head::{Field, Span, Version};
use crate::http::field::{self, Known, Trailer};
use crate::refusal::Malformed;

/// Digits of a chunk size: 16 are all that fit into 64 bits.
const CHUNK_DIGITS_MAX: usize = 16;
/// A chunk's extension, in bytes. Nobody sends any; a signature in one is about 100 bytes.
const EXTENSION_BYTES_MAX: usize = 256;
/// All extensions of one body together, so that one-byte chunks cannot carry a stream of them.
const EXTENSION_BYTES_TOTAL_MAX: u32 = 4096;
/// Digits of a content length: 18 stay below 2^63, so that sums of lengths cannot overflow.
const LENGTH_DIGITS_MAX: usize = 18;
/// Fields of a trailer section.
const TRAILER_FIELDS_MAX: usize = 32;

/// How long a body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyLength {
    /// There is none.
    None,
    /// Exactly so many bytes.
    Exact(u64),
    /// In chunks.
    Chunked,
    /// Until the connection ends; responses only.
    UntilClose,
}

/// What the framing fields of a head say; `None` if there are none.
///
/// # Errors
/// More than one reading.
pub(super) fn length(
    bytes: &[u8],
    fields: &[Field],
    version: Version,
) -> Result<Option<BodyLength>, Malformed> {
    let mut exact = None;
    let mut chunked = false;
    for field in fields {
        match field.known {
            Known::ContentLength => {
                if exact.is_some() {
                    return Err(Malformed::ContentLength);
                }
                exact = Some(decimal(field.value.of(bytes)).ok_or(Malformed::ContentLength)?);
            }
            Known::TransferEncoding => {
                let one = !chunked && field.value.of(bytes).eq_ignore_ascii_case(b"chunked");
                if !one || version == Version::Http10 {
                    return Err(Malformed::TransferEncoding);
                }
                chunked = true;
            }
            _ => {}
        }
    }
    match (exact, chunked) {
        (Some(_), true) => Err(Malformed::TwoFramings),
        (Some(bytes), false) => Ok(Some(BodyLength::Exact(bytes))),
        (None, true) => Ok(Some(BodyLength::Chunked)),
        (None, false) => Ok(None),
    }
}

/// A plain decimal number: digits only, no sign, no list.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > LENGTH_DIGITS_MAX {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// What the bytes at the front of a buffer are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    /// So many bytes of body.
    Data(usize),
    /// So many bytes of framing, to be dropped.
    Framing(usize),
    /// The trailer section, so many bytes with its closing empty line; the body is complete with it.
    Trailers(usize),
    /// More bytes are needed.
    More,
    /// The body is complete; the buffer belongs to the next message.
    End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Exact(u64),
    UntilClose,
    ChunkLine,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Done,
}

/// Reads one body. Small and `Copy`, so that a caller can look ahead with a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoder {
    state: State,
    extension_bytes: u32,
    trailer_bytes_max: usize,
}

impl Decoder {
    pub(crate) fn new(body: BodyLength, trailer_bytes_max: usize) -> Self {
        let state = match body {
            BodyLength::None | BodyLength::Exact(0) => State::Done,
            BodyLength::Exact(bytes) => State::Exact(bytes),
            BodyLength::Chunked => State::ChunkLine,
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state, extension_bytes: 0, trailer_bytes_max }
    }

    /// Whether the body is complete.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection completes the body.
    pub(crate) fn ends_with_connection(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Says what the front of `input` is and takes it as used: the caller must consume as many bytes as the answer counts.
    ///
    /// # Errors
    /// A chunk or the trailer section is malformed. Nothing after it may be read.
    pub(crate) fn next(&mut self, input: &[u8]) -> Result<Piece, Malformed> {
        match self.state {
            State::Done => Ok(Piece::End),
            _ if input.is_empty() => Ok(Piece::More),
            State::UntilClose => Ok(Piece::Data(input.len())),
            State::Exact(left) => {
                let used = left.min(input.len() as u64);
                self.state = match left.saturating_sub(used) {
                    0 => State::Done,
                    rest => State::Exact(rest),
                };
                Ok(Piece::Data(fitting(used)))
            }
            State::ChunkData(left) => {
                let used = left.min(input.len() as u64);
                self.state = match left.saturating_sub(used) {
                    0 => State::ChunkEnd,
                    rest => State::ChunkData(rest),
                };
                Ok(Piece::Data(fitting(used)))
            }
            State::ChunkEnd => match input {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkLine;
                    Ok(Piece::Framing(2))
                }
                [b'\r'] => Ok(Piece::More),
                _ => Err(Malformed::Chunk),
            },
            State::ChunkLine => self.chunk_line(input),
            State::Trailers => self.trailers(input),
        }
    }

    fn chunk_line(&mut self, input: &[u8]) -> Result<Piece, Malformed> {
        let Some((size, line, extension)) = size_line(input)? else {
            return Ok(Piece::More);
        };
        let extension = u32::try_from(extension).unwrap_or(u32::MAX);
        self.extension_bytes = self.extension_bytes.saturating_add(extension);
        if self.extension_bytes > EXTENSION_BYTES_TOTAL_MAX {
            return Err(Malformed::Chunk);
        }
        self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
        Ok(Piece::Framing(line))
    }

    fn trailers(&mut self, input: &[u8]) -> Result<Piece, Malformed> {
        match each_trailer(input, self.trailer_bytes_max, &mut |_, _| {})? {
            Some(used) => {
                self.state = State::Done;
                Ok(Piece::Trailers(used))
            }
            None => Ok(Piece::More),
        }
    }
}

/// A body read by [`decode`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decoded {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Its trailers, as far as they would be passed on: `name: value` lines.
    pub trailers: Vec<u8>,
    /// Bytes of the input that belong to it.
    pub used: usize,
    /// Whether it is complete; if not, more input is needed.
    pub complete: bool,
}

/// Reads a body that comes in `parts`, as an exchange would, but into memory: for tests and fuzzing.
///
/// # Errors
/// A chunk or the trailer section is malformed.
pub fn decode<'p>(
    parts: impl IntoIterator<Item = &'p [u8]>,
    body: BodyLength,
    trailer_bytes_max: usize,
) -> Result<Decoded, Malformed> {
    let mut decoder = Decoder::new(body, trailer_bytes_max);
    let mut decoded = Decoded::default();
    let mut buffer: Vec<u8> = Vec::new();
    let mut parts = parts.into_iter();
    loop {
        let used = match decoder.next(&buffer)? {
            Piece::Data(count) => {
                decoded.data.extend_from_slice(buffer.get(..count).unwrap_or_default());
                count
            }
            Piece::Framing(count) => count,
            Piece::Trailers(count) => {
                each_trailer(&buffer, trailer_bytes_max, &mut |name, value| {
                    for part in [name, b": ", value, b"\r\n"] {
                        decoded.trailers.extend_from_slice(part);
                    }
                })?;
                count
            }
            Piece::More => match parts.next() {
                Some(part) => {
                    buffer.extend_from_slice(part);
                    continue;
                }
                None => return Ok(decoded),
            },
            Piece::End => {
                decoded.complete = true;
                return Ok(decoded);
            }
        };
        decoded.used = decoded.used.saturating_add(used);
        buffer.drain(..used);
    }
}

/// A count that was bounded by a buffer's length.
fn fitting(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Reads a chunk's size line: its size, its length with CRLF, and the length of its extension.
fn size_line(input: &[u8]) -> Result<Option<(u64, usize, usize)>, Malformed> {
    let mut size = 0_u64;
    let mut digits = 0_usize;
    let mut rest = input.iter();
    let stop = loop {
        let Some(byte) = rest.next() else {
            return Ok(None);
        };
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            other => break *other,
        };
        digits += 1;
        if digits > CHUNK_DIGITS_MAX {
            return Err(Malformed::Chunk);
        }
        size = (size << 4) | u64::from(digit);
    };
    // The top bit stays free, so that counters of body bytes cannot overflow.
    if digits == 0 || size > i64::MAX.unsigned_abs() {
        return Err(Malformed::Chunk);
    }
    let mut extension = 0;
    let mut byte = stop;
    if byte == b';' {
        extension = 1;
        loop {
            let Some(next) = rest.next() else {
                return if extension > EXTENSION_BYTES_MAX { Err(Malformed::Chunk) } else { Ok(None) };
            };
            byte = *next;
            match byte {
                b'\r' => break,
                b'\t' | 0x20..=0x7e | 0x80.. if extension < EXTENSION_BYTES_MAX => extension += 1,
                _ => return Err(Malformed::Chunk),
            }
        }
    }
    match (byte, rest.next()) {
        (b'\r', Some(b'\n')) => Ok(Some((size, digits + extension + 2, extension))),
        (b'\r', None) => Ok(None),
        _ => Err(Malformed::Chunk),
    }
}

/// Reads a trailer section and calls `pass` with each field that may go on. `None`: more bytes are needed.
///
/// # Errors
/// Malformed lines, too many of them, or a field that would change the framing.
pub(crate) fn each_trailer(
    input: &[u8],
    bytes_max: usize,
    pass: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<Option<usize>, Malformed> {
    // By far the most common section is the empty one.
    match input {
        [b'\r', b'\n', ..] => return Ok(Some(2)),
        [b'\r'] => return Ok(None),
        _ => {}
    }
    let mut slots = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
    let window = input.get(..bytes_max).unwrap_or(input);
    let (used, fields) = match httparse::parse_headers(window, &mut slots) {
        Ok(httparse::Status::Complete(found)) => found,
        Ok(httparse::Status::Partial) if input.len() < bytes_max => return Ok(None),
        _ => return Err(Malformed::Trailer),
    };
    let section = window.get(..used).unwrap_or_default();
    let names = fields.iter().map(|field| Span::within(section, field.name.as_bytes()));
    if !lines_end_in_crlf(section, names.skip(1)) {
        return Err(Malformed::Trailer);
    }
    for field in fields.iter() {
        match field::trailer(field.name.as_bytes()) {
            Trailer::Passed => pass(field.name.as_bytes(), field.value),
            Trailer::Removed => {}
            Trailer::Refused => return Err(Malformed::Trailer),
        }
    }
    Ok(Some(used))
}

/// Whether every line of a head ends in CRLF: `starts` are the names that begin a line after another one.
///
/// httparse takes a bare LF for the end of a line, but nothing else: so the byte two before each name tells, and the end.
pub(super) fn lines_end_in_crlf(head: &[u8], starts: impl Iterator<Item = Span>) -> bool {
    if !head.ends_with(b"\r\n\r\n") {
        return false;
    }
    let mut starts = starts;
    starts.all(|name| {
        let start = name.start();
        start >= 2 && head.get(start - 2) == Some(&b'\r')
    })
}
