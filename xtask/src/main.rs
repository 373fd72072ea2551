//! `cargo xtask`: everything that continuous integration runs, as commands a developer can run too.
//!
//! Depends on no crate of the mesh: it runs cargo and the built programs. Each step prints its name, its command and its
//! time, so that a failure names what to type to see it again.
#![expect(clippy::print_stderr, reason = "a developer's tool talks to its terminal")]

mod bench;
mod ci;
mod e2e;
mod fuzz;
mod images;
mod programs;
mod step;
mod tidy;
mod tools;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use step::Step;

/// The exit code when no cluster, or no docker, can be had on this machine: nothing is known to be broken. `EX_UNAVAILABLE` of
/// sysexits.h.
const NO_CLUSTER: u8 = 69;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, checks and measures the mesh")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format, lints, each crate alone, tests, documentation, tidy: all that must hold before a change lands.
    Ci {
        /// Also the soak for ten minutes and each fuzz target for one.
        #[arg(long, env = "MESH_CI_LONG", value_parser = clap::builder::FalseyValueParser::new())]
        long: bool,
    },
    /// All tests that need no cluster; installs the real programs they drive where they are missing.
    Test {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Installs the real programs that the integration tests drive (Debian, PyPI, Go modules).
    Programs,
    /// What a request costs through the mesh and through its peers, in one run.
    Bench(bench::Args),
    /// Serves the load's target.
    #[command(hide = true)]
    BenchBackend { ports: Vec<u16> },
    /// Relays ports to ports.
    #[command(hide = true)]
    BenchRelay { ports: Vec<u16> },
    /// The mesh on a real Kubernetes cluster: installs it, runs the scenarios, deletes what it made. Ends with 1 when a scenario
    /// failed, with 69 when no cluster can be had.
    E2e(e2e::Args),
    /// Builds the mesh's container images, from scratch and without a registry.
    Images(images::Args),
    /// Writes the Helm chart in deploy/chart, from the objects that `meshctl install` makes.
    Chart,
    /// Checks the rules that no compiler knows: sizes, edges between modules, cycles, words.
    Tidy,
    /// Runs each fuzz target under libFuzzer for a while (needs a C++ compiler).
    Fuzz(fuzz::Args),
    /// A control plane on one core with a thousand proxies that have no data path: CPU, memory, how long changes take, how long a
    /// restart.
    Scale {
        /// How many proxies.
        #[arg(long, default_value_t = 1_000)]
        proxies: usize,
        /// How many services; at least as many.
        #[arg(long, default_value_t = 2_000)]
        services: usize,
    },
    /// Load of every kind while certificates live a minute and the root changes: fails on one failed request.
    Soak {
        /// How long.
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// With the programs as users get them, instead of as the tests build them.
        #[arg(long)]
        release: bool,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command {
        Command::Ci { long } => ci::run(if long { ci::Length::Long } else { ci::Length::Short }),
        Command::Test { filter } => ci::test(filter.as_deref()),
        Command::Programs => programs::install(),
        Command::Bench(args) => bench::run(&args),
        Command::BenchBackend { ports } => bench::backend(&ports),
        Command::BenchRelay { ports } => bench::relay(&ports),
        Command::E2e(args) => e2e::run(&args),
        Command::Images(args) => images::run(&args),
        Command::Chart => Step::cargo(
            "chart",
            &["run", "--locked", "--package", "mesh-cli", "--bin", "meshctl", "--", "chart", "deploy/chart"],
        )
        .run(),
        Command::Tidy => tidy::run(),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Scale { proxies, services } => ci::scale(proxies, services),
        Command::Soak { minutes, release } => {
            ci::soak(minutes, if release { ci::Profile::Release } else { ci::Profile::Debug })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let said = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
            if error.is::<tools::Absent>() {
                eprintln!("\nNOT RUN: {said}");
                return ExitCode::from(NO_CLUSTER);
            }
            eprintln!("error: {said}");
            ExitCode::FAILURE
        }
    }
}
