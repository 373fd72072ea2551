//! The ways to the authority: over its Unix socket, or over TLS with a join token first and an SVID later.

use super::{Identity, IssueError, Issuer};
use crate::bundle::TrustBundles;
use crate::tls::{self, Credentials};
use crate::verify::{PeerError, handshake_error};
use hyper_util::rt::TokioIo;
use mesh_proto::config::{Bundle, Revocations};
use mesh_proto::identity::TrustDomain;
use mesh_proto::name::{InstanceName, Namespace, ServiceAccount};
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::identity_client::IdentityClient;
use mesh_proto::wire::v1::issue_request::Evidence;
use rustls::ClientConfig;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use zeroize::Zeroizing;

/// How long a connection may take, TLS included.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// An answer is a chain and some bundles.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Asks over the control plane's Unix socket; the evidence is who we are to the kernel.
#[derive(Debug, Clone)]
pub struct UnixIssuer {
    /// The control plane's socket.
    pub socket: PathBuf,
    /// The workload's namespace.
    pub namespace: Namespace,
    /// The workload's account.
    pub account: ServiceAccount,
    /// This instance.
    pub instance: InstanceName,
    /// `None`: the mesh's default.
    pub lifetime: Option<Duration>,
}

impl Issuer for UnixIssuer {
    async fn issue(&self, csr_der: Vec<u8>) -> Result<v1::IssueResponse, IssueError> {
        let at = self.socket.display().to_string();
        let channel = unix_channel(&self.socket).await.map_err(|e| unreachable(&at, &e))?;
        let evidence = Evidence::UnixPeer(v1::UnixPeer {
            namespace: self.namespace.to_string(),
            service_account: self.account.to_string(),
        });
        ask(channel, &at, request(csr_der, Some(evidence), &self.instance, self.lifetime)).await
    }
}

/// Connects a gRPC channel to a Unix socket.
///
/// # Errors
/// The socket is not there, or nobody listens on it.
pub(crate) async fn unix_channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    endpoint().connect_with_connector(connector).await
}

/// Asks over TLS from another machine: once with a join token, believing only a pinned root; then with its own SVID.
///
/// When the SVID has expired before the control plane came back, a new token is needed: there is no other evidence.
pub struct JoinIssuer {
    address: String,
    root_sha256: [u8; 32],
    trust_domain: Option<TrustDomain>,
    token: Zeroizing<String>,
    instance: InstanceName,
    lifetime: Option<Duration>,
    joined: Mutex<Option<Joined>>,
}

/// What it proves itself with after the first success.
struct Joined {
    identity: Arc<Identity>,
    bundles: Arc<TrustBundles>,
}

impl JoinIssuer {
    /// An issuer at `address` (`host:port`) whose root has the given SHA-256.
    pub fn new(address: String, root_sha256: [u8; 32], token: String, instance: InstanceName) -> Self {
        let token = Zeroizing::new(token);
        let joined = Mutex::new(None);
        Self { address, root_sha256, trust_domain: None, token, instance, lifetime: None, joined }
    }

    /// Joins only this trust domain.
    #[must_use]
    pub fn in_trust_domain(self, trust_domain: TrustDomain) -> Self {
        Self { trust_domain: Some(trust_domain), ..self }
    }

    /// Asks for this lifetime.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Option<Duration>) -> Self {
        Self { lifetime, ..self }
    }

    /// The configuration and evidence for the next request.
    fn proof(&self) -> Result<(Arc<ClientConfig>, Option<Evidence>), IssueError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "chooses between two kinds of evidence at the moment of asking"
        )]
        let now = SystemTime::now();
        let setup = |e: tls::TlsError| IssueError::Answer(e.to_string());
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        match &*joined {
            Some(Joined { identity, bundles }) if identity.svid.not_after() > now => {
                let credentials = Credentials {
                    svid: identity.svid.clone(),
                    bundles: bundles.clone(),
                    revocations: Arc::new(Revocations::default()),
                };
                Ok((credentials.control_client_config(&identity.control_identity).map_err(setup)?, None))
            }
            _ => {
                let config =
                    tls::pinned_client_config(self.root_sha256, self.trust_domain.clone()).map_err(setup)?;
                let token = v1::JoinToken { token: self.token.to_string() };
                Ok((config, Some(Evidence::JoinToken(token))))
            }
        }
    }

    fn believe(
        joined: &mut Option<Joined>,
        identity: Arc<Identity>,
        bundles: &BTreeMap<TrustDomain, Bundle>,
    ) {
        // A bad bundle never replaces a good one.
        if let Ok(bundles) = TrustBundles::from_config(bundles) {
            *joined = Some(Joined { identity, bundles: Arc::new(bundles) });
        }
    }
}

