//! The wiring diagram: every thread and every task that outlives a connection, who owns it, how it ends.
//!
//! ```text
//! control thread (the caller's runtime)            data threads, one runtime each
//!   renewal ──identity──▶ publisher ──applied──▶     data::run ─ accept loops ─ a task for each connection
//!   discovery client ──proposals──▶ │  ◀──in use──     │
//!        ◀──wanted──────────────────┼──────────────────┤
//!   reporter ◀──records, counters───┼──────────────────┘
//!      ├──reports──▶ telemetry client
//!      └──spans──▶ exporter of traces
//!   admin: reads applied, counters; asks data threads for their connections
//! ```
//!
//! All control tasks live in one `JoinSet` and end with the token `ends`; data threads end when they have drained.

use crate::admin::{self, Admin, Ask, Door};
use crate::capture::dns::NameServer;
use crate::capture::doors::{Doors, Known, NameSockets, answer_names};
use crate::capture::vip::VirtualAddresses;
use crate::clock;
use crate::control::{Link, LinkState};
use crate::data::{self, BACKLOG, CONNECTIONS_MAX, Captured, DataSockets, QUESTIONS_MAX, Redirected, Setup};
use crate::descriptors;
use crate::discovery::Applied;
use crate::discovery::apply::{InUse, Publisher, control_client};
use crate::discovery::client::{Client, Registration};
use crate::facts::Facts;
use crate::http::Limits;
use crate::http::bodies::Bodies;
use crate::identity::{self, WorkloadIssuer};
use crate::listen::{self, Bound};
use crate::observe::access_log::AccessLog;
use crate::observe::record::RECORDS_MAX;
use crate::observe::report::{REPORTS_MAX, Reporter};
use crate::observe::trace::export;
use crate::observe::{Shard, telemetry};
use crate::outbound::Intent;
use crate::standing::Standing;
use crate::{Config, ProxyError, Ready, Stops};
use mesh_ca::client::{Identity, Issuer};
use mesh_proto::identity::TrustDomain;
use mesh_proto::name::Namespace;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Services that wait to be subscribed to.
const WANTED_MAX: usize = 256;
/// How long new calls are still taken after the control plane was told that this workload goes away: within it every
/// other proxy has stopped choosing it. A quarter of the drain time at most.
pub(crate) const LEAVE_AFTER: Duration = Duration::from_millis(500);
/// The most that the last report may take at shutdown. A pod that has done its work waits for it.
const FAREWELL: Duration = Duration::from_millis(300);

/// Answers on the admin endpoint and, in a pod, on the port for the platform's probes.
fn open_doors(
    config: &Config,
    sockets: &mut Sockets,
    admin: &Arc<admin::Admin>,
    (tasks, ends): (&mut JoinSet<()>, &CancellationToken),
) -> Result<(), ProxyError> {
    let platform = config.pod.clone().map(|pod| Door::Platform { ip: pod.ip, probes: pod.probes });
    let doors = [(sockets.admin.take(), Some(Door::Loopback)), (sockets.health.take(), platform)];
    for (bound, door) in doors {
        let (Some(bound), Some(door)) = (bound, door) else { continue };
        let door = Arc::new(door);
        for listener in bound.open(BACKLOG)? {
            tasks.spawn(admin::serve((Arc::clone(admin), Arc::clone(&door)), listener, ends.clone()));
        }
    }
    Ok(())
}

