//! `meshctl restore`: a state directory from a backup.
//!
//! Works on the directory itself, since the control plane must not run; `mesh_control::store` does the work.

use crate::admin_client;
use crate::failure::{Exit, Failure, chain};
use crate::output;
use crate::session::Session;
use clap::Args;
use mesh_ca::seal::{Missing, SealKey};
use mesh_control::store::disk;
use serde::Serialize;
use std::fs::File;
use std::io::{BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The sealing key's name within a state directory.
pub(crate) const SEAL_KEY_NAME: &str = "seal.key";
/// The store's name within a state directory.
pub(crate) const STORE_NAME: &str = "store";

const EXAMPLES: &str = "\
Examples:
  meshctl restore mesh.backup --state-dir DIR                      # with seal.key in DIR
  meshctl restore mesh.backup --state-dir DIR --seal-key seal.key  # copies the key to DIR

Then start the control plane on it: meshctl up --state-dir DIR";

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
    check_stopped(session).await?;
    let dir = session.state_dir.clone();
    let kept_key = dir.join(SEAL_KEY_NAME);
    let key_file = args.seal_key.unwrap_or_else(|| kept_key.clone());
    let key = SealKey::from_file(&key_file, Missing::Refuse).map_err(|error| {
        Failure::failed(chain(&error)).next("meshctl restore FILE --seal-key SEAL.KEY --state-dir DIR")
    })?;
    let backup = File::open(&args.file).map_err(|error| {
        Failure::failed(format!("cannot read the backup {}: {error}", args.file.display()))
    })?;
    super::up::check_state_dir(&dir)?;
    let report = blocking(move || {
        disk::restore(&mut BufReader::new(backup), &dir.join(STORE_NAME), Arc::new(key))
            .map_err(|error| Failure::failed(chain(&error)))
    })
    .await?;
    if key_file != kept_key {
        copy_key(&key_file, &kept_key)?;
    }
    let restored =
        Restored { revision: report.revision, resources: report.resources, audit_records: report.records };
    output::print_value(session.format, &restored, || {
        let Restored { revision, resources, audit_records } = &restored;
        format!("restored revision {revision}: {resources} resources, {audit_records} audit records\n")
    })?;
    output::note(&format!("start it with: meshctl up --state-dir {}", session.state_dir.display()));
    Ok(Exit::Done)
}

/// What is there now, as scripts see it.
#[derive(Serialize)]
struct Restored {
    revision: u64,
    resources: u64,
    audit_records: u64,
}

/// Refuses to touch the store of a control plane that runs.
///
/// # Errors
/// When one does.
pub(crate) async fn check_stopped(session: &Session) -> Result<(), Failure> {
    if admin_client::probe(&session.socket()).await.is_err() {
        return Ok(());
    }
    let dir = session.state_dir.display();
    Err(Failure::failed(format!("a control plane runs with the state directory {dir}; stop it first"))
        .next(format!("meshctl status --state-dir {dir}")))
}

/// Runs what blocks beside the runtime.
///
/// # Errors
/// The work's own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Failure::failed(format!("the work on the store ended by a bug: {error}")))
    })
}

/// Copies the key, readable by its owner only. An equal key that is there already is left.
fn copy_key(from: &Path, to: &Path) -> Result<(), Failure> {
    let cannot =
        |error: std::io::Error| Failure::failed(format!("cannot copy the key to {}: {error}", to.display()));
    let key = std::fs::read(from).map_err(cannot)?;
    if std::fs::read(to).is_ok_and(|there| there == key) {
        return Ok(());
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(to).map_err(cannot)?;
    file.write_all(&key).and_then(|()| file.sync_all()).map_err(cannot)
}
