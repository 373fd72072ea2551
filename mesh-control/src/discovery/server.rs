//! The discovery service: one state machine for each proxy, driven by its own connection.
//!
//! There is no task beside the connection: the answer stream *is* the machine. When the connection ends, however it ends,
//! the machine is dropped, and with it the workload's registration.

use crate::clock;
use crate::discovery::fanout::{Mesh, ProxyState};
use crate::discovery::hello::{self, Greeting};
use crate::discovery::subscriber::{ANSWER_DEADLINE, Refusal, Subscriber};
use crate::index::World;
use crate::local::registry::{Claims, Generation, WorkloadKey};
use crate::metrics::Metrics;
use crate::snapshot::{self, Inbound};
use futures_util::Stream;
use mesh_ca::authority::attest::{Caller, TlsCaller};
use mesh_ca::verify::PeerIdentity;
use mesh_proto::config::Subscriptions;
use mesh_proto::wire::v1::discovery_server::Discovery;
use mesh_proto::wire::v1::{self, ControlMessage, ProxyMessage};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// The largest message a proxy may send: a `Hello` with all its limits used fits.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// How long a connected proxy may take to say who it is.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// Messages a proxy may send in a second; it needs a handful. Each can cost a snapshot.
const MESSAGES_PER_SECOND_MAX: u32 = 200;

/// Whether the owner of the mesh vouched for a peer when it got its certificate; see `index`.
pub(crate) trait Vouching: Send + Sync {
    /// [`Claims::Vouched`] only when that is known.
    fn claims_of(&self, peer: &PeerIdentity) -> Claims;
}

/// The service.
pub(crate) struct DiscoveryService {
    /// What there is to know.
    pub(crate) mesh: Arc<Mesh>,
    /// Who was vouched for.
    pub(crate) vouching: Arc<dyn Vouching>,
    /// Where streams and updates are counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Ends all streams.
    pub(crate) shutdown: CancellationToken,
}

type Answers = Pin<Box<dyn Stream<Item = Result<ControlMessage, Status>> + Send>>;

#[tonic::async_trait]
impl Discovery for DiscoveryService {
    type StreamStream = Answers;

    async fn stream(&self, request: Request<Streaming<ProxyMessage>>) -> Result<Response<Answers>, Status> {
        let (peer, from) = proven_peer(&request)?;
        let session = Session {
            mesh: self.mesh.clone(),
            vouching: self.vouching.clone(),
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
            world: self.mesh.watch(),
            inbound: request.into_inner(),
            peer,
            from,
            proxy: None,
            budget: Budget::default(),
            is_over: false,
        };
        Ok(Response::new(Box::pin(futures_util::stream::unfold(session, Session::step))))
    }
}

/// The verified peer of a call, and from where it comes.
///
/// # Errors
/// The caller has no certificate.
pub(crate) fn proven_peer<T>(request: &Request<T>) -> Result<(Arc<PeerIdentity>, IpAddr), Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Tls(TlsCaller { peer: Some(peer), address })) => Ok((peer.clone(), address.ip())),
        _ => Err(Status::unauthenticated(
            "this call needs a certificate of the mesh; get one from the Identity service first",
        )),
    }
}

/// How many messages came in the present second.
#[derive(Default)]
struct Budget {
    second: Option<Instant>,
    used: u32,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|start| now.saturating_duration_since(start) >= Duration::from_secs(1)) {
            *self = Self { second: Some(now), used: 0 };
        }
        self.used = self.used.saturating_add(1);
        self.used <= MESSAGES_PER_SECOND_MAX
    }
}

/// A registered proxy.
struct Proxy {
    key: WorkloadKey,
    generation: Generation,
    subscriptions: Arc<Subscriptions>,
    inbound: Inbound,
    /// `None` until the world has the workload in it: some milliseconds.
    subscriber: Option<Subscriber>,
    greeting_digest: Vec<u8>,
    serial: Option<Vec<u8>>,
    connected_at: SystemTime,
}

struct Session {
    mesh: Arc<Mesh>,
    vouching: Arc<dyn Vouching>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    world: watch::Receiver<Arc<World>>,
    inbound: Streaming<ProxyMessage>,
    peer: Arc<PeerIdentity>,
    from: IpAddr,
    proxy: Option<Proxy>,
    budget: Budget,
    is_over: bool,
}

enum Event {
    Message(Box<ProxyMessage>),
    /// The peer has gone, however that is called.
    Gone,
    World,
    Deadline,
    Shutdown,
}

