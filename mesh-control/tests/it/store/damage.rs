//! Files cut, bytes flipped, databases swapped: everything or a refusal, never less.

use super::{Path, commit, everything, open_quiet, scratch, seal, write};
use mesh_ca::seal::SealKey;
use mesh_control::store::Store;
use mesh_control::store::disk::{OpenError, open};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A store with a little of everything, and what it says.
struct Sample {
    root: tempfile::TempDir,
    said: String,
    records: u64,
}

const META: &[&str] = &["authority", "registry"];

impl Sample {
    fn new() -> Self {
        let root = scratch();
        let store = open_quiet(&root.path().join("good"));
        let long = "y".repeat(9_000);
        for n in 0..60 {
            let documents =
                [format!("accesspolicy/shop/p{}=n: {n} {long}", n % 20), format!("role/r{n}=small")];
            commit(&store, write(n, &[&documents[0], &documents[1]])).unwrap();
        }
        store.put_meta("authority", vec![1; 30_000]).unwrap();
        store.put_meta("registry", vec![2; 10]).unwrap();
        let said = everything(&store.read(), META);
        drop(store);
        // The last export would refuse an emptied database all by itself; the manifest must.
        std::fs::remove_dir_all(root.path().join("good/exports")).unwrap();
        Self { root, said, records: 60 }
    }

    fn good(&self) -> PathBuf {
        self.root.path().join("good")
    }

    /// A fresh copy to be damaged.
    fn copy(&self) -> PathBuf {
        let dir = self.root.path().join("copy");
        let _ = std::fs::remove_dir_all(&dir);
        let copied = std::process::Command::new("cp").arg("-r").arg(self.good()).arg(&dir).status().unwrap();
        assert!(copied.success());
        dir
    }

    /// Opens a damaged copy: whole or refused, and after a refusal byte for byte as it was. Whether it was refused.
    fn whole_or_refused(&self, dir: &Path, what: &str) -> bool {
        let before = bytes(&dir.join("data"));
        match open(dir, seal()) {
            Ok(store) => {
                assert!(
                    everything(&store.read(), META) == self.said,
                    "{what}: opened with less than was stored"
                );
                false
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("meshctl "), "{what}: {text}");
                assert!(bytes(&dir.join("data")) == before, "{what}: changed by a refused opening");
                true
            }
        }
    }
}

