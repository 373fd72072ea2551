//! The wiring diagram: what a control plane is made of, who owns each part, how it ends.
//!
//! ```text
//!  state dir ── lock, seal key, store ──┬── authority ── own certificate ── TLS configuration
//!                                       ├── catalog ─┐
//!                                       └── registry ┴── Mesh (worlds) ──┬── discovery streams ── fleet
//!                                                                        └── admin, advise
//!  control.sock ── unix acceptor ── gRPC: Identity, Admin
//!  TLS port ────── tls acceptor ─── gRPC: Identity, Discovery, Telemetry
//!  in a cluster (`in_cluster`): API server ── watch ── Mesh;  loopback ── gRPC: Admin;  webhook
//! ```
//!
//! Every long task is started here and in no other place, and named in [`Tasks`]. Shutdown goes in this order: the mesh is
//! frozen (streams that end now mean nothing), the registry is kept, everything that listens stops, the store is closed.

mod in_cluster;
mod opening;
mod scrape;
mod tasks;
mod watching;

use crate::admin::receipts::Receipts;
use crate::admin::server::{self as admin_server, AdminService};
use crate::admin::{Control, Home};
use crate::audit::{self, AuditKeyError};
use crate::authority::{CertificateAuthority, Elsewhere, Refusals, Ticker};
use crate::clock;
use crate::cluster::ClusterError;
use crate::config::Config;
use crate::discovery::fanout::Mesh;
use crate::discovery::server::{self as discovery_server, DiscoveryService};
use crate::index::World;
use crate::metrics::Metrics;
use crate::notices::Notices;
use crate::state_dir::{self, StateDirError};
use crate::store::disk::OpenError;
use crate::telemetry::pace::Pace;
use crate::telemetry::{self, TelemetryService};
use crate::traffic::Traffic;
use crate::transport::tls::Acceptor;
use crate::transport::{self, unix};
use in_cluster::InCluster;
use mesh_ca::authority::AuthorityError;
use mesh_ca::authority::attest::TokenReviewer;
use mesh_ca::authority::server::{IdentityService, SelfIssuer};
use mesh_ca::bundle::{BundleError, TrustBundles};
use mesh_ca::client::{self, Identity, IssueError};
use mesh_ca::seal::SealError;
use mesh_ca::tls::{Credentials, TlsError};
use mesh_proto::identity::TrustDomain;
use mesh_proto::name::InstanceName;
use mesh_proto::wire::v1::admin_server::AdminServer;
use mesh_proto::wire::v1::discovery_server::DiscoveryServer;
use mesh_proto::wire::v1::identity_server::IdentityServer;
use mesh_proto::wire::v1::telemetry_server::TelemetryServer;
use opening::{Opened, Shared};
use rustls::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tasks::Tasks;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Where a started control plane can be reached.
#[derive(Clone, Debug)]
pub struct Running {
    /// The Unix socket of the identity and the admin API.
    pub socket: PathBuf,
    /// The mutual-TLS port for proxies.
    pub address: SocketAddr,
    /// Where metrics are served, if they are.
    pub metrics: Option<SocketAddr>,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
}

