//! Any sequence of writes and restarts: the store on disk always says what its twin in memory says.

use super::{change, commit, everything, open_quiet, scratch, write};
use mesh_control::store::Store;
use mesh_control::store::disk::SledStore;
use mesh_control::store::memory::MemoryStore;
use mesh_control::store::write::Write;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    /// Change these resources: number, and document length or `None` to delete.
    Write(Vec<(u8, Option<u16>)>),
    /// Keep a value of this length.
    Meta(u8, u16),
    /// Bring this share of the past back.
    Rollback(u8),
    Reopen,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let length = prop_oneof![6 => 0..200_u16, 1 => 3_900..4_200_u16, 1 => 0..30_000_u16];
    let change = (0..8_u8, proptest::option::weighted(0.75, length));
    let act = prop_oneof![
        6 => proptest::collection::vec(change, 0..6).prop_map(Act::Write),
        2 => (0..3_u8, 0..20_000_u16).prop_map(|(n, length)| Act::Meta(n, length)),
        1 => any::<u8>().prop_map(Act::Rollback),
        1 => Just(Act::Reopen),
    ];
    proptest::collection::vec(act, 1..24)
}

const META: &[&str] = &["meta-0", "meta-1", "meta-2"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn disk_and_memory_agree(acts in acts()) {
        let dir = scratch();
        let memory = MemoryStore::new();
        let mut disk: Option<SledStore> = Some(open_quiet(dir.path()));
        for (time, act) in (1_u64..).zip(acts) {
            let store = disk.as_ref().unwrap();
            match act {
                Act::Write(changes) => {
                    let changes = changes.iter().map(|(n, length)| match length {
                        Some(length) => change(&format!("role/r{n}={}", "d".repeat(usize::from(*length)))),
                        None => change(&format!("-role/r{n}")),
                    });
                    both(&memory, store, Write { changes: changes.collect(), ..write(time, &[]) })?;
                }
                Act::Meta(n, length) => {
                    let name = format!("meta-{n}");
                    memory.put_meta(&name, vec![n; usize::from(length)]).unwrap();
                    store.put_meta(&name, vec![n; usize::from(length)]).unwrap();
                }
                Act::Rollback(share) => {
                    let to = memory.read().revision() * u64::from(share) / 255;
                    let changes = memory.read().changes_back_to(to).unwrap();
                    prop_assert_eq!(&changes, &store.read().changes_back_to(to).unwrap());
                    both(&memory, store, Write { changes, ..write(time, &[]) })?;
                }
                Act::Reopen => {
                    drop(disk.take());
                    disk = Some(open_quiet(dir.path()));
                }
            }
            let store = disk.as_ref().unwrap();
            prop_assert_eq!(everything(&store.read(), META), everything(&memory.read(), META));
        }
        drop(disk.take());
        prop_assert_eq!(everything(&open_quiet(dir.path()).read(), META), everything(&memory.read(), META));
    }
}

fn both(memory: &MemoryStore, disk: &SledStore, write: Write) -> Result<(), TestCaseError> {
    let (in_memory, on_disk) = (commit(memory, write.clone()).unwrap(), commit(disk, write).unwrap());
    prop_assert_eq!(in_memory, on_disk);
    Ok(())
}