/// The content of every file below a directory.
fn bytes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    // A directory that is gone has no files.
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(bytes(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

fn database(dir: &Path) -> PathBuf {
    dir.join("data/sled/db")
}

#[test]
fn a_cut_database_is_refused() {
    let sample = Sample::new();
    let length = std::fs::metadata(database(&sample.good())).unwrap().len();
    // Everything is in the first two thirds at least: sled's last segment may be padding.
    let mut lengths: Vec<u64> = (0..40).map(|n| length * n / 40).collect();
    lengths.extend((0..length).step_by(512 << 10));
    lengths.extend((0..20).map(|_| rand::random_range(0..length)));
    let mut refused = 0;
    for cut in &lengths {
        let dir = sample.copy();
        std::fs::OpenOptions::new().write(true).open(database(&dir)).unwrap().set_len(*cut).unwrap();
        let was_refused = sample.whole_or_refused(&dir, &format!("cut to {cut} of {length}"));
        assert!(was_refused || *cut > length / 2, "cut to {cut} of {length} and opened");
        refused += u32::from(was_refused);
    }
    assert!(refused > 40, "{refused} of {} cuts refused", lengths.len());
}

#[test]
fn a_flipped_byte_never_makes_the_store_say_less() {
    let sample = Sample::new();
    let mut refused = 0;
    for (path, content) in bytes(&sample.good().join("data")) {
        let name = path.strip_prefix(sample.good()).unwrap().to_path_buf();
        let tries = if content.len() > 4096 { 90 } else { 12 };
        for _ in 0..tries {
            let mut content = content.clone();
            let at = rand::random_range(0..content.len());
            content[at] ^= 1 << rand::random_range(0..8);
            let dir = sample.copy();
            std::fs::write(dir.join(&name), content).unwrap();
            refused += u32::from(sample.whole_or_refused(&dir, &format!("{} byte {at}", name.display())));
        }
    }
    assert!(refused > 20, "only {refused} flips were noticed");
}

#[test]
fn an_overwritten_block_never_makes_the_store_say_less() {
    let sample = Sample::new();
    let content = std::fs::read(database(&sample.good())).unwrap();
    for _ in 0..20 {
        let mut content = content.clone();
        let at = rand::random_range(0..content.len().saturating_sub(4096));
        content[at..at + 4096].fill(rand::random());
        let dir = sample.copy();
        std::fs::write(database(&dir), content).unwrap();
        sample.whole_or_refused(&dir, &format!("4 KiB at {at}"));
    }
}

/// Damages a copy and returns the refusal.
fn refusal(sample: &Sample, damage: impl FnOnce(&Path)) -> String {
    let dir = sample.copy();
    damage(&dir);
    assert!(sample.whole_or_refused(&dir, "must be refused"));
    open(&dir, seal()).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn every_missing_or_swapped_part_is_named() {
    let sample = Sample::new();
    let good = open_quiet(&sample.good());
    let backup = sample.root.path().join("older");
    std::process::Command::new("cp").arg("-r").arg(sample.good()).arg(&backup).status().unwrap();
    commit(&good, write(100, &["role/newer=1"])).unwrap();
    drop(good);
    let replace = |from: PathBuf, to: PathBuf| {
        let _ = std::fs::remove_dir_all(&to);
        let _ = std::fs::remove_file(&to);
        assert!(std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
    };
    let records = sample.records + 1;
    let cases: [(&str, String); 6] = [
        (
            "the manifest is missing",
            refusal(&sample, |dir| std::fs::remove_file(dir.join("data/manifest")).unwrap()),
        ),
        ("its file db is gone", refusal(&sample, |dir| std::fs::remove_file(database(dir)).unwrap())),
        (
            "its file conf is gone",
            refusal(&sample, |dir| std::fs::remove_file(dir.join("data/sled/conf")).unwrap()),
        ),
        (
            &format!("audit records {records} to {records} are gone"),
            refusal(&sample, |dir| replace(backup.join("data/sled"), dir.join("data/sled"))),
        ),
        ("it is an older state", refusal(&sample, |dir| replace(backup.join("data"), dir.join("data")))),
        ("its database is gone", refusal(&sample, |dir| std::fs::remove_dir_all(dir.join("data")).unwrap())),
    ];
    for (expected, text) in cases {
        let expected = expected.replace("the manifest", "its manifest");
        assert!(text.contains(&expected), "expected {expected:?} in {text}");
        assert!(text.contains("meshctl check --repair-store --state-dir"), "{text}");
        assert!(text.contains("meshctl restore FILE"), "{text}");
    }
}

#[test]
fn a_database_of_another_mesh_is_refused_even_under_the_same_key() {
    let sample = Sample::new();
    let other = sample.root.path().join("other");
    drop(open_quiet(&other));
    let dir = sample.copy();
    std::fs::remove_dir_all(dir.join("data/sled")).unwrap();
    std::fs::rename(other.join("data/sled"), dir.join("data/sled")).unwrap();
    let error = open(&dir, seal()).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn another_key_is_told_from_damage() {
    let sample = Sample::new();
    let error = open(&sample.good(), Arc::new(SealKey::from_bytes(&[8; 32]))).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::WrongSealKey { .. }), "{error}");
    assert!(error.to_string().contains("seal.key"), "{error}");
    open_quiet(&sample.good());
}

#[test]
fn a_second_opener_is_told_who_is_first() {
    let root = scratch();
    let first = open_quiet(root.path());
    let error = open(root.path(), seal()).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(first);
    open_quiet(root.path());
}

#[test]
fn nothing_of_a_document_stands_in_the_clear_on_the_disk() {
    let root = scratch();
    let store = open_quiet(root.path());
    let secret = "open-sesame-4711";
    commit(&store, write(1, &[&format!("accesspolicy/shop/web=allow: {secret}")])).unwrap();
    store.put_meta("authority", secret.as_bytes().to_vec()).unwrap();
    store.export().unwrap();
    drop(store);
    for (path, content) in bytes(root.path()) {
        for needle in [secret, "uid 1000", "shop.yaml"] {
            let found = content.windows(needle.len()).any(|window| window == needle.as_bytes());
            assert!(!found, "{needle} in {}", path.display());
        }
    }
}
