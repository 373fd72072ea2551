//! Restoring backups and repairing what is damaged.

use super::{Path, commit, everything, open, open_quiet, scratch, seal, write};
use mesh_ca::seal::SealKey;
use mesh_control::store::disk::{OpenError, Options, open_with, repair, restore};
use mesh_control::store::{Store, faults::NoFaults};
use std::path::PathBuf;
use std::sync::Arc;

const META: &[&str] = &["authority"];

fn backup_of(dir: &Path) -> Vec<u8> {
    let store = open_quiet(dir);
    for n in 0..5 {
        commit(&store, write(n, &[&format!("role/r{n}=document {n}")])).unwrap();
    }
    store.put_meta("authority", vec![5; 5000]).unwrap();
    let mut backup = Vec::new();
    store.backup(&mut backup).unwrap();
    backup
}

#[test]
fn a_backup_that_is_cut_or_changed_anywhere_is_refused_and_leaves_nothing() {
    let root = scratch();
    let good = backup_of(&root.path().join("good"));
    let target = root.path().join("target");
    let refused = |bytes: &[u8], what: &str| {
        let error = restore(&mut &*bytes, &target, seal()).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("nothing was written"), "{what}: {error}");
        assert!(!target.join("data").exists(), "{what}");
    };
    for cut in (0..good.len()).step_by(37).chain([good.len() - 1]) {
        refused(&good[..cut], &format!("cut to {cut}"));
    }
    for at in (0..good.len()).step_by(29) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        refused(&bytes, &format!("flipped in byte {at}"));
    }
    refused(&[good.as_slice(), b"x"].concat(), "a byte more");
    restore(&mut good.as_slice(), &target, seal()).unwrap();
}

#[test]
fn a_backup_goes_only_into_an_empty_directory_and_opens_only_with_its_key() {
    let root = scratch();
    let dir = root.path().join("good");
    let good = backup_of(&dir);
    let error = restore(&mut good.as_slice(), &dir, seal()).unwrap_err();
    assert!(matches!(error, OpenError::NotEmpty { .. }), "{error}");
    let other = Arc::new(SealKey::from_bytes(&[1; 32]));
    let error = restore(&mut good.as_slice(), &root.path().join("new"), other).unwrap_err();
    assert!(error.to_string().contains("seal.key"), "{error}");
    let error = restore(&mut b"apiVersion: meshctl.io/v1alpha1".as_slice(), &root.path().join("new"), seal());
    assert!(error.unwrap_err().to_string().contains("no backup of a mesh"));
    // The custom: the control plane makes the directory first.
    std::fs::create_dir(root.path().join("made")).unwrap();
    restore(&mut good.as_slice(), &root.path().join("made"), seal()).unwrap();
}

#[test]
fn exports_are_made_by_themselves_and_only_the_newest_are_kept() {
    let root = scratch();
    let options = Options { export_every: 2, faults: Arc::new(NoFaults) };
    let store = open_with(root.path(), seal(), options).unwrap();
    for n in 0..24 {
        commit(&store, write(n, &[&format!("role/r{n}=1")])).unwrap();
    }
    let newest = store.export().unwrap();
    let said = everything(&store.read(), &[]);
    drop(store);
    let exports: Vec<_> = std::fs::read_dir(root.path().join("exports")).unwrap().collect();
    assert_eq!(exports.len(), 4, "{exports:?}");
    let copy = scratch();
    restore(&mut std::fs::File::open(newest).unwrap(), copy.path(), seal()).unwrap();
    assert_eq!(everything(&open_quiet(copy.path()).read(), &[]), said);
}

/// A store with an export in the middle, and what it said at that time and at the end.
struct Sample {
    _root: tempfile::TempDir,
    dir: PathBuf,
    said: String,
}

fn sample() -> Sample {
    let root = scratch();
    let dir = root.path().join("store");
    let store = open_quiet(&dir);
    for n in 0..40 {
        commit(&store, write(n, &[&format!("role/r{}=document {n} {}", n % 7, "z".repeat(2000))])).unwrap();
        if n == 19 {
            store.put_meta("authority", vec![1; 2000]).unwrap();
            store.export().unwrap();
        }
    }
    store.put_meta("authority", vec![2; 2000]).unwrap();
    let said = everything(&store.read(), META);
    drop(store);
    // The export made at the end would make it too easy.
    let newest = std::fs::read_dir(dir.join("exports")).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    std::fs::remove_file(newest).unwrap();
    Sample { _root: root, dir, said }
}

