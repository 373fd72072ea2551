//! What every store does, on disk or in memory.

use super::{change, commit, everything, key, open_quiet, seal, write};
use mesh_control::store::disk::restore;
use mesh_control::store::memory::MemoryStore;
use mesh_control::store::write::{CHANGES_MAX, DOCUMENT_BYTES_MAX, META_KEYS_MAX, Verb, Write};
use mesh_control::store::{Health, Store, StoreError};

/// Runs the same test over both kinds.
fn both(test: impl Fn(&dyn Store)) {
    test(&MemoryStore::sealed_by(seal()));
    let dir = tempfile::tempdir().unwrap();
    test(&open_quiet(dir.path()));
}

#[test]
fn revisions_count_changes_and_records_count_acts() {
    both(|store| {
        let first = commit(store, write(1, &["accesspolicy/shop/web=a", "role/buyer=b"])).unwrap();
        assert_eq!((first.revision, first.audit_sequence), (1, 1));
        let same = commit(store, write(2, &["role/buyer=b", "-role/nobody"])).unwrap();
        assert_eq!((same.revision, same.audit_sequence), (1, 2), "nothing changed");
        let act = Write { verb: Verb::Ca, changes: Vec::new(), ..write(3, &[]) };
        let act = commit(store, act).unwrap();
        assert_eq!((act.revision, act.audit_sequence), (1, 3));
        let second = commit(store, write(4, &["-accesspolicy/shop/web"])).unwrap();
        assert_eq!((second.revision, second.audit_sequence), (2, 4));
        assert_eq!(store.read().resources().len(), 1);
        assert_eq!(store.health(), Health::Ok);
    });
}

#[test]
fn a_view_does_not_change_when_the_store_does() {
    both(|store| {
        commit(store, write(1, &["role/buyer=a"])).unwrap();
        let view = store.read();
        let before = everything(&view, &[]);
        commit(store, write(2, &["role/buyer=b", "role/seller=c"])).unwrap();
        assert_eq!(everything(&view, &[]), before);
        assert_eq!(view.history(10, None).len(), 1);
        assert_eq!(store.read().history(10, None).len(), 2);
    });
}

