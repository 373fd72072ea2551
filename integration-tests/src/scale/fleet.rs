//! Proxies without a data path.

use crate::wait;
use crate::world::World;
use futures_util::stream;
use mesh_ca::bundle::TrustBundles;
use mesh_ca::client::{Identity, UnixIssuer, first};
use mesh_ca::tls::{Credentials, connect_control};
use mesh_proto::config::Revision;
use mesh_proto::name::InstanceName;
use mesh_proto::wire::{Items, MESSAGE_BYTES_MAX, v1};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore, mpsc};
use v1::control_message::Kind as FromControl;
use v1::proxy_message::Kind as ToControl;

/// Services that each calls.
const CALLS: usize = 10;
/// Certificates that are asked for at once.
const AT_ONCE: usize = 16;
/// As the proxy's own pauses between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A connection that takes longer is given up, as the proxy does.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// No update for so long: all have what there is.
const QUIET: Duration = Duration::from_millis(700);

/// What all of them share with the one who measures.
#[derive(Default)]
struct Seen {
    connected: AtomicUsize,
    faults: AtomicUsize,
    /// By proxy: when it was first told something since it was last forgotten.
    told: Mutex<HashMap<usize, Instant>>,
    last: Mutex<Option<Instant>>,
}

impl Seen {
    #[expect(clippy::disallowed_methods, reason = "measures")]
    fn note(&self, proxy: usize) {
        let now = Instant::now();
        self.told.lock().unwrap_or_else(PoisonError::into_inner).entry(proxy).or_insert(now);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

/// All of them. They end with its drop.
pub(super) struct Fleet {
    _runtime: Runtime,
    seen: Arc<Seen>,
    drops: Vec<Arc<Notify>>,
    services: usize,
}

/// One of them.
struct Proxy {
    number: usize,
    services: usize,
    proxies: usize,
    identity: Identity,
    seen: Arc<Seen>,
    dropped: Arc<Notify>,
    held: Items,
    revision: Revision,
}

/// The services that a proxy calls: those of some others, and some that are none's.
fn calls(number: usize, proxies: usize, services: usize) -> impl Iterator<Item = usize> {
    (1..=CALLS).map(move |step| {
        let within = if step.is_multiple_of(2) { proxies } else { services };
        (number + step * 37) % within
    })
}

fn name(number: usize, proxies: usize) -> String {
    if number < proxies { format!("app-{number}") } else { format!("extra-{number}") }
}

impl Fleet {
    /// Has all of them certified, and starts their streams.
    pub(super) fn start(world: &World, proxies: usize, services: usize) -> Result<Self, String> {
        mesh_ca::install_crypto();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let seen: Arc<Seen> = Arc::default();
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut drops = Vec::new();
        for number in 0..proxies {
            let (seen, dropped, places) = (Arc::clone(&seen), Arc::new(Notify::new()), Arc::clone(&places));
            drops.push(Arc::clone(&dropped));
            let instance = format!("app-{number}-0");
            let issuer = UnixIssuer {
                socket: world.state().join("control.sock"),
                namespace: "default".parse().map_err(|_| "a namespace")?,
                account: name(number, proxies).parse().map_err(|_| "an account")?,
                instance: instance.parse().map_err(|_| "an instance")?,
                lifetime: None,
            };
            let instance: InstanceName = issuer.instance.clone();
            runtime.spawn(async move {
                let place = places.acquire_owned().await;
                let Ok(identity) = first(&issuer, &instance).await else { return };
                drop(place);
                let (held, revision) = (Items::default(), Revision::default());
                Proxy { number, services, proxies, identity, seen, dropped, held, revision }.run().await;
            });
        }
        Ok(Self { _runtime: runtime, seen, drops, services })
    }

    /// Ends one's stream; it comes back by itself.
    pub(super) fn drop_stream(&self, number: usize) {
        if let Some(one) = self.drops.get(number) {
            one.notify_one();
        }
    }

    /// Who calls the service of this one.
    pub(super) fn callers_of(&self, number: usize) -> impl Iterator<Item = usize> + Clone {
        let (proxies, services) = (self.drops.len(), self.services);
        (0..proxies).filter(move |caller| {
            *caller != number && calls(*caller, proxies, services).any(|one| one == number)
        })
    }

    /// Updates that could not be used.
    pub(super) fn faults(&self) -> usize {
        self.seen.faults.load(Ordering::Relaxed)
    }

    /// Begins a measurement.
    pub(super) fn forget(&self) {
        self.seen.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits until all of these were told something; how long after `since` each was.
    pub(super) fn until_told(
        &self,
        since: Instant,
        who: impl Iterator<Item = usize> + Clone,
        within: Duration,
    ) -> Result<Vec<Duration>, String> {
        until(within, || {
            let told = self.seen.told.lock().unwrap_or_else(PoisonError::into_inner);
            who.clone().map(|one| told.get(&one).map(|at| at.saturating_duration_since(since))).collect()
        })
        .ok_or_else(|| format!("some were not told within {within:?}"))
    }

    /// Waits until all streams stand.
    pub(super) fn until_connected(&self, within: Duration) -> Result<(), String> {
        self.until_connected_are(self.drops.len(), within)
    }

    /// Waits until so many streams stand.
    pub(super) fn until_connected_are(&self, count: usize, within: Duration) -> Result<(), String> {
        let connected = || self.seen.connected.load(Ordering::Relaxed);
        until(within, || (connected() == count).then_some(()))
            .ok_or_else(|| format!("{} of {count} are connected after {within:?}", connected()))
    }

    /// Waits until nobody has been told anything for a while.
    pub(super) fn until_quiet(&self) {
        let _ = until(Duration::from_secs(60), || {
            let last = *self.seen.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.is_none_or(|last| last.elapsed() > QUIET).then_some(())
        });
    }
}

#[expect(clippy::disallowed_methods, reason = "owns the deadline and the pause between two looks")]
fn until<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if started.elapsed() > within {
            return None;
        }
        wait::pause();
    }
}

/// Why a stream ended.
type Ended = Box<dyn std::error::Error + Send + Sync>;

impl Proxy {
    async fn run(mut self) {
        let mut pause = PAUSE.0;
        loop {
            let mut connected = false;
            let dropped = Arc::clone(&self.dropped);
            // Cancel safe: a stream that is dropped ends.
            tokio::select! {
                _ = self.stream(&mut connected) => {}
                () = dropped.notified() => {}
            }
            if connected {
                self.seen.connected.fetch_sub(1, Ordering::Relaxed);
                pause = PAUSE.0;
            }
            tokio::time::sleep(pause.mul_f64(self.jitter())).await;
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
    }

    /// From a half to one, another for each of them.
    fn jitter(&self) -> f64 {
        f64::from(u32::try_from(self.number * 7919 % 1000).unwrap_or(0)) / 2000.0 + 0.5
    }

    async fn stream(&mut self, connected: &mut bool) -> Result<(), Ended> {
        let opened = tokio::time::timeout(OPEN_WITHIN, self.open()).await??;
        let (mut incoming, send) = opened;
        *connected = true;
        self.seen.connected.fetch_add(1, Ordering::Relaxed);
        while let Some(message) = incoming.message().await? {
            let Some(FromControl::Update(update)) = message.kind else { continue };
            let revision = update.revision;
            match self.held.apply(update) {
                Ok(held) => self.held = held,
                Err(_) => {
                    self.seen.faults.fetch_add(1, Ordering::Relaxed);
                }
            }
            self.revision = Revision(revision);
            self.seen.note(self.number);
            let digest = self.held.digest().to_vec();
            let ack = ToControl::Ack(v1::Ack { revision, digest });
            send.send(v1::ProxyMessage { kind: Some(ack) }).await?;
        }
        Ok(())
    }

    async fn open(
        &self,
    ) -> Result<(tonic::Streaming<v1::ControlMessage>, mpsc::Sender<v1::ProxyMessage>), Ended> {
        let bundles = TrustBundles::from_config(&self.identity.bundles)?;
        let credentials = Credentials {
            svid: self.identity.svid.clone(),
            bundles: Arc::new(bundles),
            revocations: Arc::default(),
        };
        let config = credentials.control_client_config(&self.identity.control_identity)?;
        let address = self.identity.control_address.clone();
        // An address of its own for each, as pods have.
        let number = u32::try_from(self.number)?;
        let from = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + number);
        let connector = tower::service_fn(move |_: http::Uri| {
            let (config, address) = (Arc::clone(&config), address.clone());
            async move {
                let socket = TcpSocket::new_v4()?;
                socket.bind((from, 0).into())?;
                let stream = socket.connect(address.parse().map_err(std::io::Error::other)?).await?;
                stream.set_nodelay(true)?;
                let tls = connect_control(config, stream).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tls))
            }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://control");
        let channel = endpoint.connect_with_connector(connector).await?;
        let mut discovery =
            v1::discovery_client::DiscoveryClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (send, outgoing) = mpsc::channel(16);
        send.send(v1::ProxyMessage { kind: Some(ToControl::Hello(self.hello())) }).await?;
        let outgoing = stream::unfold(outgoing, |mut outgoing| async {
            let message = outgoing.recv().await?;
            Some((message, outgoing))
        });
        Ok((discovery.stream(outgoing).await?.into_inner(), send))
    }

    fn hello(&self) -> v1::Hello {
        let subscriptions = calls(self.number, self.proxies, self.services).map(|number| v1::ServiceName {
            namespace: "default".to_owned(),
            name: name(number, self.proxies),
        });
        v1::Hello {
            instance: format!("app-{}-0", self.number),
            workload: name(self.number, self.proxies),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: format!("10.200.{}.{}:15008", self.number / 250 % 250, self.number % 250 + 1),
            ports: vec![v1::InboundPort { port: 8080, ..v1::InboundPort::default() }],
            subscriptions: subscriptions.collect(),
            revision: self.revision.0,
            digest: if self.held.is_empty() { Vec::new() } else { self.held.digest().to_vec() },
            understands: vec![mesh_proto::wire::discovery::UNDERSTANDS_WORKLOAD.to_owned()],
            ..v1::Hello::default()
        }
    }
}
