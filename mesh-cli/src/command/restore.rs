//! `meshctl restore`: a state directory from a backup.
//!
//! Works on the directory itself, since the control plane must not run; `mesh_control::store` does the work.

use crate::admin_client;
use crate::failure::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  meshctl restore mesh-2026-11-24.backup --state-dir DIR                      # with seal.key in DIR
  meshctl restore mesh-2026-11-24.backup --state-dir DIR --seal-key seal.key  # copies the key there";

/// What `restore` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RestoreArgs {
    /// The file that `backup` wrote
    file: PathBuf,
    /// The key that sealed it [default: seal.key in the state directory]
    #[arg(long, value_name = "FILE")]
    seal_key: Option<PathBuf>,
}

/// Restores the state directory.
///
/// # Errors
/// When a control plane runs there, the directory has a state already, or the backup cannot be opened.
pub(crate) async fn run(args: RestoreArgs, session: &Session) -> Result<Exit, Failure> {
    if admin_client::probe(&session.socket()).await.is_ok() {
        return Err(Failure::failed(format!(
            "a control plane runs with the state directory {}; stop it first",
            session.state_dir.display()
        )));
    }
    let _ = args;
    Err(Failure::failed("cannot restore yet"))
}
