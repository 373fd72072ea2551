//! Rotation of root and intermediate: gates, pause, abort, crashes at every saved state, a store that fails.

use crate::world::{MemoryStore, Mesh, domain, id, instance, now, seal_key};
use mesh_ca::authority::{
    Authority, AuthorityConfig, AuthorityError, CaState, Order, Phase, ProxyTrust, RotateRoot,
};
use mesh_ca::csr::WorkloadKey;
use mesh_ca::tls::control_identity;
use mesh_proto::identity::SpiffeId;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const SECOND: Duration = Duration::from_secs(1);

/// Connected proxies that do what proxies do, in one step each.
struct Fleet {
    proxies: Vec<Proxy>,
}

struct Proxy {
    id: SpiffeId,
    name: &'static str,
    acknowledged: u64,
    serial: Vec<u8>,
    epoch: u64,
}

impl Fleet {
    fn join(authority: &Authority, names: &[&'static str], at: SystemTime) -> Self {
        let mut fleet = Self { proxies: Vec::new() };
        for name in names {
            let mut proxy = Proxy { id: id(name), name, acknowledged: 0, serial: Vec::new(), epoch: 0 };
            proxy.renew(authority, at);
            proxy.acknowledge(authority);
            fleet.proxies.push(proxy);
        }
        fleet
    }

    fn trust(&self) -> Vec<ProxyTrust> {
        let trust = |proxy: &Proxy| ProxyTrust {
            id: proxy.id.clone(),
            instance: instance(proxy.name),
            bundle_sequence: proxy.acknowledged,
            svid_root: None,
            serial: proxy.serial.clone(),
        };
        self.proxies.iter().map(trust).collect()
    }

    fn acknowledge(&mut self, authority: &Authority) {
        self.proxies.iter_mut().for_each(|proxy| proxy.acknowledge(authority));
    }

    /// Those whose SVID is of an older epoch renew, as proxies do when a snapshot says so.
    fn renew_when_told(&mut self, authority: &Authority, at: SystemTime) {
        let epoch = authority.reissue_epoch();
        self.proxies
            .iter_mut()
            .filter(|proxy| proxy.epoch < epoch)
            .for_each(|proxy| proxy.renew(authority, at));
    }
}

impl Proxy {
    fn renew(&mut self, authority: &Authority, at: SystemTime) {
        let (serial, epoch) = issue(authority, &self.id, self.name, at);
        self.serial = serial;
        self.epoch = epoch;
    }

    fn acknowledge(&mut self, authority: &Authority) {
        self.acknowledged = authority.bundles()[0].sequence;
    }
}

fn issue(authority: &Authority, id: &SpiffeId, name: &str, at: SystemTime) -> (Vec<u8>, u64) {
    let csr = WorkloadKey::generate().unwrap().csr_der(&instance(name)).unwrap();
    let order = Order { csr_der: &csr, id, instance: &instance(name), lifetime: None, attestor: "test" };
    let issued = authority.issue(&order, at).unwrap();
    (issued.serial, issued.reissue_epoch)
}

fn phase(authority: &Authority, fleet: &Fleet, at: SystemTime) -> Option<Phase> {
    authority.tick(at, &fleet.trust()).unwrap().phase
}

fn roots(authority: &Authority) -> Vec<Vec<u8>> {
    authority.bundles()[0].roots.clone()
}

#[test]
fn the_root_is_replaced_step_by_step_as_the_fleet_follows() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    let mut fleet = Fleet::join(authority, &["web", "payments", "store"], at);
    let old = roots(authority);
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    assert_eq!(roots(authority), old, "nobody hears of a root that is being prepared");

    assert_eq!(phase(authority, &fleet, at), Some(Phase::Trust));
    assert_eq!(roots(authority).len(), 2);
    let waiting = authority.tick(at, &fleet.trust()).unwrap().waiting_for.unwrap();
    assert_eq!(waiting, "payments, store, web to acknowledge the bundle");
    fleet.proxies[0].acknowledge(authority);
    fleet.proxies[1].acknowledge(authority);
    assert_eq!(
        phase(authority, &fleet, at + SECOND * 100_000),
        Some(Phase::Trust),
        "one has not acknowledged"
    );

