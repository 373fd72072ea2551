//! A crash, or a failure of the disk, at every act of the store.
//!
//! A crash is simulated by copying the store's directory at the moment of the act: that is what a `kill -9` leaves. A
//! power cut leaves what was fsynced: the database as it was then, with the manifest that stands there or, as long as its
//! name was not made durable, the one before.

use super::{Path, commit, open_quiet, scratch, seal, write};
use mesh_control::store::disk::{Options, SledStore, open_with};
use mesh_control::store::faults::{Faults, Point};
use mesh_control::store::{Health, Store, StoreError};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Copies the store at each act, and fails when told to.
struct Scene {
    store: PathBuf,
    out: PathBuf,
    /// What the client was told: the last audit record, the last value.
    told: AtomicU64,
    told_meta: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    copies: Vec<Copy>,
    fail: Option<(Point, Failing)>,
    /// The database as it was last fsynced.
    synced: Option<PathBuf>,
    synced_count: u32,
    /// Copies ever made.
    kept: u32,
    /// The manifest whose name was last made durable, and the one whose name is just being.
    named: Option<Vec<u8>>,
    naming: Option<Vec<u8>>,
}

#[derive(Clone, Copy)]
enum Failing {
    Once,
    UntilCleared,
}

struct Copy {
    point: Point,
    dir: PathBuf,
    told: u64,
    told_meta: u64,
}

impl Scene {
    fn new(root: &Path) -> Arc<Self> {
        let (store, out) = (root.join("store"), root.join("copies"));
        std::fs::create_dir(&out).unwrap();
        let state = Mutex::default();
        Arc::new(Self { store, out, told: AtomicU64::new(0), told_meta: AtomicU64::new(0), state })
    }

    fn open(self: &Arc<Self>) -> SledStore {
        let faults: Arc<dyn Faults> = Arc::<Self>::clone(self);
        open_with(&self.store, seal(), Options { faults, export_every: 3 }).unwrap()
    }

    fn fail(&self, fail: Option<(Point, Failing)>) {
        self.state.lock().unwrap().fail = fail;
    }

    fn keep(&self, state: &mut State, point: Point, name: &str, change: impl FnOnce(&Path)) {
        state.kept += 1;
        let dir = self.out.join(format!("{}-{point:?}-{name}", state.kept));
        copy(&self.store, &dir);
        change(&dir);
        let (told, told_meta) = (self.told.load(Ordering::SeqCst), self.told_meta.load(Ordering::SeqCst));
        state.copies.push(Copy { point, dir, told, told_meta });
    }
}

impl Faults for Scene {
    fn reach(&self, point: Point) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        self.keep(&mut state, point, "killed", |_| {});
        if point == Point::ManifestWrite {
            state.synced_count += 1;
            let synced = self.out.join(format!("synced-{}", state.synced_count));
            copy(&self.store.join("data/sled"), &synced);
            if let Some(old) = state.synced.replace(synced) {
                std::fs::remove_dir_all(old).unwrap();
            }
        }
        if let Some(synced) = state.synced.clone() {
            let database = |dir: &Path| {
                std::fs::remove_dir_all(dir.join("data/sled")).unwrap();
                copy(&synced, &dir.join("data/sled"));
            };
            self.keep(&mut state, point, "power", database);
            if let Some(named) = state.named.clone() {
                self.keep(&mut state, point, "old-name", |dir| {
                    database(dir);
                    std::fs::write(dir.join("data/manifest"), named).unwrap();
                });
            }
        }
        if let Some(now) = state.naming.take() {
            state.named = Some(now);
        }
        if point == Point::ManifestSyncDirectory {
            state.naming = std::fs::read(self.store.join("data/manifest")).ok();
        }
        match state.fail {
            Some((failing, how)) if failing == point => {
                if matches!(how, Failing::Once) {
                    state.fail = None;
                }
                Err(io::Error::other("injected"))
            }
            _ => Ok(()),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = match entry {
            Ok(entry) => (entry.path(), to.join(entry.file_name())),
            Err(error) => panic!("{}: {error}", from.display()),
        };
        if path.is_dir() {
            copy(&path, &target);
        } else if let Err(error) = std::fs::copy(&path, &target) {
            // The other thread may be replacing an export meanwhile.
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{}", path.display());
        }
    }
}

