//! A control plane as small as proxies need it: issues real certificates, registers whoever connects, sends snapshots.

use mesh_ca::authority::{Authority, AuthorityConfig, AuthorityStore, Order};
use mesh_ca::bundle::TrustBundles;
use mesh_ca::csr::WorkloadKey;
use mesh_ca::seal::SealKey;
use mesh_ca::svid::Svid;
use mesh_ca::tls::{Credentials, control_identity};
use mesh_proto::config::{
    Destination, DestinationPort, Endpoint, EndpointState, MeshSettings, MtlsMode, OwnWorkload, Revision,
    Revocations, Tracing,
};
use mesh_proto::identity::{SpiffeId, TrustDomain};
use mesh_proto::limit::RateLimit;
use mesh_proto::name::{InstanceName, Port, ServiceRef};
use mesh_proto::policy::model::Policy;
use mesh_proto::wire::{Item, Items, Part, v1};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use v1::proxy_message::Kind;

pub(crate) const DOMAIN: &str = "mesh.test";

/// What the test wants the mesh to be, and what the proxies said.
#[derive(Default)]
pub(crate) struct State {
    /// Policies by the workload they are about.
    pub(crate) policies: BTreeMap<String, Vec<Policy>>,
    /// Limits by workload.
    pub(crate) limits: BTreeMap<String, Vec<RateLimit>>,
    /// Endpoints besides those of registered workloads.
    pub(crate) extra: Vec<(String, Endpoint)>,
    pub(crate) revocations: Revocations,
    pub(crate) permissive_until: Option<u64>,
    pub(crate) tracing: Option<Tracing>,
    /// Send an update that cannot be used.
    pub(crate) corrupt: bool,
    /// Workloads that get no certificate any more.
    pub(crate) uncertified: BTreeSet<String>,
    /// Proxies are told that their workloads answer for nothing but their own names.
    pub(crate) tells_services: bool,
    registered: BTreeMap<u64, (v1::Hello, bool)>,
    pub(crate) acked: BTreeMap<String, u64>,
    pub(crate) refusals: Vec<String>,
    pub(crate) edges: Vec<v1::EdgeStats>,
    pub(crate) decisions: Vec<v1::Decision>,
    revision: u64,
    streams: u64,
}

pub(crate) struct Inner {
    pub(crate) authority: Authority,
    pub(crate) domain: TrustDomain,
    pub(crate) state: Mutex<State>,
    changed: watch::Sender<u64>,
    address: Mutex<String>,
    lifetime: Mutex<Option<Duration>>,
}

pub(crate) struct Control {
    pub(crate) inner: Arc<Inner>,
    pub(crate) socket: PathBuf,
    _dir: tempfile::TempDir,
    /// Its own threads, so that it can die with everything it has spawned.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.die();
    }
}

struct Forgetful;