impl Issuer for JoinIssuer {
    async fn issue(&self, csr_der: Vec<u8>) -> Result<v1::IssueResponse, IssueError> {
        let (config, evidence) = self.proof()?;
        let has_joined = evidence.is_none();
        let asked = async {
            let channel = tls_channel(&self.address, config).await?;
            ask(channel, &self.address, request(csr_der, evidence, &self.instance, self.lifetime)).await
        };
        asked.await.map_err(|error| match error {
            IssueError::Impostor { at, reason: reason @ PeerError::UnknownIssuer } if has_joined => {
                IssueError::LockedOut { at, reason }
            }
            other => other,
        })
    }

    fn accepted(&self, identity: &Arc<Identity>) {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        Self::believe(&mut joined, identity.clone(), &identity.bundles);
    }

    fn learn(&self, bundles: &BTreeMap<TrustDomain, Bundle>) {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = joined.as_ref().map(|joined| joined.identity.clone()) {
            Self::believe(&mut joined, identity, bundles);
        }
    }
}

/// Connects a gRPC channel over TLS with a configuration for the control plane.
pub(super) async fn tls_channel(address: &str, config: Arc<ClientConfig>) -> Result<Channel, IssueError> {
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        tls::connect_control(config, stream).await
    };
    let stream = match tokio::time::timeout(CONNECT_MAX, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(match handshake_error(&error) {
                Some(reason) => IssueError::Impostor { at: address.to_owned(), reason },
                None => unreachable(address, &error),
            });
        }
        Err(_) => return Err(unreachable(address, &io::Error::from(io::ErrorKind::TimedOut))),
    };
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { stream }
    });
    endpoint().connect_with_connector(connector).await.map_err(|e| unreachable(address, &e))
}

fn endpoint() -> Endpoint {
    // The name is not used: the connector decides where to.
    Endpoint::from_static("http://mesh-control").connect_timeout(CONNECT_MAX)
}

pub(super) fn request(
    csr_der: Vec<u8>,
    evidence: Option<Evidence>,
    instance: &InstanceName,
    lifetime: Option<Duration>,
) -> v1::IssueRequest {
    let lifetime_seconds = lifetime.map_or(0, |lifetime| lifetime.as_secs().max(1));
    v1::IssueRequest { csr_der, evidence, instance: instance.to_string(), lifetime_seconds }
}

pub(super) async fn ask(
    channel: Channel,
    at: &str,
    request: v1::IssueRequest,
) -> Result<v1::IssueResponse, IssueError> {
    let mut client = IdentityClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    client.issue(request).await.map(tonic::Response::into_inner).map_err(|status| refusal(at, &status))
}

fn refusal(at: &str, status: &Status) -> IssueError {
    let (at, reason) = (at.to_owned(), status.message().to_owned());
    match status.code() {
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::Unimplemented => IssueError::Refused { at, reason },
        // What the peer said in an alert surfaces here, since TLS 1.3 judges the client after its handshake.
        _ => IssueError::Unavailable { at, reason: with_cause(status, reason) },
    }
}

fn with_cause(status: &Status, reason: String) -> String {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(reason) = error.downcast_ref::<io::Error>().and_then(handshake_error) {
            return reason.to_string();
        }
        cause = error.source();
    }
    reason
}

fn unreachable(at: &str, error: &(dyn std::error::Error + 'static)) -> IssueError {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    IssueError::Unreachable { at: at.to_owned(), problem: deepest.to_string() }
}
