//! `meshctl`: one binary that runs, drives and explains the mesh.
//!
//! Parses the command line, runs one command, prints its failure with the next command to type, exits with a documented
//! code. Everything a command does lives in its module under `command`; this file decides nothing else.

mod admin_client;
mod cli;
mod cluster;
mod command;
mod config;
mod dashboard;
mod duration;
mod failure;
mod output;
mod processes;
mod replicas;
mod session;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_ca::install_crypto();
    let cli = cli::Cli::parse();
    output::choose_color(cli.global.color);
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::print_failure(&failure);
            failure.exit_code()
        }
    }
}

/// Makes the runtime and runs the command on the main thread, so that children die with it (see `processes`).
fn run(cli: cli::Cli) -> Result<failure::Exit, failure::Failure> {
    // Replaces this process or prints a script: needs no runtime.
    if let cli::Command::ExecWithParent(args) = cli.command {
        return Err(processes::exec_with_parent(&args));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| failure::Failure::failed(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(cli::dispatch(cli));
    // Blocking tasks such as a read of standard input must not hold up the exit.
    runtime.shutdown_background();
    result
}
