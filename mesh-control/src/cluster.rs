//! The control plane as a workload of a Kubernetes cluster: what the cluster's objects mean to the mesh.
//!
//! Called by `app` alone, and only where it runs in a cluster. Nothing outside of this module and the webhook knows the
//! Kubernetes API; what they are told is an [`index::Platform`](crate::index::Platform).
//!
//! # Replicas
//! Any replica serves any proxy. What all have in common: the objects (the API server), the authority (`secret`), how far each
//! proxy is (`peers`). What each has of its own: the history in its store, with its own count of revisions, and what
//! the proxies that it serves have reported; `meshctl` asks all replicas for these and puts the answers together.

mod follow;
mod leader;
pub(crate) mod names;
mod notes;
pub(crate) mod ours;
pub(crate) mod peers;
pub(crate) mod seal;
pub(crate) mod secret;
pub(crate) mod session;
mod status;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod tokens;
mod translate;
pub(crate) mod trust;
mod watch;

pub(crate) use follow::{Followed, Publish};

use self::watch::Seen;
use crate::alarm::Alarms;
use crate::authority::CertificateAuthority;
use crate::clock;
use crate::discovery::fanout::Mesh;
use crate::store::Store;
use futures_util::future::BoxFuture;
use kube::config::{KubeConfigOptions, Kubeconfig};
use mesh_proto::name::{InstanceName, Namespace};
use peers::Peers;
use secret::SecretStore;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync;

/// Under which name the control plane's fields are known to the API server.
pub(crate) const FIELD_MANAGER: &str = "mesh-control";

/// The labels of what the mesh makes.
pub(crate) fn labels() -> BTreeMap<String, String> {
    let label = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    [
        ("app.kubernetes.io/name", "meshctl"),
        ("app.kubernetes.io/part-of", "meshctl"),
        ("app.kubernetes.io/managed-by", "mesh-control"),
    ]
    .map(label)
    .into()
}

/// What a control plane in a cluster is told.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its pod's name.
    pub pod: InstanceName,
    /// Reaches the cluster with this file instead of the pod's own account.
    pub kubeconfig: Option<PathBuf>,
    /// Where `meshctl` arrives, through a port-forward.
    pub admin: SocketAddr,
    /// Where the API server asks for injection and validation.
    pub webhook: SocketAddr,
    /// The image of the proxies that are injected.
    pub proxy_image: String,
    /// The image that redirects a pod's traffic to its proxy.
    pub init_image: String,
    /// When nodes fetch these images: `Always`, `IfNotPresent` or `Never`; `None`: as Kubernetes decides by the tag.
    pub pull_policy: Option<String>,
}

impl KubernetesConfig {
    /// `host:port` under which pods reach the control plane.
    pub fn service(&self) -> String {
        format!("mesh-control.{}.svc:15012", self.namespace)
    }
}

/// Why the cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Neither the pod's account nor the file leads to an API server.
    #[error("no way to the cluster's API server{}: {problem}", file.as_ref().map(|file| format!(" with {}", file.display())).unwrap_or_default())]
    NoWay {
        /// The kubeconfig, if one was given.
        file: Option<PathBuf>,
        /// What was wrong with it.
        problem: String,
    },
    /// The pod has no file with the sealing key, and none could be read or made.
    #[error("the sealing key in the Secret {namespace}/mesh-seal-key cannot be used: {problem}")]
    SealKey {
        /// The control plane's namespace.
        namespace: Namespace,
        /// Why not.
        problem: String,
    },
}

/// The way to the cluster. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// Speaks to the API server.
    pub(crate) client: kube::Client,
    /// The control plane's namespace.
    pub(crate) namespace: Namespace,
    /// The name of this pod.
    pub(crate) pod: InstanceName,
}

impl Cluster {
    /// Finds the API server; asks it nothing yet.
    ///
    /// # Errors
    /// The pod's account or the kubeconfig cannot be used.
    pub(crate) async fn find(config: &KubernetesConfig) -> Result<Self, ClusterError> {
        let no_way = |problem: String| ClusterError::NoWay { file: config.kubeconfig.clone(), problem };
        let access = match &config.kubeconfig {
            None => kube::Config::incluster().map_err(|error| no_way(error.to_string()))?,
            Some(file) => from_file(file).await.map_err(no_way)?,
        };
        let client = kube::Client::try_from(access).map_err(|error| no_way(error.to_string()))?;
        Ok(Self { client, namespace: config.namespace.clone(), pod: config.pod.clone() })
    }
}

