//! The discovery stream: what this proxy is, what it wants to know, what it uses.
//!
//! Reconnects for ever, with growing pauses; meanwhile the data path goes on with what it has. An update is acknowledged
//! when every worker judges by it, refused when it cannot be used.

use super::apply::Proposal;
use crate::clock;
use crate::control::{ChannelError, Link, OPEN_WITHIN};
use crate::facts::Facts;
use mesh_proto::config::{Revision, Subject, Subscriptions};
use mesh_proto::name::ServiceRef;
use mesh_proto::wire::discovery::UNDERSTANDS_WORKLOAD;
use mesh_proto::wire::{Items, MESSAGE_BYTES_MAX, v1};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use v1::control_message::Kind as FromControl;
use v1::proxy_message::Kind as ToControl;

/// First pause after a failure; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause: a control plane that is back is found within it, and 5,000 proxies make 1,000 attempts a second.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A stream that lived this long was a good one: the next pause is short again.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// After so many failures in a row a new certificate is asked for. The one in use may be refused (its serial revoked, its root
/// retired while this proxy was cut off), the roots known here may be old, or the control plane may have moved: the
/// answer to a renewal brings all of them, and otherwise only the next one would, hours later.
const FAILURES_PER_RENEWAL: u32 = 3;
/// How often what is held is told, so that divergence is found.
const DIGEST_EVERY: Duration = Duration::from_secs(30);
/// Addresses whose owner is asked for at the same time. A workload calls some tens; one that calls half the internet asks
/// again for those it has not called for long.
const ADDRESSES_MAX: usize = 1_000;
/// Messages that wait to be sent.
const OUTGOING_MAX: usize = 16;

/// What the proxy is, as the control plane shall know it.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    /// What does not change.
    pub(crate) facts: Arc<Facts>,
    /// Where other proxies reach this one.
    pub(crate) address: String,
    /// Labels that policies and services select by.
    pub(crate) labels: std::collections::HashMap<String, String>,
}

/// Keeps the stream open and applies what comes.
pub(crate) struct Client {
    link: Link,
    registration: Registration,
    proposals: mpsc::Sender<Proposal>,
    wanted: mpsc::Receiver<Subject>,
    subscriptions: Subscriptions,
    addresses_in_order: VecDeque<IpAddr>,
    held: Items,
    revision: Revision,
    /// The mesh asked for new certificates: told to the renewal.
    renew_now: Arc<Notify>,
    draining: CancellationToken,
}

/// How a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the control plane ended the stream: {} ({:?})", .0.message(), .0.code())]
    Status(tonic::Status),
    #[error("no answer from the control plane within {OPEN_WITHIN:?}")]
    Timeout,
    #[error("the control plane closed the stream")]
    Closed,
}

