//! The store: one suite over both kinds, and what only the one on disk can suffer.

mod batch;
mod crash;
mod damage;
mod full_disk;
mod kill;
mod power;
mod property;
mod rescue;
mod suite;

use mesh_ca::seal::SealKey;
use mesh_control::store::disk::{Options, SledStore, open_with};
use mesh_control::store::view::ReadView;
use mesh_control::store::write::{Committed, ResourceChange, Verb, Write};
use mesh_control::store::{Store, StoreError};
use mesh_proto::resource::ResourceKey;
use std::path::Path;
use std::sync::Arc;

/// The key of every store in these tests, and of `store-hammer`.
fn seal() -> Arc<SealKey> {
    Arc::new(SealKey::from_bytes(&[7; 32]))
}

/// A directory in memory where there is one: these tests make thousands of files and simulate the disk's failures.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn open(dir: &Path) -> SledStore {
    mesh_control::store::disk::open(dir, seal()).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

/// Opens without exports, so that a test sees only what it asked for.
fn open_quiet(dir: &Path) -> SledStore {
    let options = Options { export_every: u64::MAX, ..Options::default() };
    open_with(dir, seal(), options).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

fn key(text: &str) -> ResourceKey {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A change from `accesspolicy/shop/web=DOCUMENT`, or `-accesspolicy/shop/web` for a deletion.
fn change(text: &str) -> ResourceChange {
    let (name, yaml) = match text.strip_prefix('-') {
        Some(name) => (name, None),
        None => {
            let (name, yaml) = text.split_once('=').unwrap();
            (name, Some(yaml.to_owned()))
        }
    };
    ResourceChange { key: key(name), file: "shop.yaml".to_owned(), line: 3, yaml }
}

fn write(time_ms: u64, changes: &[&str]) -> Write {
    let changes: Vec<_> = changes.iter().map(|text| change(text)).collect();
    let verb = if changes.iter().all(|c| c.yaml.is_none()) { Verb::Delete } else { Verb::Apply };
    Write {
        actor: "uid 1000 (alice)".to_owned(),
        verb,
        time_ms,
        changes,
        detail: "from shop.yaml".to_owned(),
    }
}

fn commit(store: &dyn Store, write: Write) -> Result<Committed, StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.commit(write))
}

/// Everything a view can tell, as text that two stores can be compared by.
fn everything(view: &ReadView, meta: &[&str]) -> String {
    let mut text = format!("revision {} sequence {}\n", view.revision(), view.audit_sequence());
    for resource in view.resources().values() {
        text += &format!("{resource:?}\n");
    }
    for revision in view.history(usize::MAX, None) {
        text += &format!("{revision:?}\n");
    }
    for record in view.audit(1..=u64::MAX) {
        text += &format!("{record:?}\n");
    }
    for name in meta {
        text += &format!("{name}: {:?}\n", view.meta(name));
    }
    text
}
