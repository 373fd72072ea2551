//! What is revoked, for how long, and what follows from it.

use crate::world::{Mesh, id, now};
use mesh_ca::authority::{IssueRefusal, Order, Revocable, audit::Event};
use mesh_ca::csr::WorkloadKey;
use mesh_ca::tls::control_identity;
use mesh_proto::config::Revocations;
use std::time::Duration;

#[test]
fn a_leaf_is_listed_until_it_would_have_expired() {
    let (mesh, at) = (Mesh::new(), now());
    let svid = mesh.svid("web");
    let serial = Revocable::Serial(svid.serial().to_vec());
    mesh.authority.revoke(&serial, "lost laptop", at).unwrap();
    mesh.authority.revoke(&serial, "again", at).unwrap();
    assert_eq!(mesh.authority.revocations().serials, [svid.serial().to_vec()]);
    let peer = mesh_ca::verify::peer_identity(svid.chain()).unwrap();
    assert!(peer.is_revoked(&mesh.authority.revocations()));
    assert!(!peer.is_revoked(&Revocations::default()));
    let day = Duration::from_secs(24 * 3600);
    mesh.authority.tick(at + day - Duration::from_secs(60), &[]).unwrap();
    assert_eq!(mesh.authority.revocations().serials.len(), 1);
    let progress = mesh.authority.tick(at + day + Duration::from_secs(60), &[]).unwrap();
    assert!(progress.revocations_changed);
    assert!(mesh.authority.revocations().serials.is_empty());
}

#[test]
fn the_list_is_sorted_as_the_handshake_searches_it() {
    let (mesh, at) = (Mesh::new(), now());
    for name in ["d", "a", "c", "b"] {
        mesh.authority.revoke(&Revocable::Serial(mesh.svid(name).serial().to_vec()), "test", at).unwrap();
        mesh.authority.revoke(&Revocable::Identity(id(name)), "test", at).unwrap();
    }
    let list = mesh.authority.revocations();
    assert!(list.serials.is_sorted() && list.identities.is_sorted(), "{list:?}");
    assert_eq!((list.serials.len(), list.identities.len()), (4, 4));
}

#[test]
fn a_revoked_intermediate_is_replaced_at_once_and_everybody_renews() {
    let (mesh, at) = (Mesh::new(), now());
    let below = mesh_ca::verify::peer_identity(mesh.svid("web").chain()).unwrap();
    let epoch = mesh.authority.reissue_epoch();
    mesh.authority.revoke(&Revocable::Intermediate, "leaked", at).unwrap();
    assert!(below.is_revoked(&mesh.authority.revocations()));
    assert!(mesh.authority.reissue_epoch() > epoch);
    let fresh = mesh_ca::verify::peer_identity(mesh.svid("web").chain()).unwrap();
    assert!(!fresh.is_revoked(&mesh.authority.revocations()));
    assert!(mesh.authority.undo_revocation(&Revocable::Intermediate, at).unwrap());
    assert!(!below.is_revoked(&mesh.authority.revocations()));
    assert!(!mesh.authority.undo_revocation(&Revocable::Intermediate, at).unwrap(), "there is no other");
    // By its serial it is the same.
    let serial = mesh.authority.status(&[], at).issuing.serial;
    mesh.authority.revoke(&Revocable::Serial(serial.clone()), "leaked too", at).unwrap();
    assert_ne!(mesh.authority.status(&[], at).issuing.serial, serial);
}

#[test]
fn a_revoked_identity_gets_nothing_until_it_is_taken_back() {
    let (mesh, at) = (Mesh::new(), now());
    let web = Revocable::Identity(id("web"));
    mesh.authority.revoke(&web, "compromised", at).unwrap();
    let csr = WorkloadKey::generate().unwrap().csr_der(&"web".parse().unwrap()).unwrap();
    let order = Order {
        csr_der: &csr,
        id: &id("web"),
        instance: &"web".parse().unwrap(),
        lifetime: None,
        attestor: "test",
    };
    let refused = mesh.authority.issue(&order, at).unwrap_err();
    assert!(matches!(refused, IssueRefusal::Revoked(_)), "{refused}");
    assert!(mesh.authority.undo_revocation(&web, at).unwrap());
    mesh.authority.issue(&order, at).unwrap();
}

#[test]
fn what_must_not_be_revoked_is_refused() {
    let (mesh, at) = (Mesh::new(), now());
    let control = control_identity(mesh.authority.trust_domain());
    for what in [
        Revocable::Identity(control),
        Revocable::Identity("spiffe://other/ns/a/sa/b".parse().unwrap()),
        Revocable::Serial(vec![]),
        Revocable::Serial(vec![0, 0]),
    ] {
        assert!(mesh.authority.revoke(&what, "test", at).is_err(), "{what}");
    }
    assert_eq!(mesh.authority.revocations(), Revocations::default());
}

#[test]
fn a_failing_store_revokes_nothing() {
    let (mesh, at) = (Mesh::new(), now());
    let serial = mesh.authority.status(&[], at).issuing.serial;
    mesh.store.fail();
    for what in [Revocable::Intermediate, Revocable::Identity(id("web"))] {
        assert!(mesh.authority.revoke(&what, "test", at).is_err());
    }
    assert_eq!(mesh.authority.revocations(), Revocations::default());
    assert_eq!(mesh.authority.status(&[], at).issuing.serial, serial);
}

#[test]
fn everything_is_told_to_the_audit_log_once() {
    let (mesh, at) = (Mesh::new(), now());
    mesh.svid("web");
    mesh.authority.revoke(&Revocable::Intermediate, "drill", at).unwrap();
    let verbs: Vec<&str> = mesh.authority.take_events().iter().map(|entry| entry.event.verb()).collect();
    assert_eq!(verbs, ["ca_created", "issued", "revoked"]);
    assert!(mesh.authority.take_events().is_empty());
    mesh.authority.revoke(&Revocable::Identity(id("web")), "stolen", at).unwrap();
    let [entry] = <[_; 1]>::try_from(mesh.authority.take_events()).unwrap();
    assert!(matches!(&entry.event, Event::Revoked { reason, .. } if reason == "stolen"), "{entry:?}");
    assert_eq!(entry.event.to_string(), "revoked the identity spiffe://mesh.local/ns/default/sa/web: stolen");
}

#[test]
fn one_identity_cannot_ask_without_end() {
    let (mesh, at) = (Mesh::new(), now());
    let csr = WorkloadKey::generate().unwrap().csr_der(&"web".parse().unwrap()).unwrap();
    let ask = |account: &str| {
        let order = Order {
            csr_der: &csr,
            id: &id(account),
            instance: &"web".parse().unwrap(),
            lifetime: None,
            attestor: "test",
        };
        mesh.authority.issue(&order, at)
    };
    let refused = (0..1100).filter(|_| matches!(ask("greedy"), Err(IssueRefusal::TooFast { .. }))).count();
    assert_eq!(refused, 100);
    ask("modest").unwrap();
}
