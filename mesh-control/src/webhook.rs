//! What the API server asks before it takes an object: pods are given their proxy, resources of the mesh are checked.
//!
//! `server` is the port, `certificate` what proves it, `review` the question's and the answer's form, `decide` what is
//! answered, `validate` what of that is about the mesh's own kinds; [`patch`] is the injection itself, which `meshctl inject` uses as well.

mod certificate;
mod decide;
pub mod patch;
mod review;
mod server;
mod validate;

use crate::admin::change;
use crate::clock;
use crate::cluster::Cluster;
use crate::discovery::fanout::Mesh;
use certificate::Keeper;
use decide::Decider;
use mesh_proto::identity::TrustDomain;
use mesh_proto::resource::{Resource, ResourceKey};
use patch::Options;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the webhook works with.
pub(crate) struct WebhookConfig {
    /// The way to the API server.
    pub(crate) cluster: Cluster,
    /// Where the API server connects.
    pub(crate) listener: TcpListener,
    /// Whose resources are checked together.
    pub(crate) mesh: Arc<Mesh>,
    /// The mesh's trust domain.
    pub(crate) trust_domain: TrustDomain,
    /// The image of the proxies that are injected.
    pub(crate) proxy_image: String,
    /// The image that redirects a pod's traffic to its proxy.
    pub(crate) init_image: String,
    /// Becomes true when the API server can ask.
    pub(crate) is_kept: watch::Sender<bool>,
    /// When nodes fetch these images; `None`: as Kubernetes decides by the tag.
    pub(crate) pull_policy: Option<String>,
}

/// Serves until `stop`.
pub(crate) async fn serve(config: WebhookConfig, stop: CancellationToken) {
    let WebhookConfig {
        cluster,
        listener,
        mesh,
        trust_domain,
        proxy_image,
        init_image,
        pull_policy,
        is_kept,
    } = config;
    let Cluster { client, namespace, pod: _ } = cluster;
    let options = Options {
        proxy_image,
        init_image,
        pull_policy,
        control: format!("mesh-control.{namespace}.svc:15012"),
        trust_domain,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let among = Box::new(move |key: &ResourceKey, resource: Option<&Resource>| {
        let world = mesh.world();
        let catalog = world.catalog.with_changes([(key.clone(), resource.cloned())]);
        let mut problems =
            catalog.check(std::slice::from_ref(key), &world.targets(), clock::unix_s(clock::wall()));
        problems.extend(change::other_domain(&catalog, &world.trust_domain));
        problems
    });
    let decider = Arc::new(Decider { options, namespace: namespace.clone(), among });
    let (serving, config) = watch::channel(None);
    let keeper = Keeper { client, namespace, serving, is_kept };
    tokio::join!(keeper.run(stop.clone()), server::serve(listener, config, decider, stop));
}
