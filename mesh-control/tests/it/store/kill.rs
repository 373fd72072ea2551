//! `kill -9` at random moments, of a process that writes from several sides at once.

use super::{Path, open, open_quiet};
use mesh_control::store::Store;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Stores, one after the other. 34 of them, 1,020 kills, took 17 minutes on a busy machine; nothing was lost.
const STORES: u32 = 1;
/// Kills of one store.
const KILLS: u32 = 30;
/// A process is killed after at most so many acknowledgements.
const LINES_MAX: u64 = 160;

/// What a process said before it was killed.
#[derive(Default)]
struct Told {
    /// Worker → its last number, revision and record.
    acks: BTreeMap<u64, (u64, u64, u64)>,
    /// All records: sequence → worker, number, revision.
    records: BTreeMap<u64, (u64, u64, u64)>,
    meta: u64,
}

/// Starts a writer, kills it after some lines, and adds what it said.
fn run_and_kill(dir: &Path, told: &mut Told) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_store-hammer"))
        .arg(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let kill_at = rand::random_range(0..LINES_MAX);
    let mut count = 0;
    while let Some(line) = lines.next().transpose().unwrap() {
        hear(&line, told);
        count += 1;
        if count == kill_at + 1 {
            // A moment more, so that the kill falls anywhere in the next batch.
            for _ in 0..rand::random_range(0..200_000) {
                std::hint::spin_loop();
            }
            child.kill().unwrap();
        }
    }
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(count > kill_at, "ended by itself after {count} lines, {}: {errors}", output.status);
}

fn hear(line: &str, told: &mut Told) {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |text: &str| text.parse::<u64>().unwrap();
    match words.as_slice() {
        ["ready"] => {}
        ["meta", n] => told.meta = number(n),
        ["ack", worker, n, revision, sequence] => {
            let (worker, n, revision, sequence) =
                (number(worker), number(n), number(revision), number(sequence));
            told.acks.insert(worker, (n, revision, sequence));
            told.records.insert(sequence, (worker, n, revision));
        }
        // A line goes into the pipe whole or not at all: it is shorter than PIPE_BUF.
        other => panic!("{other:?}"),
    }
}

fn document_number(yaml: &str) -> u64 {
    let number = yaml.lines().next().and_then(|line| line.strip_prefix("n: "));
    number.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{yaml:?}"))
}

#[test]
fn a_killed_store_has_everything_it_acknowledged() {
    for _ in 0..STORES {
        let root = tempfile::tempdir().unwrap();
        kill_and_compare(&root.path().join("store"));
    }
}

fn kill_and_compare(dir: &Path) {
    let mut told = Told::default();
    for kill in 0..KILLS {
        run_and_kill(dir, &mut told);
        // Every other time the process itself opens what the kill left. So there are up to two kills between two looks,
        // and each may have come between a write and its acknowledgement.
        if kill % 2 == 0 {
            continue;
        }
        let store = open_quiet(dir);
        let view = store.read();
        for (worker, (n, _, _)) in &told.acks {
            let key = super::key(&format!("accesspolicy/hammer/w-{worker}"));
            let found = document_number(&view.resource(&key).unwrap().yaml);
            assert!(
                (*n..=n + 2).contains(&found),
                "kill {kill}: worker {worker} was told of {n}, {found} is there"
            );
        }
        let meta = view.meta("hammer").map_or(0, |v| String::from_utf8(v).unwrap().parse().unwrap());
        assert!(
            (told.meta..=told.meta + 2).contains(&meta),
            "kill {kill}: told of {}, {meta} is there",
            told.meta
        );
    }
    let store = open(dir);
    let view = store.read();
    for (sequence, (worker, n, revision)) in &told.records {
        let record = &view.audit(*sequence..=*sequence)[0];
        assert_eq!((record.actor.as_str(), record.time_ms), (format!("worker {worker}").as_str(), *n));
        assert_eq!(record.revision, *revision);
        let set = view.change_set(*revision).unwrap();
        assert_eq!(document_number(&set.changes[0].after.as_ref().unwrap().yaml), *n);
    }
    assert!(told.records.len() > 200, "only {} acknowledgements", told.records.len());
    assert_eq!(store.verify_audit().unwrap().broken, None);
    let parts = std::fs::read_dir(dir.join("exports")).unwrap().map(|entry| entry.unwrap().path());
    let parts: Vec<_> = parts.filter(|path| path.extension().is_some_and(|e| e == "new")).collect();
    assert!(parts.is_empty(), "unfinished exports are left: {parts:?}");
}
