//! The directory where a control plane keeps everything: made with the right modes, locked, and holding the socket.
//!
//! | entry | mode | what |
//! |---|---|---|
//! | the directory itself | 0711 | others may pass through to the socket and see nothing |
//! | `control.lock` | 0600 | held (flock) while a control plane runs; freed by the kernel however it ends |
//! | `control.sock` | 0666 | whoever connects is known by the kernel's word (uid) and judged at each call |
//! | `store/` | 0700 | policy state, sealed |
//! | `ledger/` | 0700 | who called whom, hour by hour |
//! | `alarms/` | 0700 | alarms, what waits for their sinks, the sinks' keys |
//! | `seal.key` | 0600 | what opens the seals |
//!
//! Nothing is used that somebody else could have put there: the directory and its entries belong to the user whom the
//! control plane runs as, or to root, nobody else may write to them, and the lock is never reached through a link. Root
//! could use other people's files just as well, which is why it must not.
//!
//! # Why the socket lets everybody connect
//! Other users than the owner can hold one of the mesh's admin roles, and a `Workload` may belong to another uid. File
//! modes know only owner and group, so the mode lets all in and each call is judged by the peer's uid: see
//! `admin::access`. The alternative, a group for each role, needs root to set up and cannot say who did what.

use crate::admin::users;
use rustix::fs::OFlags;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
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
    /// It belongs to somebody else.
    #[error(
        "{path} belongs to {owner}, and this control plane runs as {us}: whoever owns it could replace what is read from it. \
         Start the control plane as {owner}, give another --state-dir, or take it over: chown -R {uid} {dir}"
    )]
    Foreign {
        /// The directory, or what in it.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who we are.
        us: String,
        /// Our uid.
        uid: u32,
        /// The directory.
        dir: PathBuf,
    },
    /// Others may write to it.
    #[error(
        "others than its owner may write to {path} (mode {mode:04o}) and so change the mesh; if what is in it can be trusted: \
         chmod go-w {path}; otherwise give another --state-dir"
    )]
    Writable {
        /// The directory, or what in it.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Something else stands in its place.
    #[error("{path} is {found}, not {wanted}; remove it, or give another --state-dir")]
    Misplaced {
        /// Where.
        path: PathBuf,
        /// What stands there.
        found: &'static str,
        /// What should.
        wanted: &'static str,
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
        let directory = File::open(path).map_err(io("open", path))?;
        let us = rustix::process::geteuid().as_raw();
        let house = House { dir: path, us };
        house.check(path, &directory.metadata().map_err(io("read", path))?)?;
        house.check_entries()?;
        // An older directory may be 0700 or 0755; the owner may always set the mode.
        directory.set_permissions(Permissions::from_mode(0o711)).map_err(io("set the mode of", path))?;
        let mut lock = house.lock_file()?;
        let lock_path = path.join(LOCK_NAME);
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
        let path = self.path.join(STORE_NAME);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| StateDirError::Io { action: "create", path: path.clone(), source })?;
        Ok(path)
    }

    /// The directory of the flow ledger, which makes it.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.path.join(LEDGER_NAME)
    }

    /// The directory of alarms, which make it.
    pub(crate) fn alarms(&self) -> PathBuf {
        self.path.join(ALARMS_NAME)
    }

    /// The default place of the sealing key.
    pub(crate) fn seal_key(&self) -> PathBuf {
        self.path.join(SEAL_KEY_NAME)
    }
}

/// The file name of the socket within the state directory.
const SOCKET_NAME: &str = "control.sock";
/// That of the lock.
const LOCK_NAME: &str = "control.lock";
/// That of the sealing key.
const SEAL_KEY_NAME: &str = "seal.key";
/// That of the store's directory.
const STORE_NAME: &str = "store";

/// That of the flow ledger's directory.
const LEDGER_NAME: &str = "ledger";
/// That of the alarms' directory.
const ALARMS_NAME: &str = "alarms";

/// A state directory that is looked at before it is used.
struct House<'a> {
    dir: &'a Path,
    /// The user we run as.
    us: u32,
}