    let at = at + SECOND;
    fleet.acknowledge(authority);
    let epoch = authority.reissue_epoch();
    let progress = authority.tick(at, &fleet.trust()).unwrap();
    assert_eq!((progress.phase, progress.reissue), (Some(Phase::Sign), true));
    assert_eq!(authority.reissue_epoch(), epoch + 1);
    assert_eq!(roots(authority).len(), 2, "both are trusted while SVIDs are replaced");
    fleet.proxies[0].renew(authority, at);
    let waiting = authority.tick(at + SECOND * 3600, &fleet.trust()).unwrap().waiting_for.unwrap();
    assert_eq!(waiting, "payments, store to renew below the new root");

    fleet.renew_when_told(authority, at);
    assert_eq!(phase(authority, &fleet, at), Some(Phase::Retire));
    let new = roots(authority);
    assert_eq!(new.len(), 1);
    assert_ne!(new, old);
    assert_eq!(
        phase(authority, &fleet, at),
        Some(Phase::Retire),
        "the shorter bundle is not acknowledged yet"
    );
    fleet.acknowledge(authority);
    assert_eq!(phase(authority, &fleet, at), None);
    let status = authority.status(&fleet.trust(), at);
    assert_eq!((status.roots.len(), status.roots[0].state), (1, CaState::Active));
    assert_eq!((status.svids_on_active, status.svids_total, status.proxies_trusting), (3, 3, 3));
}

#[test]
fn an_absent_holder_delays_by_its_grace_and_not_for_ever() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    let mut fleet = Fleet::join(authority, &["web", "gone"], at);
    fleet.proxies.pop();
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    authority.tick(at, &fleet.trust()).unwrap();
    fleet.acknowledge(authority);
    let progress = authority.tick(at + SECOND * 29, &fleet.trust()).unwrap();
    assert_eq!(progress.phase, Some(Phase::Trust));
    assert!(progress.waiting_for.unwrap().starts_with("gone to connect"));
    assert_eq!(phase(authority, &fleet, at + SECOND * 30), Some(Phase::Sign));
    fleet.renew_when_told(authority, at + SECOND * 30);
    assert_eq!(phase(authority, &fleet, at + SECOND * 59), Some(Phase::Sign));
    assert_eq!(phase(authority, &fleet, at + SECOND * 60), Some(Phase::Retire));
}

#[test]
fn a_restarted_control_plane_does_not_take_an_empty_fleet_for_an_agreeing_one() {
    let (mesh, at) = (Mesh::new(), now());
    let mut fleet = Fleet::join(&mesh.authority, &["web"], at);
    mesh.authority.rotate_root(RotateRoot::Start, at).unwrap();
    let later = at + SECOND * 3600;
    mesh.authority.tick(later, &fleet.trust()).unwrap();
    let reopened = reopen(mesh.store.saved().last().unwrap(), later);
    let nobody = Fleet { proxies: vec![] };
    assert_eq!(phase(&reopened, &nobody, later + SECOND * 5), Some(Phase::Trust));
    fleet.acknowledge(&reopened);
    assert_eq!(phase(&reopened, &fleet, later + SECOND * 6), Some(Phase::Sign));
}

#[test]
fn the_control_plane_itself_is_never_left_behind() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    let own = control_identity(&domain());
    issue(authority, &own, "mesh-control", at);
    let fleet = Fleet { proxies: vec![] };
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    let late = at + SECOND * 40_000;
    let progress = authority.tick(late, &fleet.trust()).unwrap();
    assert_eq!(progress.phase, Some(Phase::Sign));
    assert_eq!(progress.waiting_for.unwrap(), "mesh-control to renew below the new root");
    issue(authority, &own, "mesh-control", late);
    assert_eq!(phase(authority, &fleet, late), None, "retire needs nobody's word in an empty mesh");
}

#[test]
fn a_replica_of_the_control_plane_that_has_ended_holds_nobody_up() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    let own = control_identity(&domain());
    issue(authority, &own, "mesh-control-a", at);
    issue(authority, &own, "mesh-control-b", at);
    let fleet = Fleet { proxies: vec![] };
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    let signing = at + SECOND * 40_000;
    assert_eq!(authority.tick(signing, &fleet.trust()).unwrap().phase, Some(Phase::Sign));
    issue(authority, &own, "mesh-control-a", signing);
    let soon = authority.tick(signing + SECOND, &fleet.trust()).unwrap();
    assert_eq!(soon.waiting_for.unwrap(), "mesh-control-b to renew below the new root");
    assert_eq!(phase(authority, &fleet, signing + SECOND * 3600), None, "it is given up");
}

