//! `meshctl apply`: makes the mesh's resources as the files say.
//!
//! `files` reads and checks the documents here, so that every mistake of a file is told at once with its line; what needs
//! the mesh's other resources is checked by the control plane. `changes` prints what came of it.

pub(crate) mod changes;
pub(crate) mod files;
pub(crate) mod receipt;

use crate::duration;
use crate::failure::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use mesh_proto::resource::{self, SourceDocument};
use mesh_proto::wire::v1;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  meshctl apply -f policy.yaml --wait           # returns when every affected sidecar enforces it
  meshctl apply -f deploy/examples/shop         # all .yaml, .yml and .json files of a directory
  meshctl apply -f policy.yaml --dry-run        # checks, and shows the differences
  kustomize build . | meshctl apply -f -        # from standard input

All documents are applied, or none. On a cluster they become its objects, as kubectl apply makes
them, under your own rights.";

/// What `apply` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ApplyArgs {
    /// A file, a directory, or - for standard input. May be given several times
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    files: Vec<PathBuf>,
    /// With a directory: its directories too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Check everything and show the differences, but change nothing
    #[arg(long)]
    dry_run: bool,
    /// Return when every affected sidecar enforces the change; fails after the time given
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = duration::parse)]
    wait: Option<Duration>,
}

/// Applies the files.
///
/// # Errors
/// When a file cannot be read or a document is refused; then nothing was changed.
pub(crate) async fn run(args: ApplyArgs, session: &Session) -> Result<Exit, Failure> {
    let depth = if args.recursive { files::Depth::Recursive } else { files::Depth::Flat };
    let documents = files::read(&args.files, depth)?;
    let client = session.admin().await?;
    let what = if args.dry_run { changes::What::DryRun } else { changes::What::Made };
    if let Some(cluster) = client.cluster() {
        let by_key = by_key(&documents);
        let request = v1::ApplyRequest { documents, dry_run: true };
        let judged = client.answer(client.api().apply(request).await)?;
        let wanted = receipt::Wanted { what, wait: args.wait };
        return receipt::finish_on(cluster, session.format, (judged, &by_key), wanted).await;
    }
    let request = v1::ApplyRequest { documents, dry_run: args.dry_run };
    let response = client.answer(client.api().apply(request).await)?;
    receipt::finish(&client, session.format, response, receipt::Wanted { what, wait: args.wait }).await
}

/// Documents in canonical form by what they are about; they were parsed before.
fn by_key(documents: &[v1::Document]) -> BTreeMap<receipt::Key, String> {
    let parsed = documents.iter().filter_map(|v1::Document { file, line, yaml }| {
        let document = SourceDocument { file: file.clone(), line: *line, yaml: yaml.clone() };
        resource::parse(&document).ok()
    });
    parsed.map(|resource| (receipt::key(&resource.key()), resource.to_yaml())).collect()
}
