//! The control plane's admin API: over its Unix socket, or over a port-forward to a cluster.
//!
//! Every command that asks the control plane something goes through here, so that an absent control plane, a refusal and a
//! lost connection read the same everywhere. It never retries: a command that may wait says so itself.

use crate::cluster::access::Cluster;
use crate::cluster::session;
use crate::failure::{Failure, Kind, chain};
use crate::output;
use futures_util::future::join_all;
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
#[derive(Clone)]
pub(crate) struct AdminClient {
    place: Place,
    channel: Channel,
    bearer: Bearer,
    /// Which replica that is; empty on this machine, where there is one.
    name: String,
    /// The other replicas of a cluster's control plane.
    others: Vec<Other>,
}

/// A replica beside the one that is asked.
#[derive(Clone, Debug)]
struct Other {
    name: String,
    /// Its channel, or why there is none.
    channel: Result<Channel, String>,
}

/// What one replica has answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer<T> {
    /// Its pod; empty on this machine.
    pub(crate) replica: String,
    /// The answer.
    pub(crate) value: T,
}

/// The generated client.
pub(crate) type Api = v1::admin_client::AdminClient<InterceptedService<Channel, Bearer>>;

/// Where a control plane is.
#[derive(Clone)]
pub(crate) enum Place {
    /// On this machine, behind a socket.
    Local(PathBuf),
    /// On a cluster.
    Cluster(Cluster),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(socket) => write!(f, "{}", socket.display()),
            Self::Cluster(cluster) => write!(f, "cluster {}", cluster.name),
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
        let place = Place::Local(socket.to_owned());
        Ok(Self { place, channel, bearer: Bearer(None), name: String::new(), others: Vec::new() })
    }

    /// Connects to the control plane of a cluster, as the user of its kubeconfig: to each of its replicas.
    ///
    /// # Errors
    /// No control plane is ready, or this user may not.
    pub(crate) async fn connect_to_cluster(cluster: &Cluster) -> Result<Self, Failure> {
        let names = session::replicas(cluster).await?;
        let channels = names.iter().map(|name| session::channel(cluster, name));
        let (channels, token) = tokio::join!(join_all(channels), session::token(cluster));
        let mut value: AsciiMetadataValue = format!("Bearer {}", token?)
            .parse()
            .map_err(|_| Failure::failed("the API server gave the session a name that is none"))?;
        value.set_sensitive(true);
        let place = Place::Cluster(cluster.clone());
        let (mut own, mut others, mut refused) = (None, Vec::new(), None);
        for (name, channel) in names.into_iter().zip(channels) {
            match channel {
                Ok(channel) if own.is_none() => own = Some((name, channel)),
                Ok(channel) => others.push(Other { name, channel: Ok(channel) }),
                Err(failure) => {
                    others.push(Other { name, channel: Err(failure.message.clone()) });
                    refused = Some(failure);
                }
            }
        }
        let absent = || Failure::new(Kind::Unreachable, "no control plane is ready").next("meshctl status");
        let (name, channel) = own.ok_or_else(|| refused.unwrap_or_else(absent))?;
        Ok(Self { place, channel, bearer: Bearer(Some(value)), name, others })
    }

    /// The cluster whose control plane it is; `None` on this machine.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        match &self.place {
            Place::Local(_) => None,
            Place::Cluster(cluster) => Some(cluster),
        }
    }

    /// The generated client of the replica that remembers the most; answers go through [`AdminClient::answer`].
    pub(crate) fn api(&self) -> Api {
        self.api_of(&self.channel)
    }

    fn api_of(&self, channel: &Channel) -> Api {
        v1::admin_client::AdminClient::with_interceptor(channel.clone(), self.bearer.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Asks every replica. One that does not answer beside one that does is told of on standard error.
    ///
    /// # Errors
    /// The first replica's refusal, when none has answered.
    pub(crate) async fn everywhere<T>(
        &self,
        ask: impl AsyncFn(Api) -> Result<T, Status>,
    ) -> Result<Vec<Answer<T>>, Failure> {
        let (mut answers, mut refused) = (Vec::new(), Vec::new());
        for Answer { replica, value } in self.each(ask).await {
            match value {
                Ok(value) => answers.push(Answer { replica, value }),
                Err(failure) => refused.push((replica, failure)),
            }
        }
        if answers.is_empty() {
            let first = refused.into_iter().next().map(|(_, failure)| failure);
            return Err(first.unwrap_or_else(|| Failure::failed("no control plane was asked")));
        }
        for (replica, failure) in &refused {
            output::warn(&output::clean(&format!(
                "what only control plane {replica} knows is missing: {}",
                failure.message.lines().next().unwrap_or_default()
            )));
        }
        Ok(answers)
    }

    /// Asks every replica; each one's answer, the one first that remembers the most.
    pub(crate) async fn each<T>(
        &self,
        ask: impl AsyncFn(Api) -> Result<T, Status>,
    ) -> Vec<Answer<Result<T, Failure>>> {
        let ask = &ask;
        let own = (self.name.clone(), Ok(self.channel.clone()));
        let others = self.others.iter().map(|other| (other.name.clone(), other.channel.clone()));
        let asked = std::iter::once(own).chain(others).map(|(name, channel)| async move {
            let answer = match channel {
                Ok(channel) => ask(self.api_of(&channel)).await.map_err(|status| self.refused(&status)),
                Err(problem) => Err(Failure::new(Kind::Unreachable, problem)),
            };
            Answer { replica: name, value: answer }
        });
        join_all(asked).await
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