/// See [`crate::run`].
pub(crate) async fn run(
    config: Config,
    ready: oneshot::Sender<Ready>,
    Stops { leaving, shutdown }: Stops,
) -> Result<(), ProxyError> {
    mesh_ca::install_crypto();
    descriptors::raise();
    let workers = config.workers.max(1);
    let log = AccessLog::open(&config.access_log)?;
    let mut sockets = Sockets::bind(&config, workers)?;
    let ends = CancellationToken::new();
    let _ends_on_return = ends.clone().drop_guard();
    let mut tasks = JoinSet::new();

    let issuer = WorkloadIssuer::new(&config);
    let (publish, applied) = watch::channel(None);
    let wiring = Wiring::new(&config, workers, applied);
    let admin_address = sockets.admin.as_ref().map(|bound| bound.address);
    let mut questions = Vec::new();
    let mut asks = Vec::new();
    for _ in 0..workers {
        let (ask, question) = mpsc::channel(QUESTIONS_MAX);
        asks.push(ask);
        questions.push(question);
    }
    let admin = Arc::new(wiring.admin(asks));
    open_doors(&config, &mut sockets, &admin, (&mut tasks, &ends))?;

    let first = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        first = identity::first(&issuer, &config.instance) => first?,
    };
    let certified_at = clock::now();
    let mesh_address = sockets.mesh.address;
    let trust_domain = first.svid.id().trust_domain();
    let feeds = Control { config: &config, issuer, first, wiring: &wiring, mesh_address };
    let data = feeds.start(&mut tasks, publish, log, (&ends, &leaving));

    let mut have_snapshot = wiring.applied.clone();
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        _ = have_snapshot.wait_for(Option::is_some) => {}
    }
    let drain = CancellationToken::new();
    let outbound: Vec<SocketAddr> = sockets.explicit.iter().map(|(bound, _)| bound.address).collect();
    let (opened, names) = DataSockets::open(sockets, workers)?;
    if let Some(names) = names {
        let services = Known { applied: wiring.applied.clone(), wanted: data.wanted.clone() };
        tasks.spawn(names.serve(config.namespace.clone(), trust_domain, services, ends.clone()));
    }
    let farewell = data.farewell.clone();
    let mut threads = start_threads(opened, &wiring, data, questions, (&drain, config.drain)).await?;
    let after_certificate_ms = clock::now().saturating_duration_since(certified_at).as_millis();
    tracing::info!(%mesh_address, instance = %config.instance, after_certificate_ms, "the proxy is ready");
    // Whoever embeds us may have given up waiting; the traffic does not depend on it.
    let _ = ready.send(Ready { mesh_address, admin_address, outbound });

    let failed = tokio::select! {
        () = shutdown.cancelled() => None,
        failed = threads.wait_any() => failed,
    };
    let has_left = leaving.is_cancelled();
    leaving.cancel();
    // A pod's proxy is ended after its application: there is nobody left whom a late caller could reach.
    if failed.is_none() && !has_left && config.pod.is_none() {
        tokio::time::sleep(LEAVE_AFTER.min(config.drain / 4)).await;
    }
    drain.cancel();
    let failed_later = threads.wait_all().await;
    farewell.say(FAREWELL.min(config.drain)).await;
    ends.cancel();
    while tasks.join_next().await.is_some() {}
    failed.or(failed_later).map_or(Ok(()), Err)
}

/// What many parts read.
struct Wiring {
    /// What does not change.
    facts: Arc<Facts>,
    /// One shard for each worker, and one for the control thread.
    shards: Vec<Arc<Shard>>,
    /// The control thread's own.
    own: Arc<Shard>,
    /// The configuration in use.
    applied: watch::Receiver<Option<Arc<Applied>>>,
    /// Which generation each worker judges by.
    in_use: Arc<InUse>,
    /// The control plane connection.
    link: Arc<LinkState>,
    /// What HTTP/2 bodies the process holds.
    bodies: Arc<Bodies>,
    /// What peers have proven to the process.
    standing: Arc<Standing>,
}

impl Wiring {
    fn new(config: &Config, workers: usize, applied: watch::Receiver<Option<Arc<Applied>>>) -> Self {
        let own: Arc<Shard> = Arc::default();
        let mut shards: Vec<Arc<Shard>> = (0..workers).map(|_| Arc::default()).collect();
        shards.push(Arc::clone(&own));
        let facts = Facts::new(config);
        let bodies = Bodies::new(Limits::default().h2_held_bytes_max);
        let standing = Standing::new(config.certificate_grace);
        let (in_use, link) = (InUse::new(workers), Arc::default());
        Self { facts, shards, own, applied, in_use, link, bodies, standing }
    }

