//! The renewal loop, with its clock as a part, so that a test can run days in milliseconds.

use super::schedule::{renew_at, retry_after, told_after};
use super::{Identity, Issuer, first};
use mesh_proto::name::InstanceName;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

/// The longest single sleep: after a suspend or a step of the clock, the due time is looked at again within this time.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// Renews what it publishes.
pub(super) struct Keeper<I, C> {
    pub(super) issuer: I,
    pub(super) instance: InstanceName,
    pub(super) publish: watch::Sender<Arc<Identity>>,
    pub(super) renew_now: Arc<Notify>,
    pub(super) clock: C,
}

impl<I: Issuer, C: Fn() -> SystemTime> Keeper<I, C> {
    /// Never returns; the caller drops it to stop.
    pub(super) async fn run(self) {
        let mut failures = 0_u32;
        let current = self.publish.borrow().clone();
        self.issuer.accepted(&current);
        let mut life = self.life(&current);
        let mut due = renew_at((self.clock)(), current.svid.not_after(), rand::random());
        drop(current);
        loop {
            if self.wait_until(due).await == Woken::Told {
                due = due.min(self.after(told_after(life, rand::random())));
                self.sleep_until(due).await;
            }
            match first(&self.issuer, &self.instance).await {
                Ok(identity) => {
                    let identity = Arc::new(identity);
                    failures = 0;
                    life = self.life(&identity);
                    due = renew_at((self.clock)(), identity.svid.not_after(), rand::random());
                    info!(id = %identity.svid.id(), serial = identity.svid.serial_hex(), "certificate renewed");
                    self.issuer.accepted(&identity);
                    self.publish.send_replace(identity);
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let pause = retry_after(failures, life, rand::random());
                    due = self.after(pause);
                    let left = self.left();
                    if left.is_zero() {
                        warn!(%error, failures, ?pause, "certificate has expired and is not renewed");
                    } else {
                        info!(%error, failures, ?pause, ?left, "certificate is not renewed yet");
                    }
                }
            }
        }
    }

    /// The whole life of an identity that has just arrived.
    fn life(&self, identity: &Identity) -> Duration {
        identity.svid.not_after().duration_since((self.clock)()).unwrap_or_default()
    }

    /// What is left of the published one.
    fn left(&self) -> Duration {
        self.publish.borrow().svid.not_after().duration_since((self.clock)()).unwrap_or_default()
    }

    fn after(&self, pause: Duration) -> SystemTime {
        let now = (self.clock)();
        now.checked_add(pause).unwrap_or(now)
    }

    async fn wait_until(&self, due: SystemTime) -> Woken {
        tokio::select! {
            // Both are cancel safe: a permit of `Notify` that was not taken stays.
            () = self.sleep_until(due) => Woken::Due,
            () = self.renew_now.notified() => {
                debug!("told to renew the certificate");
                Woken::Told
            }
        }
    }

    async fn sleep_until(&self, due: SystemTime) {
        while let Ok(left) = due.duration_since((self.clock)()) {
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_AGAIN)).await;
        }
    }
}

#[derive(PartialEq, Eq)]
enum Woken {
    Due,
    Told,
}

#[cfg(test)]
mod tests;
