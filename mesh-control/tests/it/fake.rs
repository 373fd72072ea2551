//! A proxy without a data path: gets its certificate, speaks the discovery protocol, applies and confirms.

use crate::plane::{PATIENCE, Plane};
use hyper_util::rt::TokioIo;
use mesh_ca::bundle::TrustBundles;
use mesh_ca::client::{Identity, UnixIssuer, first};
use mesh_ca::tls::{Credentials, connect_control};
use mesh_proto::config::{Destination, Revision, Revocations, Snapshot};
use mesh_proto::name::{Namespace, ServiceRef};
use mesh_proto::wire::item::Items;
use mesh_proto::wire::v1;
use mesh_proto::wire::v1::discovery_client::DiscoveryClient;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// What a proxy has seen so far.
#[derive(Clone, Default)]
pub(crate) struct View {
    pub(crate) items: Items,
    pub(crate) revision: u64,
    /// Updates received, and how many of them were whole.
    pub(crate) updates: u32,
    pub(crate) full: u32,
    /// Why the stream ended, if it did.
    pub(crate) ended: Option<String>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { items, revision, updates, full, ended } = self;
        let keys: Vec<&str> = items.iter().map(mesh_proto::wire::item::Item::key).collect();
        write!(f, "{keys:?} at {revision}, {updates} updates, {full} whole, ended {ended:?}")
    }
}

impl View {
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.items.to_snapshot(Revision(self.revision)).expect("a complete snapshot")
    }

    pub(crate) fn destination(&self, service: &str) -> Option<Arc<Destination>> {
        if self.items.is_empty() {
            return None;
        }
        self.snapshot().destinations.get(&service.parse().unwrap()).cloned()
    }

    /// The instances behind a service; empty when it does not exist.
    pub(crate) fn endpoints(&self, service: &str) -> Vec<String> {
        let found = self.destination(service);
        found.iter().flat_map(|d| d.endpoints.iter().map(|e| e.instance.to_string())).collect()
    }

    pub(crate) fn policies(&self) -> usize {
        if self.items.is_empty() { 0 } else { self.snapshot().policy.policies.len() }
    }
}

/// How a proxy answers updates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answers {
    /// Applies and confirms.
    Honest,
    /// Refuses whatever comes after the first.
    Refusing,
}

/// What a fake proxy says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) account: String,
    pub(crate) instance: String,
    pub(crate) workload: String,
    pub(crate) ports: Vec<u32>,
    pub(crate) subscriptions: Vec<String>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) answers: Answers,
    pub(crate) held: Items,
}

impl Script {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            account: name.to_owned(),
            instance: format!("{name}-1"),
            workload: name.to_owned(),
            ports: vec![8080],
            subscriptions: Vec::new(),
            labels: Vec::new(),
            answers: Answers::Honest,
            held: Items::default(),
        }
    }

    pub(crate) fn calls(mut self, services: &[&str]) -> Self {
        self.subscriptions = services.iter().map(ToString::to_string).collect();
        self
    }

    pub(crate) fn hello(&self) -> v1::Hello {
        let service = |name: &String| {
            let service: ServiceRef = name.parse().unwrap();
            v1::ServiceName { namespace: service.namespace.to_string(), name: service.name.to_string() }
        };
        v1::Hello {
            instance: self.instance.clone(),
            workload: self.workload.clone(),
            version: "0.1.0".into(),
            address: "127.0.0.1:4000".into(),
            ports: self
                .ports
                .iter()
                .map(|port| v1::InboundPort { port: *port, protocol: String::new(), name: String::new() })
                .collect(),
            labels: self.labels.iter().cloned().collect(),
            subscriptions: self.subscriptions.iter().map(service).collect(),
            addresses: Vec::new(),
            revision: 0,
            digest: if self.held.is_empty() { Vec::new() } else { self.held.digest().to_vec() },
            understands: Vec::new(),
        }
    }

    pub(crate) fn issuer(&self, plane: &Plane) -> UnixIssuer {
        UnixIssuer {
            socket: plane.running.socket.clone(),
            namespace: Namespace::default_local(),
            account: self.account.parse().unwrap(),
            instance: self.instance.parse().unwrap(),
            lifetime: None,
        }
    }

    pub(crate) async fn identity(&self, plane: &Plane) -> Identity {
        first(&self.issuer(plane), &self.instance.parse().unwrap()).await.unwrap()
    }
}

