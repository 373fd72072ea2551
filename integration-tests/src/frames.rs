//! HTTP/2 frames by hand (RFC 9113, section 4.1), for clients that no library would let misbehave.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Frame types.
pub mod kind {
    /// Section 6.1.
    pub const DATA: u8 = 0;
    /// Section 6.2.
    pub const HEADERS: u8 = 1;
    /// Section 6.4.
    pub const RST_STREAM: u8 = 3;
    /// Section 6.5.
    pub const SETTINGS: u8 = 4;
    /// Section 6.7.
    pub const PING: u8 = 6;
    /// Section 6.10.
    pub const CONTINUATION: u8 = 9;
}

/// END_STREAM on DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// END_HEADERS on HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;

/// A connection that sends whatever frames it is told to.
pub struct Connection(TcpStream);

impl Connection {
    /// Connects and sends the preface and empty settings.
    ///
    /// # Errors
    /// What the socket says.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut connection = Self(stream);
        connection.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        connection.send(&frame(kind::SETTINGS, 0, 0, &[]))?;
        Ok(connection)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// What the socket says; a peer that has had enough closes it.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
}

/// One frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The header block of `GET /` for a host, without the dynamic table (RFC 7541, section 6.2.2).
pub fn get_block(host: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84];
    literal(&mut block, ":authority", host);
    block
}

/// Appends one field, literal and not indexed; both texts shorter than 127 bytes.
pub fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).unwrap_or(0) & 0x7f);
        block.extend(text.as_bytes());
    }
}
