//! What the API server asks before it takes an object: pods are given their proxy, resources of the mesh are checked.
//!
//! `server` is the port, `certificate` what proves it, `review` the question's and the answer's form, `decide` what is
//! answered; [`patch`] is the injection itself, which `meshctl inject` uses as well.

mod certificate;
mod decide;
pub mod patch;
mod review;
mod server;

use crate::cluster::Cluster;
use crate::cluster::session::Sessions;
use certificate::Keeper;
use decide::Decider;
use mesh_proto::identity::TrustDomain;
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
    /// Mints the tokens of the cluster's users.
    pub(crate) sessions: Sessions,
    /// The mesh's trust domain.
    pub(crate) trust_domain: TrustDomain,
    /// The image of the proxies that are injected.
    pub(crate) proxy_image: String,
    /// The image that redirects a pod's traffic to its proxy.
    pub(crate) init_image: String,
}

/// Serves until `stop`.
pub(crate) async fn serve(config: WebhookConfig, stop: CancellationToken) {
    let WebhookConfig { cluster, listener, sessions: _, trust_domain, proxy_image, init_image } = config;
    let Cluster { client, namespace, pod: _ } = cluster;
    let options = Options {
        proxy_image,
        init_image,
        pull_policy: None,
        control: format!("mesh-control.{namespace}.svc:15012"),
        trust_domain,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let decider = Arc::new(Decider { options, namespace: namespace.clone() });
    let (serving, config) = watch::channel(None);
    let keeper = Keeper { client, namespace, session_path: None, serving };
    tokio::join!(keeper.run(stop.clone()), server::serve(listener, config, decider, stop));
}
