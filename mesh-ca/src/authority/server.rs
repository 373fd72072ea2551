//! The gRPC service `Identity`: attests, issues, answers.
//!
//! `mesh-control` serves one [`IdentityService`] on its Unix socket and on its TLS port, over connections wrapped in
//! [`Accepted`], which says of each request who is at the other end. It never trusts a name in the request beyond what
//! the evidence proves.

use super::attest::{self, AttestError, Attested, Caller, Claim, Owners, ReviewError, TokenReviewer};
use super::audit::Event;
use super::keys::public_key_of_request;
use super::{Authority, IssueRefusal, Issued, Order};
use crate::tls::control_identity;
use crate::x509::sha256;
use mesh_proto::config::Bundle;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::identity_server::Identity;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// A certificate request is a few hundred bytes.
const CSR_BYTES_MAX: usize = 16 * 1024;

/// The user that a `Workload` resource names for an identity, if one does.
pub type NamedOwner = dyn Fn(&SpiffeId) -> Option<u32> + Send + Sync;

/// The service. Cheap to clone; one for all listeners.
#[derive(Clone)]
pub struct IdentityService {
    /// Signs.
    pub authority: Arc<Authority>,
    /// `host:port` of the mutual-TLS port, as workloads reach it.
    pub control_address: String,
    /// The user this process runs as.
    pub own_uid: u32,
    /// Looks an identity's user up in the resources.
    pub named_owner: Arc<NamedOwner>,
    /// Judges the tokens of pods; `None` outside of a cluster.
    pub reviewer: Option<Arc<dyn TokenReviewer>>,
    /// The time, read once for each request.
    pub clock: fn() -> SystemTime,
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn issue(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueResponse>, Status> {
        let caller = request
            .extensions()
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| Status::internal("the listener does not say who calls"))?;
        // Signing is some hundred microseconds and a durable write now and then: not on the runtime's own threads.
        let service = self.clone();
        let work = move || service.answer(&caller, &request.into_inner());
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Status::internal("issuing was interrupted"))?
            .map(Response::new)
    }
}

impl IdentityService {
    /// Attests and issues.
    fn answer(&self, caller: &Caller, request: &v1::IssueRequest) -> Result<v1::IssueResponse, Status> {
        let now = (self.clock)();
        self.decide(caller, request, now).inspect_err(|status| {
            let event = Event::Refused { caller: describe(caller), reason: status.message().to_owned() };
            self.authority.note(now, event);
        })
    }

    fn decide(
        &self,
        caller: &Caller,
        request: &v1::IssueRequest,
        now: SystemTime,
    ) -> Result<v1::IssueResponse, Status> {
        let v1::IssueRequest { csr_der, evidence, instance, lifetime_seconds } = request;
        if csr_der.len() > CSR_BYTES_MAX {
            return Err(Status::invalid_argument("the certificate request is longer than 16 KiB"));
        }
        let instance: InstanceName = instance
            .parse()
            .map_err(|e: mesh_proto::name::NameError| Status::invalid_argument(e.to_string()))?;
        let revocation = self.authority.revocation();
        // Before the token is spent: a request that cannot be signed must not cost it.
        let key = public_key_of_request(csr_der).map_err(Status::invalid_argument)?;
        let key_sha256 = sha256(&rcgen::PublicKeyData::subject_public_key_info(&key));
        let owners = Owners { own_uid: self.own_uid, named: &*self.named_owner };
        let reviewer = self.reviewer.as_deref();
        let evidence = evidence.as_ref();
        let claim = Claim { caller, reviewer, evidence, instance: &instance, key_sha256 };
        let Attested { id, attestor } =
            attest::attest(&self.authority, &owners, &claim, now).map_err(|e| unattested(&e))?;
        let lifetime = (*lifetime_seconds > 0).then(|| Duration::from_secs(*lifetime_seconds));
        let order = Order { csr_der, id: &id, instance: &instance, lifetime, attestor: &attestor };
        let issued = self.authority.issue_as_of(revocation, &order, now).map_err(|e| refused(&e))?;
        Ok(response(&self.authority, &id, issued, &self.control_address))
    }
}

