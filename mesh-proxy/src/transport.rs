//! The bytes under a connection: plain TCP on the workload's side, mutual TLS on the mesh's.
//!
//! One type for both, so that the HTTP codec is compiled once. Never chooses a peer and never judges one.

use crate::clock;
use crate::mux::stream::Stream;
use mesh_ca::tls::Secured;
use mesh_ca::verify::PeerError;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Time for a TCP connection to be accepted (DESIGN: "connect timeout 1 s"): a machine that is there answers in less.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the workload itself to accept. It is on this machine, so that only a full queue makes it late; then the system
/// asks again after one and after three seconds, and a burst that the program would have survived must not fail here.
pub(crate) const WORKLOAD_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a TLS handshake, from its first byte to its last.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Unacknowledged data ends a connection after this time: a peer that vanished is noticed before an operator asks.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// Quiet connections are probed after this time, so that a vanished peer of a silent tunnel is noticed too.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// Time between two such probes.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// Read at once while much is coming: four records. A reader that stops holds so much, and no more.
const AHEAD_BYTES: usize = 64 * 1024;
/// What rustls asks for at a time: a read that brings all of it has probably left something.
const STREAMING_BYTES: usize = 4 * 1024;

/// The bytes under a connection.
#[derive(Debug)]
pub(crate) enum Transport {
    /// To or from the workload, or an unmeshed peer.
    Plain(TcpStream),
    /// To or from another proxy. Boxed: TLS state is some 1.5 KiB, and plain connections shall not pay for it.
    Mesh(Box<TlsStream<Prefixed>>),
    /// The same as one of many streams of a session.
    Shared {
        /// The bytes.
        stream: Stream,
        /// What the session's handshake agreed on.
        tls: TlsFacts,
    },
}

/// What the handshake of a mesh connection agreed on, for edges and logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct TlsFacts {
    /// `TLSv1.3`; empty for plaintext.
    pub(crate) version: &'static str,
    /// The group of the key exchange; empty for plaintext.
    pub(crate) key_exchange: &'static str,
}

impl Transport {
    /// Makes the close of this connection a reset, so that its peer cannot mistake it for an orderly end.
    pub(crate) fn reset_on_close(&self) {
        match self {
            Self::Plain(stream) => reset_on_close(stream),
            Self::Mesh(stream) => reset_on_close(stream.get_ref().0.stream()),
            Self::Shared { stream, .. } => stream.reset(),
        }
    }

    /// What the handshake agreed on.
    pub(crate) fn tls_facts(&self) -> TlsFacts {
        let state = match self {
            Self::Plain(_) => return TlsFacts::default(),
            Self::Mesh(stream) => stream.get_ref().1,
            Self::Shared { tls, .. } => return *tls,
        };
        let version = match state.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(_) => "other",
            None => "",
        };
        let group = state.negotiated_key_exchange_group().map(|group| group.name());
        let key_exchange = group.and_then(|name| name.as_str()).unwrap_or("");
        TlsFacts { version, key_exchange }
    }
}

/// Makes the close of a socket a reset, so that its peer cannot mistake it for an orderly end.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// What the system takes of a connection that many streams share before it is sent: a small message of one stream waits
/// behind no more than this of the others, where the system would take megabytes.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// Sets what a connection wants that many streams share.
pub(crate) fn tune_shared(stream: &TlsStream<Prefixed>) {
    // As with the others, a failure changes nothing that matters for correctness.
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(stream.get_ref().0.stream()).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// Sets what every connection of the mesh wants: no delay, and vanished peers noticed. Failures change nothing that
/// matters for correctness and are ignored.
pub(crate) fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
}

/// Makes connections. The one place that opens sockets towards peers and applications.
#[derive(Clone, Debug)]
pub(crate) enum Dialer {
    /// In the network namespace of this process.
    Here,
    /// In the workload's own.
    Inside(crate::capture::dialer::Dialer),
}