impl AuthorityStore for Forgetful {
    fn load(&self) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    fn save(&self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

pub(crate) fn authority(domain: &str) -> Authority {
    let config = AuthorityConfig::new(domain.parse().unwrap());
    // It has been there for a while, so that it can have issued what has expired since.
    let opened = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
    Authority::open(config, Arc::new(Forgetful), &SealKey::from_bytes(&[7; 32]), opened).unwrap()
}

/// A certificate of an authority, issued at `now`.
pub(crate) fn svid(
    authority: &Authority,
    id: &SpiffeId,
    lifetime: Option<Duration>,
    now: SystemTime,
) -> Arc<Svid> {
    let key = WorkloadKey::generate().unwrap();
    let instance: InstanceName = "test-1".parse().unwrap();
    let csr_der = key.csr_der(&instance).unwrap();
    let order = Order { csr_der: &csr_der, id, instance: &instance, lifetime, attestor: "test" };
    let issued = authority.issue(&order, now).unwrap();
    Arc::new(Svid::new(issued.chain_der, key).unwrap())
}

pub(crate) fn credentials(authority: &Authority, svid: Arc<Svid>) -> Credentials {
    let bundles =
        authority.bundles().into_iter().map(|bundle| (bundle.trust_domain.clone(), bundle)).collect();
    Credentials {
        svid,
        bundles: Arc::new(TrustBundles::from_config(&bundles).unwrap()),
        revocations: Arc::default(),
    }
}

impl Control {
    pub(crate) fn start() -> Self {
        mesh_ca::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let domain: TrustDomain = DOMAIN.parse().unwrap();
        let inner = Arc::new(Inner {
            authority: authority(DOMAIN),
            domain: domain.clone(),
            state: Mutex::default(),
            changed: watch::channel(0).0,
            address: Mutex::default(),
            lifetime: Mutex::default(),
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let inside = runtime.handle().enter();
        let unix = UnixListener::bind(&socket).unwrap();
        let identity = v1::identity_server::IdentityServer::new(Service(Arc::clone(&inner)));
        runtime.spawn(async move {
            let incoming = UnixListenerStream::new(unix);
            tonic::transport::Server::builder()
                .add_service(identity)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        let tcp = TcpListener::from_std(tcp).unwrap();
        *inner.address.lock().unwrap() = tcp.local_addr().unwrap().to_string();
        let own = svid(&inner.authority, &control_identity(&domain), None, SystemTime::now());
        let tls = credentials(&inner.authority, own).control_server_config().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        let (send, secured) = mpsc::channel(16);
        runtime.spawn(async move {
            let mut incoming = TcpListenerStream::new(tcp);
            let mut handshakes = JoinSet::new();
            while let Some(Ok(stream)) = incoming.next().await {
                let (acceptor, send) = (acceptor.clone(), send.clone());
                handshakes.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = send.send(Ok::<_, std::io::Error>(Tls(stream))).await;
                    }
                });
            }
        });
        let discovery = v1::discovery_server::DiscoveryServer::new(Service(Arc::clone(&inner)));
        let telemetry = v1::telemetry_server::TelemetryServer::new(Service(Arc::clone(&inner)));
        runtime.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(discovery).add_service(telemetry);
            let _ = server.serve_with_incoming(ReceiverStream::new(secured)).await;
        });
        drop(inside);
        Self { inner, socket, _dir: dir, runtime: Some(runtime) }
    }

    /// Changes the mesh and tells every proxy.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) -> u64 {
        self.inner.change(change)
    }

    /// Certificates issued from now on live this long.
    pub(crate) fn set_lifetime(&self, lifetime: Duration) {
        *self.inner.lifetime.lock().unwrap() = Some(lifetime);
    }

    /// Certificates issued from now on say that the control plane is at another address; gives the one before.
    pub(crate) fn set_address(&self, address: &str) -> String {
        std::mem::replace(&mut *self.inner.address.lock().unwrap(), address.to_owned())
    }

    /// Waits until all registered proxies use the newest revision.
    pub(crate) async fn settled(&self) {
        self.until("all proxies acknowledge", |state| {
            let revision = state.revision;
            state.registered.values().all(|(hello, _)| state.acked.get(&hello.instance) == Some(&revision))
        })
        .await;
    }

    /// Waits for a state.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&State) -> bool) {
        let mut changed = self.inner.changed.subscribe();
        let wait = async {
            loop {
                if is(&self.inner.state.lock().unwrap()) {
                    return;
                }
                changed.changed().await.unwrap();
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "never came: {what}");
    }

    /// Stops serving, as if the process had died.
    pub(crate) fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    fn change(&self, change: impl FnOnce(&mut State)) -> u64 {
        let revision = {
            let mut state = self.state.lock().unwrap();
            change(&mut state);
            state.revision += 1;
            state.revision
        };
        self.changed.send_modify(|n| *n += 1);
        revision
    }

