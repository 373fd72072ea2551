//! Two authorities over one store: replicas of a control plane.

use crate::world::{domain, id, instance, now, seal_key};
use mesh_ca::authority::{Authority, AuthorityConfig, AuthorityStore, Order, Revocable, RotateRoot};
use mesh_ca::csr::WorkloadKey;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What both see: a version and the state.
type Shared = Arc<Mutex<(u64, Option<Vec<u8>>)>>;

/// One replica's way to it; what another has saved is not replaced.
struct Replica {
    shared: Shared,
    held: Mutex<u64>,
    room: usize,
}

impl AuthorityStore for Replica {
    fn load(&self) -> Result<Option<Vec<u8>>, String> {
        let shared = self.shared.lock().unwrap();
        *self.held.lock().unwrap() = shared.0;
        Ok(shared.1.clone())
    }

    fn save(&self, state: &[u8]) -> Result<(), String> {
        assert!(state.len() <= self.room, "{} bytes", state.len());
        let (mut shared, mut held) = (self.shared.lock().unwrap(), self.held.lock().unwrap());
        if shared.0 != *held {
            return Err("another has changed it".to_owned());
        }
        *shared = (shared.0 + 1, Some(state.to_vec()));
        *held = shared.0;
        Ok(())
    }

    fn is_behind(&self) -> bool {
        self.shared.lock().unwrap().0 != *self.held.lock().unwrap()
    }

    fn bytes_max(&self) -> usize {
        self.room
    }
}

fn open(shared: &Shared, room: usize) -> Authority {
    let replica = Replica { shared: shared.clone(), held: Mutex::new(0), room };
    Authority::open(AuthorityConfig::new(domain()), Arc::new(replica), &seal_key(), now()).unwrap()
}

fn issue(authority: &Authority, name: &str) -> Vec<u8> {
    let csr_der = WorkloadKey::generate().unwrap().csr_der(&instance(name)).unwrap();
    let order = Order {
        csr_der: &csr_der,
        id: &id("web"),
        instance: &instance(name),
        lifetime: None,
        attestor: "a test",
    };
    authority.issue(&order, now()).unwrap().serial
}

#[test]
fn what_one_replica_does_the_other_knows() {
    let shared = Shared::default();
    let (one, two) = (open(&shared, usize::MAX), open(&shared, usize::MAX));
    assert_eq!(one.root_sha256(), two.root_sha256());
    let (first, second) = (issue(&one, "web-1"), issue(&two, "web-2"));
    // Both have something to save; whoever is refused goes on from what the other has saved.
    let later = now() + Duration::from_secs(60);
    let mut refused = 0;
    for _ in 0..3 {
        refused += i32::from(one.tick(later, &[]).is_err());
        refused += i32::from(two.tick(later, &[]).is_err());
    }
    assert_eq!(refused, 0, "each tick begins with what is newest");
    for authority in [&one, &two] {
        assert!(authority.record(&first).is_some() && authority.record(&second).is_some());
    }
    let settled = shared.lock().unwrap().0;
    one.tick(later, &[]).unwrap();
    two.tick(later, &[]).unwrap();
    assert_eq!(shared.lock().unwrap().0, settled, "nothing new is not saved again");
    // A certificate that one has issued is revoked at the other.
    two.revoke(&Revocable::Serial(first.clone()), "stolen", later).unwrap();
    one.tick(later, &[]).unwrap();
    assert!(one.revocations().serials.contains(&first));
    // A change on top of an old state is refused and harms nothing.
    one.rotate_root(RotateRoot::Start, later).unwrap();
    let stale = two.rotate_root(RotateRoot::Start, later).unwrap_err();
    assert!(stale.to_string().contains("another has changed it"), "{stale}");
    two.tick(later, &[]).unwrap();
    let roots: Vec<usize> = [&one, &two].map(|a| a.bundles()[0].roots.len()).to_vec();
    assert_eq!(roots, [1, 2], "the other goes on with the rotation that was begun here");
    one.tick(later, &[]).unwrap();
    two.tick(later, &[]).unwrap();
    assert_eq!((two.bundles(), two.root_sha256()), (one.bundles(), one.root_sha256()));
}

#[test]
fn records_beyond_the_stores_room_stay_in_memory() {
    let shared = Shared::default();
    let authority = open(&shared, 8 * 1024);
    let serials: Vec<_> = (0..40).map(|n| issue(&authority, &format!("web-{n}"))).collect();
    authority.tick(now() + Duration::from_secs(60), &[]).unwrap();
    assert!(serials.iter().all(|serial| authority.record(serial).is_some()));
    let other = open(&shared, 8 * 1024);
    assert!(other.record(&serials[0]).is_none() && other.record(&serials[39]).is_some());
}
