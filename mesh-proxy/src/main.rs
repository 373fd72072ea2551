//! The program `mesh-proxy`: one proxy, configured by arguments and environment.

use anyhow::Context as _;
use clap::Parser as _;
use mesh_proto::ops;
use mesh_proxy::args::Args;
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<()> {
    mesh_ca::install_crypto();
    let args = Args::parse();
    ops::log::init(&args.log())?;
    let config = args.into_config()?;
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
