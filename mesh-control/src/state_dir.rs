//! The directory where a control plane keeps everything: made with the right modes, locked, and holding the socket.
//!
//! | entry | mode | what |
//! |---|---|---|
//! | the directory itself | 0711 | others may pass through to the socket and see nothing |
//! | `control.lock` | 0600 | held (flock) while a control plane runs; freed by the kernel however it ends |
//! | `control.sock` | 0666 | whoever connects is known by the kernel's word (uid) and judged at each call |
//! | `store/` | 0700 | policy state, sealed |
//! | `seal.key` | 0600 | what opens the seals |
//!
//! # Why the socket lets everybody connect
//! Other users than the owner can hold one of the mesh's admin roles, and a `Workload` may belong to another uid. File
//! modes know only owner and group, so the mode lets all in and each call is judged by the peer's uid: see
//! `admin::access`. The alternative, a group for each role, needs root to set up and cannot say who did what.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// `sun_path` has 108 bytes on Linux and 104 elsewhere, with the final NUL; the rest is left for temporary names.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It could not be made, read or changed.
    #[error(
        "cannot {action} {path}: {source}; give another directory with --state-dir, or make this one yours"
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another control plane runs here.
    #[error(
        "another control plane{holder} already uses {path}; talk to it with `meshctl --state-dir {path} status`, or start \
         this one with another --state-dir"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// ` (pid N)`, or nothing.
        holder: String,
    },
    /// The system has no room for so long a socket path.
    #[error(
        "the socket path {path} has {length} bytes, and a Unix socket's path may have at most {SOCKET_PATH_BYTES_MAX}; \
         choose a shorter --state-dir"
    )]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
}

/// A locked state directory; the lock ends with the value.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if needed and takes its lock.
    ///
    /// # Errors
    /// When it cannot be used, with what to do about it. Nothing is served then.
    pub(crate) fn claim(path: &Path) -> Result<Self, StateDirError> {
        let socket = path.join(SOCKET_NAME);
        let length = socket.as_os_str().len();
        if length > SOCKET_PATH_BYTES_MAX {
            return Err(StateDirError::SocketPathTooLong { path: socket, length });
        }
        let io = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| StateDirError::Io { action, path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(io("create", path))?;
        // An older directory may be 0700 or 0755; the owner may always set the mode.
        fs::set_permissions(path, Permissions::from_mode(0o711)).map_err(io("set the mode of", path))?;
        let lock_path = path.join("control.lock");
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&lock_path).unwrap_or_default();
                let holder = holder.trim();
                let known = !holder.is_empty() && holder.bytes().all(|b| b.is_ascii_digit());
                let holder = if known { format!(" (pid {holder})") } else { String::new() };
                return Err(StateDirError::InUse { path: path.to_path_buf(), holder });
            }
            Err(fs::TryLockError::Error(source)) => {
                return Err(StateDirError::Io { action: "lock", path: lock_path, source });
            }
        }
        // The pid is only for the message above; the lock itself is the kernel's.
        lock.set_len(0)
            .and_then(|()| write!(lock, "{}", std::process::id()))
            .map_err(io("write", &lock_path))?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// Where the socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_NAME)
    }

    /// The directory of the store, made with mode 0700 if missing.
    ///
    /// # Errors
    /// When it can be neither found nor made.
    pub(crate) fn store(&self) -> Result<PathBuf, StateDirError> {
        let path = self.path.join("store");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| StateDirError::Io { action: "create", path: path.clone(), source })?;
        Ok(path)
    }

    /// The default place of the sealing key.
    pub(crate) fn seal_key(&self) -> PathBuf {
        self.path.join("seal.key")
    }
}

/// The file name of the socket within the state directory.
const SOCKET_NAME: &str = "control.sock";

/// Binds the Unix socket so that every local user may connect.
///
/// A file left by a killed predecessor is removed first; the caller holds the directory's lock, so nobody serves it.
///
/// # Errors
/// When the path cannot be bound.
pub(crate) fn bind_socket(path: &Path) -> Result<tokio::net::UnixListener, StateDirError> {
    let io = |action| move |source| StateDirError::Io { action, path: path.to_path_buf(), source };
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("remove the old socket")(e)),
        _ => {}
    }
    let listener = tokio::net::UnixListener::bind(path).map_err(io("bind the socket"))?;
    fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(io("set the mode of"))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_control_plane_is_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::claim(dir.path()).unwrap();
        let error = StateDir::claim(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(first);
        StateDir::claim(dir.path()).unwrap();
    }

    #[test]
    fn a_long_socket_path_is_named_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        let error = StateDir::claim(&deep).unwrap_err();
        assert!(matches!(error, StateDirError::SocketPathTooLong { .. }), "{error}");
        assert!(!deep.exists());
    }

    #[test]
    fn others_may_pass_through_but_not_look() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let state = StateDir::claim(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o711);
        assert_eq!(mode(&state.store().unwrap()), 0o700);
        assert_eq!(mode(&path.join("control.lock")), 0o600);
    }
}
