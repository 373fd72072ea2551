//! demo
use crate::cli::Global;
use crate::failure::{Exit, Failure};
/// x
#[derive(clap::Args, Debug)]
pub(crate) struct DemoArgs {}
/// x
#[derive(clap::Args, Debug)]
pub(crate) struct AppArgs {}
pub(crate) async fn run(_args: DemoArgs, _global: &Global) -> Result<Exit, Failure> { Ok(Exit::Done) }
pub(crate) async fn run_app(_args: AppArgs) -> Result<Exit, Failure> { Ok(Exit::Done) }
