//! What the API server asks before it takes an object: pods are given their proxy, resources of the mesh are checked.

use crate::cluster::Cluster;
use crate::cluster::session::Sessions;
use mesh_proto::identity::TrustDomain;
use tokio::net::TcpListener;
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
    let WebhookConfig {
        cluster: _,
        listener: _listener,
        sessions: _,
        trust_domain: _,
        proxy_image: _,
        init_image: _,
    } = config;
    stop.cancelled().await;
}
