//! Connections from the proxy, which is outside, to the workload, which is inside its namespace.
//!
//! A socket belongs to the namespace of the thread that makes it. One thread stays inside and makes sockets on request;
//! connecting and everything after happens on the caller's runtime. Called by `inbound::local` once for each new
//! connection to the application, not for each request.

use super::namespace::{CaptureError, Namespace};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// Requests for a socket that may wait; each is answered within microseconds.
const WAITING_MAX: usize = 1024;

/// Makes connections inside a namespace. Cheap to clone; its thread ends with the last clone.
#[derive(Clone, Debug)]
pub struct Dialer {
    asks: mpsc::SyncSender<Ask>,
}

#[derive(Debug)]
struct Ask {
    domain: Domain,
    answer: oneshot::Sender<io::Result<Socket>>,
}

impl Dialer {
    /// Starts the thread inside the namespace, which must outlive the last connection.
    ///
    /// # Errors
    /// When the thread cannot be started or cannot enter.
    pub fn start(namespace: &Namespace) -> Result<Self, CaptureError> {
        let (asks, waiting) = mpsc::sync_channel::<Ask>(WAITING_MAX);
        namespace
            .enter(|| {
                // A thread inherits the namespace of the one that starts it.
                std::thread::Builder::new().name("namespace-sockets".to_owned()).spawn(move || {
                    for ask in waiting {
                        // A caller that has given up needs no socket.
                        drop(ask.answer.send(socket(ask.domain)));
                    }
                })
            })?
            .map_err(|source| CaptureError::Inside {
                what: "start a thread",
                name: namespace.name().to_owned(),
                source,
            })?;
        Ok(Self { asks })
    }

    /// Connects to an address inside. The caller bounds the time.
    ///
    /// # Errors
    /// What the system says, or that the thread is gone or overwhelmed.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let (answer, made) = oneshot::channel();
        let ask = Ask { domain: Domain::for_address(to), answer };
        self.asks.try_send(ask).map_err(|_| io::Error::other("the namespace gives no more sockets"))?;
        let socket = made.await.map_err(|_| io::Error::other("the namespace is gone"))??;
        TcpSocket::from_std_stream(socket.into()).connect(to).await
    }
}

fn socket(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}
