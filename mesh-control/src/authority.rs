//! The signing authority within the control plane: where its state is kept, what the mesh is told of it, its ticking.
//!
//! The authority itself is `mesh_ca::authority`; here it is tied to the store, to the fleet and to the audit log.

use crate::clock;
use crate::discovery::fanout::{Mesh, ProxyState};
use crate::discovery::server::Vouching;
use crate::events::{self, Events};
use crate::index::Trust;
use crate::local::registry::{Claims, WorkloadKey};
use crate::metrics::Metrics;
use crate::store::write::{Verb, Write};
use crate::store::{Health, Store};
use mesh_ca::authority::audit::{Entry, Event};
use mesh_ca::authority::{Authority, AuthorityStore, IssuedRecord, Progress, ProxyTrust};
use mesh_ca::verify::PeerIdentity;
use mesh_proto::identity::TrustDomain;
use mesh_proto::ops::metrics::{EventKind, OpResult};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often the authority looks at the time and the fleet. A rotation of the root has four steps, each of which can
/// wait for a tick; `meshctl demo` rotates while one watches.
const TICK: Duration = Duration::from_millis(500);
/// The name of the authority's state in the store.
const STATE: &str = "authority";
/// Bytes of one line in the audit log, with some room below what the store takes.
const AUDIT_LINE_BYTES: usize = 3_500;

/// Keeps the authority's sealed state in the store.
pub(crate) struct StoredAuthority(pub(crate) Arc<dyn Store>);

impl AuthorityStore for StoredAuthority {
    fn load(&self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.read().meta(STATE))
    }

    fn save(&self, state: &[u8]) -> Result<(), String> {
        self.0.put_meta(STATE, state.to_vec()).map_err(|error| error.to_string())
    }
}

/// The authority with what this process does with it.
pub(crate) struct CertificateAuthority {
    authority: Arc<Authority>,
    /// Woken when somebody has asked for something that the next tick does.
    nudge: Notify,
    own_uid: u32,
    /// Held while trust is read and published.
    publishing: Mutex<()>,
}

impl CertificateAuthority {
    /// `own_uid` is the user whom this control plane runs as.
    pub(crate) fn new(authority: Arc<Authority>, own_uid: u32) -> Self {
        Self { authority, nudge: Notify::new(), own_uid, publishing: Mutex::new(()) }
    }

    /// The authority itself.
    pub(crate) fn inner(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The mesh's trust domain.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        self.authority.trust_domain()
    }

    /// What the mesh must believe, and what no longer.
    pub(crate) fn trust(&self) -> Trust {
        Trust {
            bundles: self.authority.bundles(),
            revocations: self.authority.revocations(),
            reissue_epoch: self.authority.reissue_epoch(),
        }
    }

    /// Tells the mesh what to believe. Of two that publish at once, the later one publishes what is newer: a revocation
    /// must not be undone by a tick that has read the list just before it.
    pub(crate) fn publish(&self, mesh: &Mesh) {
        let _turn = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        mesh.set_trust(self.trust());
    }

    /// Certificates that have not expired.
    pub(crate) fn records(&self) -> Vec<Arc<IssuedRecord>> {
        self.authority.issued()
    }

    /// The newest certificate of a workload.
    pub(crate) fn newest(&self, workload: &WorkloadKey) -> Option<IssuedRecord> {
        self.authority.newest(&workload.id, &workload.instance)
    }

    /// A connected proxy, as a rotation looks at it. A proxy that does not say which SVID it uses is taken to use the newest
    /// that was issued to it.
    pub(crate) fn proxy_trust(&self, workload: &WorkloadKey, state: &ProxyState) -> ProxyTrust {
        let newest = || self.newest(workload).map(|record| record.serial);
        let first = || state.peer.serials.first().cloned();
        ProxyTrust {
            id: workload.id.clone(),
            instance: workload.instance.clone(),
            bundle_sequence: state.confirmed.bundle_sequence,
            svid_root: None,
            serial: state.serial.clone().or_else(newest).or_else(first).unwrap_or_default(),
        }
    }

    /// What a person should look at.
    pub(crate) fn warnings(&self, now: SystemTime) -> Vec<String> {
        self.authority.status(&[], now).warnings
    }

    /// Makes the next tick come at once.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }
}

impl Vouching for CertificateAuthority {
    /// The owner vouches for what it started itself: the kernel said that the certificate was asked for by the control
    /// plane's own user or root.
    fn claims_of(&self, peer: &PeerIdentity) -> Claims {
        let record = peer.serials.first().and_then(|serial| self.authority.record(serial));
        let Some(evidence) =
            record.as_ref().and_then(|record| record.attestor.strip_prefix("unix_peer uid="))
        else {
            return Claims::Unproven;
        };
        let uid = evidence.split(' ').next().and_then(|uid| uid.parse::<u32>().ok());
        match uid {
            Some(uid) if uid == self.own_uid || uid == 0 => Claims::Vouched,
            _ => Claims::Unproven,
        }
    }
}