impl Session {
    /// Waits for the next thing to send; `None` ends the stream.
    async fn step(mut self) -> Option<(Result<ControlMessage, Status>, Self)> {
        if self.is_over {
            return None;
        }
        loop {
            let event = self.next_event().await;
            match self.handle(event) {
                Ok(Some(update)) => {
                    self.publish_state();
                    self.metrics.update_sent();
                    let kind = Some(v1::control_message::Kind::Update(update));
                    return Some((Ok(ControlMessage { kind }), self));
                }
                Ok(None) => self.publish_state(),
                Err(End::Quiet) => return None,
                Err(End::Refused(status)) => {
                    tracing::info!(
                        peer = %self.peer.id,
                        instance = self.peer.instance.as_ref().map_or("", |instance| instance.as_str()),
                        reason = status.message(),
                        "discovery stream ended by the control plane"
                    );
                    self.is_over = true;
                    return Some((Err(status), self));
                }
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let deadline = match &self.proxy {
            None => Some(HELLO_DEADLINE),
            Some(proxy) => proxy.subscriber.as_ref().and_then(Subscriber::waiting_since).map(|since| {
                ANSWER_DEADLINE.saturating_sub(clock::monotonic().saturating_duration_since(since))
            }),
        };
        let expired = async {
            match deadline {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        // Cancel safe: `message` keeps what it has decoded in the stream, `changed` loses no version, the deadline is
        // computed anew from the time of sending.
        tokio::select! {
            () = self.shutdown.cancelled() => Event::Shutdown,
            message = self.inbound.message() => match message {
                Ok(Some(message)) => Event::Message(Box::new(message)),
                Ok(None) | Err(_) => Event::Gone,
            },
            Ok(()) = self.world.changed() => Event::World,
            () = expired => Event::Deadline,
        }
    }

    fn handle(&mut self, event: Event) -> Result<Option<v1::Update>, End> {
        let now = clock::monotonic();
        match event {
            Event::Shutdown => Err(End::refused(Status::unavailable("the control plane is going down"))),
            Event::Gone => Err(End::Quiet),
            Event::Message(message) => {
                if !self.budget.take(now) {
                    return Err(End::refused(Status::resource_exhausted(format!(
                        "more than {MESSAGES_PER_SECOND_MAX} messages in a second"
                    ))));
                }
                self.message(*message, now)
            }
            Event::World => self.refresh(now),
            Event::Deadline => match &mut self.proxy {
                None => Err(End::refused(Status::deadline_exceeded("no Hello within 10 s"))),
                Some(proxy) => {
                    self.metrics.answer_missed();
                    Ok(proxy.subscriber.as_mut().and_then(|subscriber| subscriber.expire(now)))
                }
            },
        }
    }

    fn message(&mut self, message: ProxyMessage, now: Instant) -> Result<Option<v1::Update>, End> {
        use v1::proxy_message::Kind;
        let kind = message.kind.ok_or_else(|| End::refused(Status::invalid_argument("an empty message")))?;
        let Some(proxy) = &mut self.proxy else {
            let Kind::Hello(hello) = kind else {
                return Err(End::refused(Status::failed_precondition("the first message must be Hello")));
            };
            return self.register(hello, now);
        };
        let subscriber = proxy.subscriber.as_mut();
        match kind {
            Kind::Hello(_) => Err(End::refused(Status::failed_precondition("Hello comes once"))),
            Kind::Ack(ack) => {
                let Some(subscriber) = subscriber else { return Ok(None) };
                let sent = subscriber.waiting_since();
                let next = subscriber.acknowledge(&ack, now);
                if let Some(sent) = sent
                    && subscriber.waiting_since() != Some(sent)
                {
                    self.metrics.update_accepted(now.saturating_duration_since(sent));
                }
                Ok(next)
            }
            Kind::Refusal(refusal) => {
                let Some(Refusal::Noted(next)) =
                    subscriber.map(|subscriber| subscriber.refuse(&refusal, now))
                else {
                    return Ok(None);
                };
                self.metrics.update_refused();
                tracing::warn!(
                    instance = %proxy.key.instance,
                    revision = refusal.revision,
                    reason = %refusal.reason.chars().take(500).collect::<String>(),
                    "a proxy could not use an update and keeps what it had"
                );
                Ok(next)
            }
            Kind::Subscribe(subscribe) => {
                let v1::Subscribe { services, addresses } = subscribe;
                let read = hello::read_subscriptions(services, addresses).map_err(End::refused)?;
                proxy.subscriptions = Arc::new(read);
                self.refresh(now)
            }
            Kind::Draining(v1::Draining {}) => {
                self.mesh.drain(&proxy.key, proxy.generation);
                Ok(None)
            }
            Kind::Digest(digest) => self.compare(digest, now),
        }
    }

    fn register(&mut self, hello: v1::Hello, now: Instant) -> Result<Option<v1::Update>, End> {
        self.check_trust()?;
        let claims = self.vouching.claims_of(&self.peer);
        let Greeting { workload, subscriptions, digest, understood } =
            hello::read(hello, &self.peer, self.from, claims).map_err(End::refused)?;
        let key = workload.key.clone();
        tracing::info!(
            identity = %key.id, instance = %key.instance, workload = %workload.workload, address = %workload.address,
            version = workload.version, "workload registered"
        );
        let generation = self.mesh.register(workload);
        self.metrics.stream_began();
        self.proxy = Some(Proxy {
            key,
            generation,
            subscriptions: Arc::new(subscriptions),
            inbound: Inbound::new(understood),
            subscriber: None,
            greeting_digest: digest,
            serial: None,
            connected_at: clock::wall(),
        });
        self.refresh(now)
    }

    /// Looks at the newest world; returns what the proxy must be sent because of it.
    fn refresh(&mut self, now: Instant) -> Result<Option<v1::Update>, End> {
        self.check_trust()?;
        let world = self.world.borrow_and_update().clone();
        let Some(proxy) = &mut self.proxy else { return Ok(None) };
        if !self.mesh.holds(&proxy.key, proxy.generation) {
            return Err(End::refused(Status::aborted("a newer stream of this instance has taken over")));
        }
        let Some(wanted) = snapshot::wanted(&world, &proxy.key, &proxy.subscriptions, &mut proxy.inbound)
        else {
            return Ok(None);
        };
        match &mut proxy.subscriber {
            Some(subscriber) => Ok(subscriber.offer(wanted, now)),
            None => {
                let digest = std::mem::take(&mut proxy.greeting_digest);
                let (subscriber, update) = Subscriber::greet(&digest, wanted, now);
                proxy.subscriber = Some(subscriber);
                Ok(update)
            }
        }
    }

    fn compare(&mut self, digest: v1::Digest, now: Instant) -> Result<Option<v1::Update>, End> {
        let Some(proxy) = &mut self.proxy else { return Ok(None) };
        if !digest.svid_serial.is_empty() && digest.svid_serial.len() <= 20 {
            proxy.serial = Some(digest.svid_serial.clone());
        }
        let Some(subscriber) = proxy.subscriber.as_mut().filter(|known| known.is_comparable(&digest, now))
        else {
            return Ok(None);
        };
        let world = self.world.borrow().clone();
        let wanted = snapshot::wanted(&world, &proxy.key, &proxy.subscriptions, &mut proxy.inbound);
        let update = wanted.and_then(|wanted| subscriber.compare(&digest, wanted, now));
        if update.is_some() {
            self.metrics.resynchronised();
            tracing::warn!(instance = %proxy.key.instance, "a proxy held something else than it should; sent it all anew");
        }
        Ok(update)
    }

    /// A revoked peer loses its stream, whatever its certificate said when it connected.
    fn check_trust(&self) -> Result<(), End> {
        let world = self.world.borrow();
        let revocations = &world.trust.revocations;
        let serial = self.proxy.as_ref().and_then(|proxy| proxy.serial.as_ref());
        let is_serial_revoked =
            serial.is_some_and(|serial| revocations.serials.binary_search(serial).is_ok());
        if self.peer.is_revoked(revocations) || is_serial_revoked {
            return Err(End::refused(Status::permission_denied(format!(
                "the certificate or the identity {} has been revoked",
                self.peer.id
            ))));
        }
        Ok(())
    }

    fn publish_state(&self) {
        let Some(proxy) = &self.proxy else { return };
        let Some(subscriber) = &proxy.subscriber else { return };
        let state = ProxyState {
            generation: proxy.generation,
            peer: self.peer.clone(),
            serial: proxy.serial.clone(),
            connected_at: proxy.connected_at,
            subscriptions: proxy.subscriptions.clone(),
            confirmed: subscriber.confirmed(),
            confirmed_at: subscriber.confirmed_at(),
            waiting_since: subscriber.waiting_since(),
            refusal: subscriber.refusal().cloned(),
        };
        self.mesh.fleet.set(&proxy.key, state);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(proxy) = &self.proxy {
            self.mesh.leave(&proxy.key, proxy.generation);
            self.mesh.fleet.remove(&proxy.key, proxy.generation);
            self.metrics.stream_ended();
            tracing::info!(identity = %proxy.key.id, instance = %proxy.key.instance, "workload left");
        }
    }
}

/// Why a stream ends.
enum End {
    /// The peer ended it.
    Quiet,
    /// We end it, and say why.
    Refused(Status),
}

impl End {
    fn refused(status: Status) -> Self {
        Self::Refused(status)
    }
}
