//! Where things are within a store's directory, and the lock on it.
//!
//! | entry | what |
//! |---|---|
//! | `lock` | held while the store is open; freed by the kernel however the process ends |
//! | `data/sled/` | the database |
//! | `data/manifest` | what it must hold |
//! | `data.new/` | a database being made; it gets its name `data` when it is whole and durable |
//! | `sled.before/` | the database's files as they were before sled opened them; gone once they proved good |
//! | `data.damaged-N/` | what a repair replaced |
//! | `exports/` | full, sealed copies of the newest states |

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A store's own directory.
#[derive(Clone, Debug)]
pub(super) struct Place {
    dir: PathBuf,
}

impl Place {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory that people name: the store is the subdirectory of a state directory.
    pub(super) fn state_dir(&self) -> PathBuf {
        match self.dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(super) fn data_new(&self) -> PathBuf {
        self.dir.join("data.new")
    }

    pub(super) fn database(&self) -> PathBuf {
        database_in(&self.data())
    }

    pub(super) fn before(&self) -> PathBuf {
        self.dir.join("sled.before")
    }

    pub(super) fn manifest(&self) -> PathBuf {
        manifest_in(&self.data())
    }

    pub(super) fn exports(&self) -> PathBuf {
        self.dir.join("exports")
    }

    /// Directories that repairs replaced, oldest first.
    pub(super) fn damaged(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|n| n.strip_prefix("data.damaged-"))
                .and_then(|n| n.parse::<u64>().ok());
            if let Some(number) = number {
                found.push((number, entry.path()));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// The name under which a repair sets the present data aside.
    pub(super) fn next_damaged(&self) -> io::Result<PathBuf> {
        let free = |n: &u64| !self.dir.join(format!("data.damaged-{n}")).exists();
        let number = (1..=u64::MAX).find(free).ok_or_else(|| io::Error::other("no free name"))?;
        Ok(self.dir.join(format!("data.damaged-{number}")))
    }

    /// Finished exports, newest first.
    pub(super) fn exported(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(self.exports()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "export") {
                found.push(path);
            }
        }
        found.sort();
        found.reverse();
        Ok(found)
    }

    /// Removes exports that were never finished: each kill during one leaves its part behind.
    pub(super) fn sweep_exports(&self) -> io::Result<()> {
        let entries = match fs::read_dir(self.exports()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Makes the directory if it is missing, and takes its lock; `None`: somebody else has it.
    pub(super) fn claim(&self) -> io::Result<Option<Lock>> {
        make_directory(&self.dir)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let lock = options.open(self.dir.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Lock(lock))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether there is anything here that a store could have left, the lock aside.
    pub(super) fn is_empty(&self) -> io::Result<bool> {
        match fs::read_dir(&self.dir) {
            Ok(mut entries) => Ok(!entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lock"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// A directory's lock; it ends with the value.
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is just being started by another thread still has the descriptor.
        let _ = self.0.unlock();
    }
}

/// The database within a data directory.
pub(super) fn database_in(data: &Path) -> PathBuf {
    data.join("sled")
}

/// The manifest within a data directory.
pub(super) fn manifest_in(data: &Path) -> PathBuf {
    data.join("manifest")
}

/// Makes a directory that only its owner may enter, and those above it.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
