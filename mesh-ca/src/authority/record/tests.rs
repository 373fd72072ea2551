use super::*;

const LIMITS: RecordLimits = RecordLimits { mesh: 20, identity: 10, instance: 3 };

fn id(account: &str) -> SpiffeId {
    format!("spiffe://mesh.local/ns/default/sa/{account}").parse().unwrap()
}

fn instance(name: &str) -> InstanceName {
    name.parse().unwrap()
}

/// Records filled by one certificate for each `identity/instance`, each of which lives ten seconds longer than the one before.
fn filled<'a>(holders: impl IntoIterator<Item = &'a str>) -> Records {
    let mut records = Records::default();
    for (n, holder) in (1..).zip(holders) {
        let (account, name) = holder.split_once('/').unwrap();
        let issued_at = SystemTime::UNIX_EPOCH;
        records.add(IssuedRecord {
            serial: vec![n],
            id: id(account),
            instance: instance(name),
            not_before: issued_at,
            not_after: issued_at + Duration::from_secs(10) * u32::from(n),
            issued_at,
            issuer_serial: vec![200],
            root_sha256: [0; 32],
            attestor: "test".to_owned(),
        });
    }
    records
}

fn room(records: &Records, account: &str, name: &str) -> Result<(), Full> {
    records.room_for(&id(account), &instance(name), &LIMITS)
}

#[test]
fn one_instance_cannot_use_up_the_room_of_its_identity() {
    let records = filled(["a/a1", "a/a1", "a/a1"]);
    assert_eq!(
        room(&records, "a", "a1"),
        Err(Full::Instance { id: id("a"), instance: instance("a1"), most: 3 })
    );
    room(&records, "a", "a2").unwrap();
    room(&records, "b", "a1").unwrap();
}

#[test]
fn one_identity_cannot_use_up_the_room_of_the_mesh_and_known_instances_come_last_to_harm() {
    let mut holders = vec!["a/a1", "a/a2", "a/a3", "a/a4", "a/a5", "a/a6", "a/a7", "a/a8"];
    let records = filled(holders.clone());
    let refused = room(&records, "a", "a9").unwrap_err();
    assert_eq!(refused, Full::Identity { id: id("a"), most: 8, whom: Whom::New });
    assert!(
        refused.to_string().contains("8 certificates") && refused.to_string().contains("--svid-lifetime")
    );
    room(&records, "a", "a1").unwrap();
    room(&records, "b", "b1").unwrap();
    holders.extend(["a/a1", "a/a2"]);
    let full = filled(holders);
    assert!(matches!(room(&full, "a", "a3"), Err(Full::Identity { most: 10, whom: Whom::Known, .. })));
    room(&full, "b", "b1").unwrap();
}

#[test]
fn a_full_mesh_refuses_new_instances_before_known_ones() {
    let names: Vec<String> = (0..16).map(|n| format!("s{}/i{n}", n % 4)).collect();
    let mut holders: Vec<&str> = names.iter().map(String::as_str).collect();
    let records = filled(holders.clone());
    assert_eq!(room(&records, "new", "n1"), Err(Full::Mesh { most: 16, whom: Whom::New }));
    room(&records, "s0", "i0").unwrap();
    holders.extend(["s0/i0", "s1/i1", "s2/i2", "s3/i3"]);
    assert!(matches!(room(&filled(holders), "s0", "i4"), Err(Full::Mesh { most: 20, whom: Whom::Known })));
}

#[test]
fn what_has_expired_makes_room() {
    let mut records = filled(["a/a1", "a/a1", "a/a1", "b/b1"]);
    records.saw(&id("a"), &instance("a1"), (SystemTime::UNIX_EPOCH, 1));
    records.prune(SystemTime::UNIX_EPOCH + Duration::from_secs(15));
    room(&records, "a", "a1").unwrap();
    assert_eq!(records.of_holder(&id("a"), &instance("a1")).count(), 2);
    assert_eq!(records.newest_of(&id("a"), &instance("a1")).unwrap().serial, [3]);
    records.prune(SystemTime::UNIX_EPOCH + Duration::from_secs(35));
    assert_eq!(records.knows(&id("a"), &instance("a1")), Whom::New);
    assert_eq!(records.last_seen(&id("a"), &instance("a1")), None);
    assert_eq!((records.len(), records.of_identity.len()), (1, 1));
}
