//! A disk that takes its time: only what must be on it waits for it.

use crate::world::{MemoryStore, domain, id, instance, now, seal_key};
use mesh_ca::authority::attest::Bearer;
use mesh_ca::authority::{
    Authority, AuthorityConfig, AuthorityStore, IssueRefusal, Issued, Order, Revocable,
};
use mesh_ca::csr::WorkloadKey;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps whoever saves waiting while it is stuck, and tells of it.
struct StuckStore {
    kept: MemoryStore,
    is_stuck: Mutex<bool>,
    freed: Condvar,
    waits: Sender<()>,
}

impl StuckStore {
    fn stick(&self) {
        *self.is_stuck.lock().unwrap() = true;
    }

    fn free(&self) {
        *self.is_stuck.lock().unwrap() = false;
        self.freed.notify_all();
    }
}

impl AuthorityStore for StuckStore {
    fn load(&self) -> Result<Option<Vec<u8>>, String> {
        self.kept.load()
    }

    fn save(&self, state: &[u8]) -> Result<(), String> {
        let is_stuck = self.is_stuck.lock().unwrap();
        if *is_stuck {
            self.waits.send(()).unwrap();
            drop(self.freed.wait_timeout_while(is_stuck, PATIENCE * 2, |is_stuck| *is_stuck).unwrap());
        }
        self.kept.save(state)
    }
}

fn issue(authority: &Authority, account: &str, at: SystemTime) -> Result<Issued, IssueRefusal> {
    let csr = WorkloadKey::generate().unwrap().csr_der(&instance(account)).unwrap();
    let (id, instance) = (id(account), instance(account));
    let order = Order { csr_der: &csr, id: &id, instance: &instance, lifetime: None, attestor: "test" };
    authority.issue(&order, at)
}

#[test]
fn a_slow_disk_holds_up_the_change_on_it_and_nobody_else() {
    let (waits, waiting) = mpsc::channel();
    let store = Arc::new(StuckStore {
        kept: MemoryStore::default(),
        is_stuck: Mutex::new(false),
        freed: Condvar::new(),
        waits,
    });
    let open = || Authority::open(AuthorityConfig::new(domain()), store.clone(), &seal_key(), now()).unwrap();
    let authority = Arc::new(open());
    let stolen = issue(&authority, "web", now()).unwrap();
    store.stick();
    let revoking = std::thread::spawn({
        let (authority, serial) = (authority.clone(), stolen.serial.clone());
        move || authority.revoke(&Revocable::Serial(serial), "stolen", now())
    });
    waiting.recv_timeout(PATIENCE).expect("the revocation is being saved");
    let (report, reported) = mpsc::channel();
    std::thread::spawn({
        let authority = authority.clone();
        move || {
            let issued = issue(&authority, "payments", now()).unwrap();
            let overtaken = issue(&authority, "web", now());
            let bearer = Bearer { key_sha256: [1; 32], instance: &instance("vm") };
            assert!(authority.redeem_join_token("mesh-join-wrong", &bearer, now()).is_err());
            assert!(authority.newest(&id("payments"), &instance("payments")).is_some());
            let read = (authority.bundles().len(), authority.issued().len(), authority.revocations());
            authority.take_events();
            report.send((issued, overtaken, read, authority.status(&[], now()).revoked)).unwrap();
        }
    });
    let (issued, overtaken, read, revoked) =
        reported.recv_timeout(PATIENCE).expect("nobody else waits for the disk");
    assert!(matches!(overtaken, Err(IssueRefusal::Overtaken(_))), "{overtaken:?}");
    assert_eq!((read.0, read.1, revoked), (1, 2, 0));
    assert!(read.2.serials.is_empty(), "what is not on the disk has no effect");
    store.free();
    assert_eq!(revoking.join().unwrap().unwrap().serials, std::slice::from_ref(&stolen.serial));
    assert_eq!(authority.revocations().serials, [stolen.serial]);
    issue(&authority, "web", now()).unwrap();
    // What was issued meanwhile is saved later.
    authority.tick(now() + Duration::from_secs(60), &[]).unwrap();
    assert!(open().root_of(&issued.serial).is_some());
}
