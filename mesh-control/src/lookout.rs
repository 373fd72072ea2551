//! The lookout: every two seconds the ledger's slice ends, detectors look at it, alarms follow; every minute the ledger is
//! written.
//!
//! It owns the detectors. All of it waits for the disk and runs on a thread that nobody else waits for; when it cannot keep
//! up, slices get longer and nothing is lost.

use crate::alarm::Alarms;
use crate::authority::CertificateAuthority;
use crate::clock;
use crate::detect::certificate_end::{self, Holder, Life};
use crate::detect::{Detectors, Signal};
use crate::discovery::fanout::Mesh;
use crate::ledger::{Ledger, RETAIN_MS};
use mesh_ca::authority::CaCertificate;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The length of a slice. Two looks and a proxy's second make five seconds from a cause to its alarm.
pub(crate) const EVERY: Duration = Duration::from_secs(2);

/// What it brings together.
pub(crate) struct Lookout {
    /// Who called whom.
    pub(crate) ledger: Arc<Ledger>,
    /// What is unusual about it.
    pub(crate) alarms: Arc<Alarms>,
    /// Whose rules say who is told.
    pub(crate) mesh: Arc<Mesh>,
    /// Whose certificates may come to an end.
    pub(crate) authority: Arc<CertificateAuthority>,
}

impl Lookout {
    /// Looks until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let lookout = Arc::new(self);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let own = lookout.clone();
        let learnt = tokio::task::spawn_blocking(move || own.learnt(clock::unix_ms(clock::wall()))).await;
        let mut detectors = learnt.unwrap_or_else(|_| Detectors::new());
        loop {
            // Cancel safe: an interval keeps its schedule.
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let own = lookout.clone();
            let turn = tokio::task::spawn_blocking(move || {
                own.turn(&mut detectors, clock::unix_ms(clock::wall()));
                detectors
            });
            detectors = turn.await.unwrap_or_else(|_| {
                tracing::error!("a detector broke off; all of them begin anew");
                Detectors::new()
            });
        }
    }

    /// Detectors that know what the ledger has kept.
    fn learnt(&self, now_ms: u64) -> Detectors {
        let mut detectors = Detectors::new();
        let read = self.ledger.replay(now_ms.saturating_sub(RETAIN_MS), |minute| detectors.learn(minute));
        if let Err(error) = read {
            tracing::warn!(%error, "the flow ledger could not be read; detectors learn anew");
        }
        detectors
    }

    /// Certificates in use that should have been replaced.
    fn ending(&self, now_ms: u64) -> Vec<Signal> {
        let now = clock::of_unix_ms(now_ms);
        let status = self.authority.inner().status(&[], now);
        let own = |holder: Holder, of: &CaCertificate| Life {
            holder,
            not_before: of.not_before,
            not_after: of.not_after,
        };
        let root = status.roots.first().map(|root| own(Holder::Root, root));
        let fleet = self.mesh.fleet.all();
        let workloads = fleet.iter().map(|(key, state)| {
            let newest = self.authority.newest(key).map(|record| (record.not_before, record.not_after));
            // An ended certificate has no record any more; then what was shown in the handshake counts.
            let (not_before, not_after) = newest.unwrap_or((state.connected_at, state.peer.not_after));
            let holder = Holder::Workload(key.id.to_string(), key.instance.to_string());
            Life { holder, not_before, not_after }
        });
        let authority = root.into_iter().chain([own(Holder::Intermediate, &status.issuing)]);
        certificate_end::ending(authority.chain(workloads), now)
    }

    fn turn(&self, detectors: &mut Detectors, now_ms: u64) {
        let slice = self.ledger.cut(now_ms);
        let mut signals = detectors.look(&slice);
        signals.extend(self.ending(now_ms));
        for signal in &signals {
            tracing::debug!(detector = %signal.subject.detector, sentence = signal.sentence, "unusual");
        }
        if let Err(error) = self.alarms.take(signals, &self.mesh.world().catalog, now_ms) {
            tracing::error!(%error, "alarms could not be kept on the disk");
        }
        if let Err(error) = self.ledger.write(now_ms) {
            tracing::warn!(%error, "the flow ledger could not be written; it is kept in memory for an hour");
        }
    }
}

#[cfg(test)]
mod soak;
