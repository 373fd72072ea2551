//! Who is waited for in a rotation of the root, and who is not: machines that could not come back, jobs that come and go.

use crate::world::{MemoryStore, Mesh, domain, id, instance, now, seal_key};
use mesh_ca::authority::{Authority, AuthorityConfig, Order, Phase, ProxyTrust, RotateRoot};
use mesh_ca::csr::WorkloadKey;
use std::time::{Duration, SystemTime};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Issues to an instance of the account `account`, on the given evidence.
fn issue(authority: &Authority, (account, name): (&str, &str), attestor: &str, at: SystemTime) -> ProxyTrust {
    let csr = WorkloadKey::generate().unwrap().csr_der(&instance(name)).unwrap();
    let (id, instance) = (id(account), instance(name));
    let order = Order { csr_der: &csr, id: &id, instance: &instance, lifetime: None, attestor };
    let serial = authority.issue(&order, at).unwrap().serial;
    ProxyTrust { id, instance, bundle_sequence: authority.bundles()[0].sequence, svid_root: None, serial }
}

const JOINED: &str = "join_token 0a1b2c3d";

/// Ticks, and tells the step and what it waits for.
fn tick(authority: &Authority, at: SystemTime, fleet: &[&ProxyTrust]) -> (Option<Phase>, String) {
    let fleet: Vec<ProxyTrust> = fleet.iter().map(|proxy| (*proxy).clone()).collect();
    let progress = authority.tick(at, &fleet).unwrap();
    (progress.phase, progress.waiting_for.unwrap_or_default())
}

#[test]
fn a_machine_that_joined_is_waited_for_until_it_has_followed() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    let mut vm = issue(authority, ("vm", "vm-1"), JOINED, at);
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    let (phase, waiting) = tick(authority, at + HOUR, &[]);
    assert_eq!(phase, Some(Phase::Trust));
    let (phase, waiting_later) = tick(authority, at + HOUR * 2, &[]);
    assert_eq!((phase, &waiting_later), (Some(Phase::Trust), &waiting));
    assert!(
        waiting.starts_with("vm-1 to connect") && waiting.contains("meshctl ca rotate --force"),
        "{waiting}"
    );
    assert_eq!(authority.status(&[], at + HOUR * 2).waiting_for, waiting, "people are told");

    vm.bundle_sequence = authority.bundles()[0].sequence;
    assert_eq!(tick(authority, at + HOUR * 3, &[&vm]).0, Some(Phase::Sign));
    // Away again, under the old root still.
    let (phase, waiting) = tick(authority, at + HOUR * 5, &[]);
    assert_eq!(phase, Some(Phase::Sign));
    assert!(waiting.contains("vm-1"), "{waiting}");
    let renewed = format!("svid serial=00 from {JOINED}");
    issue(authority, ("vm", "vm-1"), &renewed, at + HOUR * 6);
    assert_eq!(tick(authority, at + HOUR * 7, &[]).0, None);
}

#[test]
fn a_machine_that_knew_the_new_root_before_it_left_does_not_hold_up_trust() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    let mut vm = issue(authority, ("vm", "vm-1"), JOINED, at);
    let web = issue(authority, ("web", "web-1"), "unix_peer uid=0", at);
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    assert_eq!(tick(authority, at, &[&vm, &web]).0, Some(Phase::Trust));
    vm.bundle_sequence = authority.bundles()[0].sequence;
    assert_eq!(tick(authority, at + SECOND, &[&vm, &web]).0, Some(Phase::Trust), "web has not acknowledged");
    let web = ProxyTrust { bundle_sequence: vm.bundle_sequence, ..web };
    assert_eq!(tick(authority, at + SECOND * 2, &[&web]).0, Some(Phase::Sign));
}

