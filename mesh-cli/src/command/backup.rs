//! `meshctl backup`: the control plane's whole state in one sealed file.

use crate::failure::{Exit, Failure};
use crate::output::{self, Format};
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  meshctl backup mesh-2026-11-24.backup
  meshctl restore mesh-2026-11-24.backup --state-dir DIR

The file is sealed with the state directory's seal.key. Keep that key elsewhere: nothing else opens
the backup.";

/// What `backup` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BackupArgs {
    /// The file to write; it must not exist yet
    file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

/// Writes the backup: whole under its name, or not at all.
///
/// # Errors
/// When the file exists, cannot be written, or the control plane goes away.
pub(crate) async fn run(args: BackupArgs, session: &Session) -> Result<Exit, Failure> {
    let path = args.file;
    let cannot = |error: std::io::Error| cannot_write(&path, &error);
    if path.is_dir() {
        return Err(Failure::failed(format!("{} is a directory; name the file to write", path.display()))
            .next(format!("meshctl backup {}", path.join("mesh.backup").display())));
    }
    if path.exists() && !args.force {
        return Err(Failure::failed(format!("{} exists already", path.display()))
            .next(format!("meshctl backup --force {}", path.display())));
    }
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let client = session.admin().await?;
    // Mode 0600 by the library; renamed only when everything is on the disk.
    let mut file = tempfile::Builder::new().prefix(".backup-").tempfile_in(dir).map_err(cannot)?;
    let mut stream = client.answer(client.api().backup(v1::BackupRequest {}).await)?;
    let mut bytes: u64 = 0;
    while let Some(chunk) = stream.message().await.map_err(|status| client.refused(&status))? {
        file.write_all(&chunk.data).map_err(cannot)?;
        bytes = bytes.saturating_add(u64::try_from(chunk.data.len()).unwrap_or(u64::MAX));
    }
    file.as_file().sync_all().map_err(cannot)?;
    file.persist(&path).map_err(|error| cannot(error.error))?;
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(cannot)?;
    let seal_key = session.state_dir.join("seal.key").display().to_string();
    if session.format == Format::Table {
        output::note(&format!("{bytes} bytes written to {}", path.display()));
        output::note(&format!("keep {seal_key} too, in another place"));
    } else {
        let written = Written { file: path.display().to_string(), bytes, seal_key };
        output::print_value(session.format, &written, String::new)?;
    }
    Ok(Exit::Done)
}

/// What was written, as scripts see it.
#[derive(Serialize)]
struct Written {
    file: String,
    bytes: u64,
    /// What alone opens it.
    seal_key: String,
}

/// The system's reason without the name that the file has until it is whole.
fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    let place = path.display();
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).display();
    match error.kind() {
        ErrorKind::NotFound
            if !path.parent().is_some_and(|dir| dir.as_os_str().is_empty() || dir.is_dir()) =>
        {
            Failure::failed(format!("cannot write {place}: there is no directory {dir}"))
        }
        ErrorKind::PermissionDenied => {
            Failure::failed(format!("cannot write {place}: this user may not write to {dir}"))
                .next(format!("ls -ld {dir}"))
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Failure::failed(format!("cannot write {place}: no space left there")).next(format!("df -h {dir}"))
        }
        ErrorKind::ReadOnlyFilesystem => {
            Failure::failed(format!("cannot write {place}: the file system is read-only"))
        }
        // The error itself speaks of the name that the file has until it is whole.
        kind => Failure::failed(format!("cannot write {place}: {kind}")),
    }
}
