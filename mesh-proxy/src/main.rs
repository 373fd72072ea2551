//! The program `mesh-proxy`: one proxy, configured by arguments and environment.

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use mesh_proto::ops;
use mesh_proxy::Config;
use mesh_proxy::args::{Part, Program, RedirectArgs};
use mesh_proxy::capture::pod;
use std::io::Write as _;
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<()> {
    mesh_ca::install_crypto();
    match Program::parse() {
        Program { part: Some(Part::Redirect(args)), .. } => redirect(args),
        Program { part: Some(Part::Pod(args)), .. } => {
            ops::log::init(&args.log())?;
            run(args.into_config())
        }
        Program { part: None, beside: Some(args) } => {
            ops::log::init(&args.log())?;
            run(args.into_config()?)
        }
        Program { part: None, beside: None } => Program::command()
            .error(clap::error::ErrorKind::MissingRequiredArgument, "--name is missing")
            .exit(),
    }
}

fn redirect(args: RedirectArgs) -> anyhow::Result<()> {
    let is_dry_run = args.dry_run;
    let exempt = args.into_exempt();
    if is_dry_run {
        return std::io::stdout().write_all(pod::ruleset(&exempt).as_bytes()).context("cannot print");
    }
    pod::redirect(&exempt).context("the pod's connections are not redirected")
}

fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (ready, _is_ready) = tokio::sync::oneshot::channel();
        let running = mesh_proxy::run(config, ready, shutdown.clone());
        tokio::select! {
            result = running => result.map_err(anyhow::Error::from),
            result = ops::shutdown::signal_cancels(shutdown) => result.context("cannot listen for signals"),
        }
    })
}