#[test]
fn somebody_can_go_on_without_the_absent_and_an_expired_certificate_is_nobodys() {
    for is_forced in [true, false] {
        let (mesh, at) = (Mesh::new(), now());
        let authority = &*mesh.authority;
        issue(authority, ("vm", "vm-1"), JOINED, at);
        assert!(authority.rotate_root(RotateRoot::Force, at).is_err(), "there is nothing to force");
        authority.rotate_root(RotateRoot::Start, at).unwrap();
        assert_eq!(tick(authority, at + HOUR, &[]).0, Some(Phase::Trust));
        let reopened = |late| {
            let state = mesh.store.saved().pop().unwrap();
            Authority::open(AuthorityConfig::new(domain()), MemoryStore::holding(state), &seal_key(), late)
        };
        if is_forced {
            authority.rotate_root(RotateRoot::Force, at + HOUR).unwrap();
            // It holds for the whole rotation, and through a restart.
            let authority = reopened(at + HOUR).unwrap();
            assert_eq!(tick(&authority, at + HOUR * 2, &[]).0, Some(Phase::Sign));
            assert_eq!(tick(&authority, at + HOUR * 3, &[]).0, None);
        } else {
            assert_eq!(tick(authority, at + HOUR * 25, &[]).0, None);
        }
    }
}

#[test]
fn a_revoked_machine_is_not_waited_for() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    let vm = issue(authority, ("vm", "vm-1"), JOINED, at);
    authority.revoke(&mesh_ca::authority::Revocable::Serial(vm.serial), "stolen", at).unwrap();
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    tick(authority, at, &[]);
    assert_eq!(tick(authority, at + HOUR, &[]).0, Some(Phase::Sign));
}

#[test]
fn jobs_that_come_and_go_hold_up_no_step() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    let job = |n: u32, at| issue(authority, ("job", &format!("job-{n}")), "unix_peer uid=0", at);
    let mut web = issue(authority, ("web", "web-1"), "unix_peer uid=0", at);
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    assert_eq!(tick(authority, at, &[&web]).0, Some(Phase::Trust));
    web.bundle_sequence = authority.bundles()[0].sequence;
    let mut seen = Vec::new();
    for n in 2..120 {
        let at = at + SECOND * n;
        // There is always one that has just come, and is not connected yet.
        job(n, at);
        seen.push(tick(authority, at, &[&web]).0);
        if seen.last() == Some(&Some(Phase::Sign)) {
            web.serial = issue(authority, ("web", "web-1"), "unix_peer uid=0", at).serial;
        }
        web.bundle_sequence = authority.bundles()[0].sequence;
    }
    seen.dedup();
    assert_eq!(seen.last(), Some(&None), "{seen:?}");
}

#[test]
fn a_root_that_was_rejected_never_signs_again() {
    let (mesh, at) = (Mesh::new(), now());
    let authority = &*mesh.authority;
    let old = authority.root_sha256();
    authority.rotate_root(RotateRoot::Start, at).unwrap();
    // Somebody who never follows keeps it in the step.
    let behind = issue(authority, ("web", "web-1"), "unix_peer uid=0", at);
    let mut fleet = behind;
    for _ in 0..3 {
        fleet.bundle_sequence = authority.bundles()[0].sequence;
        tick(authority, at, &[&fleet]);
    }
    assert_eq!(authority.status(&[], at).phase, Some(Phase::Sign));
    assert_ne!(authority.root_sha256(), old);
    authority.rotate_root(RotateRoot::Abort, at).unwrap();
    assert_eq!(authority.root_sha256(), old);
    let refused = authority.rotate_root(RotateRoot::Abort, at).unwrap_err().to_string();
    assert!(refused.contains("aborted already"), "{refused}");
    let state = mesh.store.saved().pop().unwrap();
    let reopened =
        Authority::open(AuthorityConfig::new(domain()), MemoryStore::holding(state), &seal_key(), at)
            .unwrap();
    assert!(reopened.rotate_root(RotateRoot::Abort, at).is_err(), "nor after a restart");
    assert_eq!(reopened.root_sha256(), old);
}
