//! How callers arrive: the Unix socket and the mutual-TLS port, each with what is known of the peer.
//!
//! Both give tonic a bounded stream of connections. A connection carries its [`Caller`] into every request, so that no
//! handler has to find out again who asks.

mod door;
mod places;
pub(crate) mod tls;
pub(crate) mod unix;

use mesh_ca::authority::attest::Caller;
use places::Place;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, pin::pin};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// A connection with what is known of its peer; holds its place in the connection limit.
pub(crate) struct Connection<S> {
    stream: S,
    caller: Caller,
    /// When it ends in any case; for callers who have proven nothing.
    end: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl<S> Connection<S> {
    fn new(stream: S, caller: Caller, place: Place) -> Self {
        Self { stream, caller, end: None, _place: place }
    }

    /// The same connection, that ends after a while.
    fn for_at_most(self, life: Duration) -> Self {
        Self { end: Some(Box::pin(tokio::time::sleep(life))), ..self }
    }
}

impl<S: Send + Sync + Unpin> Connected for Connection<S> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        pin!(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        pin!(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        pin!(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// After an accept error that is the system's (no descriptors left), how long to wait before the next try: long enough
/// not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A tonic server with the limits that every port of the control plane has.
///
/// The figures: 64 concurrent calls on a connection (a proxy needs two, `meshctl` one); 16 KiB of decoded headers (ours
/// have under 1 KiB); a ping after 10 s of silence, so that a peer that vanished without a word is noticed within 20 s;
/// 32 streams that were reset before they were accepted, after which the connection is closed (rapid reset).
pub(crate) fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(Some(64))
        .http2_max_header_list_size(Some(16 * 1024))
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_pending_accept_reset_streams(Some(32))
        .http2_max_local_error_reset_streams(Some(64))
        .initial_stream_window_size(Some(256 * 1024))
        .initial_connection_window_size(Some(1024 * 1024))
}
