//! The control plane as a workload of a Kubernetes cluster: what the cluster's objects mean to the mesh.
//!
//! Called by `app` alone, and only where it runs in a cluster. Nothing outside of this module and the webhook knows the
//! Kubernetes API; what they are told is an [`index::Platform`](crate::index::Platform).

mod names;
pub(crate) mod session;
mod translate;

use crate::discovery::fanout::Mesh;
use crate::store::Store;
use futures_util::future::BoxFuture;
use kube::config::{KubeConfigOptions, Kubeconfig};
use mesh_ca::authority::Authority;
use mesh_proto::name::{InstanceName, Namespace};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

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
    /// Whose roots are published.
    pub(crate) authority: Arc<Authority>,
    /// Becomes true when everything has been listed once.
    pub(crate) ready: watch::Sender<bool>,
}

/// The cluster's long tasks, by name; they end with `stop`.
pub(crate) fn start(parts: Parts, stop: &CancellationToken) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
    let stop = stop.clone();
    vec![(
        "the watch over the cluster",
        Box::pin(async move {
            let Parts { cluster: _, mesh: _, store: _, authority: _, ready } = parts;
            ready.send_replace(true);
            stop.cancelled().await;
        }),
    )]
}
