//! What a control plane has more in a cluster: the watch over its objects, an admin port on the pod's loopback, the webhook.

use super::{ControlError, Plane, Tasks, bind, until};
use crate::admin::Control;
use crate::admin::server::{self as admin_server, AdminService};
use crate::authority::Elsewhere;
use crate::cluster::peers::Peers;
use crate::cluster::secret::SecretStore;
use crate::cluster::session::Sessions;
use crate::cluster::tokens::Reviewer;
use crate::cluster::{self, Cluster, KubernetesConfig, Parts, Publish, seal};
use crate::config::Config;
use crate::transport;
use crate::webhook::{self, WebhookConfig};
use mesh_ca::authority::AuthorityStore;
use mesh_ca::authority::attest::TokenReviewer;
use mesh_ca::seal::SealKey;
use mesh_proto::wire::v1::admin_server::AdminServer;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;

/// A way to the cluster, and the ports that exist in one.
pub(super) struct InCluster {
    config: KubernetesConfig,
    cluster: Cluster,
    secret: Arc<SecretStore>,
    peers: Arc<Peers>,
    admin: TcpListener,
    webhook: TcpListener,
}

impl InCluster {
    /// Finds the cluster and binds the ports.
    ///
    /// # Errors
    /// There is no way to the API server, or a port is taken.
    pub(super) async fn prepare(config: &KubernetesConfig) -> Result<Self, ControlError> {
        let cluster = Cluster::find(config).await?;
        Ok(Self {
            secret: Arc::new(SecretStore::new(&cluster, Handle::current())),
            peers: Arc::default(),
            cluster,
            admin: bind(config.admin, "meshctl", "--admin-listen").await?.0,
            webhook: bind(config.webhook, "the webhook", "--webhook-listen").await?.0,
            config: config.clone(),
        })
    }

    /// Where the authority's state is kept.
    pub(super) fn kept(&self) -> Arc<dyn AuthorityStore> {
        self.secret.clone()
    }

    /// The sealing key, where no file has it.
    ///
    /// # Errors
    /// It cannot be read, or made.
    pub(super) async fn seal_key(&self, config: &Config) -> Result<Option<SealKey>, ControlError> {
        match &config.seal_key_file {
            Some(file) if !file.exists() => Ok(Some(seal::key(&self.cluster).await?)),
            _ => Ok(None),
        }
    }

    /// What is known of the proxies of other replicas.
    pub(super) fn elsewhere(&self) -> Elsewhere {
        let peers = self.peers.clone();
        Arc::new(move || peers.trust())
    }

    /// Who judges pods' tokens.
    pub(super) fn reviewer(&self) -> Arc<dyn TokenReviewer> {
        Arc::new(Reviewer::new(self.cluster.clone(), Handle::current()))
    }

    /// Starts the long tasks of a cluster; tells when all of its objects have been read.
    pub(super) fn start(self, plane: &Plane, tasks: &mut Tasks) -> watch::Receiver<bool> {
        let Self { config, cluster, secret, peers, admin, webhook } = self;
        let control = &plane.control;
        let (ready, is_ready) = watch::channel(false);
        let (is_kept, webhook_is_kept) = watch::channel(false);
        let sessions = Sessions::new(&cluster);
        let parts = Parts {
            cluster: cluster.clone(),
            mesh: control.mesh.clone(),
            store: control.store.clone(),
            publish: publish(control.clone()),
            alarms: control.alarms.clone(),
            authority: control.authority.clone(),
            secret,
            peers,
            webhook: webhook_is_kept,
            ready,
        };
        for (name, task) in cluster::start(parts) {
            tasks.add(name, until(tasks.stop.clone(), task));
        }
        let stop = tasks.stop.clone();
        let webhook = WebhookConfig {
            cluster,
            listener: webhook,
            mesh: control.mesh.clone(),
            trust_domain: control.authority.trust_domain().clone(),
            proxy_image: config.proxy_image,
            init_image: config.init_image,
            is_kept,
            pull_policy: config.pull_policy,
        };
        tasks.add("the end of sessions", until(tasks.stop.clone(), Box::pin(sessions.clone().sweep())));
        tasks.add("the webhook", webhook::serve(webhook, stop.clone()));
        let service = AdminServer::new(AdminService { control: control.clone() })
            .max_decoding_message_size(admin_server::MESSAGE_BYTES_MAX);
        let service = sessions.guard(service);
        let admin = transport::server()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(admin), stop.cancelled_owned());
        tasks.add_server("the admin port's gRPC server", admin);
        is_ready
    }
}

/// How the cluster's changes come into force.
fn publish(control: Arc<Control>) -> Publish {
    Arc::new(move |followed| {
        let control = control.clone();
        Box::pin(async move { control.follow(followed).await.map_err(|status| status.message().to_owned()) })
    })
}
