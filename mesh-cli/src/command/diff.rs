//! `meshctl diff`: files against the mesh, or one revision against another.

use super::apply::{changes::ChangeOut, files};
use crate::failure::{Exit, Failure};
use crate::output;
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  meshctl diff -f policy.yaml      # what applying it would change
  meshctl diff 12                  # what revision 12 changed
  meshctl diff 12 15               # from revision 12 to revision 15
  meshctl diff 12 0                # from revision 12 to now

Exit code 3 when there are differences.";

/// What `diff` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DiffArgs {
    /// A revision, or two; 0 is now
    #[arg(value_name = "REVISION", num_args = 1..=2, conflicts_with = "files", required_unless_present = "files")]
    revisions: Vec<u64>,
    /// A file, a directory, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// With a directory: its directories too
    #[arg(short = 'R', long, requires = "files")]
    recursive: bool,
}

#[derive(Serialize)]
struct Differences {
    changes: Vec<ChangeOut>,
}

/// Prints the differences.
///
/// # Errors
/// A file that cannot be read or applied, a revision that does not exist.
pub(crate) async fn run(args: DiffArgs, session: &Session) -> Result<Exit, Failure> {
    let found = if args.files.is_empty() {
        let client = session.admin().await?;
        let request = match args.revisions.as_slice() {
            [to] => v1::DiffRequest { from: 0, to: *to },
            [from, to, ..] => v1::DiffRequest { from: *from, to: *to },
            [] => v1::DiffRequest::default(),
        };
        client.answer(client.api().diff(request).await)?.changes
    } else {
        let depth = if args.recursive { files::Depth::Recursive } else { files::Depth::Flat };
        let documents = files::read(&args.files, depth)?;
        let client = session.admin().await?;
        client.answer(client.api().apply(v1::ApplyRequest { documents, dry_run: true }).await)?.changes
    };
    let changes: Vec<ChangeOut> =
        found.into_iter().map(ChangeOut::from).filter(ChangeOut::is_change).collect();
    let differences = Differences { changes };
    output::print_value(session.format, &differences, || table(&differences))?;
    Ok(if differences.changes.is_empty() { Exit::Done } else { Exit::Bad })
}

fn table(differences: &Differences) -> String {
    if differences.changes.is_empty() {
        return "no differences\n".to_owned();
    }
    differences.changes.iter().map(|change| format!("{}\n{}", change.line(), change.painted_diff())).collect()
}
