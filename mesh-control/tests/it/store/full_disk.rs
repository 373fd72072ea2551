//! A full disk, a read-only disk: writes are refused, reads go on, nothing needs a restart.

use super::{Path, commit, everything, open_quiet, seal, write};
use mesh_control::store::disk::{OpenError, open, restore};
use mesh_control::store::{Health, Store, StoreError};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// A file system of its own, so small that it can be filled.
struct Tmpfs {
    path: PathBuf,
    _root: tempfile::TempDir,
}

impl Tmpfs {
    fn new(size: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("small");
        std::fs::create_dir(&path).unwrap();
        let tmpfs = Self { path, _root: root };
        tmpfs.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        tmpfs
    }

    fn mount(&self, arguments: &[&str]) {
        let output = Command::new("mount").args(arguments).arg(&self.path).output();
        let output = output.unwrap_or_else(|e| panic!("this test needs the program `mount`: {e}"));
        assert!(
            output.status.success(),
            "this test needs the right to mount a tmpfs (run it as root): {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Writes a file until nothing more fits.
    fn fill(&self) -> PathBuf {
        let path = self.path.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

fn fill_and_free(tmpfs: &Tmpfs, dir: &Path) {
    let store = open_quiet(dir);
    let mut n = store.read().audit_sequence();
    commit(&store, write(n, &["role/a=before"])).unwrap();
    store.put_meta("authority", vec![1]).unwrap();
    let before = everything(&store.read(), &["authority"]);

    let filler = tmpfs.fill();
    for _ in 0..3 {
        let error = commit(&store, write(9, &["role/a=refused"])).unwrap_err();
        assert!(matches!(error, StoreError::WritesRefused { .. }), "{error}");
        assert!(error.to_string().contains("no space left"), "{error}");
        store.put_meta("authority", vec![2]).unwrap_err();
    }
    let Health::WritesRefused { reason } = store.health() else { panic!("healthy on a full disk") };
    assert!(reason.contains("no space left") && reason.contains(&dir.display().to_string()), "{reason}");
    assert_eq!(everything(&store.read(), &["authority"]), before);
    assert_eq!(store.verify_audit().unwrap().broken, None);

    std::fs::remove_file(filler).unwrap();
    n = commit(&store, write(10, &["role/a=after"])).unwrap().audit_sequence;
    assert_eq!(store.health(), Health::Ok);
    let after = everything(&store.read(), &["authority"]);
    drop(store);
    let store = open_quiet(dir);
    assert_eq!(everything(&store.read(), &["authority"]), after);
    assert_eq!(store.read().audit_sequence(), n);
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let tmpfs = Tmpfs::new("8m");
    let dir = tmpfs.path.join("store");
    for _ in 0..3 {
        fill_and_free(&tmpfs, &dir);
    }
}

#[test]
fn writes_until_the_disk_is_full_are_all_kept() {
    let tmpfs = Tmpfs::new("6m");
    let dir = tmpfs.path.join("store");
    let store = open_quiet(&dir);
    let long = "x".repeat(30_000);
    let mut accepted = 0;
    while commit(&store, write(accepted, &[&format!("role/r{accepted}=n: {accepted} {long}")])).is_ok() {
        accepted += 1;
        assert!(accepted < 1000, "6 MiB never got full");
    }
    assert!(accepted > 10, "full after {accepted} writes of 30 KB");
    let said = everything(&store.read(), &[]);
    drop(store);
    // Another megabyte, by removing what the last export took if it fitted.
    let _ = std::fs::remove_dir_all(dir.join("exports"));
    let store = open_quiet(&dir);
    assert_eq!(store.read().audit_sequence(), accepted);
    assert_eq!(everything(&store.read(), &[]), said);
}

#[test]
fn a_read_only_disk_is_named_when_the_store_is_opened() {
    let tmpfs = Tmpfs::new("8m");
    let dir = tmpfs.path.join("store");
    drop(open_quiet(&dir));
    tmpfs.mount(&["-o", "remount,ro"]);
    let error = open(&dir, seal()).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    assert!(error.to_string().to_lowercase().contains("read-only"), "{error}");
    tmpfs.mount(&["-o", "remount,rw"]);
    open_quiet(&dir);
}

#[test]
fn a_store_that_cannot_be_made_is_no_store_later() {
    let tmpfs = Tmpfs::new("4m");
    let dir = tmpfs.path.join("store");
    let filler = tmpfs.fill();
    let error = open(&dir, seal()).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    assert!(!dir.join("data.new").exists(), "a part of a store takes up the space that is missing");
    std::fs::remove_file(filler).unwrap();
    let store = open_quiet(&dir);
    commit(&store, write(1, &["role/a=1"])).unwrap();
    let mut backup = Vec::new();
    store.backup(&mut backup).unwrap();
    drop(store);
    // The same for a restore, which must be possible again when there is room.
    let other = tmpfs.path.join("restored");
    let filler = tmpfs.fill();
    let error = restore(&mut backup.as_slice(), &other, seal()).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    std::fs::remove_file(filler).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(restore(&mut backup.as_slice(), &other, seal()).unwrap().records, 1);
}
