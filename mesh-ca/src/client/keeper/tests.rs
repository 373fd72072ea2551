//! The loop over paused time: hours pass in milliseconds, and the clock of certificates is tokio's.

use super::*;
use crate::authority::{Authority, AuthorityConfig, AuthorityStore, Order};
use crate::client::IssueError;
use crate::seal::SealKey;
use crate::tls::control_identity;
use mesh_proto::identity::SpiffeId;
use mesh_proto::wire::v1;
use std::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const MINUTE: Duration = Duration::from_secs(60);

/// An arbitrary moment at which the tests begin.
fn beginning() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// The time by tokio's paused clock.
#[derive(Clone, Copy)]
struct Paused {
    start: Instant,
}

impl Paused {
    #[expect(clippy::disallowed_methods, reason = "tokio's clock is paused and advanced by the test")]
    fn new() -> Self {
        Self { start: Instant::now() }
    }

    fn now(self) -> SystemTime {
        beginning() + self.start.elapsed()
    }
}

struct Forgetful;

impl AuthorityStore for Forgetful {
    fn load(&self) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    fn save(&self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Issues directly, unless it is down; remembers when it was asked.
struct Direct {
    authority: Authority,
    paused: Paused,
    lifetime: Duration,
    asked: Mutex<Vec<SystemTime>>,
    is_down: Mutex<bool>,
}

impl Direct {
    fn new(paused: Paused, lifetime: Duration) -> Arc<Self> {
        let mut config = AuthorityConfig::new("mesh.local".parse().unwrap());
        config.intermediate_lifetime = lifetime * 5;
        let seal = SealKey::from_bytes(&[1; 32]);
        let authority = Authority::open(config, Arc::new(Forgetful), &seal, paused.now()).unwrap();
        let (asked, is_down) = (Mutex::new(Vec::new()), Mutex::new(false));
        Arc::new(Self { authority, paused, lifetime, asked, is_down })
    }

    fn asked(&self) -> Vec<SystemTime> {
        self.asked.lock().unwrap().clone()
    }

    fn go_down(&self) {
        *self.is_down.lock().unwrap() = true;
    }

    fn come_back(&self) {
        *self.is_down.lock().unwrap() = false;
    }
}

impl Issuer for Direct {
    async fn issue(&self, csr_der: Vec<u8>) -> Result<v1::IssueResponse, IssueError> {
        let now = self.paused.now();
        self.asked.lock().unwrap().push(now);
        if *self.is_down.lock().unwrap() {
            return Err(IssueError::Unreachable { at: "nowhere".to_owned(), problem: "down".to_owned() });
        }
        let id: SpiffeId = "spiffe://mesh.local/ns/default/sa/web".parse().unwrap();
        let instance = "web-1".parse().unwrap();
        let lifetime = Some(self.lifetime);
        let order = Order { csr_der: &csr_der, id: &id, instance: &instance, lifetime, attestor: "test" };
        let issued = self.authority.issue(&order, now).unwrap();
        let bundle = self.authority.bundles().remove(0);
        Ok(v1::IssueResponse {
            chain_der: issued.chain_der,
            bundles: vec![v1::Bundle {
                trust_domain: bundle.trust_domain.to_string(),
                roots_der: bundle.roots,
                sequence: bundle.sequence,
            }],
            spiffe_id: id.to_string(),
            control_address: "127.0.0.1:1".to_owned(),
            control_identity: control_identity(self.authority.trust_domain()).to_string(),
            reissue_epoch: issued.reissue_epoch,
        })
    }
}

/// A running keeper and everything that watches it.
struct World {
    paused: Paused,
    issuer: Arc<Direct>,
    identity: watch::Receiver<Arc<Identity>>,
    renew_now: Arc<Notify>,
    _stop: tokio_util::sync::DropGuard,
}

impl World {
    async fn start(lifetime: Duration) -> Self {
        let paused = Paused::new();
        let issuer = Direct::new(paused, lifetime);
        let instance: InstanceName = "web-1".parse().unwrap();
        let (publish, identity) = watch::channel(Arc::new(first(&issuer, &instance).await.unwrap()));
        let renew_now = Arc::new(Notify::new());
        let clock = move || paused.now();
        let keeper =
            Keeper { issuer: issuer.clone(), instance, publish, renew_now: renew_now.clone(), clock };
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(keeper.run()));
        Self { paused, issuer, identity, renew_now, _stop: stop.drop_guard() }
    }

    fn left(&self) -> Duration {
        self.identity.borrow().svid.not_after().duration_since(self.paused.now()).unwrap_or_default()
    }

    /// Lets time pass in small steps and gives the least that was left of the certificate at any of them.
    async fn pass(&self, time: Duration) -> Duration {
        let end = self.paused.now() + time;
        let mut least = Duration::MAX;
        while self.paused.now() < end {
            tokio::time::sleep(Duration::from_millis(100)).await;
            least = least.min(self.left());
        }
        least
    }
}

#[tokio::test(start_paused = true)]
async fn one_minute_certificates_stay_fresh_for_an_hour() {
    let world = World::start(MINUTE).await;
    let least = world.pass(MINUTE * 60).await;
    assert!(least >= MINUTE / 3 - Duration::from_secs(2), "at worst {least:?} were left");
    let renewals = world.issuer.asked().len();
    // Every 20 to 40 seconds.
    assert!((90..=181).contains(&renewals), "{renewals} renewals in an hour");
    let gaps: Vec<Duration> =
        world.issuer.asked().windows(2).map(|w| w[1].duration_since(w[0]).unwrap()).collect();
    assert!(gaps.iter().all(|gap| *gap >= Duration::from_secs(19)), "{gaps:?}");
    assert!(gaps.iter().min() != gaps.iter().max(), "there is jitter");
}

#[tokio::test(start_paused = true)]
async fn an_outage_longer_than_the_life_heals_within_seconds_of_its_end() {
    let world = World::start(MINUTE).await;
    world.issuer.go_down();
    world.pass(MINUTE * 10).await;
    assert_eq!(world.left(), Duration::ZERO, "the certificate has expired");
    let attempts = world.issuer.asked().len();
    // At most one every 1.5 seconds once the pauses have grown, and it never stops asking.
    assert!((100..450).contains(&attempts), "{attempts} attempts in ten minutes");
    world.issuer.come_back();
    world.pass(Duration::from_secs(4)).await;
    assert!(world.left() > Duration::from_secs(50), "{:?}", world.left());
    let least = world.pass(MINUTE * 5).await;
    assert!(least > Duration::from_secs(15), "{least:?}");
}

#[tokio::test(start_paused = true)]
async fn a_day_long_certificate_survives_sixteen_hours_of_outage_and_heals_within_half_a_minute() {
    let day = MINUTE * 60 * 24;
    let world = World::start(day).await;
    world.issuer.go_down();
    tokio::time::sleep(day / 3 * 2 - MINUTE).await;
    assert!(world.left() > day / 3 - MINUTE);
    world.issuer.come_back();
    tokio::time::sleep(super::super::schedule::RETRY_MAX + MINUTE * 2).await;
    assert!(world.left() > day / 2, "{:?}", world.left());
}

#[tokio::test(start_paused = true)]
async fn told_to_renew_it_renews_within_the_spread() {
    let world = World::start(MINUTE * 60).await;
    let first = world.identity.borrow().svid.serial_hex();
    world.renew_now.notify_one();
    let mut identity = world.identity.clone();
    let changed = tokio::time::timeout(Duration::from_secs(6), identity.changed());
    changed.await.expect("renewed in time").unwrap();
    assert_ne!(world.identity.borrow().svid.serial_hex(), first);
    assert_eq!(world.issuer.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_answer_leaves_the_old_identity_in_place() {
    let world = World::start(MINUTE).await;
    let first = world.identity.borrow().svid.serial_hex();
    world.issuer.go_down();
    world.pass(Duration::from_secs(50)).await;
    assert_eq!(world.identity.borrow().svid.serial_hex(), first);
    assert!(world.left() > Duration::ZERO);
}