impl Dialer {
    /// Opens a connection within `patience`.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`], or what the system says.
    pub(crate) async fn connect(&self, address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
        let connecting = async {
            match self {
                Self::Here => TcpStream::connect(address).await,
                Self::Inside(dialer) => dialer.connect(address).await,
            }
        };
        match tokio::time::timeout(patience, connecting).await {
            Ok(stream) => {
                let stream = stream?;
                tune(&stream);
                Ok(stream)
            }
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Accepts mesh TLS on a connection whose first bytes were read already, within the given time.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`]; otherwise `mesh_ca::verify::handshake_error` tells what the peer did.
pub(crate) async fn accept(
    config: Arc<ServerConfig>,
    early: Vec<u8>,
    stream: TcpStream,
    within: Duration,
) -> io::Result<Secured<Prefixed>> {
    let accepting = mesh_ca::tls::accept(config, Prefixed::new(early, stream));
    tokio::time::timeout(within, accepting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Connects mesh TLS within [`HANDSHAKE_TIMEOUT`].
///
/// # Errors
/// As [`accept`].
pub(crate) async fn connect(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
) -> io::Result<Secured<Prefixed>> {
    let connecting = mesh_ca::tls::connect(config, name, Prefixed::new(Vec::new(), stream));
    tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Why a handshake failed, as a word of a closed set.
pub(crate) fn handshake_reason(error: &io::Error) -> &'static str {
    match mesh_ca::verify::handshake_error(error) {
        Some(reason) => reason.code(),
        None if error.kind() == io::ErrorKind::TimedOut => "timeout",
        None => "broken",
    }
}

/// What went wrong in a handshake, in a sentence: ours where we have one, since rustls wraps it in its own words.
pub(crate) fn handshake_text(error: &io::Error) -> String {
    mesh_ca::verify::handshake_error(error).map_or_else(|| error.to_string(), |reason| reason.to_string())
}

/// Whether a failed handshake is explained by our own certificate being past its end.
pub(crate) fn is_own_expiry(not_after: std::time::SystemTime, error: &io::Error) -> bool {
    clock::wall() >= not_after
        && matches!(
            mesh_ca::verify::handshake_error(error),
            None | Some(PeerError::RefusedUs { .. } | PeerError::Expired)
        )
}

/// A stream whose next bytes may have been read already: the first ones, to see what it speaks, and more than was asked for
/// while much is coming.
///
/// # Why
/// rustls asks for 4 KiB at a time, four system calls for each record of 16 KiB, and each of them may send an
/// acknowledgement. Once it got all it asked for, more is read at once and held here for a moment; a connection that gets
/// less than that, as all do that carry requests, never holds anything. CPU of a pair for bulk, median of four rounds in turn
/// on a busy machine, before and after: up 1,672 and 1,509 ms for each GB, down 1,635 and 1,436. That was 32 KiB; 64 KiB together
/// with larger writes have brought some twentieth more (see `tunnel`).
#[derive(Debug)]
pub(crate) struct Prefixed {
    prefix: Vec<u8>,
    at: usize,
    /// Whether the last read brought as much as was asked for.
    streams: bool,
    stream: TcpStream,
}

impl Prefixed {
    /// `prefix` may be empty.
    pub(crate) fn new(prefix: Vec<u8>, stream: TcpStream) -> Self {
        Self { prefix, at: 0, streams: false, stream }
    }

    /// The stream beneath.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Hands out what was read before.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = self.prefix.get(self.at..).unwrap_or_default();
        let n = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..n).unwrap_or_default());
        self.at += n;
        if self.at >= self.prefix.len() {
            self.prefix = Vec::new();
            self.at = 0;
        }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wanted = buf.remaining();
        if !self.prefix.is_empty() {
            self.hand_out(buf);
        } else if self.streams && wanted < AHEAD_BYTES {
            let mut ahead = Vec::with_capacity(AHEAD_BYTES);
            let polled = tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, &mut ahead);
            self.streams = matches!(polled, Poll::Ready(Ok(read)) if read > wanted);
            ready!(polled)?;
            self.prefix = ahead;
            self.hand_out(buf);
        } else {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            let read = buf.filled().len().saturating_sub(before);
            self.streams = read == wanted && read >= STREAMING_BYTES;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Mesh(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
            Self::Shared { stream, .. } => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Mesh(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
            Self::Shared { stream, .. } => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Mesh(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
            Self::Shared { stream, .. } => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Mesh(stream) => stream.is_write_vectored(),
            Self::Shared { .. } => false,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Mesh(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Self::Shared { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Mesh(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Shared { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn reading_ahead_changes_no_byte_and_holds_nothing_when_idle() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        let mut near = Prefixed::new(b"first".to_vec(), near);
        let sent: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let sending = async { far.write_all(&sent).await.unwrap() };
        let mut got = Vec::new();
        let mut read_ahead = 0;
        let reading = async {
            let mut piece = [0; STREAMING_BYTES];
            while got.len() < sent.len() + 5 {
                let n = near.read(&mut piece).await.unwrap();
                got.extend_from_slice(&piece[..n]);
                read_ahead = read_ahead.max(near.prefix.len());
            }
        };
        tokio::join!(sending, reading);
        assert_eq!(got[..5], *b"first");
        assert!(got[5..] == sent, "bytes were lost or changed");
        assert!(read_ahead > STREAMING_BYTES, "at most {read_ahead} bytes were read ahead");
        assert_eq!(near.prefix.capacity(), 0, "an idle connection holds bytes");
    }
}