/// A gRPC channel to the TLS port, as a holder of an SVID.
pub(crate) async fn channel(identity: &Identity) -> Result<Channel, tonic::transport::Error> {
    let credentials = Credentials {
        svid: identity.svid.clone(),
        bundles: Arc::new(TrustBundles::from_config(&identity.bundles).unwrap()),
        revocations: Arc::new(Revocations::default()),
    };
    let config = credentials.control_client_config(&identity.control_identity).unwrap();
    let address = identity.control_address.clone();
    let connector = tower::service_fn(move |_| {
        let (config, address) = (config.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            connect_control(config, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://control").connect_with_connector(connector).await
}

/// A running fake proxy; its stream ends when it is dropped.
pub(crate) struct FakeProxy {
    pub(crate) view: watch::Receiver<View>,
    pub(crate) identity: Identity,
    say: mpsc::Sender<v1::ProxyMessage>,
    task: JoinHandle<()>,
}

impl Drop for FakeProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn message(kind: v1::proxy_message::Kind) -> v1::ProxyMessage {
    v1::ProxyMessage { kind: Some(kind) }
}

impl FakeProxy {
    pub(crate) async fn join(plane: &Plane, script: &Script) -> Self {
        let identity = script.identity(plane).await;
        Self::join_as(identity, script).await
    }

    pub(crate) async fn join_as(identity: Identity, script: &Script) -> Self {
        let mut client = DiscoveryClient::new(channel(&identity).await.unwrap());
        let (say, said) = mpsc::channel(16);
        say.send(message(v1::proxy_message::Kind::Hello(script.hello()))).await.unwrap();
        let stream = client.stream(ReceiverStream::new(said)).await.unwrap().into_inner();
        let (seen, view) = watch::channel(View { items: script.held.clone(), ..View::default() });
        let task = tokio::spawn(follow(stream, say.clone(), seen, script.answers));
        Self { view, identity, say, task }
    }

    pub(crate) async fn say(&self, kind: v1::proxy_message::Kind) {
        self.say.send(message(kind)).await.unwrap();
    }

    /// Waits for a state of the view.
    pub(crate) async fn wait(&self, what: &str, is_it: impl Fn(&View) -> bool) -> View {
        let mut view = self.view.clone();
        let found = tokio::time::timeout(PATIENCE, view.wait_for(|view| is_it(view))).await;
        match found {
            Ok(Ok(found)) => found.clone(),
            _ => panic!("{what}: never; the last view was {:?}", self.view.borrow()),
        }
    }
}

async fn follow(
    mut stream: tonic::Streaming<v1::ControlMessage>,
    say: mpsc::Sender<v1::ProxyMessage>,
    seen: watch::Sender<View>,
    answers: Answers,
) {
    loop {
        let update = match stream.message().await {
            Ok(Some(v1::ControlMessage { kind: Some(v1::control_message::Kind::Update(update)) })) => update,
            Ok(_) => return seen.send_modify(|view| view.ended = Some("closed".into())),
            Err(status) => {
                return seen.send_modify(|view| {
                    view.ended = Some(format!("{:?}: {}", status.code(), status.message()));
                });
            }
        };
        let (revision, full) = (update.revision, update.full);
        let before = seen.borrow().clone();
        let answer = if answers == Answers::Refusing && before.updates > 0 {
            Err("it is broken".to_owned())
        } else {
            before.items.apply(update).map_err(|error| error.to_string())
        };
        let kind = match answer {
            Ok(items) => {
                let digest = items.digest().to_vec();
                seen.send_modify(|view| {
                    view.items = items;
                    view.revision = revision;
                    view.updates += 1;
                    view.full += u32::from(full);
                });
                v1::proxy_message::Kind::Ack(v1::Ack { revision, digest })
            }
            Err(reason) => v1::proxy_message::Kind::Refusal(v1::Refusal { revision, reason }),
        };
        if say.send(message(kind)).await.is_err() {
            return;
        }
    }
}
