//! The cluster's objects as the API server last told them, kept current.
//!
//! [`Seen::begin`] makes a store and a task for each kind; a task lists its kind once, then follows its changes, and starts
//! again with growing pauses when the API server goes away. What was seen stays until something newer is: an API server
//! that is gone changes nothing.

use super::Cluster;
use super::ours::{self, OurKind};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DynamicObject;
use kube::runtime::reflector::{Store, store::Writer};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as follow};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// Failures in a row that are worth a word: one is a watch whose beginning the API server has forgotten, and starts anew.
const TELLING: u32 = 2;
/// The annotation in which `kubectl` keeps a whole object a second time.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Everything that is looked at.
pub(super) struct Seen {
    pub(super) services: Store<Service>,
    pub(super) slices: Store<EndpointSlice>,
    pub(super) pods: Store<Pod>,
    pub(super) namespaces: Store<Namespace>,
    /// The mesh's own kinds.
    pub(super) ours: Vec<(&'static OurKind, Store<DynamicObject>)>,
    /// Woken when something has changed that says who is where.
    pub(super) places_changed: Arc<Notify>,
    /// Woken when namespaces may need or no longer need the mesh's roots.
    pub(super) namespaces_changed: Arc<Notify>,
    /// Woken when a resource of the mesh has changed.
    pub(super) ours_changed: Arc<Notify>,
    /// How many kinds have been listed, and of how many.
    listed: (watch::Sender<usize>, usize),
}

/// A long task with its name.
pub(super) type Task = (&'static str, BoxFuture<'static, ()>);

impl Seen {
    /// The stores, still empty, and the tasks that fill them.
    pub(super) fn begin(cluster: &Cluster) -> (Self, Vec<Task>) {
        let client = &cluster.client;
        let (places, resources) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let namespaced = Arc::new(Notify::new());
        let mut tasks: Vec<Task> = Vec::new();
        let services = Writer::new(());
        let slices = Writer::new(());
        let pods = Writer::new(());
        let namespaces = Writer::new(());
        let mut stores = Vec::new();
        let seen = Self {
            services: services.as_reader(),
            slices: slices.as_reader(),
            pods: pods.as_reader(),
            namespaces: namespaces.as_reader(),
            ours: Vec::new(),
            places_changed: places.clone(),
            namespaces_changed: namespaced.clone(),
            ours_changed: resources.clone(),
            listed: (watch::channel(0).0, KINDS_OF_PLACES.saturating_add(ours::KINDS.len())),
        };
        let told = |changed: &[&Arc<Notify>]| Told {
            changed: changed.iter().copied().cloned().collect(),
            listed: seen.listed.0.clone(),
        };
        let task = keep(Api::all(client.clone()), services, trim, told(&[&places]));
        tasks.push(("the watch over Services", Box::pin(task)));
        let task = keep(Api::all(client.clone()), slices, trim, told(&[&places]));
        tasks.push(("the watch over EndpointSlices", Box::pin(task)));
        let task = keep(Api::all(client.clone()), pods, trim_pod, told(&[&places, &namespaced]));
        tasks.push(("the watch over Pods", Box::pin(task)));
        let task = keep(Api::all(client.clone()), namespaces, trim, told(&[&places, &namespaced]));
        tasks.push(("the watch over Namespaces", Box::pin(task)));
        for kind in &ours::KINDS {
            let resource = kind.resource();
            let writer = Writer::new(resource.clone());
            stores.push((kind, writer.as_reader()));
            let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
            let task = keep(api, writer, trim_applied, told(&[&resources]));
            tasks.push(("the watch over the mesh's resources", Box::pin(task)));
        }
        (Self { ours: stores, ..seen }, tasks)
    }

    /// Waits until everything has been listed once.
    pub(super) async fn complete(&self) {
        let (listed, of) = &self.listed;
        // The sender is our own, so it is not gone.
        let _ = listed.subscribe().wait_for(|listed| listed >= of).await;
    }
}

/// Kinds that say who is where.
const KINDS_OF_PLACES: usize = 4;

/// Who is told of one kind's changes.
struct Told {
    changed: Vec<Arc<Notify>>,
    listed: watch::Sender<usize>,
}

/// Keeps one kind's store current.
async fn keep<K>(api: Api<K>, mut writer: Writer<K>, trim: fn(&mut K), told: Told)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let kind = api.resource_url().to_owned();
    let events = follow(api, watcher::Config::default()).default_backoff().modify(trim);
    pin_mut!(events);
    let (mut failures, mut is_listed) = (0_u32, false);
    // It never ends by itself.
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if std::mem::replace(&mut failures, 0) >= TELLING {
                    tracing::info!(kind, "the API server answers again");
                }
                writer.apply_watcher_event(&event);
                if !matches!(event, Event::Init | Event::InitApply(_)) {
                    told.changed.iter().for_each(|changed| changed.notify_one());
                }
                if matches!(event, Event::InitDone) && !std::mem::replace(&mut is_listed, true) {
                    told.listed.send_modify(|count| *count = count.saturating_add(1));
                }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                if failures == TELLING {
                    tracing::warn!(kind, %error, "the API server does not tell what there is; what was seen last stays in force");
                }
            }
        }
    }
}

/// Drops what nobody asks for: most of an object's bytes.
fn trim<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// As [`trim`], but the fields' managers stay: they say who has changed a resource.
fn trim_applied(object: &mut DynamicObject) {
    if let Some(annotations) = &mut object.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

fn trim_pod(pod: &mut Pod) {
    trim(pod);
    if let Some(spec) = &mut pod.spec {
        *spec = k8s_openapi::api::core::v1::PodSpec {
            service_account_name: spec.service_account_name.take(),
            host_network: spec.host_network,
            node_name: spec.node_name.take(),
            ..Default::default()
        };
    }
    if let Some(status) = &mut pod.status {
        *status = k8s_openapi::api::core::v1::PodStatus {
            phase: status.phase.take(),
            pod_ip: status.pod_ip.take(),
            pod_ips: status.pod_ips.take(),
            ..Default::default()
        };
    }
}