fn response(
    authority: &Authority,
    id: &SpiffeId,
    issued: Issued,
    control_address: &str,
) -> v1::IssueResponse {
    let bundle = |Bundle { trust_domain, roots, sequence }: Bundle| v1::Bundle {
        trust_domain: trust_domain.to_string(),
        roots_der: roots,
        sequence,
    };
    v1::IssueResponse {
        chain_der: issued.chain_der,
        bundles: authority.bundles().into_iter().map(bundle).collect(),
        spiffe_id: id.to_string(),
        control_address: control_address.to_owned(),
        control_identity: control_identity(authority.trust_domain()).to_string(),
        reissue_epoch: issued.reissue_epoch,
    }
}

fn unattested(error: &AttestError) -> Status {
    let text = error.to_string();
    match error {
        AttestError::NoEvidence
        | AttestError::Token
        | AttestError::Stale(_)
        | AttestError::Unrecorded(_)
        | AttestError::PodNeedsToken(_)
        | AttestError::PodToken(ReviewError::Refused(_)) => Status::unauthenticated(text),
        AttestError::WrongDoor(_)
        | AttestError::Reserved
        | AttestError::NotOwner { .. }
        | AttestError::OtherInstance { .. } => Status::permission_denied(text),
        AttestError::BadName(_) => Status::invalid_argument(text),
        AttestError::TooManyGuesses => Status::resource_exhausted(text),
        AttestError::PodToken(ReviewError::Unavailable(_)) | AttestError::Authority(_) => {
            Status::unavailable(text)
        }
    }
}

fn refused(error: &IssueRefusal) -> Status {
    let text = error.to_string();
    match error {
        IssueRefusal::Request(_) => Status::invalid_argument(text),
        IssueRefusal::OtherTrustDomain(_) | IssueRefusal::Revoked(_) => Status::permission_denied(text),
        IssueRefusal::TooFast { .. } | IssueRefusal::Full(_) => Status::resource_exhausted(text),
        IssueRefusal::Overtaken(_) | IssueRefusal::Authority(_) => Status::unavailable(text),
    }
}

fn describe(caller: &Caller) -> String {
    match caller {
        Caller::Unix(caller) => format!("uid {}", caller.uid),
        Caller::Tls(caller) => match &caller.peer {
            Some(peer) => format!("{} at {}", peer.id, caller.address),
            None => caller.address.to_string(),
        },
    }
}

/// The control plane's own way to an SVID: straight from its authority.
#[derive(Clone)]
pub struct SelfIssuer {
    /// Signs.
    pub authority: Arc<Authority>,
    /// The instance it is to be called.
    pub instance: InstanceName,
    /// `host:port` of the mutual-TLS port.
    pub control_address: String,
    /// The time.
    pub clock: fn() -> SystemTime,
}

impl crate::client::Issuer for SelfIssuer {
    async fn issue(&self, csr_der: Vec<u8>) -> Result<v1::IssueResponse, crate::client::IssueError> {
        let issuer = self.clone();
        // It may need a new intermediate first, which waits for the store.
        let issued = tokio::task::spawn_blocking(move || issuer.answer(&csr_der)).await;
        let unavailable = |reason| crate::client::IssueError::Unavailable { at: "itself".to_owned(), reason };
        issued.map_err(|_| unavailable("issuing was interrupted".to_owned()))?.map_err(unavailable)
    }
}

impl SelfIssuer {
    fn answer(&self, csr_der: &[u8]) -> Result<v1::IssueResponse, String> {
        let id = control_identity(self.authority.trust_domain());
        let order = Order { csr_der, id: &id, instance: &self.instance, lifetime: None, attestor: "itself" };
        let issued = self.authority.issue(&order, (self.clock)()).map_err(|error| error.to_string())?;
        Ok(response(&self.authority, &id, issued, &self.control_address))
    }
}

/// A connection together with who is at its other end; tonic puts a [`Caller`] into each request's extensions.
#[derive(Debug)]
pub struct Accepted<S> {
    stream: S,
    caller: Caller,
}

impl<S> Accepted<S> {
    /// Joins them.
    pub fn new(stream: S, caller: Caller) -> Self {
        Self { stream, caller }
    }
}

impl<S> Connected for Accepted<S> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Accepted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Accepted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
}