#[test]
fn every_past_revision_can_be_shown_compared_and_brought_back() {
    both(|store| {
        commit(store, write(1, &["role/a=1", "role/b=1"])).unwrap();
        commit(store, write(2, &["role/a=2"])).unwrap();
        commit(store, write(3, &["-role/b", "role/c=3"])).unwrap();
        let view = store.read();
        let at = |revision| {
            let resources = view.resources_at(revision).unwrap();
            resources
                .values()
                .map(|r| format!("{}={}@{}", r.key.name, r.yaml, r.revision))
                .collect::<Vec<_>>()
        };
        assert_eq!(at(0), Vec::<String>::new());
        assert_eq!(at(1), ["a=1@1", "b=1@1"]);
        assert_eq!(at(2), ["a=2@2", "b=1@1"]);
        assert_eq!(at(3), ["a=2@2", "c=3@3"]);
        assert!(matches!(view.resources_at(4), Err(StoreError::NoSuchRevision { asked: 4, newest: 3 })));

        let changed = view.change_set(3).unwrap();
        assert_eq!(changed.changes.iter().map(|c| c.key.name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(changed.changes[0].before.as_ref().unwrap().yaml, "1");
        let revisions = |key: &str| {
            let history = view.history(10, Some(&super::key(key)));
            history.iter().map(|r| r.revision).collect::<Vec<_>>()
        };
        assert_eq!(revisions("role/a"), [2, 1]);
        assert_eq!(revisions("role/b"), [3, 1]);
        assert_eq!(view.diff(1, 3).unwrap().len(), 3);
        assert_eq!(view.diff(3, 3).unwrap(), []);

        let back = Write { verb: Verb::Rollback, changes: view.changes_back_to(1).unwrap(), ..write(4, &[]) };
        assert_eq!(commit(store, back).unwrap().revision, 4);
        let view = store.read();
        let documents = |revision| {
            let resources = view.resources_at(revision).unwrap();
            resources.values().map(|r| (r.key.clone(), r.yaml.clone())).collect::<Vec<_>>()
        };
        assert_eq!(documents(4), documents(1));
        assert_eq!(view.changes_back_to(1).unwrap(), []);
    });
}

#[test]
fn the_audit_record_says_who_what_when_and_proves_the_documents() {
    both(|store| {
        commit(store, write(5, &["role/a=1"])).unwrap();
        commit(store, write(6, &["role/a=2"])).unwrap();
        let records = store.read().audit(1..=9);
        let [first, second] = records.as_slice() else { panic!("{records:?}") };
        assert_eq!(second.previous, first.hash);
        assert_eq!(
            (second.time_ms, second.verb, second.actor.as_str()),
            (6, Verb::Apply, "uid 1000 (alice)")
        );
        let hex =
            |hash: Option<[u8; 32]>| hash.unwrap().iter().map(|b| format!("{b:02x}")).collect::<String>();
        // printf 1 | sha256sum; printf 2 | sha256sum
        let one = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
        let two = "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35";
        assert_eq!(hex(second.changes[0].before), one);
        assert_eq!(hex(second.changes[0].after), two);
        let report = store.verify_audit().unwrap();
        assert_eq!((report.records, report.broken, report.head), (2, None, second.hash));
        assert_eq!(store.read().audit_head(), second.hash);
    });
}

#[test]
fn values_of_other_parts_are_replaced_and_leave_no_record() {
    both(|store| {
        assert_eq!(store.read().meta("authority"), None);
        store.put_meta("authority", vec![1; 9000]).unwrap();
        store.put_meta("authority", vec![2; 3]).unwrap();
        assert_eq!(store.read().meta("authority"), Some(vec![2; 3]));
        assert_eq!(store.read().audit_sequence(), 0);
    });
}

#[test]
fn limits_are_named_and_nothing_of_such_a_write_is_kept() {
    both(|store| {
        let long = "x".repeat(DOCUMENT_BYTES_MAX + 1);
        let many: Vec<_> = (0..=CHANGES_MAX).map(|n| change(&format!("role/r{n}=x"))).collect();
        let cases: [(Write, &str); 3] = [
            (write(1, &["role/ok=1", &format!("role/long={long}")]), "Role long has 1048577 bytes"),
            (Write { changes: many, ..write(1, &[]) }, "20001 changes at once"),
            (Write { detail: "d".repeat(5000), ..write(1, &["role/ok=1"]) }, "the detail has 5000 bytes"),
        ];
        for (write, expected) in cases {
            let error = commit(store, write).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for name in ["", "Upper", "spa ce", &"n".repeat(129)] {
            assert!(store.put_meta(name, Vec::new()).is_err(), "{name:?}");
        }
        assert_eq!(everything(&store.read(), &[]), "revision 0 sequence 0\n");
        assert!(store.read().resource(&key("role/ok")).is_none());
    });
}

#[test]
fn values_have_a_limited_number_of_names() {
    let store = MemoryStore::new();
    for n in 0..META_KEYS_MAX {
        store.put_meta(&format!("n{n}"), Vec::new()).unwrap();
    }
    store.put_meta("n0", vec![1]).unwrap();
    let error = store.put_meta("one-more", Vec::new()).unwrap_err().to_string();
    assert!(error.contains("256 values already"), "{error}");
}

#[test]
fn a_backup_of_either_kind_restores_to_the_same_everything() {
    both(|store| {
        commit(store, write(1, &["role/a=1", "accesspolicy/shop/web=2"])).unwrap();
        commit(store, write(2, &["-role/a"])).unwrap();
        commit(store, Write { verb: Verb::Ca, ..write(3, &[]) }).unwrap();
        store.put_meta("authority", vec![9; 100_000]).unwrap();
        let mut backup = Vec::new();
        let report = store.backup(&mut backup).unwrap();
        assert_eq!((report.revision, report.records, report.resources), (2, 3, 1));
        assert_eq!(report.bytes, backup.len() as u64);

        let dir = tempfile::tempdir().unwrap();
        assert_eq!(restore(&mut backup.as_slice(), dir.path(), seal()).unwrap(), report);
        let restored = open_quiet(dir.path());
        assert_eq!(everything(&restored.read(), &["authority"]), everything(&store.read(), &["authority"]));
        let next = commit(&restored, write(4, &["role/z=1"])).unwrap();
        assert_eq!((next.revision, next.audit_sequence), (3, 4));
    });
}
