//! `cargo xtask bench`: what a request costs through the mesh and through its peers, in one run.
//!
//! Load → client-side proxy → mutual TLS 1.3 → server-side proxy → backend, on loopback. All contestants run side by side
//! and are measured in turn, several rounds, so that a noisy machine is noisy for all of them. The figure that counts is
//! CPU time per request of both proxies together, and its ratio to each peer. Memory and the time to ready are measured
//! on fresh pairs, one contestant at a time.
#![expect(clippy::print_stdout, reason = "prints its tables")]

mod backend;
mod contestant;
mod fixed;
mod flame;
mod load;
mod memory;
mod mesh;
mod peers;
mod pki;
mod process;
mod profile;
mod relay;
mod report;
mod targets;
mod work;

use crate::step::{Step, root};
use anyhow::{Context, Result, bail};
use contestant::{Contestant, Entry};
use process::Calls;
use std::path::{Path, PathBuf};
use std::time::Duration;
use work::Work;

/// The result that later runs are compared with.
const KEPT: &str = "xtask/bench/kept.json";
/// What `--only` calls the measurement that is no load.
const MEMORY: &str = "memory";

/// What to measure and how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Two short rounds of the most telling works, memory with 1,000 connections: under three minutes.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Seven rounds of five seconds of every work, memory with up to 10,000 connections.
    #[arg(long)]
    full: bool,
    /// Only works whose name contains one of these, with commas; "memory" is one.
    #[arg(long, value_delimiter = ',', value_name = "WORK")]
    only: Vec<String>,
    /// Only these contestants, with commas: direct, relay, mesh, envoy, haproxy, nginx, and those of adaptor files.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    contestants: Vec<String>,
    /// No table: where the time of one contestant goes, by perf, for each work of --only (else http1-get-64).
    #[arg(long, value_name = "CONTESTANT")]
    profile: Option<String>,
    /// The cargo profile of the mesh's programs.
    #[arg(long, default_value = "release")]
    cargo_profile: String,
    /// Measure this program instead of building one: a release, or an older build.
    #[arg(long, value_name = "PATH", conflicts_with = "cargo_profile")]
    meshctl: Option<PathBuf>,
    /// Another build of the mesh's program, as a contestant with a name of its own: what a change has brought shows in one
    /// run only.
    #[arg(long, value_name = "NAME=PATH", value_parser = named)]
    beside: Vec<(String, PathBuf)>,
    /// Also write all samples here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep this result as the one that later runs are compared with.
    #[arg(long)]
    keep: bool,
}

impl Args {
    /// Rounds, and seconds of each.
    fn rounds(&self) -> (u32, u64) {
        match (self.quick, self.full) {
            (true, _) => (2, 2),
            (_, true) => (7, 5),
            _ => (3, 3),
        }
    }

    fn works(&self) -> Vec<Work> {
        let all = Work::ALL.into_iter();
        let named = |work: &Work| self.only.iter().any(|only| work.name().contains(only.as_str()));
        if !self.only.is_empty() {
            let more = Work::MORE.into_iter().filter(|work| self.only.contains(&work.name()));
            all.filter(named).chain(more).collect()
        } else if self.profile.is_some() {
            all.take(1).collect()
        } else {
            all.filter(|work| !self.quick || work.is_quick()).collect()
        }
    }

    /// How many idle connections memory is read with; nothing when it was not asked for.
    fn memory_steps(&self, contestant: &str) -> Option<Vec<usize>> {
        let asked = self.only.is_empty() || self.only.iter().any(|only| MEMORY.contains(only.as_str()));
        asked.then(|| match (self.quick, self.full, contestant) {
            (true, ..) => vec![1_000],
            (_, true, "mesh") => vec![1_000, 2_000, 5_000, 10_000],
            _ => vec![1_000, 2_000, 5_000],
        })
    }

