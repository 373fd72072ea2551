//! The program `mesh-control`: a control plane in the foreground.
//!
//! `meshctl up` starts the same library; this program is for process managers and images that want nothing else.

use anyhow::Context as _;
use clap::Parser as _;
use mesh_control::Args;
use mesh_proto::ops::{log, shutdown};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<()> {
    mesh_ca::install_crypto();
    let (log_config, config) = Args::parse().into_config()?;
    log::init(&log_config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        // The receiver is not needed: the log says when it serves.
        let (ready, _) = oneshot::channel();
        tokio::select! {
            // `run` ends by itself after the token is cancelled; the signals' future only ends on an error.
            ended = mesh_control::run(config, ready, stop.clone()) => ended.map_err(anyhow::Error::from),
            Err(error) = shutdown::signal_cancels(stop.clone()) => Err(error).context("cannot listen for signals"),
        }
    });
    // Whatever still runs on blocking threads has been told to end; a second signal does not wait either.
    runtime.shutdown_timeout(std::time::Duration::from_secs(3));
    ended
}
