//! Sockets that will listen: bound at once, so that a busy port is said at the start, and opened when the proxy is ready,
//! so that nobody's connection waits in a queue that is not yet served.
//!
//! # Why
//! With several data threads each has a socket of its own (`SO_REUSEPORT`), and the kernel deals connections out by a hash.
//! Measured with a pair on two cores that load and application shared (median of three, GET of 200 bytes, one thread against
//! two): 64 connections 60 and 47 µs of both proxies for each request, 4 connections 53 and 56, one 73 and 69. What the hash
//! costs is balance: of four connections one thread carried up to 2.4 times the other's load. An acceptor that hands
//! connections over would even that out, at the price of a queue and a wake for each connection; it was not built, since one
//! thread is the default and a sidecar seldom has reason for two.

use crate::ProxyError;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// A bound socket for each data thread, all on one address.
#[derive(Debug)]
pub(crate) struct Bound {
    sockets: Vec<Socket>,
    /// The address they really got.
    pub(crate) address: SocketAddr,
    purpose: String,
}

/// Binds `count` sockets to one address; port 0 takes any free one.
///
/// # Errors
/// [`ProxyError::Listen`], with the address and the purpose.
pub(crate) fn bind(address: SocketAddr, purpose: &str, count: usize) -> Result<Bound, ProxyError> {
    let fail = |address, source| ProxyError::Listen { address, purpose: purpose.to_owned(), source };
    let shared = if count > 1 { Sharing::Shared } else { Sharing::Alone };
    let first = socket(address, shared).map_err(|source| fail(address, source))?;
    let got = first.local_addr().and_then(|got| {
        got.as_socket().ok_or_else(|| io::Error::other("the socket has no internet address"))
    });
    let got = got.map_err(|source| fail(address, source))?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(socket(got, shared).map_err(|source| fail(got, source))?);
    }
    Ok(Bound { sockets, address: got, purpose: purpose.to_owned() })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Shared,
}

fn socket(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Without it, a port of before a restart is busy for a minute (TIME_WAIT).
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Bound {
    /// Opens them all.
    ///
    /// # Errors
    /// Somebody else opened the same port meanwhile.
    pub(crate) fn open(self, backlog: i32) -> Result<Vec<TcpListener>, ProxyError> {
        let Self { sockets, address, purpose } = self;
        let open = |socket: Socket| {
            socket.listen(backlog)?;
            Ok(socket.into())
        };
        sockets
            .into_iter()
            .map(open)
            .collect::<io::Result<Vec<TcpListener>>>()
            .map_err(|source| ProxyError::Listen { address, purpose, source })
    }
}
