//! The chain: what `verify` and `replay` say of records that are missing, changed, swapped or left over.

use super::*;
use crate::store::write::{ResourceChange, Verb};

/// A ledger after some writes, with the stored records that lead to it.
fn history(writes: u64) -> (Ledger, Found) {
    let mut ledger = Ledger::empty();
    let mut found = Found::default();
    for n in 1..=writes {
        let key = format!("role/r{}", n % 3).parse().unwrap();
        let yaml = (n % 5 != 4).then(|| format!("document {n}"));
        let changes = vec![ResourceChange { key, file: "f.yaml".to_owned(), line: 1, yaml }];
        let (actor, detail) = ("alice".to_owned(), String::new());
        let write = Write { actor, verb: Verb::Apply, time_ms: n, changes, detail };
        let mut batch = Batch::after(ledger.tip());
        let planned = batch.plan(&ledger, write).unwrap();
        found.audit.insert(n, planned.record_stored.clone());
        if let Some((revision, stored)) = &planned.revision {
            found.changes.insert(revision.revision, stored.clone());
        }
        assert_eq!(batch.tip().head, planned.record.hash);
        ledger.publish(Step::Write(planned));
    }
    (ledger, found)
}

fn checked(found: &Found, tip: Tip) -> Option<(u64, String)> {
    let records = found.audit.iter().map(|(n, stored)| (*n, Ok(stored.clone())));
    verify(records, tip).broken.map(|broken| (broken.sequence, broken.problem))
}

#[test]
fn an_intact_chain_verifies_and_replays_to_the_same_state() {
    let (ledger, found) = history(12);
    assert_eq!(checked(&found, ledger.tip()), None);
    let replayed = replay(&found).unwrap();
    assert_eq!(replayed.tip(), ledger.tip());
    assert_eq!(replayed.view().resources(), ledger.view().resources());
    assert_eq!(replayed.view().history(99, None), ledger.view().history(99, None));
    assert_eq!(replayed.view().audit(1..=99), ledger.view().audit(1..=99));
}

#[test]
fn the_first_broken_record_is_named() {
    let (ledger, good) = history(9);
    let tip = ledger.tip();
    type Damage = fn(&mut Found);
    let cases: [(Damage, u64, &str); 6] = [
        (|f| drop(f.audit.remove(&4)), 4, "is missing"),
        (|f| drop(f.audit.remove(&9)), 9, "is missing"),
        (|f| drop(f.audit.insert(3, vec![0xff; 40])), 3, "cannot be decoded"),
        (|f| drop(f.audit.insert(5, f.audit[&6].clone())), 5, "says that it is record 6"),
        // Another record in its place that is itself well-formed: the next one does not follow from it.
        (
            |f| {
                let (mut record, set) = record::decode_record(&f.audit[&6]).unwrap();
                assert!(set.is_some());
                record.actor = "mallory".to_owned();
                f.audit.insert(6, record::encode_record(record).1);
            },
            7,
            "does not follow from the record before it",
        ),
        (
            |f| {
                let (mut record, _) = record::decode_record(&f.audit[&9]).unwrap();
                record.actor = "mallory".to_owned();
                f.audit.insert(9, record::encode_record(record).1);
            },
            9,
            "is not the record that was acknowledged",
        ),
    ];
    for (damage, sequence, expected) in cases {
        let mut found =
            Found { audit: good.audit.clone(), changes: good.changes.clone(), ..Found::default() };
        damage(&mut found);
        let (at, problem) = checked(&found, tip).unwrap_or_else(|| panic!("{expected:?} was not noticed"));
        assert!(
            at == sequence && problem.contains(expected),
            "{expected:?} at {sequence}: {problem} at {at}"
        );
    }
    let unreadable = good.audit.iter().map(|(n, stored)| match n {
        8 => (*n, Err("does not open: it was changed".to_owned())),
        _ => (*n, Ok(stored.clone())),
    });
    let report = verify(unreadable, tip);
    assert_eq!((report.records, report.broken.unwrap().sequence), (7, 8));
}

#[test]
fn a_change_set_that_is_not_the_recorded_one_is_refused() {
    let (_, good) = history(6);
    let with = |damage: fn(&mut Found)| {
        let mut found =
            Found { audit: good.audit.clone(), changes: good.changes.clone(), ..Found::default() };
        damage(&mut found);
        replay(&found).map(|_| ()).unwrap_err().to_string()
    };
    let missing = with(|f| drop(f.changes.remove(&2)));
    assert!(missing.contains("revision 2 is missing"), "{missing}");
    let swapped = with(|f| drop(f.changes.insert(2, f.changes[&1].clone())));
    assert!(swapped.contains("revision 2 is not the one its audit record names"), "{swapped}");
    let extra = with(|f| drop(f.changes.insert(99, Vec::new())));
    assert!(extra.contains("revision 99 belongs to no audit record"), "{extra}");
    let meta = with(|f| drop(f.meta.insert("authority".to_owned(), vec![0xff])));
    assert!(meta.contains("\"authority\" cannot be decoded"), "{meta}");
}

#[test]
fn writes_of_one_batch_see_each_other() {
    let ledger = Ledger::empty();
    let mut batch = Batch::after(ledger.tip());
    let write = |yaml: &str| Write {
        actor: String::new(),
        verb: Verb::Apply,
        time_ms: 0,
        changes: vec![ResourceChange {
            key: "role/a".parse().unwrap(),
            file: String::new(),
            line: 0,
            yaml: Some(yaml.to_owned()),
        }],
        detail: String::new(),
    };
    let first = batch.plan(&ledger, write("1")).unwrap();
    let same = batch.plan(&ledger, write("1")).unwrap();
    let second = batch.plan(&ledger, write("2")).unwrap();
    assert!(same.revision.is_none());
    let (revision, _) = second.revision.unwrap();
    assert_eq!((revision.revision, revision.sequence), (2, 3));
    assert_eq!(revision.changes[0].before, first.revision.unwrap().0.changes[0].after);
}