/// The loop that lets the authority do what time and the fleet allow.
pub(crate) struct Ticker {
    /// Whose authority.
    pub(crate) authority: Arc<CertificateAuthority>,
    /// Whom it tells.
    pub(crate) mesh: Arc<Mesh>,
    /// Where its audit records go.
    pub(crate) store: Arc<dyn Store>,
    /// Where certificates are counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Where security events go.
    pub(crate) events: Arc<Events>,
    /// Tells the control plane's own certificate to be replaced.
    pub(crate) renew_own: Arc<Notify>,
    /// How many refusals may still go into the audit log.
    pub(crate) refusals: Refusals,
    /// The proxies that other replicas serve.
    pub(crate) elsewhere: Elsewhere,
}

/// Says which proxies other replicas serve.
pub(crate) type Elsewhere = Arc<dyn Fn() -> Vec<ProxyTrust> + Send + Sync>;

/// How many refused requests the audit log names: anybody who can connect can be refused as often as it likes, and the log
/// is kept for ever. What is beyond is counted, and the count written.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    since: Option<SystemTime>,
    named: u32,
    unnamed: u64,
}

impl Refusals {
    /// Refusals named in each [`WINDOW`](Self::WINDOW): enough to see who it is.
    const NAMED_MAX: u32 = 10;
    const WINDOW: Duration = Duration::from_secs(60);

    /// Whether one more is named.
    fn take(&mut self) -> bool {
        if self.named < Self::NAMED_MAX {
            self.named = self.named.saturating_add(1);
            return true;
        }
        self.unnamed = self.unnamed.saturating_add(1);
        false
    }

    /// Begins a new window when the last is over; returns how many were not named in that.
    fn turn(&mut self, now: SystemTime) -> u64 {
        let is_open = |since: SystemTime| now.duration_since(since).is_ok_and(|past| past < Self::WINDOW);
        if self.since.is_some_and(is_open) {
            return 0;
        }
        std::mem::replace(self, Self { since: Some(now), named: 0, unnamed: 0 }).unnamed
    }
}

impl Ticker {
    /// Ticks until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut last_error = String::new();
        let mut epoch = self.authority.authority.reissue_epoch();
        loop {
            // Cancel safe: a nudge that is not received is kept.
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.authority.nudge.notified() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            match self.tick().await {
                Ok(progress) => {
                    last_error.clear();
                    // Also what people asked for between two ticks.
                    let now = self.authority.authority.reissue_epoch();
                    if now != std::mem::replace(&mut epoch, now) {
                        self.renew_own.notify_one();
                    }
                    if let Some(phase) =
                        progress.phase.filter(|_| progress.bundles_changed || progress.reissue)
                    {
                        tracing::info!(%phase, waiting_for = progress.waiting_for, "rotation of the root");
                    }
                }
                Err(error) if error != last_error => {
                    tracing::error!(
                        error,
                        "the authority could not do its work; it tries again every half second"
                    );
                    last_error = error;
                }
                Err(_) => {}
            }
            self.write_audit().await;
        }
        self.write_audit().await;
    }

    async fn tick(&self) -> Result<Progress, String> {
        let here = self.mesh.fleet.all();
        let mut fleet: Vec<ProxyTrust> =
            here.iter().map(|(key, state)| self.authority.proxy_trust(key, state)).collect();
        // Who has just come here may still be told of there.
        let is_here = |proxy: &ProxyTrust| {
            here.contains_key(&WorkloadKey { id: proxy.id.clone(), instance: proxy.instance.clone() })
        };
        fleet.extend((self.elsewhere)().into_iter().filter(|proxy| !is_here(proxy)));
        let authority = self.authority.inner().clone();
        let now = clock::wall();
        // Signs and writes to the disk now and then: not on a thread that others wait for.
        let ticked = tokio::task::spawn_blocking(move || authority.tick(now, &fleet)).await;
        let progress =
            ticked.map_err(|_| "a tick broke off".to_owned())?.map_err(|error| error.to_string())?;
        self.authority.publish(&self.mesh);
        Ok(progress)
    }

    /// Writes what the authority did by itself into the audit chain, several events to a line. What people asked for is
    /// not among it: `admin` has written that with their name.
    async fn write_audit(&mut self) {
        if self.store.health() != Health::Ok {
            // They wait in the authority's bounded journal, which counts what it has to drop.
            return;
        }
        let events = self.authority.inner().take_events();
        self.count(&events);
        for event in events.iter().filter_map(told) {
            self.events.tell("authority", event);
        }
        for (time, detail) in lines(&events, &mut self.refusals, clock::wall()) {
            let write = Write {
                actor: "authority".to_owned(),
                verb: Verb::Ca,
                time_ms: clock::unix_ms(time),
                changes: Vec::new(),
                detail,
            };
            if let Err(error) = self.store.commit(write).await {
                tracing::warn!(%error, "events of the authority could not be written to the audit log");
                return;
            }
        }
    }
}