impl Client {
    /// Holds nothing yet. `subscriptions` are asked for from the start, more come through `wanted`.
    pub(crate) fn new(
        link: Link,
        registration: Registration,
        (proposals, wanted): (mpsc::Sender<Proposal>, mpsc::Receiver<Subject>),
        subscriptions: Subscriptions,
        (renew_now, draining): (Arc<Notify>, CancellationToken),
    ) -> Self {
        Self {
            link,
            registration,
            proposals,
            wanted,
            subscriptions,
            addresses_in_order: VecDeque::new(),
            held: Items::default(),
            revision: Revision::default(),
            renew_now,
            draining,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut pause = PAUSE_MIN;
        let mut failures = 0_u32;
        loop {
            let began = clock::now();
            // A stream that is dropped ends at the other side too.
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.stream() => ended,
            };
            let was_connected = self.link.state.connected.swap(false, Ordering::Relaxed);
            failures = if was_connected { 0 } else { failures.saturating_add(1) };
            if failures > 0 && failures.is_multiple_of(FAILURES_PER_RENEWAL) {
                self.renew_now.notify_one();
            }
            tracing::warn!(problem = %ended, retry_in = ?pause, "no control plane; going on with what is known");
            let lived = clock::now().saturating_duration_since(began);
            pause = if lived > GOOD_AFTER { PAUSE_MIN } else { pause.saturating_mul(2).min(PAUSE_MAX) };
            // Between half and all of it, so that a fleet does not come back in step.
            let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
            let mut identity = self.link.identity.clone();
            identity.mark_unchanged();
            // A new certificate may be what was missing.
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = identity.changed() => pause = PAUSE_MIN,
                () = tokio::time::sleep(jittered) => {}
            }
        }
    }

    async fn stream(&mut self) -> Ended {
        let (send, outgoing) = mpsc::channel(OUTGOING_MAX);
        let opening = async {
            let channel = self.link.channel().await?;
            let mut discovery = v1::discovery_client::DiscoveryClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            // Full only if nobody reads, and it holds more than this one.
            let _ = send.try_send(message(ToControl::Hello(self.hello())));
            discovery.stream(ReceiverStream::new(outgoing)).await.map_err(Ended::Status)
        };
        let incoming = match tokio::time::timeout(OPEN_WITHIN, opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(ended)) => return ended,
            Err(_) => return Ended::Timeout,
        };
        self.link.state.connected.store(true, Ordering::Relaxed);
        let address = self.link.identity.borrow().control_address.clone();
        tracing::info!(%address, "connected to the control plane");
        self.talk(incoming, send).await
    }

    async fn talk(
        &mut self,
        mut incoming: Streaming<v1::ControlMessage>,
        send: mpsc::Sender<v1::ProxyMessage>,
    ) -> Ended {
        let mut digests = tokio::time::interval(DIGEST_EVERY);
        digests.reset();
        let draining = self.draining.clone();
        let mut identity = self.link.identity.clone();
        identity.mark_unchanged();
        let mut told_draining = false;
        loop {
            // All branches are cancel safe; an update is applied to its end before anything else is read.
            let kind = tokio::select! {
                received = incoming.message() => match received {
                    Err(status) => return Ended::Status(status),
                    Ok(None) => return Ended::Closed,
                    Ok(Some(v1::ControlMessage { kind: Some(FromControl::Update(update)) })) => self.update(update).await,
                    // Of a newer release: nothing to do with it.
                    Ok(Some(v1::ControlMessage { kind: None })) => continue,
                },
                // No sender is left when the data threads have drained; the stream goes on until its end is asked for.
                Some(subject) = self.wanted.recv() => {
                    if !self.subscribe(subject) {
                        continue;
                    }
                    ToControl::Subscribe(v1::Subscribe { services: self.services(), addresses: self.addresses() })
                }
                _ = digests.tick() => self.digest(),
                // A new certificate: the control plane waits for it when it rotates roots.
                changed = identity.changed() => {
                    if changed.is_err() {
                        return Ended::Closed;
                    }
                    identity.mark_unchanged();
                    self.link.state.renewals.fetch_add(1, Ordering::Relaxed);
                    self.digest()
                }
                () = draining.cancelled(), if !told_draining => {
                    told_draining = true;
                    ToControl::Draining(v1::Draining {})
                }
            };
            if send.send(message(kind)).await.is_err() {
                return Ended::Closed;
            }
        }
    }

    /// Applies an update; the answer to send.
    async fn update(&mut self, update: v1::Update) -> ToControl {
        let revision = Revision(update.revision);
        match self.try_update(update, revision).await {
            Ok(()) => {
                self.link.state.applied.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(revision = revision.0, "snapshot in use");
                ToControl::Ack(v1::Ack { revision: revision.0, digest: self.held.digest().to_vec() })
            }
            Err(reason) => {
                self.link.state.refused.fetch_add(1, Ordering::Relaxed);
                tracing::error!(revision = revision.0, %reason, "refused a snapshot; the one before stays in use");
                ToControl::Refusal(v1::Refusal { revision: revision.0, reason })
            }
        }
    }

    async fn try_update(&mut self, update: v1::Update, revision: Revision) -> Result<(), String> {
        let expected = update.digest.clone();
        let items = self.held.apply(update).map_err(|error| error.to_string())?;
        if items.digest().as_slice() != expected.as_slice() {
            return Err("the digest of the update does not fit what this proxy holds".to_owned());
        }
        let snapshot = items.to_snapshot(revision).map_err(|error| error.to_string())?;
        let reissue = snapshot.mesh.reissue_epoch;
        let (answer, answered) = oneshot::channel();
        self.proposals
            .send(Proposal { snapshot, answer })
            .await
            .map_err(|_| "the proxy is shutting down".to_owned())?;
        answered.await.map_err(|_| "the proxy is shutting down".to_owned())??;
        self.held = items;
        self.revision = revision;
        if reissue > self.link.identity.borrow().reissue_epoch {
            self.renew_now.notify_one();
        }
        Ok(())
    }

    fn digest(&self) -> ToControl {
        ToControl::Digest(v1::Digest {
            revision: self.revision.0,
            digest: self.held.digest().to_vec(),
            svid_serial: self.link.identity.borrow().svid.serial().to_vec(),
        })
    }

    /// Adds a subject, and gives up the oldest address where there are too many. Says whether anything changed.
    fn subscribe(&mut self, subject: Subject) -> bool {
        if !self.subscriptions.add(subject.clone()) {
            return false;
        }
        if let Subject::Address(address) = subject {
            self.addresses_in_order.push_back(address.to_canonical());
            if self.addresses_in_order.len() > ADDRESSES_MAX
                && let Some(oldest) = self.addresses_in_order.pop_front()
            {
                self.subscriptions.addresses.remove(&oldest);
            }
        }
        true
    }

    fn services(&self) -> Vec<v1::ServiceName> {
        self.subscriptions.services.iter().map(service_name).collect()
    }

    fn addresses(&self) -> Vec<String> {
        self.subscriptions.addresses.iter().map(ToString::to_string).collect()
    }

    fn hello(&self) -> v1::Hello {
        let Registration { facts, address, labels } = &self.registration;
        let ports = facts.ports.iter().map(|port| v1::InboundPort {
            port: port.port.number().into(),
            protocol: port.protocol.map_or("", |protocol| protocol.as_str()).to_owned(),
            name: port.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        });
        let holds_nothing = self.held.is_empty();
        v1::Hello {
            instance: facts.instance.to_string(),
            workload: facts.service.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: address.clone(),
            ports: ports.collect(),
            labels: labels.clone(),
            subscriptions: self.services(),
            addresses: self.addresses(),
            revision: self.revision.0,
            digest: if holds_nothing { Vec::new() } else { self.held.digest().to_vec() },
            understands: vec![UNDERSTANDS_WORKLOAD.to_owned()],
        }
    }
}

fn service_name(service: &ServiceRef) -> v1::ServiceName {
    v1::ServiceName { namespace: service.namespace.to_string(), name: service.name.to_string() }
}

fn message(kind: ToControl) -> v1::ProxyMessage {
    v1::ProxyMessage { kind: Some(kind) }
}