async fn from_file(file: &Path) -> Result<kube::Config, String> {
    let read = Kubeconfig::read_from(file).map_err(|error| error.to_string())?;
    let options = KubeConfigOptions::default();
    kube::Config::from_custom_kubeconfig(read, &options).await.map_err(|error| error.to_string())
}

/// What the cluster's tasks work with.
pub(crate) struct Parts {
    /// The way to the API server.
    pub(crate) cluster: Cluster,
    /// Who is told of what is found.
    pub(crate) mesh: Arc<Mesh>,
    /// Where history is kept.
    pub(crate) store: Arc<dyn Store>,
    /// How resources come into force.
    pub(crate) publish: Publish,
    /// What is said in Events.
    pub(crate) alarms: Arc<Alarms>,
    /// Whose roots are published.
    pub(crate) authority: Arc<CertificateAuthority>,
    /// Where its state is kept.
    pub(crate) secret: Arc<SecretStore>,
    /// What is known of the proxies of other replicas.
    pub(crate) peers: Arc<Peers>,
    /// Whether the API server can ask the webhook.
    pub(crate) webhook: sync::watch::Receiver<bool>,
    /// Becomes true when everything has been listed once and is in force, and the webhook can be asked.
    pub(crate) ready: sync::watch::Sender<bool>,
}

/// The cluster's long tasks, by name. They hold nothing that outlives them, so they end by being dropped.
pub(crate) fn start(parts: Parts) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
    let Parts { cluster, mesh, store, publish, alarms, authority, secret, peers, webhook, ready } = parts;
    let (seen, mut tasks) = Seen::begin(&cluster);
    let seen = Arc::new(seen);
    let (places, resources) = (watch_channel(), watch_channel());
    let all = [places.subscribe(), resources.subscribe(), webhook];
    let (invalid, leads) = (sync::watch::channel(Arc::default()).0, watch_channel());
    let domain = authority.trust_domain().clone();
    let status = status::Writer {
        cluster: cluster.clone(),
        seen: seen.clone(),
        mesh: mesh.clone(),
        store: store.clone(),
        peers: peers.clone(),
        invalid: invalid.subscribe(),
        leads: leads.subscribe(),
    };
    let notes =
        notes::Writer { cluster: cluster.clone(), alarms, mesh: mesh.clone(), leads: leads.subscribe() };
    tasks.push(("the events of the cluster", Box::pin(notes.run())));
    tasks.push(secret.watch(authority));
    tasks.push(peers.clone().listen(cluster.clone()));
    tasks.push(peers.tell(cluster.clone(), mesh.clone(), store.clone()));
    tasks.push(("the election", Box::pin(leader::elect(cluster.clone(), leads, clock::wall))));
    tasks.push(("the status of objects", Box::pin(status.run())));
    tasks
        .push(("the mesh's roots in namespaces", Box::pin(trust::keep(cluster, seen.clone(), mesh.clone()))));
    tasks.push(("the platform", Box::pin(follow::places(seen.clone(), mesh, domain, places))));
    let resources = follow::resources(seen, store, publish, invalid, resources);
    tasks.push(("the mesh's resources", Box::pin(resources)));
    tasks.push(("the readiness", Box::pin(tell_ready(all, ready))));
    tasks
}

fn watch_channel() -> sync::watch::Sender<bool> {
    sync::watch::channel(false).0
}

/// Says that everything is there once it is, and goes on for ever.
async fn tell_ready(parts: [sync::watch::Receiver<bool>; 3], ready: sync::watch::Sender<bool>) {
    for mut part in parts {
        // An error means that the other task is gone, which ends the control plane.
        let _ = part.wait_for(|is_there| *is_there).await;
    }
    tracing::info!("everything in the cluster has been read and the webhook is known; the mesh is ready");
    ready.send_replace(true);
    std::future::pending().await
}