    /// The mesh's program.
    fn program(&self) -> PathBuf {
        self.meshctl.clone().unwrap_or_else(|| mesh::built(&self.cargo_profile))
    }

    fn wants_entry(&self, entry: &Entry) -> bool {
        // A profile is of the usual set-up.
        self.wants(entry.asked_as()) && (self.profile.is_none() || entry.apart_of.is_none())
    }

    fn wants(&self, contestant: &str) -> bool {
        let named = match &self.profile {
            Some(one) => std::slice::from_ref(one),
            None => self.contestants.as_slice(),
        };
        named.is_empty()
            || named.iter().any(|name| name == contestant)
            || self.beside.iter().any(|(name, _)| name == contestant)
    }
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("must be NAME=PATH, as in before=/tmp/meshctl")?;
    Ok((name.to_owned(), PathBuf::from(path)))
}

/// Runs everything and prints the table.
pub(crate) fn run(args: &Args) -> Result<()> {
    if cfg!(debug_assertions) {
        return run_optimised();
    }
    if args.wants("mesh") && args.meshctl.is_none() {
        let build = ["build", "--locked", "--profile", &args.cargo_profile, "-p", "mesh-cli"];
        Step::cargo("the mesh", &build).run()?;
    }
    let missing = install(args);
    process::raise_descriptors();
    let folder = tempfile::tempdir().context("a folder for the run")?;
    let backend = backend::Backend::start(folder.path())?;
    let mut entries = contestant::entries(&args.program(), &args.beside, &args.contestants)?;
    entries.retain(|entry| {
        args.wants_entry(entry) && !missing.iter().any(|(name, _)| *name == entry.asked_as())
    });
    if args.profile.is_some() {
        return profile(args, &entries, folder.path(), &backend);
    }
    let mut table = report::Table::default();
    let (apart, usual): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| entry.apart_of.is_some());
    let (works_apart, works): (Vec<Work>, Vec<Work>) =
        args.works().into_iter().partition(|work| work.is_apart());
    measure_works(args, (&usual, &works), (folder.path(), &backend), &mut table)?;
    measure_works(args, (&apart, &works_apart), (folder.path(), &backend), &mut table)?;
    for entry in usual.iter().filter(|entry| entry.name != "direct") {
        if let Some(steps) = args.memory_steps(&entry.name) {
            eprintln!("memory: {}", entry.name);
            let own = folder.path().join(format!("memory-{}", entry.name));
            table.add_memory(&entry.name, memory::measure(entry, &own, &backend, &steps)?);
        }
    }
    finish(args, &table)?;
    if !missing.is_empty() {
        bail!(
            "NOT MEASURED: {}",
            missing.into_iter().map(|(name, why)| format!("{name} ({why})")).collect::<Vec<_>>().join("; ")
        );
    }
    Ok(())
}

/// Builds this tool with optimisation and runs it instead: the relay's and the load's own cost would be a debug build's.
fn run_optimised() -> Result<()> {
    let line = ["run", "--quiet", "--locked", "--profile", "quick", "-p", "xtask", "--"];
    let mut args: Vec<String> = line.map(str::to_owned).to_vec();
    args.extend(std::env::args().skip(1));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Step::cargo("the benchmark, optimised", &args).run()
}

/// Installs tools and peers; the peers that could not be had, and why. Said loudly here and at the end.
fn install(args: &Args) -> Vec<(&'static str, String)> {
    let missing = crate::programs::install_peers(|name| args.wants(name));
    for (name, why) in &missing {
        eprintln!("\n!!!!!!!! {name} CANNOT BE MEASURED: {why}\n");
    }
    missing
}

