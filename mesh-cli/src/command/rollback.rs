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
    let dry_run = args.dry_run || client.cluster().is_some();
    let request = v1::RollbackRequest { revision: args.revision, dry_run };
    let response = client
        .answer(client.api().rollback(request).await)
        .map_err(|failure| failure.next("meshctl history"))?;
    let what = if args.dry_run { changes::What::DryRun } else { changes::What::Made };
    if let Some(cluster) = client.cluster() {
        let request = v1::GetRequest { revision: args.revision, ..Default::default() };
        let were = client.answer(client.api().get(request).await)?.objects;
        let by_key = were.into_iter().filter_map(|v1::Object { r#ref, yaml, .. }| {
            let v1::ObjectRef { kind, namespace, name } = r#ref?;
            Some(((kind, namespace, name), yaml))
        });
        let wanted = receipt::Wanted { what, wait: args.wait };
        return receipt::finish_on(cluster, session.format, (response, &by_key.collect()), wanted).await;
    }
    receipt::finish(&client, session.format, response, receipt::Wanted { what, wait: args.wait }).await
}