#[test]
fn a_paused_rotation_stands_still_in_every_step_until_resumed() {
    for stop_in in [Phase::Prepare, Phase::Trust, Phase::Sign, Phase::Retire] {
        let (mesh, at) = (Mesh::new(), now());
        let authority = &*mesh.authority;
        let mut fleet = Fleet::join(authority, &["web"], at);
        authority.rotate_root(RotateRoot::Start, at).unwrap();
        while authority.status(&fleet.trust(), at).phase != Some(stop_in) {
            authority.tick(at, &fleet.trust()).unwrap();
            fleet.renew_when_told(authority, at);
            if authority.status(&fleet.trust(), at).phase != Some(stop_in) {
                fleet.acknowledge(authority);
            }
        }
        authority.rotate_root(RotateRoot::Pause, at).unwrap();
        fleet.acknowledge(authority);
        fleet.renew_when_told(authority, at);
        let progress = authority.tick(at + SECOND, &fleet.trust()).unwrap();
        assert_eq!(progress.phase, Some(stop_in));
        assert!(progress.waiting_for.unwrap().contains("paused"));
        authority.rotate_root(RotateRoot::Resume, at).unwrap();
        assert_ne!(phase(authority, &fleet, at + SECOND), Some(stop_in));
    }
}

#[test]
fn abort_leads_back_to_the_old_root_until_it_is_gone() {
    for abort_in in [Phase::Prepare, Phase::Trust, Phase::Sign] {
        let (mesh, at) = (Mesh::new(), now());
        let authority = &*mesh.authority;
        let mut fleet = Fleet::join(authority, &["web"], at);
        let old = roots(authority);
        authority.rotate_root(RotateRoot::Start, at).unwrap();
        while authority.status(&fleet.trust(), at).phase != Some(abort_in) {
            authority.tick(at, &fleet.trust()).unwrap();
            fleet.acknowledge(authority);
            if authority.status(&fleet.trust(), at).phase != Some(abort_in) {
                fleet.renew_when_told(authority, at);
            }
        }
        if abort_in == Phase::Sign {
            fleet.renew_when_told(authority, at);
        }
        authority.rotate_root(RotateRoot::Abort, at).unwrap();
        for _ in 0..8 {
            authority.tick(at, &fleet.trust()).unwrap();
            fleet.acknowledge(authority);
            fleet.renew_when_told(authority, at);
        }
        assert_eq!(phase(authority, &fleet, at), None, "aborted in {abort_in}");
        assert_eq!(roots(authority), old, "aborted in {abort_in}");
        assert_eq!(authority.status(&fleet.trust(), at).svids_on_active, 1, "aborted in {abort_in}");
        let serial = authority.bundles()[0].sequence;
        assert!(serial == 1 || abort_in != Phase::Prepare, "an unseen root changes no bundle");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_words() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    for action in [RotateRoot::Pause, RotateRoot::Resume, RotateRoot::Abort] {
        let refused = authority.rotate_root(action, at).unwrap_err().to_string();
        assert!(refused.contains("no rotation of the root is under way"), "{refused}");
    }
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    let refused = authority.rotate_root(RotateRoot::Start, at).unwrap_err().to_string();
    assert!(refused.contains("under way already"), "{refused}");
}

fn reopen(state: &[u8], at: SystemTime) -> Authority {
    Authority::open(AuthorityConfig::new(domain()), MemoryStore::holding(state.to_vec()), &seal_key(), at)
        .unwrap()
}

/// Lets a fleet follow until the rotation is over; gives the phases it was seen in.
fn finish(authority: &Authority, fleet: &mut Fleet, at: SystemTime) {
    for n in 0..20 {
        let at = at + SECOND * n;
        if authority.tick(at, &fleet.trust()).unwrap().phase.is_none() {
            return;
        }
        fleet.acknowledge(authority);
        fleet.renew_when_told(authority, at);
    }
    panic!("the rotation hangs: {:?}", authority.status(&fleet.trust(), at));
}

#[test]
fn a_crash_after_any_saved_state_resumes_and_finishes() {
    let (mesh, at) = (Mesh::new(), now());
    let mut fleet = Fleet::join(&mesh.authority, &["web", "payments"], at);
    mesh.authority.tick(at + SECOND * 4, &fleet.trust()).unwrap();
    let before = mesh.store.saved().len();
    mesh.authority.rotate_root(RotateRoot::Start, at + SECOND * 5).unwrap();
    finish(&mesh.authority, &mut fleet, at + SECOND * 5);
    let states = mesh.store.saved();
    // Prepare, trust, sign, retire, done: each saved, and nothing else.
    assert!(states.len() >= before + 5, "{} states", states.len() - before);
    let mut seen = Vec::new();
    for state in &states[before..] {
        let later = at + SECOND * 60;
        let authority = reopen(state, later);
        seen.push(authority.status(&[], later).phase);
        // The proxies come back with whatever they had; some serials may be unknown to the reopened authority.
        fleet.proxies.iter_mut().for_each(|proxy| proxy.epoch = 0);
        for proxy in &mut fleet.proxies {
            proxy.acknowledged = authority.bundles()[0].sequence.saturating_sub(1);
        }
        finish(&authority, &mut fleet, later);
        assert_eq!(roots(&authority).len(), 1);
    }
    let expected = [Some(Phase::Prepare), Some(Phase::Trust), Some(Phase::Sign), Some(Phase::Retire), None];
    seen.dedup();
    assert_eq!(seen, expected);
}

#[test]
fn a_crash_while_signing_asks_everybody_to_renew_once_more() {
    let (mesh, at) = (Mesh::new(), now());
    let mut fleet = Fleet::join(&mesh.authority, &["web"], at);
    mesh.authority.rotate_root(RotateRoot::Start, at).unwrap();
    mesh.authority.tick(at, &fleet.trust()).unwrap();
    fleet.acknowledge(&mesh.authority);
    assert_eq!(phase(&mesh.authority, &fleet, at), Some(Phase::Sign));
    // Renewed below the new root, but the record is lost: only saved states survive.
    fleet.renew_when_told(&mesh.authority, at);
    let reopened = reopen(mesh.store.saved().last().unwrap(), at);
    assert_eq!(reopened.root_of(&fleet.proxies[0].serial), None);
    assert!(reopened.reissue_epoch() > fleet.proxies[0].epoch);
    fleet.renew_when_told(&reopened, at);
    assert_eq!(phase(&reopened, &fleet, at), Some(Phase::Retire));
}

#[test]
fn a_store_that_fails_stops_every_step_before_it_has_any_effect() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    let mut fleet = Fleet::join(authority, &["web"], at);
    let facts = |authority: &Authority, fleet: &Fleet| {
        let status = authority.status(&fleet.trust(), at);
        let issuing = status.issuing.serial;
        (status.phase, authority.bundles(), authority.reissue_epoch(), issuing)
    };
    let failing = |attempt: &dyn Fn() -> Result<(), AuthorityError>| {
        mesh.store.fail();
        let before = facts(authority, &fleet);
        let error = attempt().unwrap_err();
        assert!(matches!(error, AuthorityError::Store { .. }), "{error}");
        assert_eq!(facts(authority, &fleet), before);
        mesh.store.recover();
    };
    failing(&|| authority.rotate_root(RotateRoot::Start, at));
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    for step in 0..4 {
        let trust = if step == 0 { vec![] } else { fleet.trust() };
        mesh.store.fail();
        let before = facts(authority, &fleet);
        let error = authority.tick(at + SECOND * 100, &trust).unwrap_err();
        assert!(matches!(error, AuthorityError::Store { .. }), "step {step}: {error}");
        assert_eq!(facts(authority, &fleet), before, "step {step}");
        mesh.store.recover();
        authority.tick(at + SECOND * 100, &fleet.trust()).unwrap();
        fleet.acknowledge(authority);
        fleet.renew_when_told(authority, at + SECOND * 100);
    }
    assert_eq!(phase(authority, &fleet, at + SECOND * 101), None);
}