/// Opens each copy: nothing that was told is missing, at most the write under way is there too, and it goes on.
fn check(scene: &Scene, hashes: &[[u8; 32]]) {
    let copies = std::mem::take(&mut scene.state.lock().unwrap().copies);
    for Copy { point, dir, told, told_meta } in copies {
        let opened = open_with(&dir, seal(), Options { export_every: u64::MAX, ..Options::default() });
        let store = opened.unwrap_or_else(|e| panic!("{point:?} {}: {e}", dir.display()));
        let view = store.read();
        let found = view.audit_sequence();
        assert!((told..=told + 1).contains(&found), "{point:?}: told of {told}, found {found}");
        let at = view.audit(told..=told).first().map_or([0; 32], |record| record.hash);
        assert_eq!(at, hashes[usize::try_from(told).unwrap()], "{point:?}: record {told} is another one");
        let meta = view.meta("value").map_or(0, |bytes| u64::from(bytes[0]));
        assert!(
            (told_meta..=told_meta + 1).contains(&meta),
            "{point:?}: told of value {told_meta}, found {meta}"
        );
        commit(&store, write(99, &["role/after=crash"])).unwrap();
        drop(store);
        assert_eq!(open_quiet(&dir).read().audit_sequence(), found + 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

/// Writes of all kinds; the hash of each record as it was acknowledged.
fn act(scene: &Scene, store: &SledStore, hashes: &mut Vec<[u8; 32]>, rounds: std::ops::Range<u64>) {
    let long = "z".repeat(40_000);
    for n in rounds {
        let documents = match n % 3 {
            0 => vec![format!("role/r{n}={n}"), "role/same=1".to_owned()],
            1 => vec![format!("role/long={n}{long}")],
            _ => vec![format!("-role/r{}", n - 2), "role/same=2".to_owned()],
        };
        let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
        if let Ok(done) = commit(store, write(n, &documents)) {
            scene.told.store(done.audit_sequence, Ordering::SeqCst);
            hashes.push(store.read().audit_head());
        }
        let value = scene.told_meta.load(Ordering::SeqCst) + 1;
        if store.put_meta("value", vec![u8::try_from(value).unwrap(); 9000]).is_ok() {
            scene.told_meta.store(value, Ordering::SeqCst);
        }
    }
}

#[test]
fn a_crash_at_any_act_loses_nothing_acknowledged_and_needs_no_repair() {
    let root = scratch();
    let scene = Scene::new(root.path());
    let mut hashes = vec![[0; 32]];
    let store = scene.open();
    act(&scene, &store, &mut hashes, 0..3);
    drop(store);
    // Once more, over a database that has something in it, and with enough exports to remove old ones.
    let store = scene.open();
    act(&scene, &store, &mut hashes, 3..8);
    drop(store);
    let reached: BTreeSet<Point> = scene.state.lock().unwrap().copies.iter().map(|copy| copy.point).collect();
    assert_eq!(reached, BTreeSet::from(Point::ALL), "acts that were never reached prove nothing");
    check(&scene, &hashes);
}

/// The acts of a commit before it is acknowledged.
const COMMIT: [Point; 8] = [
    Point::Reserve,
    Point::ManifestCreate,
    Point::Transaction,
    Point::Flush,
    Point::SyncDatabase,
    Point::ManifestWrite,
    Point::ManifestSync,
    Point::ManifestRename,
];

#[test]
fn a_failure_at_any_act_refuses_the_write_and_the_next_one_works() {
    for point in COMMIT {
        let root = scratch();
        let scene = Scene::new(root.path());
        let mut hashes = vec![[0; 32]];
        let store = scene.open();
        act(&scene, &store, &mut hashes, 0..2);
        // The other test opened the copies made so far.
        scene.state.lock().unwrap().copies.clear();
        let before = super::everything(&store.read(), &["value"]);

        scene.fail(Some((point, Failing::UntilCleared)));
        for write in [write(7, &["role/same=other", "role/new=1"]), write(8, &["-role/same"])] {
            let error = commit(&store, write).unwrap_err();
            assert!(matches!(error, StoreError::WritesRefused { .. }), "{point:?}: {error}");
        }
        assert!(store.put_meta("value", vec![3; 100]).is_err(), "{point:?}");
        assert!(matches!(store.health(), Health::WritesRefused { .. }), "{point:?}");
        assert_eq!(super::everything(&store.read(), &["value"]), before, "{point:?}");

        // Crashes now, and while it recovers, find at most the one write that failed half way.
        scene.fail(None);
        act(&scene, &store, &mut hashes, 2..3);
        assert_eq!(store.health(), Health::Ok, "{point:?}");
        let after = super::everything(&store.read(), &["value"]);
        assert!(!after.contains("role/new") && !after.contains("other"), "{point:?}: {after}");
        drop(store);
        check(&scene, &hashes);
        assert_eq!(super::everything(&open_quiet(&scene.store).read(), &["value"]), after, "{point:?}");
    }
}

#[test]
fn a_store_that_refused_writes_recovers_by_itself() {
    for point in [Point::Reserve, Point::SyncDatabase, Point::ManifestRename, Point::ManifestSyncDirectory] {
        let root = scratch();
        let scene = Scene::new(root.path());
        let store = scene.open();
        scene.fail(Some((point, Failing::Once)));
        let refused = commit(&store, write(1, &["role/a=1"])).is_err();
        // Only the name of the manifest is made durable after the answer.
        assert_eq!(refused, point != Point::ManifestSyncDirectory);
        #[expect(clippy::disallowed_methods, reason = "a test's deadline")]
        let deadline = Instant::now() + Duration::from_secs(20);
        while store.health() != Health::Ok {
            #[expect(clippy::disallowed_methods, reason = "a test's deadline")]
            let late = Instant::now() > deadline;
            assert!(!late, "{point:?}: still {:?}", store.health());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let revision = commit(&store, write(2, &["role/a=2"])).unwrap().revision;
        assert_eq!(revision, if refused { 1 } else { 2 });
    }
}

#[test]
fn a_failed_export_hurts_nobody() {
    for point in [Point::ExportCreate, Point::ExportWrite, Point::ExportSync, Point::ExportRename] {
        let root = scratch();
        let scene = Scene::new(root.path());
        let store = scene.open();
        commit(&store, write(1, &["role/a=1"])).unwrap();
        scene.fail(Some((point, Failing::Once)));
        assert!(matches!(store.export(), Err(StoreError::Backup { .. })), "{point:?}");
        let left: Vec<_> = std::fs::read_dir(scene.store.join("exports")).unwrap().collect();
        assert!(left.is_empty(), "{point:?}: {left:?}");
        commit(&store, write(2, &["role/a=2"])).unwrap();
        assert!(store.export().unwrap().exists());
    }
}
