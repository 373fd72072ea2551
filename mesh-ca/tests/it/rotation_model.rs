//! The safety of a rotation, whatever happens: at every moment every proxy believes every other.
//!
//! Random histories of ticks, acknowledgements, renewals, people's commands, failing saves and crashes; after each event
//! the root of each proxy's SVID must be in the bundle that each other proxy has.

use crate::world::{MemoryStore, domain, id, instance, seal_key};
use aws_lc_rs::digest::{SHA256, digest};
use mesh_ca::authority::{Authority, AuthorityConfig, Order, ProxyTrust, RotateRoot};
use mesh_ca::csr::WorkloadKey;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const NAMES: [&str; 3] = ["web", "payments", "store"];

#[derive(Debug, Clone)]
enum Happening {
    Tick,
    Acknowledge(usize),
    RenewIfTold(usize),
    RenewAnyway(usize),
    Person(RotateRoot),
    SavesFail,
    SavesWork,
    Crash,
}

fn happening() -> impl Strategy<Value = Happening> {
    let which = 0..NAMES.len();
    prop_oneof![
        8 => Just(Happening::Tick),
        6 => which.clone().prop_map(Happening::Acknowledge),
        4 => which.clone().prop_map(Happening::RenewIfTold),
        2 => which.prop_map(Happening::RenewAnyway),
        3 => Just(Happening::Person(RotateRoot::Start)),
        1 => Just(Happening::Person(RotateRoot::Pause)),
        2 => Just(Happening::Person(RotateRoot::Resume)),
        1 => Just(Happening::Person(RotateRoot::Abort)),
        1 => Just(Happening::SavesFail),
        3 => Just(Happening::SavesWork),
        1 => Just(Happening::Crash),
    ]
}

struct Proxy {
    name: &'static str,
    bundle: Vec<[u8; 32]>,
    sequence: u64,
    root: [u8; 32],
    serial: Vec<u8>,
    epoch: u64,
}

struct Model {
    authority: Authority,
    store: Arc<MemoryStore>,
    proxies: Vec<Proxy>,
    csr: Vec<u8>,
    now: SystemTime,
}

impl Model {
    fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let store = Arc::new(MemoryStore::default());
        let authority = open(store.clone(), now);
        let csr = WorkloadKey::generate().unwrap().csr_der(&instance("any")).unwrap();
        let mut model = Self { authority, store, proxies: Vec::new(), csr, now };
        for name in NAMES {
            let (root, serial, epoch) = model.issue(name).unwrap();
            let (bundle, sequence) = model.bundle();
            model.proxies.push(Proxy { name, bundle, sequence, root, serial, epoch });
        }
        model
    }

    fn bundle(&self) -> (Vec<[u8; 32]>, u64) {
        let bundle = self.authority.bundles().remove(0);
        (
            bundle.roots.iter().map(|der| digest(&SHA256, der).as_ref().try_into().unwrap()).collect(),
            bundle.sequence,
        )
    }

    fn issue(&self, name: &str) -> Option<([u8; 32], Vec<u8>, u64)> {
        let instance = instance(name);
        let order = Order {
            csr_der: &self.csr,
            id: &id(name),
            instance: &instance,
            lifetime: None,
            attestor: "model",
        };
        let issued = self.authority.issue(&order, self.now).ok()?;
        let root = self.authority.root_of(&issued.serial).unwrap();
        Some((root, issued.serial, issued.reissue_epoch))
    }

    fn happen(&mut self, happening: &Happening) {
        // Less in all than the grace for the absent, so that nobody is given up.
        self.now += Duration::from_millis(100);
        match happening {
            Happening::Tick => {
                let _ = self.authority.tick(self.now, &self.fleet());
            }
            Happening::Acknowledge(which) => {
                let (bundle, sequence) = self.bundle();
                let proxy = &mut self.proxies[*which];
                (proxy.bundle, proxy.sequence) = (bundle, sequence);
            }
            Happening::RenewIfTold(which) if self.proxies[*which].epoch < self.authority.reissue_epoch() => {
                self.renew(*which);
            }
            Happening::RenewIfTold(_) => {}
            Happening::RenewAnyway(which) => self.renew(*which),
            Happening::Person(action) => {
                let _ = self.authority.rotate_root(*action, self.now);
            }
            Happening::SavesFail => self.store.fail(),
            Happening::SavesWork => self.store.recover(),
            Happening::Crash => {
                self.store.recover();
                self.authority = open(self.store.clone(), self.now);
            }
        }
    }

    fn renew(&mut self, which: usize) {
        if let Some((root, serial, epoch)) = self.issue(self.proxies[which].name) {
            let proxy = &mut self.proxies[which];
            (proxy.root, proxy.serial, proxy.epoch) = (root, serial, epoch);
        }
    }

    fn fleet(&self) -> Vec<ProxyTrust> {
        self.proxies
            .iter()
            .map(|proxy| ProxyTrust {
                id: id(proxy.name),
                instance: instance(proxy.name),
                bundle_sequence: proxy.sequence,
                svid_root: None,
                serial: proxy.serial.clone(),
            })
            .collect()
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for caller in &self.proxies {
            for called in &self.proxies {
                prop_assert!(
                    called.bundle.contains(&caller.root),
                    "{} does not believe {}: {:?}",
                    called.name,
                    caller.name,
                    self.authority.status(&self.fleet(), self.now)
                );
            }
        }
        Ok(())
    }
}

fn open(store: Arc<MemoryStore>, now: SystemTime) -> Authority {
    Authority::open(AuthorityConfig::new(domain()), store, &seal_key(), now).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_proxy_believes_every_other_at_every_moment(history in proptest::collection::vec(happening(), 1..150)) {
        let mut model = Model::new();
        for (at, happening) in history.iter().enumerate() {
            model.happen(happening);
            if let Err(error) = model.check() {
                return Err(TestCaseError::fail(format!("after {:?}: {error}", &history[..=at])));
            }
        }
        // Left alone, every rotation ends, one way or the other.
        model.happen(&Happening::SavesWork);
        model.happen(&Happening::Person(RotateRoot::Resume));
        for _ in 0..12 {
            model.happen(&Happening::Tick);
            for which in 0..NAMES.len() {
                model.happen(&Happening::Acknowledge(which));
                model.happen(&Happening::RenewIfTold(which));
                model.check()?;
            }
        }
        prop_assert_eq!(model.authority.status(&model.fleet(), model.now).phase, None);
        prop_assert_eq!(model.bundle().0.len(), 1);
    }
}