/// Why a control plane did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The sealing key cannot be used.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The cluster cannot be used.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store was opened and then refused to keep something that must be kept.
    #[error("the first state could not be kept: {0}")]
    Keep(String),
    /// The key that signs the audit log cannot be used.
    #[error(transparent)]
    AuditKey(#[from] AuditKeyError),
    /// The authority cannot be opened.
    #[error("the signing authority cannot be opened: {0}")]
    Authority(#[from] AuthorityError),
    /// The control plane's own certificate could not be made.
    #[error("the control plane's own certificate could not be made: {0}")]
    OwnCertificate(#[from] IssueError),
    /// The authority's own bundle cannot be used.
    #[error("the authority's own bundle cannot be used: {0}")]
    Bundle(#[from] BundleError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address} for {what}: {source}; is something else there? choose another with {flag} (port 0 takes any free one)"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for.
        what: &'static str,
        /// The option that changes it.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A task that must run for ever has ended.
    #[error(
        "{task} ended unexpectedly: {problem}; the control plane stops, start it again (proxies go on meanwhile)"
    )]
    Task {
        /// Which.
        task: &'static str,
        /// How.
        problem: String,
    },
}

/// Finished connections that wait for the gRPC server.
const ACCEPTED_WAITING_MAX: usize = 64;
/// A certificate request is some hundred bytes, a token a hundred.
const IDENTITY_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// The registry is written at most this often: each writing is an fsync, and a storm of registrations is one state.
const REGISTRY_PAUSE: Duration = Duration::from_millis(50);
/// How long to wait after the registry could not be written.
const REGISTRY_RETRY: Duration = Duration::from_secs(1);

/// Runs a control plane until `shutdown` is cancelled. `ready` is told the addresses once everything is served.
///
/// # Errors
/// When it cannot start: each error says what to do about it. Afterwards only when a part of it ended by itself.
pub async fn run(
    config: Config,
    ready: oneshot::Sender<Running>,
    shutdown: CancellationToken,
) -> Result<(), ControlError> {
    mesh_ca::install_crypto();
    let cluster = match &config.kubernetes {
        Some(kubernetes) => Some(InCluster::prepare(kubernetes).await?),
        None => None,
    };
    let shared = match &cluster {
        Some(cluster) => Some(Shared { kept: cluster.kept(), seal: cluster.seal_key(&config).await? }),
        None => None,
    };
    let opened = opening::open(&config, shared).await?;
    let listeners = Listeners::bind(&config, &opened).await?;
    let running = listeners.running(&opened)?;
    let mut tasks = Tasks::default();
    let place = Place {
        instance: config.kubernetes.as_ref().map_or_else(opening::own_instance, |pod| pod.pod.clone()),
        advertised: listeners.advertised.clone(),
        home: if cluster.is_some() { Home::Cluster } else { Home::Here },
        reviewer: cluster.as_ref().map(InCluster::reviewer),
        elsewhere: cluster.as_ref().map_or_else(|| Arc::new(Vec::new) as Elsewhere, InCluster::elsewhere),
    };
    let plane = Plane::assemble(opened, place, tasks.stop.clone()).await?;
    let is_ready = match cluster {
        Some(cluster) => cluster.start(&plane, &mut tasks),
        None => watch::channel(true).1,
    };
    plane.start(&config, (listeners, is_ready), &mut tasks);
    tracing::info!(
        trust_domain = %running.trust_domain, address = %running.address, socket = %running.socket.display(),
        revision = plane.control.mesh.world().revision, "control plane serves"
    );
    let socket = running.socket.clone();
    // Whoever started us may be gone; we serve all the same.
    let _ = ready.send(running);
    let ended = tokio::select! {
        // Both are cancel safe: a token stays cancelled, an ended task is only taken when it is returned.
        () = shutdown.cancelled() => Ok(()),
        ended = tasks.first_end() => Err(ended),
    };
    plane.control.mesh.freeze();
    keep_registry_now(&plane.control).await;
    tasks.stop().await;
    watching::close(&plane.control);
    // The path is ours as long as we hold the lock; a left-over one would only be removed by the next start.
    let _ = std::fs::remove_file(&socket);
    tracing::info!("control plane stopped");
    ended
}

/// What listens.
struct Listeners {
    unix: UnixListener,
    tls: TcpListener,
    metrics: Option<TcpListener>,
    socket: PathBuf,
    address: SocketAddr,
    advertised: String,
}

impl Listeners {
    async fn bind(config: &Config, opened: &Opened) -> Result<Self, ControlError> {
        let (tls, address) = bind(config.listen, "proxies", "--listen").await?;
        let metrics = match config.metrics {
            Some(wanted) => Some(bind(wanted, "metrics", "--metrics").await?.0),
            None => None,
        };
        let reachable = if address.ip().is_unspecified() {
            SocketAddr::from(([127, 0, 0, 1], address.port()))
        } else {
            address
        };
        let advertised = config.advertise.clone().unwrap_or_else(|| reachable.to_string());
        let socket = opened.state_dir.socket();
        Ok(Self { unix: state_dir::bind_socket(&socket)?, tls, metrics, socket, address, advertised })
    }

    fn running(&self, opened: &Opened) -> Result<Running, ControlError> {
        Ok(Running {
            socket: self.socket.clone(),
            address: self.address,
            metrics: self.metrics.as_ref().and_then(|listener| listener.local_addr().ok()),
            trust_domain: opened.authority.trust_domain().clone(),
        })
    }
}

async fn bind(
    address: SocketAddr,
    what: &'static str,
    flag: &'static str,
) -> Result<(TcpListener, SocketAddr), ControlError> {
    let error = |source| ControlError::Listen { address, what, flag, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}

/// Where a control plane stands.
struct Place {
    /// What it calls itself in its certificate.
    instance: InstanceName,
    /// `host:port` under which workloads reach it.
    advertised: String,
    /// Where its resources are changed.
    home: Home,
    /// Who judges pods' tokens, where there are pods.
    reviewer: Option<Arc<dyn TokenReviewer>>,
    /// The proxies of other replicas.
    elsewhere: Elsewhere,
}

/// Everything that serves, put together.
struct Plane {
    control: Arc<Control>,
    identity: IdentityService,
    own: watch::Sender<Arc<Identity>>,
    issuer: SelfIssuer,
    elsewhere: Elsewhere,
    tls: watch::Sender<Arc<ServerConfig>>,
    /// Held to the end: the lock and the place of the socket.
    _state_dir: state_dir::StateDir,
}

impl Plane {
    async fn assemble(
        opened: Opened,
        place: Place,
        shutdown: CancellationToken,
    ) -> Result<Self, ControlError> {
        let Place { instance, advertised, home, reviewer, elsewhere } = place;
        let Opened { state_dir, store, authority, audit_key, beginning, unreadable } = opened;
        let owner = rustix::process::geteuid().as_raw();
        let (ledger, alarms) = watching::open(&state_dir)?;
        let issuer = SelfIssuer {
            authority: authority.clone(),
            instance,
            control_address: advertised.clone(),
            clock: clock::wall,
        };
        let own = Arc::new(client::first(&issuer, &issuer.instance).await?);
        let mesh = Arc::new(Mesh::new(beginning));
        let tls = server_config(&own, &mesh.world())?;
        let names = mesh.clone();
        let identity = IdentityService {
            authority: authority.clone(),
            control_address: advertised.clone(),
            own_uid: owner,
            named_owner: Arc::new(move |id| names.world().named_owner(id)),
            clock: clock::wall,
            reviewer,
        };
        let control = Arc::new(Control {
            mesh,
            store,
            authority: Arc::new(CertificateAuthority::new(authority, owner)),
            traffic: Arc::new(Traffic::default()),
            receipts: Receipts::default(),
            metrics: Arc::new(Metrics::default()),
            notices: Arc::new(Notices::default()),
            denials: Arc::default(),
            audit_key,
            events: Arc::default(),
            ledger,
            alarms,
            changing: Arc::default(),
            owner,
            advertised,
            started: clock::monotonic(),
            unreadable,
            home,
            shutdown,
        });
        Ok(Self {
            control,
            identity,
            own: watch::channel(own).0,
            issuer,
            elsewhere,
            tls: watch::channel(tls).0,
            _state_dir: state_dir,
        })
    }

    /// Starts every long task.
    fn start(
        &self,
        config: &Config,
        (listeners, is_ready): (Listeners, watch::Receiver<bool>),
        tasks: &mut Tasks,
    ) {
        let (control, stop) = (&self.control, &tasks.stop);
        let renew_own = Arc::new(Notify::new());
        let mesh = control.mesh.clone();
        let ticker = Ticker {
            authority: control.authority.clone(),
            mesh: mesh.clone(),
            store: control.store.clone(),
            metrics: control.metrics.clone(),
            events: control.events.clone(),
            renew_own: renew_own.clone(),
            refusals: Refusals::default(),
            elsewhere: self.elsewhere.clone(),
        };
        let instance = self.issuer.instance.clone();
        let fresh =
            client::keep_fresh(self.issuer.clone(), instance, self.own.clone(), renew_own, stop.clone());
        let follow = follow_tls(self.own.subscribe(), mesh.watch(), self.tls.clone());
        let (unix_in, unix_out) = mpsc::channel(ACCEPTED_WAITING_MAX);
        let (tls_in, tls_out) = mpsc::channel(ACCEPTED_WAITING_MAX);
        let accepting = is_ready.clone();
        let acceptor = Acceptor {
            listener: listeners.tls,
            config: self.tls.subscribe(),
            accepted: tls_in,
            metrics: control.metrics.clone(),
        };
        let stop = stop.clone();
        let ends = |stop: &CancellationToken| stop.clone().cancelled_owned();
        tasks.add("the publisher of the mesh", {
            let stop = stop.clone();
            async move { mesh.publish_gathered(stop).await }
        });
        tasks.add("the authority's ticker", ticker.run(stop.clone()));
        tasks.add("the renewal of the control plane's certificate", fresh);
        tasks.add("the TLS configuration", until(stop.clone(), follow));
        tasks.add("the keeper of the registry", until(stop.clone(), keep_registry(control.clone())));
        let notices = control.notices.clone().keep(control.store.clone(), stop.clone());
        tasks.add("the keeper of refusals", notices);
        let denials = control.denials.clone().keep(control.store.clone(), stop.clone());
        tasks.add("the keeper of the proxies' refusals", denials);
        let signed = audit::keep(control.audit_key.clone(), control.store.clone(), stop.clone());
        tasks.add("the signer of the audit log", signed);
        tasks.add("the keeper of security events", control.events.clone().keep(stop.clone()));
        watching::start(control, tasks);
        tasks.add("the settle window", until(stop.clone(), settle(control.mesh.clone(), config.settle)));
        tasks.add(
            "the acceptor of the socket",
            unix::accept(listeners.unix, unix_in, control.owner, stop.clone()),
        );
        tasks.add("the acceptor of the TLS port", accept_when_ready(acceptor, accepting, stop.clone()));
        tasks.add_server("the socket's gRPC server", self.serve_socket(unix_out, ends(&stop)));
        tasks.add_server("the TLS port's gRPC server", self.serve_tls(tls_out, ends(&stop)));
        if let Some(listener) = listeners.metrics {
            let scraped = scrape::Scraped { control: control.clone(), is_ready };
            tasks.add("the metrics endpoint", scrape::serve(listener, scraped, stop.clone()));
        }
    }

    fn serve_socket(
        &self,
        accepted: mpsc::Receiver<io::Result<transport::Connection<tokio::net::UnixStream>>>,
        ends: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static {
        let identity =
            IdentityServer::new(self.identity.clone()).max_decoding_message_size(IDENTITY_MESSAGE_BYTES_MAX);
        let admin = AdminServer::new(AdminService { control: self.control.clone() })
            .max_decoding_message_size(admin_server::MESSAGE_BYTES_MAX);
        transport::server()
            .add_service(identity)
            .add_service(admin)
            .serve_with_incoming_shutdown(ReceiverStream::new(accepted), ends)
    }

    fn serve_tls(
        &self,
        accepted: mpsc::Receiver<io::Result<transport::Connection<transport::tls::Stream>>>,
        ends: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static {
        let Control { mesh, authority, metrics, traffic, notices, denials, events, ledger, shutdown, .. } =
            &*self.control;
        let discovery = DiscoveryService {
            mesh: mesh.clone(),
            vouching: authority.clone(),
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
        };
        let telemetry = TelemetryService {
            mesh: mesh.clone(),
            traffic: traffic.clone(),
            notices: notices.clone(),
            denials: denials.clone(),
            events: events.clone(),
            ledger: ledger.clone(),
            metrics: metrics.clone(),
            pace: Pace::default(),
            shutdown: shutdown.clone(),
        };
        let identity =
            IdentityServer::new(self.identity.clone()).max_decoding_message_size(IDENTITY_MESSAGE_BYTES_MAX);
        transport::server()
            .add_service(identity)
            .add_service(
                DiscoveryServer::new(discovery)
                    .max_decoding_message_size(discovery_server::MESSAGE_BYTES_MAX),
            )
            .add_service(
                TelemetryServer::new(telemetry).max_decoding_message_size(telemetry::MESSAGE_BYTES_MAX),
            )
            .serve_with_incoming_shutdown(ReceiverStream::new(accepted), ends)
    }
}

/// The TLS configuration that follows from our certificate and the mesh's trust.
fn server_config(own: &Identity, world: &World) -> Result<Arc<ServerConfig>, ControlError> {
    let bundles = world.trust.bundles.iter().map(|bundle| (bundle.trust_domain.clone(), bundle.clone()));
    let credentials = Credentials {
        svid: own.svid.clone(),
        bundles: Arc::new(TrustBundles::from_config(&bundles.collect())?),
        revocations: Arc::new(world.trust.revocations.clone()),
    };
    Ok(credentials.control_server_config()?)
}

/// Replaces the TLS configuration whenever our certificate or the mesh's trust changes. A configuration that cannot be made
/// leaves the old one.
async fn follow_tls(
    mut own: watch::Receiver<Arc<Identity>>,
    mut world: watch::Receiver<Arc<World>>,
    config: watch::Sender<Arc<ServerConfig>>,
) {
    let mut made_of = world.borrow_and_update().trust.clone();
    own.mark_unchanged();
    loop {
        // Cancel safe: `changed` loses no version. An error means that the sender is gone, which is the end of all.
        let is_own = tokio::select! {
            Ok(()) = own.changed() => true,
            Ok(()) = world.changed() => false,
            else => return,
        };
        let (identity, now) = (own.borrow_and_update().clone(), world.borrow_and_update().clone());
        if !is_own && Arc::ptr_eq(&made_of, &now.trust) {
            continue;
        }
        made_of = now.trust.clone();
        match server_config(&identity, &now) {
            Ok(new) => {
                config.send_replace(new);
            }
            Err(error) => tracing::error!(%error, "the TLS port keeps its old configuration"),
        }
    }
}

/// Keeps the registry for the next start, whenever it has changed.
async fn keep_registry(control: Arc<Control>) {
    loop {
        control.mesh.registry_changed().await;
        while !keep_registry_now(&control).await {
            tokio::time::sleep(REGISTRY_RETRY).await;
        }
        tokio::time::sleep(REGISTRY_PAUSE).await;
    }
}

/// Says whether it worked.
async fn keep_registry_now(control: &Arc<Control>) -> bool {
    let (store, json) = (control.store.clone(), control.mesh.registry_json());
    // Waits for the disk: not on a thread that others wait for.
    let kept = tokio::task::spawn_blocking(move || store.put_meta(opening::REGISTRY, json)).await;
    match kept {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the registry is not kept for the next start at the moment");
            false
        }
        Err(_) => false,
    }
}

/// Ends the settle window: who has not come back since the restart is gone.
async fn settle(mesh: Arc<Mesh>, window: Duration) {
    tokio::time::sleep(window).await;
    for gone in mesh.settle() {
        tracing::info!(
            identity = %gone.key.id, instance = %gone.key.instance,
            "workload did not come back after the restart; its endpoint is removed"
        );
    }
    std::future::pending().await
}

/// Lets nobody in before everything is known: a proxy takes what it is told for the whole.
async fn accept_when_ready(acceptor: Acceptor, mut is_ready: watch::Receiver<bool>, stop: CancellationToken) {
    // Cancel safe, both.
    tokio::select! {
        () = stop.cancelled() => return,
        _ = is_ready.wait_for(|ready| *ready) => {}
    }
    acceptor.run(stop).await;
}

/// Runs something that has no end of its own until `stop`.
async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        // Cancel safe: each of these only holds state that ends with the process.
        () = stop.cancelled() => {}
        () = work => {}
    }
}

#[cfg(test)]
mod tests;