    fn admin(&self, asks: Vec<Ask>) -> Admin {
        Admin {
            facts: Arc::clone(&self.facts),
            shards: self.shards.clone(),
            applied: self.applied.clone(),
            link: Arc::clone(&self.link),
            asks,
        }
    }
}

/// All sockets, bound.
struct Sockets {
    mesh: Bound,
    explicit: Vec<(Bound, Intent)>,
    doors: Option<Doors>,
    /// Where a pod's connections are redirected to: its own, and those to it.
    redirected: Option<(Bound, Bound)>,
    admin: Option<Bound>,
    health: Option<Bound>,
}

impl Sockets {
    fn bind(config: &Config, workers: usize) -> Result<Self, ProxyError> {
        let mesh = listen::bind(config.listen, "mesh traffic", workers)?;
        let mut explicit = Vec::new();
        for listener in &config.outbound {
            let bound = listen::bind(listener.listen, &format!("calls to {}", listener.service), workers)?;
            let intent = Intent {
                service: listener.service.clone(),
                port: listener.port,
                protocol: listener.protocol,
                direct: None,
            };
            explicit.push((bound, intent));
        }
        let doors =
            config.transparent.as_ref().map(|namespace| Doors::bind(namespace, workers)).transpose()?;
        let admin = config.admin.map(|address| listen::bind(address, "admin", 1)).transpose()?;
        let (mut redirected, mut health) = (None, None);
        if let Some(pod) = &config.pod {
            let outbound = listen::bind(pod.outbound, "the pod's connections", workers)?;
            let inbound = listen::bind(pod.inbound, "connections to the pod", workers)?;
            redirected = Some((outbound, inbound));
            health = Some(listen::bind(pod.health, "health", 1)?);
        }
        Ok(Self { mesh, explicit, doors, redirected, admin, health })
    }
}

impl DataSockets {
    /// Opens all sockets and deals them out to the workers; what is left is the name server's.
    fn open(sockets: Sockets, workers: usize) -> Result<(Vec<Self>, Option<Names>), ProxyError> {
        let Sockets { mesh, explicit, doors, redirected, admin: _, health: _ } = sockets;
        let mut all: Vec<Self> = Vec::with_capacity(workers);
        for mesh in mesh.open(BACKLOG)? {
            all.push(Self { mesh, explicit: Vec::new(), captured: None, redirected: None });
        }
        for (bound, intent) in explicit {
            for (worker, socket) in all.iter_mut().zip(bound.open(BACKLOG)?) {
                worker.explicit.push((socket, intent.clone()));
            }
        }
        if let Some((outbound, inbound)) = redirected {
            let both = outbound.open(BACKLOG)?.into_iter().zip(inbound.open(BACKLOG)?);
            for (worker, (outbound, inbound)) in all.iter_mut().zip(both) {
                worker.redirected = Some(Redirected { outbound, inbound });
            }
        }
        let Some(Doors { outbound, addresses, dialer, names }) = doors else { return Ok((all, None)) };
        for (worker, socket) in all.iter_mut().zip(outbound.open(BACKLOG)?) {
            let (addresses, dialer) = (Arc::clone(&addresses), dialer.clone());
            worker.captured = Some(Captured { socket, addresses, dialer });
        }
        Ok((all, Some(Names { addresses, sockets: names })))
    }
}

/// What the name server of a captured workload is made of.
struct Names {
    addresses: Arc<VirtualAddresses>,
    sockets: NameSockets,
}

impl Names {
    /// Answers the workload's queries until `ends`.
    async fn serve(
        self,
        namespace: Namespace,
        trust_domain: TrustDomain,
        services: Known,
        ends: CancellationToken,
    ) {
        let server = NameServer { namespace, trust_domain, services, addresses: self.addresses };
        tokio::select! {
            () = ends.cancelled() => {}
            () = answer_names(server, self.sockets) => {}
        }
    }
}

