//! `meshctl rollback`: all resources as they were at a past revision, as a new change that can itself be undone.

use super::apply::{changes, receipt};
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  meshctl history                     # which revisions there are
  meshctl rollback 11 --dry-run       # what would change
  meshctl rollback 11 --wait";

/// What `rollback` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RollbackArgs {
    /// The revision to go back to
    revision: u64,
    /// Show what would change, but change nothing
    #[arg(long)]
    dry_run: bool,
    /// Return when every affected sidecar enforces the change; fails after the time given
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = duration::parse)]
    wait: Option<Duration>,
}

/// Rolls back.
///
/// # Errors
/// When there is no such revision.
pub(crate) async fn run(args: RollbackArgs, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let request = v1::RollbackRequest { revision: args.revision, dry_run: args.dry_run };
    let response = client
        .answer(client.api().rollback(request).await)
        .map_err(|failure| failure.next("meshctl history"))?;
    let what = if args.dry_run { changes::What::DryRun } else { changes::What::Made };
    receipt::finish(&client, session.format, response, receipt::Wanted { what, wait: args.wait }).await
}
