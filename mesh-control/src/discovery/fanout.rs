//! The mesh as it is now: the one place where registry, resources and trust change, and from where every stream sees it.
//!
//! [`Mesh`] owns the mutable parts behind one lock that is never held across an await. Each change builds a new [`World`] and
//! publishes it in a `watch`: streams and readers take the newest and never wait for each other. [`Fleet`] is the other
//! direction: what each proxy has confirmed.
//!
//! # Why changes of the registry wait a moment
//! Resources and trust are published at once. Workloads that come and go are gathered for [`GATHER`], since after a
//! restart of the control plane hundreds of proxies register within a moment, and each new world wakes every stream: n
//! registrations would cost n² wake-ups. A first change after a quiet time is published at once.
//!
//! What a change costs, with 2,000 workloads and 2,000 policies (debug build, two busy cores): a new world after a change of
//! the registry 10 ms; all 2,000 streams finding that it does not concern them 8 ms; all of them working out their
//! inbound policy anew after a change of resources 430 ms.

use crate::discovery::subscriber::{Confirmed, Refused};
use crate::index::{Parts, Platform, Trust, World};
use crate::local::registry::{Generation, Registered, Registry, WorkloadKey};
use mesh_ca::verify::PeerIdentity;
use mesh_proto::config::Subscriptions;
use mesh_proto::identity::TrustDomain;
use mesh_proto::resource::Catalog;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How long changes of the registry are gathered before the next world. Far below the second within which an ended
/// stream must be out of all endpoints, and long enough to turn a storm of 1,000 registrations into some tens of worlds.
const GATHER: Duration = Duration::from_millis(20);

struct State {
    registry: Registry,
    revision: u64,
    catalog: Arc<Catalog>,
    trust: Arc<Trust>,
    trust_generation: u64,
    platform: Option<Arc<Platform>>,
    /// The registry has changed since the last world.
    is_stale: bool,
    /// The control plane is going down: streams that end now mean nothing.
    is_frozen: bool,
}

/// What the mesh starts with.
pub(crate) struct Beginning {
    /// The mesh's own trust domain.
    pub(crate) trust_domain: TrustDomain,
    /// Of the newest change in the catalog.
    pub(crate) revision: u64,
    /// The resources.
    pub(crate) catalog: Arc<Catalog>,
    /// The authority's word.
    pub(crate) trust: Arc<Trust>,
    /// The workloads of before the restart.
    pub(crate) registry: Registry,
}

/// The mesh as it is now.
pub(crate) struct Mesh {
    trust_domain: TrustDomain,
    state: Mutex<State>,
    world: watch::Sender<Arc<World>>,
    stale: Notify,
    registry_changed: Notify,
    /// What proxies have confirmed.
    pub(crate) fleet: Fleet,
}

impl Mesh {
    /// A mesh, with its first world.
    pub(crate) fn new(beginning: Beginning) -> Self {
        let Beginning { trust_domain, revision, catalog, trust, registry } = beginning;
        let state = State {
            registry,
            revision,
            catalog,
            trust,
            trust_generation: 0,
            platform: None,
            is_stale: false,
            is_frozen: false,
        };
        let world = World::build(parts(&trust_domain, &state), None);
        let (world, _) = watch::channel(Arc::new(world));
        Self {
            trust_domain,
            state: Mutex::new(state),
            world,
            stale: Notify::new(),
            registry_changed: Notify::new(),
            fleet: Fleet::default(),
        }
    }

    /// The mesh at this moment.
    pub(crate) fn world(&self) -> Arc<World> {
        self.world.borrow().clone()
    }

