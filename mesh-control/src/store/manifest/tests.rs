//! What a manifest accepts from a database and what it does not.

use super::*;
use crate::store::ledger::Step;
use crate::store::write::{ResourceChange, Verb, Write};

/// A ledger after `writes` writes and the values named, one after the other.
fn ledger(writes: u64, values: &[&str]) -> Ledger {
    let mut ledger = Ledger::empty();
    for n in 0..writes {
        let key = format!("role/r{n}").parse().unwrap();
        let changes = vec![ResourceChange { key, file: String::new(), line: 0, yaml: Some(n.to_string()) }];
        let (actor, detail) = (String::new(), String::new());
        let write = Write { actor, verb: Verb::Apply, time_ms: n, changes, detail };
        let mut batch = Batch::after(ledger.tip());
        let step = Step::Write(batch.plan(&ledger, write).unwrap());
        ledger.publish(step);
    }
    for value in values {
        let (name, content) = value.split_once('=').unwrap();
        let mut batch = Batch::after(ledger.tip());
        let planned = batch.plan_meta(&ledger, name.to_owned(), content.as_bytes().to_vec()).unwrap();
        ledger.publish(Step::Meta(planned));
    }
    ledger
}

const ID: DatabaseId = DatabaseId([3; 16]);

fn check(manifest_of: &Ledger, found: &Ledger) -> Result<(), String> {
    Manifest::of(ID, manifest_of).check(found).map_err(|mismatch| mismatch.to_string())
}

#[test]
fn a_database_that_is_ahead_is_accepted() {
    assert_eq!(check(&ledger(3, &["a=1"]), &ledger(3, &["a=1"])), Ok(()));
    assert_eq!(check(&ledger(3, &["a=1"]), &ledger(5, &["a=1", "a=2", "b=1"])), Ok(()));
    assert_eq!(check(&ledger(0, &[]), &ledger(2, &[])), Ok(()));
}

#[test]
fn a_database_that_is_behind_or_another_is_refused() {
    let cases = [
        (ledger(3, &[]), ledger(2, &[]), "audit records 3 to 3 are gone (3 were acknowledged)"),
        (ledger(3, &[]), ledger(0, &[]), "audit records 1 to 3 are gone"),
        (ledger(1, &["a=1"]), ledger(1, &[]), "\"a\" is gone"),
        (ledger(1, &["a=1", "a=2"]), ledger(1, &["a=1"]), "\"a\" is an older one"),
        (ledger(1, &["a=1"]), ledger(1, &["a=2"]), "\"a\" is an older one than was acknowledged, or another"),
        // A value that was there before the manifest was written, and which it does not name.
        (ledger(1, &["b=1", "a=1"]), ledger(1, &["c=1", "b=1", "a=1"]), "is an older one"),
    ];
    for (acknowledged, found, expected) in cases {
        let refused = check(&acknowledged, &found).unwrap_err();
        assert!(refused.contains(expected), "expected {expected:?}: {refused}");
    }
}

#[test]
fn its_form_comes_back_and_moves_with_each_batch() {
    let before = ledger(2, &["a=1"]);
    let mut manifest = Manifest::of(ID, &before);
    let mut after = ledger(2, &["a=1"]);
    let mut batch = Batch::after(after.tip());
    let change = |key: &str, yaml: Option<&str>| ResourceChange {
        key: key.parse().unwrap(),
        file: String::new(),
        line: 0,
        yaml: yaml.map(str::to_owned),
    };
    let changes = vec![change("role/r0", None), change("role/r1", Some("new")), change("role/r9", Some("9"))];
    let write = Write { actor: String::new(), verb: Verb::Apply, time_ms: 1, changes, detail: String::new() };
    let steps = vec![
        Step::Write(batch.plan(&after, write).unwrap()),
        Step::Meta(batch.plan_meta(&after, "b".to_owned(), vec![1]).unwrap()),
    ];
    manifest.after(&batch, &steps);
    steps.into_iter().for_each(|step| after.publish(step));
    assert_eq!(manifest, Manifest::of(ID, &after));

    let key = SealKey::from_bytes(&[9; 32]);
    let sealed = manifest.seal(&key).unwrap();
    assert!(u64::try_from(sealed.len()).unwrap() <= manifest.bytes_max());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifest");
    std::fs::write(&path, sealed).unwrap();
    assert_eq!(Manifest::read(&path, &key).unwrap(), manifest);
    let other = Manifest::read(&path, &SealKey::from_bytes(&[8; 32]));
    assert!(matches!(other, Err(ManifestError::WrongKey)));
}