    /// Something was said by a proxy: those who wait for it look again.
    fn heard(&self, note: impl FnOnce(&mut State)) {
        note(&mut self.state.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
    }

    fn id_of(&self, workload: &str) -> SpiffeId {
        format!("spiffe://{}/ns/default/sa/{workload}", self.domain).parse().unwrap()
    }

    /// Everything one proxy shall hold.
    fn items(&self, hello: &v1::Hello, subscriptions: &[v1::ServiceName]) -> (Items, u64) {
        let state = self.state.lock().unwrap();
        let mut items = Items::default();
        let mtls = state.permissive_until.map_or(MtlsMode::Strict, |until| MtlsMode::Permissive { until });
        items.insert(Item::new(Part::Mesh(Arc::new(MeshSettings {
            trust_domain: self.domain.clone(),
            mtls,
            default_allow: false,
            access_log_sample: 10_000,
            tracing: state.tracing.clone().map(Arc::new),
            reissue_epoch: 0,
        }))));
        for bundle in self.authority.bundles() {
            items.insert(Item::new(Part::Bundle(Arc::new(bundle))));
        }
        items.insert(Item::new(Part::Revocations(Arc::new(state.revocations.clone()))));
        for policy in state.policies.get(&hello.workload).into_iter().flatten() {
            items.insert(Item::new(Part::Policy(Arc::new(policy.clone()))));
        }
        for limit in state.limits.get(&hello.workload).into_iter().flatten() {
            items.insert(Item::new(Part::Limit(Arc::new(limit.clone()))));
        }
        let understands = hello.understands.iter().any(|kind| kind == "workload");
        if state.tells_services && understands {
            let own =
                ServiceRef { namespace: "default".parse().unwrap(), name: hello.workload.parse().unwrap() };
            items.insert(Item::new(Part::Workload(Arc::new(OwnWorkload { services: vec![own] }))));
        }
        for wanted in subscriptions {
            if let Some(destination) = self.destination(&state, wanted) {
                items.insert(Item::new(Part::Destination(Arc::new(destination))));
            }
        }
        (items, state.revision)
    }

    fn destination(&self, state: &State, wanted: &v1::ServiceName) -> Option<Destination> {
        let service =
            ServiceRef { namespace: wanted.namespace.parse().unwrap(), name: wanted.name.parse().unwrap() };
        let mut ports = Vec::new();
        let mut endpoints = Vec::new();
        for (hello, draining) in state.registered.values().filter(|(hello, _)| hello.workload == wanted.name)
        {
            ports = hello
                .ports
                .iter()
                .map(|port| {
                    let number = Port::new(u16::try_from(port.port).unwrap()).unwrap();
                    let protocol =
                        mesh_proto::wire::discovery::optional_protocol("protocol", &port.protocol).unwrap();
                    DestinationPort { port: number, name: None, protocol, target_port: number }
                })
                .collect();
            endpoints.push(Endpoint {
                address: hello.address.parse().unwrap(),
                identity: Some(self.id_of(&hello.workload)),
                instance: hello.instance.parse().unwrap(),
                state: if *draining { EndpointState::Draining } else { EndpointState::Ready },
                ports: Default::default(),
            });
        }
        let extra = state.extra.iter().filter(|(name, _)| *name == wanted.name);
        endpoints.extend(extra.map(|(_, endpoint)| endpoint.clone()));
        if ports.is_empty() && !endpoints.is_empty() {
            let number = Port::new(80).unwrap();
            ports.push(DestinationPort { port: number, name: None, protocol: None, target_port: number });
        }
        (!ports.is_empty()).then_some(Destination { service, ports, endpoints })
    }
}

/// What tonic asks of a connection: nothing is told of it.
struct Tls(tokio_rustls::server::TlsStream<TcpStream>);

impl tonic::transport::server::Connected for Tls {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct Service(Arc<Inner>);

#[tonic::async_trait]
impl v1::identity_server::Identity for Service {
    async fn issue(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueResponse>, Status> {
        let v1::IssueRequest { csr_der, evidence, instance, lifetime_seconds: _ } = request.into_inner();
        let Some(v1::issue_request::Evidence::UnixPeer(peer)) = evidence else {
            return Err(Status::permission_denied("no evidence"));
        };
        if self.0.state.lock().unwrap().uncertified.contains(&peer.service_account) {
            return Err(Status::permission_denied("no longer"));
        }
        let id = self.0.id_of(&peer.service_account);
        let instance: InstanceName = instance.parse().unwrap();
        let lifetime = *self.0.lifetime.lock().unwrap();
        let order = Order { csr_der: &csr_der, id: &id, instance: &instance, lifetime, attestor: "test" };
        let control_address = self.0.address.lock().unwrap().clone();
        let issued = self.0.authority.issue(&order, SystemTime::now());
        let issued = issued.map_err(|error| Status::permission_denied(error.to_string()))?;
        Ok(Response::new(v1::IssueResponse {
            chain_der: issued.chain_der,
            bundles: self.0.authority.bundles().iter().map(v1::Bundle::from).collect(),
            spiffe_id: id.to_string(),
            control_address,
            control_identity: control_identity(&self.0.domain).to_string(),
            reissue_epoch: issued.reissue_epoch,
        }))
    }
}

#[tonic::async_trait]
impl v1::discovery_server::Discovery for Service {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<v1::ControlMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (send, updates) = mpsc::channel(4);
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let _ = converse(&inner, request.into_inner(), send).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(updates))))
    }
}