#[test]
fn a_repair_without_its_manifest_loses_nothing() {
    let sample = sample();
    std::fs::remove_file(sample.dir.join("data/manifest")).unwrap();
    assert!(matches!(open_with(&sample.dir, seal(), Options::default()), Err(OpenError::Damaged { .. })));
    let report = repair(&sample.dir, seal()).unwrap();
    assert_eq!((report.records, report.records_lost, report.revision), (40, None, 40));
    assert!(report.kept_as.join("sled/db").exists(), "{report:?}");
    assert_eq!(everything(&open(&sample.dir).read(), META), sample.said);
}

#[test]
fn a_repair_of_a_lost_database_goes_back_to_the_newest_export_and_says_what_is_missing() {
    let sample = sample();
    let file = std::fs::OpenOptions::new().write(true).open(sample.dir.join("data/sled/db")).unwrap();
    file.set_len(1000).unwrap();
    let error = open_with(&sample.dir, seal(), Options::default()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("meshctl check --repair-store"), "{error}");
    let report = repair(&sample.dir, seal()).unwrap();
    assert_eq!((report.records, report.records_lost), (20, Some(20)), "{report:?}");
    assert_eq!(report.values_lost, ["authority"]);
    let store = open(&sample.dir);
    assert_eq!(store.read().meta("authority"), Some(vec![1; 2000]));
    let next = commit(&store, write(99, &["role/after=repair"])).unwrap();
    assert_eq!(next.audit_sequence, 21);
    assert_eq!(store.verify_audit().unwrap().broken, None);
}

#[test]
fn a_repair_after_any_flipped_byte_keeps_a_true_beginning() {
    let sample = sample();
    let path = sample.dir.join("data/sled/db");
    let content = std::fs::read(&path).unwrap();
    let whole = open_quiet(&sample.dir).read();
    for _ in 0..25 {
        let mut bytes = content.clone();
        let at = rand::random_range(0..bytes.len());
        bytes[at] ^= 0x55;
        let root = scratch();
        let dir = root.path().join("store");
        let copied = std::process::Command::new("cp").arg("-r").arg(&sample.dir).arg(&dir).status().unwrap();
        assert!(copied.success());
        std::fs::write(dir.join("data/sled/db"), bytes).unwrap();
        let report = repair(&dir, seal()).unwrap_or_else(|e| panic!("byte {at}: {e}"));
        assert!(report.records >= 20, "byte {at}: less than the export has: {report:?}");
        assert_eq!(report.records_lost, Some(40 - report.records), "byte {at}");
        let view = open(&dir).read();
        let hash =
            |view: &mesh_control::store::view::ReadView| view.audit(report.records..=report.records)[0].hash;
        assert_eq!(hash(&view), hash(&whole), "byte {at}");
        assert_eq!(view.audit_sequence(), report.records);
    }
}

#[test]
fn an_interrupted_repair_is_finished_by_the_next_one() {
    let sample = sample();
    std::fs::rename(sample.dir.join("data"), sample.dir.join("data.damaged-1")).unwrap();
    let error = open_with(&sample.dir, seal(), Options::default()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("a repair was interrupted") && error.contains("--repair-store"), "{error}");
    assert_eq!(repair(&sample.dir, seal()).unwrap().records_lost, Some(0));
    assert_eq!(everything(&open(&sample.dir).read(), META), sample.said);
}

#[test]
fn a_repair_with_nothing_left_or_the_wrong_key_changes_nothing() {
    let sample = sample();
    let wrong = repair(&sample.dir, Arc::new(SealKey::from_bytes(&[1; 32]))).unwrap_err();
    assert!(matches!(wrong, OpenError::WrongSealKey { .. }), "{wrong}");
    std::fs::remove_dir_all(sample.dir.join("exports")).unwrap();
    std::fs::remove_file(sample.dir.join("data/sled/db")).unwrap();
    let error = repair(&sample.dir, seal()).unwrap_err();
    assert!(matches!(error, OpenError::NothingLeft { .. }), "{error}");
    assert!(sample.dir.join("data/manifest").exists());
}
