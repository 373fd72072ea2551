//! `meshctl delete`: removes resources, by name or as files name them.

use super::apply::{changes, files, receipt};
use super::get::parse_key;
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use mesh_proto::resource::{self, ResourceKey, SourceDocument};
use mesh_proto::wire::v1;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  meshctl delete accesspolicy/shop/payments --wait
  meshctl delete ratelimit/shop/web accesspolicy/shop/web --dry-run
  meshctl delete -f deploy/examples/shop       # what these files describe

All are removed, or none. Undo with: meshctl rollback REVISION";

/// What `delete` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DeleteArgs {
    /// KIND/NAME (namespace "default" or mesh-wide) or KIND/NAMESPACE/NAME
    #[arg(value_name = "OBJECT", required_unless_present = "files")]
    objects: Vec<String>,
    /// Remove what a file, a directory, or standard input (-) describes
    #[arg(short, long = "filename", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// Show what would be removed, but change nothing
    #[arg(long)]
    dry_run: bool,
    /// Return when every affected sidecar enforces the change; fails after the time given
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = duration::parse)]
    wait: Option<Duration>,
}

/// Removes the objects.
///
/// # Errors
/// When one of them does not exist; then nothing was changed.
pub(crate) async fn run(args: DeleteArgs, session: &Session) -> Result<Exit, Failure> {
    let mut keys: Vec<ResourceKey> =
        args.objects.iter().map(|text| parse_key(text)).collect::<Result<_, _>>()?;
    if !args.files.is_empty() {
        keys.extend(keys_of(files::read(&args.files, files::Depth::Flat)?));
    }
    let objects = keys
        .into_iter()
        .map(|ResourceKey { kind, namespace, name }| v1::ObjectRef {
            kind: kind.to_string(),
            namespace: namespace.map(|namespace| namespace.to_string()).unwrap_or_default(),
            name: name.to_string(),
        })
        .collect();
    let client = session.admin().await?;
    let what = if args.dry_run { changes::What::DryRun } else { changes::What::Made };
    let dry_run = args.dry_run || client.cluster().is_some();
    let response = client.answer(client.api().delete(v1::DeleteRequest { objects, dry_run }).await)?;
    if let Some(cluster) = client.cluster() {
        let wanted = receipt::Wanted { what, wait: args.wait };
        return receipt::finish_on(cluster, session.format, (response, &BTreeMap::new()), wanted).await;
    }
    receipt::finish(&client, session.format, response, receipt::Wanted { what, wait: args.wait }).await
}

/// The keys of documents that were parsed before.
fn keys_of(documents: Vec<v1::Document>) -> Vec<ResourceKey> {
    documents
        .into_iter()
        .filter_map(|v1::Document { file, line, yaml }| {
            resource::parse(&SourceDocument { file, line, yaml }).ok()
        })
        .map(|resource| resource.key())
        .collect()
}