/// What the control tasks are made of.
struct Control<'a> {
    config: &'a Config,
    issuer: Arc<WorkloadIssuer>,
    first: Arc<Identity>,
    wiring: &'a Wiring,
    mesh_address: SocketAddr,
}

/// The ends that data threads hold.
struct DataEnds {
    records: mpsc::Sender<crate::observe::Record>,
    wanted: mpsc::Sender<mesh_proto::config::Subject>,
    farewell: Farewell,
}

/// The last report of a proxy.
#[derive(Clone)]
struct Farewell {
    /// Nothing is recorded any more.
    drained: CancellationToken,
    /// Everything that was recorded has been taken by the control plane, or is lost.
    reported: CancellationToken,
}

impl Farewell {
    /// Has it sent, and waits so long at most.
    async fn say(self, at_most: Duration) {
        self.drained.cancel();
        // What is not reported by then is lost: it is statistics.
        let _ = tokio::time::timeout(at_most, self.reported.cancelled()).await;
    }
}

impl Control<'_> {
    /// Starts renewal, publisher, discovery, reporter and telemetry.
    fn start(
        self,
        tasks: &mut JoinSet<()>,
        publish: watch::Sender<Option<Arc<Applied>>>,
        log: AccessLog,
        (ends, leaving): (&CancellationToken, &CancellationToken),
    ) -> DataEnds {
        let Self { config, issuer, first, wiring, mesh_address } = self;
        let (identity_out, identity) = watch::channel(Arc::clone(&first));
        let renew_now = Arc::new(Notify::new());
        tasks.spawn(mesh_ca::client::keep_fresh(
            Arc::clone(&issuer),
            config.instance.clone(),
            identity_out,
            Arc::clone(&renew_now),
            ends.clone(),
        ));
        let (propose, proposals) = mpsc::channel(1);
        let learn = Box::new(move |bundles: &_| issuer.learn(bundles));
        let in_use = Arc::clone(&wiring.in_use);
        let publisher = Publisher::new(Arc::clone(&first), publish, in_use, learn, config.multiplexing);
        tasks.spawn(publisher.run(identity.clone(), proposals, ends.clone()));

        let (wanted, asked_for) = mpsc::channel(WANTED_MAX);
        let registration = Registration {
            facts: Arc::clone(&wiring.facts),
            address: advertised(mesh_address, &first.control_address).to_string(),
            labels: config.labels.clone().into_iter().collect(),
        };
        let applied = wiring.applied.clone();
        let configure = move |identity: &Identity| {
            let snapshot = applied.borrow().as_ref().map(|applied| Arc::clone(&applied.snapshot));
            control_client(identity, snapshot.as_deref())
        };
        let link = Link {
            identity: identity.clone(),
            configure: Arc::new(configure),
            state: Arc::clone(&wiring.link),
        };
        let services = config.outbound.iter().map(|listener| listener.service.clone()).collect();
        let foreseen = config.pod.iter().flat_map(|pod| pod.foreseen.iter().copied()).collect();
        let subscriptions = mesh_proto::config::Subscriptions { services, addresses: foreseen };
        let channels = (propose, asked_for);
        let client =
            Client::new(link.clone(), registration, channels, subscriptions, (renew_now, leaving.clone()));
        tasks.spawn(client.run(ends.clone()));

        let (records, recorded) = mpsc::channel(RECORDS_MAX);
        let (reports, to_send) = mpsc::channel(REPORTS_MAX);
        let (traces, to_export) = mpsc::channel(export::BATCHES_MAX);
        let own = Arc::clone(&wiring.own);
        let reporter = Reporter::new(wiring.shards.clone(), Arc::clone(&own), log, (reports, traces));
        let exporter = export::Exporter::new(&wiring.facts, wiring.applied.clone(), own);
        tasks.spawn(exporter.run(to_export, ends.clone()));
        let farewell = Farewell { drained: ends.child_token(), reported: CancellationToken::new() };
        tasks.spawn(reporter.run(recorded, farewell.drained.clone()));
        let reported = farewell.reported.clone().drop_guard();
        let sending = telemetry::run(link, to_send, ends.clone());
        tasks.spawn(async move {
            let _reported = reported;
            sending.await;
        });
        DataEnds { records, wanted, farewell }
    }
}

