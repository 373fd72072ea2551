//! Writes to a store as fast as it can from several sides, and says on standard output what was acknowledged.
//!
//! `tests/it/store/kill.rs` starts it, kills it, and compares. It is no part of the product.
//!
//! Usage: `store-hammer DIRECTORY`. Lines: `ready`, `ack WORKER NUMBER REVISION SEQUENCE`, `meta NUMBER`.

use mesh_ca::seal::SealKey;
use mesh_control::store::Store;
use mesh_control::store::disk::{Options, open_with};
use mesh_control::store::write::{ResourceChange, Verb, Write};
use std::io::Write as _;
use std::sync::{Arc, Mutex};

/// Enough to make batches of several writes, few enough for batches of one.
const WORKERS: u64 = 4;
/// Small, so that kills fall into exports too.
const EXPORT_EVERY: u64 = 24;

fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).ok_or_else(|| anyhow::anyhow!("usage: store-hammer DIRECTORY"))?;
    let seal = Arc::new(SealKey::from_bytes(&[7; 32]));
    let options = Options { export_every: EXPORT_EVERY, ..Options::default() };
    let store = Arc::new(open_with(dir.as_ref(), seal, options)?);
    let out = Arc::new(Mutex::new(std::io::stdout()));
    say(&out, "ready");
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let first = store.read().meta("hammer").and_then(|v| String::from_utf8(v).ok());
            let first = first.and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
            for number in first.saturating_add(1).. {
                if store.put_meta("hammer", number.to_string().into_bytes()).is_err() {
                    break;
                }
                say(&out, &format!("meta {number}"));
            }
        });
        runtime.block_on(async {
            let workers = (0..WORKERS).map(|worker| hammer(&*store, &out, worker));
            futures_util::future::join_all(workers).await
        });
    });
    Ok(())
}

/// Counts up in one resource; the number that stands there is where it goes on.
async fn hammer(store: &dyn Store, out: &Mutex<std::io::Stdout>, worker: u64) {
    let key = format!("accesspolicy/hammer/w-{worker}");
    let Ok(key) = key.parse() else { return };
    // The first line is the number, the rest is padding.
    let number = |yaml: &str| yaml.lines().next()?.strip_prefix("n: ")?.parse::<u64>().ok();
    let first = store.read().resource(&key).and_then(|resource| number(&resource.yaml));
    for number in first.unwrap_or(0).saturating_add(1).. {
        // Every eighth document is long, so that sled moves to new segments often.
        let padding = if number % 8 == 0 { 20_000 } else { 0 };
        let yaml = format!("n: {number}\n{}", "#".repeat(padding));
        let change = ResourceChange { key: key.clone(), file: String::new(), line: 1, yaml: Some(yaml) };
        let write = Write {
            actor: format!("worker {worker}"),
            verb: Verb::Apply,
            time_ms: number,
            changes: vec![change],
            detail: String::new(),
        };
        match store.commit(write).await {
            Ok(done) => {
                say(out, &format!("ack {worker} {number} {} {}", done.revision, done.audit_sequence));
            }
            Err(_) => return,
        }
    }
}

/// One line, out of the process before it returns. A reader that is gone ends us at the next write.
fn say(out: &Mutex<std::io::Stdout>, line: &str) {
    let mut out = out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
