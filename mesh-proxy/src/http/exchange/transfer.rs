//! Moves body bytes from one connection's buffer to another's, framed anew.

use crate::http::h1::{BodyLength, Decoder, Link, Piece, chunk_size, each_trailer};
use crate::refusal::Malformed;
use std::io;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};

/// From here on bytes are written as they lie in the read buffer: below, joining them with a head saves a call.
const WRITE_THROUGH_BYTES_MIN: usize = 8 * 1024;

/// How far a step came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moved {
    /// Body bytes.
    pub(super) bytes: u64,
    /// Whether the body is complete.
    pub(super) complete: bool,
}

/// Takes everything of the body that `from` holds into `out`. Chunks that arrived together leave as one.
pub(super) fn into_output<S>(
    body: &mut Decoder,
    from: &mut Link<S>,
    out: &mut Vec<u8>,
    framing: BodyLength,
    trailer_bytes_max: usize,
) -> Result<Moved, Malformed> {
    let size = data_ahead(*body, from.unread())?;
    if framing == BodyLength::Chunked && size > 0 {
        chunk_size(out, size);
    }
    let mut open_chunk = framing == BodyLength::Chunked && size > 0;
    let mut close_chunk = |out: &mut Vec<u8>| {
        if std::mem::take(&mut open_chunk) {
            out.extend_from_slice(b"\r\n");
        }
    };
    loop {
        let unread = from.unread();
        match body.next(unread)? {
            Piece::Data(count) => {
                out.extend_from_slice(unread.get(..count).unwrap_or_default());
                from.consume(count);
            }
            Piece::Framing(count) => from.consume(count),
            Piece::Trailers(count) => {
                close_chunk(out);
                if framing == BodyLength::Chunked {
                    out.extend_from_slice(b"0\r\n");
                    each_trailer(unread, trailer_bytes_max, &mut |name, value| {
                        for part in [name, b": ", value, b"\r\n"] {
                            out.extend_from_slice(part);
                        }
                    })?;
                    out.extend_from_slice(b"\r\n");
                }
                from.consume(count);
            }
            Piece::More | Piece::End => {
                close_chunk(out);
                return Ok(Moved { bytes: size as u64, complete: body.is_done() });
            }
        }
    }
}

/// How many body bytes `input` holds, read with a copy of the decoder.
fn data_ahead(mut body: Decoder, input: &[u8]) -> Result<usize, Malformed> {
    let mut rest = input;
    let mut size = 0_usize;
    loop {
        let used = match body.next(rest)? {
            Piece::Data(count) => {
                size = size.saturating_add(count);
                count
            }
            Piece::Framing(count) | Piece::Trailers(count) => count,
            Piece::More | Piece::End => return Ok(size),
        };
        rest = rest.get(used..).unwrap_or_default();
    }
}

/// Writes a long run of body bytes straight from the read buffer, if there is one, nothing stands before it and the
/// framing adds nothing; `None`: there is not.
pub(super) fn poll_through<S, U>(
    cx: &mut Context<'_>,
    body: &mut Decoder,
    from: &mut Link<S>,
    to: &mut Link<U>,
) -> Option<Poll<io::Result<u64>>>
where
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut ahead = *body;
    let Ok(Piece::Data(count)) = ahead.next(from.unread()) else {
        return None;
    };
    if count < WRITE_THROUGH_BYTES_MIN || to.has_output() {
        return None;
    }
    let run = from.unread().get(..count).unwrap_or_default();
    Some(match to.poll_write_through(cx, run) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Ready(Ok(written)) => {
            // Cannot fail: these very bytes were body a moment ago.
            let _ = body.next(run.get(..written).unwrap_or_default());
            from.consume(written);
            Poll::Ready(Ok(written as u64))
        }
    })
}