impl House<'_> {
    /// Whether something is ours (or root's) and nobody else's to write.
    fn check(&self, path: &Path, found: &Metadata) -> Result<(), StateDirError> {
        let name = |uid: u32| match users::name(uid) {
            Some(name) => format!("uid {uid} ({name})"),
            None => format!("uid {uid}"),
        };
        if found.uid() != self.us && found.uid() != 0 {
            return Err(StateDirError::Foreign {
                path: path.to_path_buf(),
                owner: name(found.uid()),
                us: name(self.us),
                uid: self.us,
                dir: self.dir.to_path_buf(),
            });
        }
        // Everybody may write to the socket, see the head; a link has no mode of its own.
        let has_mode = !found.file_type().is_socket() && !found.file_type().is_symlink();
        let mode = found.mode() & 0o7777;
        if has_mode && mode & 0o022 != 0 {
            return Err(StateDirError::Writable { path: path.to_path_buf(), mode });
        }
        Ok(())
    }

    /// Checks what is there: a link as such, and what it leads to (a store may lie on another disk).
    fn check_entries(&self) -> Result<(), StateDirError> {
        for name in [LOCK_NAME, SOCKET_NAME, SEAL_KEY_NAME, STORE_NAME, LEDGER_NAME, ALARMS_NAME] {
            let path = self.dir.join(name);
            for found in [fs::symlink_metadata(&path), fs::metadata(&path)] {
                match found {
                    Ok(found) => self.check(&path, &found)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(StateDirError::Io { action: "read", path, source }),
                }
            }
        }
        Ok(())
    }

    /// The lock's file, made if missing, and certainly that: no link, no pipe, nobody else's.
    fn lock_file(&self) -> Result<File, StateDirError> {
        let path = self.dir.join(LOCK_NAME);
        let misplaced =
            |found| StateDirError::Misplaced { path: path.clone(), found, wanted: "a plain file" };
        let io = |source| StateDirError::Io { action: "open", path: path.clone(), source };
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(i32::from_ne_bytes(flags.to_ne_bytes()))
            .open(&path);
        let lock = match opened {
            Ok(lock) => lock,
            Err(_) if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) => {
                return Err(misplaced("a link"));
            }
            Err(source) => return Err(io(source)),
        };
        let found = lock.metadata().map_err(io)?;
        if !found.is_file() {
            return Err(misplaced("no plain file"));
        }
        self.check(&path, &found)?;
        Ok(lock)
    }
}

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

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o1777, 0o775, 0o722] {
            set_mode(dir.path(), mode);
            let error = StateDir::claim(dir.path()).unwrap_err();
            assert!(matches!(error, StateDirError::Writable { .. }), "{mode:o}: {error}");
            assert!(error.to_string().contains("chmod go-w"), "{error}");
            assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o7777, mode);
        }
        set_mode(dir.path(), 0o755);
        StateDir::claim(dir.path()).unwrap();
    }

    #[test]
    fn entries_that_others_may_write_to_are_refused() {
        for name in [STORE_NAME, SEAL_KEY_NAME, LOCK_NAME] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            if name == STORE_NAME { fs::create_dir(&path) } else { fs::write(&path, "") }.unwrap();
            set_mode(&path, 0o666);
            let error = StateDir::claim(dir.path()).unwrap_err();
            assert!(matches!(&error, StateDirError::Writable { path: p, .. } if *p == path), "{error}");
        }
    }

    #[test]
    fn the_lock_is_never_reached_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("precious");
        fs::write(&elsewhere, "precious").unwrap();
        set_mode(&elsewhere, 0o600);
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        set_mode(&state, 0o711);
        std::os::unix::fs::symlink(&elsewhere, state.join(LOCK_NAME)).unwrap();
        let error = StateDir::claim(&state).unwrap_err();
        assert!(error.to_string().contains("is a link, not a plain file"), "{error}");
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
    }

    #[test]
    fn root_does_not_use_what_is_somebody_elses() {
        assert!(rustix::process::geteuid().is_root(), "this test needs root, to give files away");
        let give = |path: &Path| std::os::unix::fs::lchown(path, Some(4242), None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        give(dir.path());
        let error = StateDir::claim(dir.path()).unwrap_err().to_string();
        assert!(error.contains("belongs to uid 4242") && error.contains("chown -R 0 "), "{error}");
        for name in [STORE_NAME, SEAL_KEY_NAME, LOCK_NAME, SOCKET_NAME] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            set_mode(&path, 0o600);
            give(&path);
            let error = StateDir::claim(dir.path()).unwrap_err();
            assert!(matches!(&error, StateDirError::Foreign { path: p, .. } if *p == path), "{error}");
        }
    }
}
