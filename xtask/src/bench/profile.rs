//! Where one contestant's time goes: `perf` while it is loaded, as a list of functions and as a flame graph.

use super::contestant::Contestant;
use super::process::Process;
use super::work::Work;
use crate::step::root;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Samples a second: a prime, so that nothing periodic is always or never met.
const FREQUENCY: &str = "997";
/// Functions in the list.
const TOP: usize = 40;

/// Loads the contestant with a work under `perf` and writes what was seen below the build folder.
pub(super) fn run(work: Work, contestant: &Contestant, folder: &Path, time: Duration) -> Result<()> {
    let Some(address) = contestant.address(work) else { return Ok(()) };
    let ids: Vec<String> = contestant.proxies.iter().map(|proxy: &Process| proxy.id().to_string()).collect();
    ensure!(!ids.is_empty(), "{} has no process to profile", contestant.name);
    let data = folder.join("perf.data");
    let mut perf = Command::new("perf")
        .args(["record", "-q", "-F", FREQUENCY, "-g", "--call-graph", "fp", "-p", &ids.join(","), "-o"])
        .arg(&data)
        .stdout(Stdio::null())
        .spawn()
        .context("perf could not be started")?;
    let done = work.run(address, time);
    rustix::process::kill_process(rustix::process::Pid::from_child(&perf), rustix::process::Signal::INT)?;
    perf.wait()?;
    done?;
    let script = Command::new("perf").arg("script").arg("-i").arg(&data).stderr(Stdio::null()).output()?;
    let stacks = fold(&String::from_utf8_lossy(&script.stdout));
    let samples: u64 = stacks.values().sum();
    ensure!(samples > 0, "perf recorded nothing of {}", contestant.name);

    let out = root().join("target/bench");
    std::fs::create_dir_all(&out)?;
    let stem = format!("{}-{}", contestant.name, work.name());
    let folded: String = stacks.iter().map(|(stack, count)| format!("{stack} {count}\n")).collect();
    std::fs::write(out.join(format!("{stem}.folded")), folded)?;
    std::fs::write(out.join(format!("{stem}.svg")), super::flame::svg(&stem, &stacks))?;
    println!("{}", top(&stem, &stacks, samples));
    println!("flame graph: target/bench/{stem}.svg; stacks: target/bench/{stem}.folded");
    Ok(())
}

/// `perf script` into stacks, outermost function first, with how often each was seen.
fn fold(script: &str) -> BTreeMap<String, u64> {
    let mut stacks = BTreeMap::new();
    for sample in script.split("\n\n") {
        let mut lines = sample.lines().skip_while(|line| line.is_empty());
        let Some(head) = lines.next() else { continue };
        let thread = head.split_whitespace().next().unwrap_or("?");
        let mut frames: Vec<&str> = lines.filter_map(frame).collect();
        frames.push(thread);
        frames.reverse();
        *stacks.entry(frames.join(";")).or_default() += 1;
    }
    stacks
}

/// `    7f01 function+0x12 (file)` → `function`.
fn frame(line: &str) -> Option<&str> {
    let (_, rest) = line.trim().split_once(' ')?;
    let name = rest.rsplit_once(" (").map_or(rest, |(name, _)| name);
    Some(name.rsplit_once("+0x").map_or(name, |(name, _)| name))
}

/// The functions in which most time was spent themselves.
fn top(stem: &str, stacks: &BTreeMap<String, u64>, samples: u64) -> String {
    let mut own: BTreeMap<&str, u64> = BTreeMap::new();
    for (stack, count) in stacks {
        *own.entry(stack.rsplit(';').next().unwrap_or("?")).or_default() += count;
    }
    let mut own: Vec<(&str, u64)> = own.into_iter().collect();
    own.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut text = format!("{stem}: {samples} samples; own time of the first {TOP} functions\n");
    for (name, count) in own.into_iter().take(TOP) {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let share = count as f64 * 100.0 / samples.max(1) as f64;
        _ = writeln!(text, "{share:>6.1} %  {name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_folded_from_the_outermost_function() {
        let script = "mesh-data-0 12 3.4: 1 cpu-clock:\n\t1 inner+0x1f (/bin/x)\n\t2 outer (inlined) (/bin/x)\n\n\
                      mesh-data-0 12 3.5: 1 cpu-clock:\n\t1 inner+0x2 (/bin/x)\n\t2 outer (inlined) (/bin/x)\n\n";
        let stacks = fold(script);
        assert_eq!(
            stacks.into_iter().collect::<Vec<_>>(),
            [("mesh-data-0;outer (inlined);inner".to_owned(), 2)]
        );
    }
}
