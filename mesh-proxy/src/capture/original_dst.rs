//! Where a redirected connection was going.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// The address a redirected connection was meant for (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`).
///
/// IPv4 callers of a dual-stack listener are asked about as what they are: the kernel keeps their entry under IPv4.
///
/// # Errors
/// When the connection was not redirected: somebody dialled the listener itself.
pub fn original_dst(stream: &tokio::net::TcpStream) -> io::Result<SocketAddr> {
    let socket = socket2::SockRef::from(stream);
    let found = match stream.peer_addr()?.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    }?;
    let address =
        found.as_socket().ok_or_else(|| io::Error::other("the original destination is no IP address"))?;
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let local = stream.local_addr()?;
    if address.port() == local.port() && address.ip() == local.ip().to_canonical() {
        return Err(io::Error::other("the connection was made to the proxy's own listener"));
    }
    Ok(address)
}