    /// The mesh at this moment and at every later one.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<World>> {
        self.world.subscribe()
    }

    /// New resources, published at once.
    pub(crate) fn set_catalog(&self, revision: u64, catalog: Arc<Catalog>) {
        let mut state = self.state();
        state.revision = revision;
        state.catalog = catalog;
        self.publish(&mut state);
    }

    /// The authority's new word, published at once. Says whether it differs from the last.
    pub(crate) fn set_trust(&self, trust: Trust) -> bool {
        let mut state = self.state();
        if *state.trust == trust {
            return false;
        }
        state.trust = Arc::new(trust);
        state.trust_generation = state.trust_generation.saturating_add(1);
        self.publish(&mut state);
        true
    }

    /// What the platform says now of its services and workloads, published within [`GATHER`].
    pub(crate) fn set_platform(&self, platform: Arc<Platform>) {
        let mut state = self.state();
        state.platform = Some(platform);
        state.is_stale = true;
        self.stale.notify_one();
    }

    /// Enters a workload, published within [`GATHER`]. The world of this moment already has it for its own stream.
    pub(crate) fn register(&self, workload: Registered) -> Generation {
        let mut state = self.state();
        let generation = state.registry.register(workload);
        self.registry_changes(&mut state);
        generation
    }

    /// Takes a workload out, unless a newer stream has taken its place.
    pub(crate) fn leave(&self, workload: &WorkloadKey, generation: Generation) {
        let mut state = self.state();
        if !state.is_frozen && state.registry.leave(workload, generation) {
            self.registry_changes(&mut state);
        }
    }

    /// A workload takes no new requests.
    pub(crate) fn drain(&self, workload: &WorkloadKey, generation: Generation) {
        let mut state = self.state();
        if state.registry.drain(workload, generation) {
            self.registry_changes(&mut state);
        }
    }

    /// Whether this registration is still the workload's present one.
    pub(crate) fn holds(&self, workload: &WorkloadKey, generation: Generation) -> bool {
        self.state().registry.holds(workload, generation)
    }

    /// Ends the settle window. Returns who has not come back.
    pub(crate) fn settle(&self) -> Vec<Arc<Registered>> {
        let mut state = self.state();
        let gone = state.registry.settle();
        if !gone.is_empty() {
            self.registry_changes(&mut state);
        }
        gone
    }

    /// From now on the end of a stream means nothing: the control plane itself goes down.
    pub(crate) fn freeze(&self) {
        self.state().is_frozen = true;
    }

    /// How many workloads are connected, and how many are expected back after a restart.
    pub(crate) fn population(&self) -> (usize, usize) {
        let state = self.state();
        (state.registry.connected(), state.registry.awaited())
    }

    /// The registry for the next start.
    pub(crate) fn registry_json(&self) -> Vec<u8> {
        self.state().registry.to_json()
    }

    /// Waits until the registry has changed since the last call.
    pub(crate) async fn registry_changed(&self) {
        self.registry_changed.notified().await;
    }

    /// Publishes gathered changes until `shutdown`.
    pub(crate) async fn publish_gathered(&self, shutdown: CancellationToken) {
        loop {
            // Cancel safe: a notification that is not received is kept, and shutdown ends everything anyway.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.stale.notified() => {}
            }
            self.publish_stale();
            tokio::time::sleep(GATHER).await;
        }
    }

    fn publish_stale(&self) {
        let mut state = self.state();
        if state.is_stale && !state.is_frozen {
            self.publish(&mut state);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it is held leaves one of the assignments above undone, which the next change repairs.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry_changes(&self, state: &mut State) {
        state.is_stale = true;
        self.stale.notify_one();
        self.registry_changed.notify_one();
    }

    fn publish(&self, state: &mut State) {
        let world = World::build(parts(&self.trust_domain, state), Some(&self.world()));
        state.is_stale = false;
        self.world.send_replace(Arc::new(world));
    }
}

fn parts(trust_domain: &TrustDomain, state: &State) -> Parts {
    Parts {
        trust_domain: trust_domain.clone(),
        revision: state.revision,
        catalog: state.catalog.clone(),
        workloads: state.registry.workloads(),
        trust: state.trust.clone(),
        trust_generation: state.trust_generation,
        platform: state.platform.clone(),
    }
}

/// What is known of one connected proxy.
#[derive(Clone, Debug)]
pub(crate) struct ProxyState {
    /// Which of its streams.
    pub(crate) generation: Generation,
    /// What its certificate proved when it connected.
    pub(crate) peer: Arc<PeerIdentity>,
    /// The serial of the SVID it uses now, if it said so.
    pub(crate) serial: Option<Vec<u8>>,
    /// When the stream began.
    pub(crate) connected_at: SystemTime,
    /// What it asks for.
    pub(crate) subscriptions: Arc<Subscriptions>,
    /// What it enforces.
    pub(crate) confirmed: Confirmed,
    /// Since when it has enforced that.
    pub(crate) confirmed_at: Instant,
    /// Since when it has owed an answer.
    pub(crate) waiting_since: Option<Instant>,
    /// The last refusal.
    pub(crate) refusal: Option<Refused>,
}

/// What proxies have confirmed. Streams write, `admin` and the authority's ticker read.
pub(crate) struct Fleet {
    proxies: Mutex<BTreeMap<WorkloadKey, ProxyState>>,
    changed: watch::Sender<u64>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { proxies: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Fleet {
    /// Sets what is known of a proxy, unless a newer stream of it has written meanwhile.
    pub(crate) fn set(&self, workload: &WorkloadKey, state: ProxyState) {
        let mut proxies = self.proxies();
        if proxies.get(workload).is_none_or(|known| known.generation <= state.generation) {
            proxies.insert(workload.clone(), state);
            drop(proxies);
            self.notify();
        }
    }

    /// Forgets a proxy, if it is still this stream's.
    pub(crate) fn remove(&self, workload: &WorkloadKey, generation: Generation) {
        let mut proxies = self.proxies();
        if proxies.get(workload).is_some_and(|state| state.generation == generation) {
            proxies.remove(workload);
            drop(proxies);
            self.notify();
        }
    }

    /// Everybody.
    pub(crate) fn all(&self) -> BTreeMap<WorkloadKey, ProxyState> {
        self.proxies().clone()
    }

    /// Changes whenever a proxy's state does.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn notify(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn proxies(&self) -> MutexGuard<'_, BTreeMap<WorkloadKey, ProxyState>> {
        // A panic while it is held leaves one entry undone, which its stream's next answer repairs.
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