#[tonic::async_trait]
impl v1::telemetry_server::Telemetry for Service {
    async fn report(
        &self,
        request: Request<Streaming<v1::ProxyReport>>,
    ) -> Result<Response<v1::ReportAck>, Status> {
        let mut reports = request.into_inner();
        while let Some(report) = reports.message().await? {
            self.0.heard(|state| {
                state.edges.extend(report.edges);
                state.decisions.extend(report.decisions);
            });
        }
        Ok(Response::new(v1::ReportAck {}))
    }
}

/// Unregisters a workload when its stream ends.
struct Registered<'a>(&'a Inner, u64);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.registered.remove(&self.1);
        });
    }
}

async fn converse(
    inner: &Inner,
    mut messages: Streaming<v1::ProxyMessage>,
    send: mpsc::Sender<Result<v1::ControlMessage, Status>>,
) -> Option<()> {
    let Kind::Hello(hello) = messages.message().await.ok()??.kind? else { return None };
    let mut changed = inner.changed.subscribe();
    let mut key = 0;
    inner.change(|state| {
        state.streams += 1;
        key = state.streams;
        state.registered.insert(key, (hello.clone(), false));
    });
    let _registered = Registered(inner, key);
    let mut subscriptions = hello.subscriptions.clone();
    let mut held: Option<(Items, u64)> = None;
    loop {
        let (items, revision) = inner.items(&hello, &subscriptions);
        if held.as_ref().is_none_or(|(before, at)| *at != revision || !before.same_as(&items)) {
            let mut update = match &held {
                None => items.full(Revision(revision)),
                Some((before, _)) => Items::diff(before, &items, Revision(revision)),
            };
            let corrupt = inner.state.lock().unwrap().corrupt;
            if corrupt && held.is_some() {
                update.digest = vec![0; 32];
            } else {
                held = Some((items, revision));
            }
            let kind = Some(v1::control_message::Kind::Update(update));
            send.send(Ok(v1::ControlMessage { kind })).await.ok()?;
            if corrupt {
                inner.state.lock().unwrap().corrupt = false;
            }
        }
        tokio::select! {
            message = messages.message() => match message.ok()??.kind? {
                Kind::Subscribe(subscribe) => subscriptions = subscribe.services,
                Kind::Ack(ack) => inner.heard(|state| {
                    state.acked.insert(hello.instance.clone(), ack.revision);
                }),
                Kind::Refusal(refusal) => inner.heard(|state| state.refusals.push(refusal.reason)),
                Kind::Draining(_) => {
                    inner.change(|state| {
                        if let Some((_, draining)) = state.registered.get_mut(&key) {
                            *draining = true;
                        }
                    });
                }
                Kind::Digest(_) | Kind::Hello(_) => {}
            },
            changed = changed.changed() => changed.ok()?,
        }
    }
}