#[test]
fn the_intermediate_is_replaced_at_a_third_left_and_old_svids_stay_good() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    let fleet = Fleet::join(authority, &["web"], at);
    let first = authority.status(&[], at).issuing.serial;
    let week = Duration::from_secs(7 * 24 * 3600);
    let progress = authority.tick(at + week / 3 * 2 - SECOND * 60, &fleet.trust()).unwrap();
    assert!(!progress.intermediate_rotated);
    let progress = authority.tick(at + week / 3 * 2, &fleet.trust()).unwrap();
    assert!(progress.intermediate_rotated && !progress.bundles_changed && !progress.reissue);
    assert_ne!(authority.status(&[], at).issuing.serial, first);
    authority.rotate_intermediate(at).unwrap();
    assert!(authority.issued().iter().all(|record| record.not_after < at + week));
}

#[test]
fn an_authority_that_slept_through_its_intermediate_issues_at_once() {
    let (mesh, at) = (Mesh::new(), now());
    let late = at + Duration::from_secs(30 * 24 * 3600);
    let reopened = reopen(mesh.store.saved().last().unwrap(), late);
    issue(&reopened, &id("web"), "web", late);
    let record = &reopened.issued()[0];
    assert!(record.not_after > late + SECOND * 86_000, "{:?}", record.not_after);
}

