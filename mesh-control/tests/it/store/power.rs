//! A power cut in the middle of writing back: of what was written since the last fsync, any pages may have reached the
//! disk and any may not.

use super::{Path, commit, open_quiet, scratch, seal, write};
use mesh_control::store::Store;
use mesh_control::store::disk::{Options, open_with};
use mesh_control::store::faults::{Faults, Point};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

const PAGE: usize = 4096;
/// Looks at each so many batches; each look is cut in [`CUTS`] ways.
const EVERY: u64 = 9;
const CUTS: u64 = 4;

/// Mixes the database as it was last fsynced with what is written and not yet fsynced.
struct Power {
    store: PathBuf,
    out: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    batches: u64,
    synced: Vec<u8>,
    /// Mixed copies, each with the number of batches that were fsynced before.
    cut: Vec<(u64, PathBuf)>,
}

impl Faults for Power {
    fn reach(&self, point: Point) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let database = self.store.join("data/sled/db");
        match point {
            Point::SyncDatabase => {
                if state.batches.is_multiple_of(EVERY) && !state.synced.is_empty() {
                    let written = std::fs::read(&database).unwrap();
                    for n in 0..CUTS {
                        let dir = self.out.join(format!("{}-{n}", state.batches));
                        copy(&self.store, &dir);
                        std::fs::write(dir.join("data/sled/db"), mixed(&state.synced, &written)).unwrap();
                        let batches = state.batches;
                        state.cut.push((batches, dir));
                    }
                }
                state.batches += 1;
            }
            Point::ManifestWrite => state.synced = std::fs::read(&database).unwrap(),
            _ => {}
        }
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Each page that differs is taken from either, at random; so is the length.
fn mixed(synced: &[u8], written: &[u8]) -> Vec<u8> {
    let mut mixed =
        if rand::random() { written.to_vec() } else { written[..synced.len().min(written.len())].to_vec() };
    for (new, old) in mixed.chunks_mut(PAGE).zip(synced.chunks(PAGE)) {
        if new.len() == old.len() && rand::random() {
            new.copy_from_slice(old);
        }
    }
    // What lies behind the end of the fsynced file was never there if it was not written back.
    let end = synced.len().min(mixed.len());
    for page in mixed[end..].chunks_mut(PAGE) {
        if rand::random() {
            page.fill(0);
        }
    }
    mixed
}

#[test]
fn a_power_cut_in_the_middle_of_writing_back_loses_nothing_acknowledged() {
    let root = scratch();
    let (store, out) = (root.path().join("store"), root.path().join("cut"));
    std::fs::create_dir(&out).unwrap();
    let power = Arc::new(Power { store: store.clone(), out, state: Mutex::default() });
    let faults: Arc<dyn Faults> = Arc::<Power>::clone(&power);
    let opened = open_with(&store, seal(), Options { faults, export_every: u64::MAX }).unwrap();
    let long = "p".repeat(12_000);
    for n in 0..220 {
        // The same few resources again and again, so that sled frees segments and uses them anew.
        commit(&opened, write(n, &[&format!("role/r{}={n}{long}", n % 5), &format!("role/s{n}=1")])).unwrap();
    }
    drop(opened);
    let cut = std::mem::take(&mut power.state.lock().unwrap().cut);
    assert!(cut.len() > 50);
    for (batches, dir) in cut {
        let found = open_quiet(&dir).read().audit_sequence();
        assert!(found == batches || found == batches + 1, "{batches} acknowledged, {found} found");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
