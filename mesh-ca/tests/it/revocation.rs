//! What is revoked, for how long, and what follows from it.

use crate::world::{Mesh, id, instance, now};
use mesh_ca::authority::audit::Event;
use mesh_ca::authority::{Among, IssueRefusal, Order, RecordLimits, Revocable, SerialError};
use mesh_ca::csr::WorkloadKey;
use mesh_ca::tls::control_identity;
use mesh_proto::config::Revocations;
use mesh_proto::identity::SpiffeId;
use std::time::{Duration, SystemTime};

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
    assert!(mesh.authority.undo_revocation(&Revocable::Intermediate, at).unwrap().is_some());
    assert!(!below.is_revoked(&mesh.authority.revocations()));
    assert_eq!(
        mesh.authority.undo_revocation(&Revocable::Intermediate, at).unwrap(),
        None,
        "there is no other"
    );
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
    assert!(mesh.authority.undo_revocation(&web, at).unwrap().is_some());
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
        Revocable::Serial(vec![0x41; 16]),
        Revocable::Serial(mesh.authority.status(&[], at).roots[0].serial.clone()),
        Revocable::LostSerial(vec![0x41; 15]),
    ] {
        assert!(mesh.authority.revoke(&what, "test", at).is_err(), "{what}");
    }
    assert_eq!(mesh.authority.revocations(), Revocations::default());
}

#[test]
fn the_beginning_of_a_serial_is_enough_if_it_is_the_only_one() {
    let (mesh, at) = (Mesh::new(), now());
    let web = mesh.svid("web");
    let digits = web.serial_hex();
    let find = |text: &str| mesh.authority.find_serial(text, Among::InUse);
    assert_eq!(find(&digits[..8]).unwrap(), web.serial());
    assert_eq!(find(&digits.to_uppercase()[..16]).unwrap(), web.serial());
    assert_eq!(find(&format!("00{digits}")).unwrap(), web.serial(), "as some programs print it");
    let issuing = mesh.authority.status(&[], at).issuing.serial;
    assert_eq!(find(&hex(&issuing)[..12]).unwrap(), issuing);
    let root = hex(&mesh.authority.status(&[], at).roots[0].serial);
    for text in [&root, &root[..8]] {
        let refused = find(text).unwrap_err();
        assert!(
            matches!(refused, SerialError::Root(_)) && refused.to_string().contains("ca rotate"),
            "{refused}"
        );
    }
    assert!(matches!(find(&digits[..7]), Err(SerialError::NotDigits(_))));
    assert!(matches!(find("no serial"), Err(SerialError::NotDigits(_))));
    // The first digit of a serial made here is 4 to 7.
    let refused = find("0f0f0f0f0f").unwrap_err();
    assert!(
        matches!(refused, SerialError::Unknown(_)) && refused.to_string().contains("--force"),
        "{refused}"
    );
    let none = mesh.authority.find_serial(&digits, Among::Revoked).unwrap_err();
    assert!(matches!(none, SerialError::NotRevoked(_)), "{none}");
    mesh.authority.revoke(&Revocable::Serial(web.serial().to_vec()), "test", at).unwrap();
    assert_eq!(mesh.authority.find_serial(&digits[..8], Among::Revoked).unwrap(), web.serial());
}

#[test]
fn a_lost_record_is_revoked_by_the_whole_serial() {
    let (mesh, at) = (Mesh::new(), now());
    let lost = vec![0x41; 16];
    let done = mesh.authority.revoke(&Revocable::LostSerial(lost.clone()), "lost", at).unwrap();
    assert_eq!((done.serials, done.holder), (vec![lost.clone()], None));
    assert_eq!(mesh.authority.revocations().serials, [lost]);
}

#[test]
fn a_control_plane_whose_own_certificate_is_revoked_is_told_to_renew() {
    let (mesh, at) = (Mesh::new(), now());
    let control = control_identity(mesh.authority.trust_domain());
    let (issued, _) = mesh.issue(&control, "mesh-control", at);
    let epoch = mesh.authority.reissue_epoch();
    mesh.authority.revoke(&Revocable::Serial(issued.serial), "drill", at).unwrap();
    assert!(mesh.authority.reissue_epoch() > epoch);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// Asks for certificates, always with the same request at the same moment.
struct Asker {
    mesh: Mesh,
    csr_der: Vec<u8>,
    at: SystemTime,
}

impl Asker {
    fn new(mesh: Mesh) -> Self {
        let csr_der = WorkloadKey::generate().unwrap().csr_der(&instance("web")).unwrap();
        Self { mesh, csr_der, at: now() }
    }

    fn ask(&self, id: &SpiffeId, name: &str) -> Result<(), IssueRefusal> {
        let Self { mesh, csr_der, at } = self;
        let order = Order { csr_der, id, instance: &instance(name), lifetime: None, attestor: "test" };
        mesh.authority.issue(&order, *at).map(drop)
    }

    /// How many of so many requests come too fast.
    fn slowed(&self, count: u32, id: &SpiffeId, name: impl Fn(u32) -> String) -> usize {
        let is_slowed = |n: &u32| matches!(self.ask(id, &name(*n)), Err(IssueRefusal::TooFast { .. }));
        (0..count).filter(is_slowed).count()
    }
}

#[test]
fn one_identity_cannot_ask_without_end_and_those_of_it_that_run_can_renew() {
    let asker = Asker::new(Mesh::new());
    let greedy = id("greedy");
    assert_eq!(asker.slowed(1100, &greedy, |n| format!("i-{n}")), 100);
    asker.ask(&id("modest"), "web").unwrap();
    asker.ask(&greedy, "i-0").unwrap();
    assert_eq!(
        asker.slowed(100, &greedy, |_| "i-1".to_owned()),
        40,
        "nor can one instance renew without end"
    );
    asker.ask(&greedy, "i-2").unwrap();
}

#[test]
fn a_full_table_refuses_by_name_and_never_the_control_plane() {
    let asker = Asker::new(Mesh::with(|config| {
        config.record_limits = RecordLimits { mesh: 10, identity: 5, instance: 3 };
    }));
    let until_refused = |account: &str| {
        let refused = (0..20).find_map(|n| asker.ask(&id(account), &format!("i-{n}")).err());
        refused.map(|refusal| refusal.to_string()).unwrap_or_default()
    };
    let refused = until_refused("web");
    assert!(refused.contains("sa/web has 4 certificates") && refused.contains("one identity"), "{refused}");
    let refused = until_refused("payments");
    assert!(refused.contains("sa/payments has 4 certificates"), "{refused}");
    let refused = until_refused("store");
    assert!(refused.contains("the mesh has 8 certificates"), "{refused}");
    // Known instances have the rest.
    asker.ask(&id("web"), "i-0").unwrap();
    asker.ask(&id("payments"), "i-0").unwrap();
    let refused = asker.ask(&id("payments"), "i-1").unwrap_err().to_string();
    assert!(refused.contains("5 certificates"), "{refused}");
    let control = control_identity(asker.mesh.authority.trust_domain());
    for _ in 0..100 {
        asker.ask(&control, "mesh-control").unwrap();
    }
}