fn measure_works(
    args: &Args,
    (entries, works): (&[Entry], &[Work]),
    (folder, backend): (&Path, &backend::Backend),
    table: &mut report::Table,
) -> Result<()> {
    if works.is_empty() {
        return Ok(());
    }
    let (rounds, seconds) = args.rounds();
    let time = Duration::from_secs(seconds);
    let contestants = start(entries, folder, backend)?;
    let _scraper = contestant::Scraper::start(&contestants)?;
    for &work in works {
        for round in 0..rounds {
            for contestant in &contestants {
                if contestant.address(work).is_some() {
                    eprintln!("{}: {} (round {} of {rounds})", work.name(), contestant.name, round + 1);
                }
                if let Some(sample) = measure(work, contestant, time)? {
                    table.add(work, &contestant.name, sample);
                }
            }
        }
        for contestant in contestants.iter().filter(|_| !args.quick || matches!(work, Work::Http1Get(64))) {
            if let Some(calls) = count_calls(work, contestant)? {
                table.add_calls(work, &contestant.name, calls);
            }
        }
    }
    Ok(())
}

fn start(entries: &[Entry], folder: &Path, backend: &backend::Backend) -> Result<Vec<Contestant>> {
    let mut contestants = Vec::new();
    for entry in entries {
        let mut contestant = entry.start(&folder.join(&entry.name), backend)?;
        contestant.wait()?;
        contestant::check_metrics(&contestant)?;
        contestants.push(contestant);
    }
    Ok(contestants)
}

fn profile(args: &Args, entries: &[Entry], folder: &Path, backend: &backend::Backend) -> Result<()> {
    let (_, seconds) = args.rounds();
    let contestants = start(entries, folder, backend)?;
    for work in args.works() {
        for contestant in &contestants {
            profile::run(work, contestant, folder, Duration::from_secs(seconds))?;
        }
    }
    Ok(())
}

fn finish(args: &Args, table: &report::Table) -> Result<()> {
    let (rounds, seconds) = args.rounds();
    let summary = table.summary(&format!("{rounds} rounds of {seconds} s"));
    println!("{}\n", summary.machine);
    println!("{}", table.text());
    println!("{}", targets::text(&summary));
    let kept = root().join(KEPT);
    match std::fs::read_to_string(&kept) {
        Ok(text) => println!("{}", targets::comparison(&serde_json::from_str(&text)?, &summary)),
        Err(error) => println!("{KEPT} cannot be compared with: {error}"),
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(table)?)
            .with_context(|| path.display().to_string())?;
    }
    if args.keep {
        std::fs::write(&kept, serde_json::to_string_pretty(&summary)? + "\n")?;
    }
    Ok(())
}

/// Serves the backend's ports until ended; the load's target.
pub(crate) fn backend(ports: &[u16]) -> Result<()> {
    backend::serve(ports)
}

/// Relays pairs of ports until ended.
pub(crate) fn relay(ports: &[u16]) -> Result<()> {
    relay::serve(ports)
}

fn measure(work: Work, contestant: &Contestant, time: Duration) -> Result<Option<report::Sample>> {
    let Some(address) = contestant.address(work) else { return Ok(None) };
    let before = contestant.cpu()?;
    let done =
        work.run(address, time).with_context(|| format!("{} through {}", work.name(), contestant.name))?;
    let after = contestant.cpu()?;
    Ok(Some(report::Sample::new(work, &done, &before, &after)))
}

/// System calls for each request of each proxy, from two seconds of their own: counting them costs time.
fn count_calls(work: Work, contestant: &Contestant) -> Result<Option<Vec<f64>>> {
    let Some(address) = contestant.address(work) else { return Ok(None) };
    if contestant.proxies.is_empty() || matches!(work, Work::TcpBulk(_)) {
        return Ok(None);
    }
    let counting: Result<Vec<Calls>> =
        contestant.proxies.iter().map(|proxy| Calls::count(proxy.id())).collect();
    let done = work.run(address, Duration::from_secs(2))?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let per_request = |calls: u64| calls as f64 / done.count.max(1) as f64;
    Ok(Some(counting?.into_iter().map(|one| one.end().map(per_request)).collect::<Result<_>>()?))
}