impl Ticker {
    fn count(&self, events: &[Entry]) {
        let count = |is_it: fn(&Event) -> bool| {
            u64::try_from(events.iter().filter(|entry| is_it(&entry.event)).count()).unwrap_or(u64::MAX)
        };
        self.metrics.certificates(OpResult::Ok, count(|event| matches!(event, Event::Issued { .. })));
        self.metrics.certificates(OpResult::Error, count(|event| matches!(event, Event::Refused { .. })));
    }
}

/// What whoever watches over the mesh is told of what the authority did; of certificates issued nothing.
fn told(entry: &Entry) -> Option<events::Event> {
    let Entry { at, event } = entry;
    let (kind, reason, source) = match event {
        Event::Issued { .. } | Event::TokenCreated { .. } | Event::Dropped { .. } => return None,
        Event::Created { .. } => (EventKind::KeyRotated, "created", "authority"),
        Event::IntermediateRotated { .. } => (EventKind::KeyRotated, "intermediate", "authority"),
        Event::RootRotation { .. } => (EventKind::KeyRotated, "root", "authority"),
        Event::RotationControl { action } => (EventKind::KeyRotated, *action, "authority"),
        Event::Revoked { .. } => (EventKind::Quarantine, "revoked", "authority"),
        Event::RevocationUndone { .. } => (EventKind::Quarantine, "undone", "authority"),
        Event::Refused { caller, .. } => (EventKind::Unauthenticated, "certificate_refused", caller.as_str()),
    };
    let mut told = events::Event::new(kind, *at, reason);
    told.source = source.to_owned();
    told.detail = event.to_string();
    Some(told)
}

/// Events as lines for the audit log, with the time of the first in each.
fn lines(events: &[Entry], refusals: &mut Refusals, now: SystemTime) -> Vec<(SystemTime, String)> {
    let mut lines: Vec<(SystemTime, String)> = Vec::new();
    let unnamed = refusals.turn(now);
    if unnamed > 0 {
        lines.push((now, format!("refused {unnamed} more requests in the minute before")));
    }
    for Entry { at, event } in events {
        let is_peoples = matches!(
            event,
            Event::RotationControl { .. }
                | Event::Revoked { .. }
                | Event::RevocationUndone { .. }
                | Event::TokenCreated { .. }
        );
        if is_peoples || (matches!(event, Event::Refused { .. }) && !refusals.take()) {
            continue;
        }
        let text: String = event.to_string().chars().filter(|c| !c.is_control()).take(1_000).collect();
        match lines.last_mut() {
            Some((_, line)) if line.len().saturating_add(text.len()) < AUDIT_LINE_BYTES => {
                line.push_str("; ");
                line.push_str(&text);
            }
            _ => lines.push((*at, text)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_events_share_lines_and_what_people_did_is_left_out() {
        let refused = Event::Refused { caller: "uid 7".to_owned(), reason: "x".repeat(900) };
        let revoked = Event::Revoked { what: "a".to_owned(), reason: "b".to_owned() };
        let at = SystemTime::UNIX_EPOCH;
        let mut events = vec![Entry { at, event: revoked }];
        events.extend((0..10).map(|_| Entry { at, event: refused.clone() }));
        let lines = lines(&events, &mut Refusals::default(), at);
        assert!(
            lines.len() < 10 && lines.iter().all(|(_, line)| line.len() <= AUDIT_LINE_BYTES),
            "{}",
            lines.len()
        );
        assert!(lines.iter().all(|(_, line)| !line.contains("revoked")));
    }

    #[test]
    fn whoever_is_refused_all_day_cannot_fill_the_log() {
        let refused = Event::Refused { caller: "uid 7".to_owned(), reason: "no".to_owned() };
        let mut refusals = Refusals::default();
        let mut written = String::new();
        let start = SystemTime::UNIX_EPOCH;
        for second in 0..120 {
            let at = start + Duration::from_secs(second);
            let events: Vec<_> = (0..1_000).map(|_| Entry { at, event: refused.clone() }).collect();
            written.extend(lines(&events, &mut refusals, at).into_iter().map(|(_, line)| line + "; "));
        }
        assert_eq!(written.matches("uid 7").count(), 20, "ten in each minute");
        assert!(written.contains("refused 59990 more requests"), "{written}");
    }
}
