//! The control plane's admin API: over its Unix socket, or over a port-forward to a cluster.
//!
//! Every command that asks the control plane something goes through here, so that an absent control plane, a refusal and a
//! lost connection read the same everywhere. It never retries: a command that may wait says so itself.

use crate::cluster::access::Cluster;
use crate::cluster::session;
use crate::failure::{Failure, Kind, chain};
use hyper_util::rt::TokioIo;
use mesh_proto::wire::v1;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

/// A local socket answers within microseconds; a second means that nobody accepts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Restores and diffs of a large mesh are larger than tonic's default of 4 MiB.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A connection to the control plane's admin API.
#[derive(Clone, Debug)]
pub(crate) struct AdminClient {
    place: Place,
    channel: Channel,
    bearer: Bearer,
}

/// Where a control plane is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// On this machine, behind a socket.
    Local(PathBuf),
    /// On a cluster, by its name.
    Cluster(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(socket) => write!(f, "{}", socket.display()),
            Self::Cluster(name) => write!(f, "cluster {name}"),
        }
    }
}

/// What a call proves its caller with; nothing through a socket, where the kernel says who calls.
#[derive(Clone, Debug)]
pub(crate) struct Bearer(Option<AsciiMetadataValue>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
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
        Ok(Self { place: Place::Local(socket.to_owned()), channel, bearer: Bearer(None) })
    }

    /// Connects to the control plane of a cluster, as the user of its kubeconfig.
    ///
    /// # Errors
    /// No control plane is ready, or this user may not.
    pub(crate) async fn connect_to_cluster(cluster: &Cluster) -> Result<Self, Failure> {
        let channel = session::channel(cluster).await?;
        let token = session::token(cluster).await?;
        let mut value: AsciiMetadataValue = format!("Bearer {token}")
            .parse()
            .map_err(|_| Failure::failed("the API server gave the session a name that is none"))?;
        value.set_sensitive(true);
        let place = Place::Cluster(cluster.name.clone());
        Ok(Self { place, channel, bearer: Bearer(Some(value)) })
    }

    /// The generated client; answers go through [`AdminClient::answer`].
    pub(crate) fn api(&self) -> v1::admin_client::AdminClient<InterceptedService<Channel, Bearer>> {
        v1::admin_client::AdminClient::with_interceptor(self.channel.clone(), self.bearer.clone())
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
                format!("the control plane at {} went away before it answered", self.place),
            )
            .next("meshctl status"),
            Code::Unimplemented => {
                Failure::failed("the control plane is of another release and does not know this request")
                    .next("meshctl version")
            }
            // It says itself, in several lines, how the right is granted.
            Code::PermissionDenied if message.contains('\n') => Failure::failed(message),
            Code::PermissionDenied | Code::Unauthenticated => {
                Failure::failed(message).next(match &self.place {
                    Place::Local(socket) => format!("ls -l {}   # who may use the socket", socket.display()),
                    Place::Cluster(_) => "kubectl auth whoami   # who this user is".to_owned(),
                })
            }
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