#[test]
fn lives_are_clamped_to_the_request_the_mesh_the_intermediate_and_the_root() {
    let at = now();
    let life = |mesh: &Mesh, asked: Option<u64>, at: SystemTime| {
        let csr = WorkloadKey::generate().unwrap().csr_der(&instance("web")).unwrap();
        let lifetime = asked.map(Duration::from_secs);
        let order =
            Order { csr_der: &csr, id: &id("web"), instance: &instance("web"), lifetime, attestor: "test" };
        let issued = mesh.authority.issue(&order, at).unwrap();
        let chain = issued.chain_der;
        assert_eq!(chain.len(), 2);
        (issued.not_after.duration_since(at).unwrap() + SECOND).as_secs() / 10 * 10
    };
    let mesh = Mesh::new();
    assert_eq!(life(&mesh, None, at), 86_400);
    assert_eq!(life(&mesh, Some(60), at), 60);
    assert_eq!(life(&mesh, Some(1), at), 0, "six seconds at least");
    assert_eq!(life(&mesh, Some(864_000), at), 86_400, "never lengthened");
    let short = Mesh::with(|config| config.intermediate_lifetime = Duration::from_secs(600));
    assert_eq!(life(&short, None, at), 600);
    let ending = Mesh::with(|config| config.root_lifetime = Duration::from_secs(1000));
    assert_eq!(life(&ending, None, at), 1000);
    let late = at + SECOND * 2000;
    let csr = WorkloadKey::generate().unwrap().csr_der(&instance("web")).unwrap();
    let order =
        Order { csr_der: &csr, id: &id("web"), instance: &instance("web"), lifetime: None, attestor: "test" };
    let refused = ending.authority.issue(&order, late).unwrap_err().to_string();
    assert!(refused.contains("meshctl ca rotate"), "{refused}");
}

#[test]
fn a_state_of_another_mesh_or_key_or_a_changed_one_is_refused() {
    let (mesh, at) = (Mesh::new(), now());
    let state = mesh.store.saved().pop().unwrap();
    let open = |domain: &str, key: u8, state: Vec<u8>| {
        let config = AuthorityConfig::new(domain.parse().unwrap());
        let key = mesh_ca::seal::SealKey::from_bytes(&[key; 32]);
        Authority::open(config, MemoryStore::holding(state), &key, at).err().map(|e| e.to_string())
    };
    assert_eq!(open("mesh.local", 7, state.clone()), None);
    assert!(
        open("other.local", 7, state.clone()).unwrap().contains("belongs to the trust domain mesh.local")
    );
    assert!(open("mesh.local", 8, state.clone()).unwrap().contains("does not open"));
    let mut changed = state.clone();
    changed[100] ^= 1;
    assert!(open("mesh.local", 7, changed).unwrap().contains("does not open"));
    assert!(open("mesh.local", 7, state[..state.len() / 2].to_vec()).is_some());
    assert!(open("mesh.local", 7, vec![]).is_some());
}

#[test]
fn no_key_is_in_the_saved_bytes_or_in_debug_output() {
    let mesh = Mesh::new();
    let state = mesh.store.saved().pop().unwrap();
    for word in ["certificate", "key", "mesh.local"] {
        assert!(!state.windows(word.len()).any(|w| w == word.as_bytes()), "{word}");
    }
    let shown = format!("{:?}", mesh.credentials("web"));
    assert!(!shown.contains("PrivateKey") && shown.len() < 20_000);
}

#[test]
fn issuing_at_random_moments_of_a_rotation_never_leaves_the_bundle() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = Arc::clone(&mesh.authority);
    let mut fleet = Fleet::join(&authority, &["web"], at);
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    for n in 0..12_u32 {
        let at = at + SECOND * n;
        let (serial, _) = issue(&authority, &id("late"), "late", at);
        let root = authority.root_of(&serial).unwrap();
        let bundle = authority.bundles().remove(0);
        let trusted: Vec<[u8; 32]> = bundle.roots.iter().map(|der| sha256(der)).collect();
        assert!(trusted.contains(&root), "step {n}");
        authority.tick(at, &fleet.trust()).unwrap();
        fleet.acknowledge(&authority);
        fleet.renew_when_told(&authority, at);
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().try_into().unwrap()
}