/// The address that others reach us at: what we listen on, or, where that is every address, the one that faces the
/// control plane.
fn advertised(listening: SocketAddr, control: &str) -> SocketAddr {
    if !listening.ip().is_unspecified() {
        return listening;
    }
    // Connecting a datagram socket sends nothing; it asks the system for the route.
    let facing = std::net::UdpSocket::bind((listening.ip(), 0))
        .and_then(|socket| socket.connect(control).map(|()| socket))
        .and_then(|socket| socket.local_addr());
    facing.map_or(listening, |facing| SocketAddr::new(facing.ip(), listening.port()))
}

/// The data threads.
struct Threads {
    handles: Vec<Option<std::thread::JoinHandle<()>>>,
    ended: JoinSet<(usize, Result<std::io::Result<()>, oneshot::error::RecvError>)>,
    drain: CancellationToken,
}

impl Threads {
    /// Waits until one ends, which none should before it is told to drain.
    async fn wait_any(&mut self) -> Option<ProxyError> {
        match self.ended.join_next().await {
            Some(Ok((worker, Ok(Ok(()))))) if self.drain.is_cancelled() => {
                tracing::debug!(worker, "data thread drained");
                None
            }
            Some(Ok((worker, Ok(Err(source))))) => {
                tracing::error!(worker, %source, "data thread failed");
                Some(ProxyError::Thread { source })
            }
            Some(Ok((worker, _))) => Some(ProxyError::Worker { worker }),
            Some(Err(_)) | None => None,
        }
    }

    /// Waits until all have ended; the first failure, if any.
    async fn wait_all(mut self) -> Option<ProxyError> {
        let mut failed = None;
        while !self.ended.is_empty() {
            let one = self.wait_any().await;
            failed = failed.or(one);
        }
        for handle in self.handles.iter_mut().filter_map(Option::take) {
            // It has sent its result, so it ends at once; a panic has been logged by the panic hook.
            let _ = handle.join();
        }
        failed
    }
}

async fn start_threads(
    opened: Vec<DataSockets>,
    wiring: &Wiring,
    ends: DataEnds,
    questions: Vec<mpsc::Receiver<oneshot::Sender<Vec<crate::connections::Description>>>>,
    (drain, drain_max): (&CancellationToken, Duration),
) -> Result<Threads, ProxyError> {
    let mut threads = Threads { handles: Vec::new(), ended: JoinSet::new(), drain: drain.clone() };
    let connections_max = descriptors::connections_max(opened.len(), CONNECTIONS_MAX);
    for ((index, sockets), questions) in opened.into_iter().enumerate().zip(questions) {
        let (ready, is_ready) = oneshot::channel();
        let shard = wiring.shards.get(index).cloned().unwrap_or_default();
        let setup = Setup {
            index,
            facts: Arc::clone(&wiring.facts),
            shard,
            bodies: Arc::clone(&wiring.bodies),
            standing: Arc::clone(&wiring.standing),
            records: ends.records.clone(),
            wanted: ends.wanted.clone(),
            sockets,
            applied: wiring.applied.clone(),
            in_use: Arc::clone(&wiring.in_use),
            questions,
            connections_max,
            drain: (drain.clone(), drain_max),
            ready,
        };
        let (end, ended) = oneshot::channel();
        let handle = std::thread::Builder::new()
            .name(format!("mesh-data-{index}"))
            // The receiver is gone only when the whole proxy is.
            .spawn(move || drop(end.send(data::run(setup))))
            .map_err(|source| ProxyError::Thread { source })?;
        threads.handles.push(Some(handle));
        threads.ended.spawn(async move { (index, ended.await) });
        if is_ready.await.is_err() {
            return Err(threads.wait_any().await.unwrap_or(ProxyError::Worker { worker: index }));
        }
    }
    Ok(threads)
}
