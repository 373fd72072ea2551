//! The soak: certificates that live a minute under load for as long as one likes, a root that changes in the middle.
//!
//! Fails on one failed exchange, one dropped connection, or a process whose memory keeps growing.

use crate::applications::{postgres, succeeded};
use crate::load::{Counts, Load};
use crate::process::Process;
use crate::world::{World, allow, free_port};
use crate::{programs, wait};
use std::process::Command;
use std::time::{Duration, Instant};

/// SVIDs live this long: a renewal of every certificate about three times a minute.
const SVID_LIFETIME: &str = "60s";
/// Intermediates live this long.
const INTERMEDIATE_LIFETIME: &str = "300s";
/// The part of the run after which memory should no longer grow.
const WARM_UP: f64 = 0.2;
/// How much a process may grow after the warm-up, in KiB: allocators settle late, leaks of a soak are larger.
const GROWTH_KIB_MAX: u64 = 48 * 1024;
/// Between two lines of the report, and two renewals looked at.
const REPORT: Duration = Duration::from_secs(30);

/// Resident memory of one process, in KiB.
#[derive(Debug, Clone, Copy)]
struct Memory {
    now: u64,
    peak: u64,
}

fn memory(process: &Process) -> Option<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some(Memory { now: field("VmRSS:")?, peak: field("VmHWM:")? })
}

/// A run of the soak.
struct Soak {
    world: World,
    load: Load,
    databases: Vec<Process>,
    /// By process: after the warm-up.
    warm: Vec<(String, u64)>,
    started: Instant,
}

/// Runs the soak and prints what it did.
///
/// # Errors
/// A text that lists everything that did not hold.
#[track_caller]
pub fn run(minutes: f64) -> Result<(), String> {
    let length = Duration::from_secs_f64(minutes.max(0.5) * 60.0);
    let mut soak = Soak::start(length);
    let mut problems = Vec::new();
    let roots = soak.roots();
    let first = soak.serials();
    soak.go_on_until(length.mul_f64(WARM_UP));
    soak.warm = soak.memories().into_iter().map(|(name, memory)| (name, memory.now)).collect();
    soak.go_on_until(length.mul_f64(0.5));
    say(&soak.world.told(&["ca", "rotate"]));
    soak.go_on_until(length);
    if soak.roots() == roots || soak.roots().len() != 1 {
        problems.push(format!("the root was {roots:?} and is {:?} after its rotation", soak.roots()));
    }
    let still: Vec<String> = soak.serials().into_iter().filter(|serial| first.contains(serial)).collect();
    if !still.is_empty() {
        problems.push(format!("certificates were not renewed: {still:?}"));
    }
    soak.finish(problems)
}

impl Soak {
    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "owns the clock of the whole run")]
    fn start(length: Duration) -> Self {
        let mut world = World::start_with(&[
            "--svid-lifetime",
            SVID_LIFETIME,
            "--intermediate-lifetime",
            INTERMEDIATE_LIFETIME,
        ]);
        let (app, to) = (free_port(), free_port());
        world.apply(&allow("bench", "db"));
        postgres(&mut world, app, &[]);
        world.run("bench", &["--to", &format!("db=127.0.0.1:{to}/tcp")], &[]);
        pgbench(to, &["-i", "-q", "-s", "1"]);
        let load = Load::start(&mut world);
        let seconds = length.as_secs().to_string();
        let kept = ["-c", "2", "-R", "40", "-T", &seconds];
        let new = ["-C", "-S", "-c", "1", "-R", "5", "-T", &seconds];
        let databases = vec![
            Process::start("pgbench-kept", world.folder(), &mut pgbench_command(to, &kept)),
            Process::start("pgbench-new", world.folder(), &mut pgbench_command(to, &new)),
        ];
        Self { world, load, databases, warm: Vec::new(), started: Instant::now() }
    }

    fn go_on_until(&self, until: Duration) {
        while let Some(left) = until.checked_sub(self.started.elapsed()).filter(|left| !left.is_zero()) {
            wait::pass(left.min(REPORT));
            say(&format!("{:4.0} s  {}", self.started.elapsed().as_secs_f64(), line(&self.load.counts())));
        }
    }

    fn memories(&self) -> Vec<(String, Memory)> {
        let all = self.world.processes();
        all.filter_map(|process| Some((process.name().to_owned(), memory(process)?))).collect()
    }

    fn roots(&self) -> Vec<String> {
        let status = self.world.json(&["ca", "status"]);
        let all = status["roots"].as_array().into_iter().flatten();
        all.filter_map(|root| root["sha256"].as_str().map(str::to_owned)).collect()
    }

    fn serials(&self) -> Vec<String> {
        let identities = self.world.json(&["identity"]);
        let all = identities["identities"].as_array().into_iter().flatten();
        all.filter_map(|one| one["serial"].as_str().map(str::to_owned)).collect()
    }

    fn finish(mut self, mut problems: Vec<String>) -> Result<(), String> {
        let memories = self.memories();
        for database in &mut self.databases {
            let status = wait::until("pgbench to end", || database.ended());
            let said = database.output();
            say(&said);
            if !status.success() || !said.contains("number of failed transactions: 0 ") {
                problems.push(format!("{} ended with {status}:\n{said}", database.name()));
            }
        }
        let counts = self.load.finish();
        say(&line(&counts));
        for (kind, good) in &counts.good {
            say(&format!("{good:8}  {kind}"));
        }
        if counts.failed > 0 {
            problems.push(format!("{} failed:\n  {}", counts.failed, counts.failures.join("\n  ")));
        }
        say("resident memory in MiB     warm      end     peak");
        for (name, memory) in memories {
            let warm = self.warm.iter().find(|(other, _)| *other == name).map_or(memory.now, |(_, now)| *now);
            say(&format!("{name:24} {:8.1} {:8.1} {:8.1}", mib(warm), mib(memory.now), mib(memory.peak)));
            if memory.now > warm.saturating_add(GROWTH_KIB_MAX) {
                problems.push(format!("{name} grew from {warm} to {} KiB after the warm-up", memory.now));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }
}

fn pgbench_command(port: u16, args: &[&str]) -> Command {
    let mut command = Command::new(programs::postgres("pgbench"));
    command
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres", "-n"])
        .args(args)
        .arg("postgres")
        .env("PGSSLMODE", "disable");
    command
}

#[track_caller]
fn pgbench(port: u16, args: &[&str]) {
    succeeded("pgbench", &pgbench_command(port, args).output());
}

fn line(counts: &Counts) -> String {
    let mut text = format!("{} good, {} failed", counts.good.values().sum::<u64>(), counts.failed);
    if let Some(first) = counts.failures.first() {
        text = format!("{text}; the first: {first}");
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "for reading")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[expect(clippy::print_stdout, reason = "the report of a command")]
fn say(text: &str) {
    println!("{}", text.trim_end());
}
