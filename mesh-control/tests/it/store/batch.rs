//! Group commit: what waits while the disk works shares the next fsync.

use super::{commit, open_quiet, scratch, seal, write};
use mesh_control::store::Store;
use mesh_control::store::disk::{Options, open_with};
use mesh_control::store::faults::{Faults, Point};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

/// Counts fsyncs of the database, and holds the first one up until it is told to go on.
struct Slow {
    fsyncs: AtomicU32,
    go_on: Mutex<Receiver<()>>,
}

impl Faults for Slow {
    fn reach(&self, point: Point) -> io::Result<()> {
        if point == Point::SyncDatabase && self.fsyncs.fetch_add(1, Ordering::SeqCst) == 0 {
            self.go_on.lock().unwrap().recv().unwrap();
        }
        Ok(())
    }
}

#[test]
fn writes_that_wait_share_an_fsync_and_keep_their_order() {
    const WRITES: u64 = 100;
    let dir = scratch();
    let (release, go_on) = channel();
    let slow = Arc::new(Slow { fsyncs: AtomicU32::new(0), go_on: Mutex::new(go_on) });
    let faults: Arc<dyn Faults> = Arc::<Slow>::clone(&slow);
    let store = open_with(dir.path(), seal(), Options { faults, export_every: u64::MAX }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let done = runtime.block_on(async {
        let writes = (0..WRITES).map(|n| store.commit(write(n, &[&format!("role/counter={n}")])));
        // Polled in order: all writes are handed over before the first fsync may go on.
        let all = futures_util::future::join_all(writes);
        futures_util::future::join(all, async { release.send(()).unwrap() }).await.0
    });
    for (n, done) in (1..).zip(done) {
        assert_eq!(done.unwrap().revision, n);
    }
    assert!(
        slow.fsyncs.load(Ordering::SeqCst) <= 2,
        "{} fsyncs for {WRITES} writes",
        slow.fsyncs.load(Ordering::SeqCst)
    );
    drop(store);
    let store = open_quiet(dir.path());
    assert_eq!(store.read().history(usize::MAX, None).len(), 100);
    assert_eq!(store.read().resource(&super::key("role/counter")).unwrap().yaml, "99");
}

#[test]
fn a_write_whose_caller_went_away_is_whole_or_absent() {
    let dir = scratch();
    let store = open_quiet(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let abandoned = store.commit(write(1, &["role/a=1", "role/b=1"]));
        // One poll hands it over; then nobody waits for it.
        let _ = futures_util::future::select(abandoned, futures_util::future::ready(())).await;
    });
    let next = commit(&store, write(2, &["role/c=1"])).unwrap();
    assert_eq!((next.revision, next.audit_sequence), (2, 2));
    assert_eq!(store.read().resources().len(), 3);
}
