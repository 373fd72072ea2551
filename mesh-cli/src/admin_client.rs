//! The control plane's admin API over its Unix socket.
//!
//! Every command that asks the control plane something goes through here, so that an absent control plane, a refusal and a
//! lost connection read the same everywhere. It never retries: a command that may wait says so itself.

use crate::failure::{Failure, Kind, chain};
use hyper_util::rt::TokioIo;
use mesh_proto::wire::v1;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

/// A local socket answers within microseconds; a second means that nobody accepts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Restores and diffs of a large mesh are larger than tonic's default of 4 MiB.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A connection to the control plane's admin API.
#[derive(Clone, Debug)]
pub(crate) struct AdminClient {
    socket: PathBuf,
    channel: Channel,
}

impl AdminClient {
    /// Connects to the socket.
    ///
    /// # Errors
    /// When none answers, or when this user may not connect.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, Failure> {
        // Once by hand first: tonic wraps the system's error so deeply that its kind is lost.
        probe(socket).await.map_err(|error| unreachable(socket, &error))?;
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The name is never resolved: the connector knows the way.
        let channel = Endpoint::from_static("http://control.mesh")
            .connect_timeout(CONNECT_TIMEOUT)
            .connect_with_connector(connector)
            .await
            .map_err(|error| unreachable(socket, &io::Error::other(chain(&error))))?;
        Ok(Self { socket: socket.to_owned(), channel })
    }

    /// The generated client; answers go through [`AdminClient::answer`].
    pub(crate) fn api(&self) -> v1::admin_client::AdminClient<Channel> {
        v1::admin_client::AdminClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Unwraps an answer, or tells the refusal in words.
    ///
    /// # Errors
    /// The control plane's own words, with the next command where it is known.
    pub(crate) fn answer<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, Failure> {
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(&status))
    }

    /// A refusal in words.
    pub(crate) fn refused(&self, status: &Status) -> Failure {
        let message = status.message().trim_end().to_owned();
        match status.code() {
            Code::Unavailable | Code::Unknown | Code::Cancelled if lost(status) => Failure::new(
                Kind::Unreachable,
                format!("the control plane at {} went away before it answered", self.socket.display()),
            )
            .next("meshctl status"),
            Code::Unimplemented => {
                Failure::failed("the control plane is of another release and does not know this request")
                    .next("meshctl version")
            }
            // It says itself, in several lines, how the right is granted.
            Code::PermissionDenied if message.contains('\n') => Failure::failed(message),
            Code::PermissionDenied | Code::Unauthenticated => Failure::failed(message)
                .next(format!("ls -l {}   # who may use the socket", self.socket.display())),
            Code::DeadlineExceeded => {
                Failure::failed(format!("no answer in time: {message}")).next("meshctl status")
            }
            _ if message.is_empty() => {
                Failure::failed(format!("the control plane refused: {:?}", status.code()))
            }
            _ => Failure::failed(message),
        }
    }
}

/// Whether the status was made by our side because the connection broke.
fn lost(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Connects once and hangs up.
///
/// # Errors
/// The system's, or a timeout.
pub(crate) async fn probe(socket: &Path) -> io::Result<()> {
    match tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await {
        Ok(connected) => connected.map(drop),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let place = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
            let start = match socket.parent() {
                Some(dir) => format!("meshctl up --state-dir {}", dir.display()),
                None => "meshctl up".to_owned(),
            };
            Failure::new(Kind::Unreachable, format!("no control plane answers at {place}"))
                .next(format!("{start}   # starts one"))
                .next("meshctl --state-dir DIR …   # if it runs with another state directory")
        }
        io::ErrorKind::PermissionDenied => Failure::new(
            Kind::Unreachable,
            format!("this user may not connect to the control plane at {place}"),
        )
        .next(format!("ls -l {place}   # who may")),
        _ => Failure::new(Kind::Unreachable, format!("no control plane answers at {place}: {error}"))
            .next("meshctl check"),
    }
}
