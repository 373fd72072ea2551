//! `cargo xtask bench`: what a request costs through the mesh and through its peers, in one run.
//!
//! Load → client-side proxy → mutual TLS 1.3 → server-side proxy → backend, on loopback. All contestants run side by side
//! and are measured in turn, several rounds, so that a noisy machine is noisy for all of them. The figure that counts is
//! CPU time per request of both proxies together, and its ratio to each peer.
#![expect(clippy::print_stdout, reason = "prints its tables")]

mod backend;
mod contestant;
mod load;
mod peers;
mod pki;
mod process;
mod report;
mod work;

use crate::step::root;
use anyhow::{Context, Result};
use contestant::Contestant;
use std::path::PathBuf;
use std::time::Duration;
use work::Work;

/// What to measure and how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Two short rounds of the most telling works: under three minutes.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Seven rounds of five seconds of every work.
    #[arg(long)]
    full: bool,
    /// Only works whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Only these contestants, with commas: direct, relay, mesh, envoy, haproxy, nginx.
    #[arg(long, value_delimiter = ',')]
    contestants: Vec<String>,
    /// The cargo profile of the mesh's programs.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Also write the results here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs everything and prints the table.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (rounds, seconds) = match (args.quick, args.full) {
        (true, _) => (2, 2),
        (_, true) => (7, 5),
        _ => (3, 3),
    };
    if args.contestants.is_empty() || args.contestants.iter().any(|name| name == "mesh") {
        let build = ["build", "--locked", "--profile", &args.profile, "-p", "mesh-cli"];
        crate::step::Step::cargo("the mesh", &build).run()?;
    }
    crate::programs::install_peers()?;
    let folder = tempfile::tempdir().context("a folder for the run")?;
    let backend = backend::Backend::start(folder.path())?;
    let mut contestants = contestant::start_all(folder.path(), &backend, &args.profile, &args.contestants)?;
    let works: Vec<Work> = Work::all()
        .into_iter()
        .filter(|work| args.only.as_ref().is_none_or(|only| work.name().contains(only.as_str())))
        .filter(|work| !args.quick || work.is_quick())
        .collect();
    let mut table = report::Table::default();
    for work in works {
        for round in 0..rounds {
            for contestant in &mut contestants {
                eprintln!("{}: {} (round {} of {rounds})", work.name(), contestant.name, round + 1);
                if let Some(sample) = measure(&work, contestant, Duration::from_secs(seconds))? {
                    table.add(work.name(), &contestant.name, sample);
                }
            }
        }
    }
    println!("{}", table.text());
    for contestant in &contestants {
        println!("{}: {} MB resident in all after the run", contestant.name, contestant.resident_mb());
    }
    if let Some(path) = &args.json {
        std::fs::write(root().join(path), table.json()?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Serves the backend's ports until ended; the load's target.
pub(crate) fn backend(ports: &[u16]) -> Result<()> {
    backend::serve(ports)
}

/// Relays pairs of ports until ended.
pub(crate) fn relay(ports: &[u16]) -> Result<()> {
    contestant::serve_relay(ports)
}

fn measure(work: &Work, contestant: &mut Contestant, time: Duration) -> Result<Option<report::Sample>> {
    let Some(address) = contestant.address(work) else { return Ok(None) };
    let before = contestant.cpu()?;
    let done =
        work.run(address, time).with_context(|| format!("{} through {}", work.name(), contestant.name))?;
    let after = contestant.cpu()?;
    Ok(Some(report::Sample::new(&done, &before, &after)))
}
