//! What is known of a connection before anybody asked for anything: its protocol, by its first bytes.

pub mod detect;
pub mod hello;

use detect::{DETECT_BYTES_MAX, Finding, detect};
use hello::Reading;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes asked for at once: a request head or a ClientHello mostly fits.
const READ_BYTES: usize = 2048;

/// Reads until the first bytes name a protocol. They stay in `early`, for whoever reads next.
///
/// The end of the stream makes what came so far TCP: half a request line and then silence is not HTTP.
///
/// **Cancel safety**: what was read is in `early`; call again to go on.
///
/// # Errors
/// The stream broke.
pub(crate) async fn find<S: AsyncRead + Unpin>(stream: &mut S, early: &mut Vec<u8>) -> io::Result<Finding> {
    loop {
        match detect(early) {
            Finding::More => {}
            finding => return Ok(finding),
        }
        early.reserve(READ_BYTES.min(DETECT_BYTES_MAX));
        if stream.read_buf(early).await? == 0 {
            return Ok(Finding::Tcp);
        }
    }
}

/// Reads until it is clear whether a ClientHello comes, and nothing else: a first byte that begins no TLS settles it, so that
/// no other protocol is kept waiting. `None`: the stream ended before that.
///
/// **Cancel safety**: as [`find`].
///
/// # Errors
/// The stream broke.
pub(crate) async fn find_hello<S: AsyncRead + Unpin>(
    stream: &mut S,
    early: &mut Vec<u8>,
) -> io::Result<Option<Finding>> {
    loop {
        match hello::read(early) {
            Reading::More => {}
            Reading::NotTls => return Ok(Some(Finding::Tcp)),
            Reading::Done(hello) => return Ok(Some(Finding::Tls(hello))),
        }
        early.reserve(READ_BYTES.min(DETECT_BYTES_MAX));
        if stream.read_buf(early).await? == 0 {
            return Ok((!early.is_empty()).then_some(Finding::Tcp));
        }
    }
}
