//! Files that survive a crash: reserved space, atomic replacement, synchronised directories.
//!
//! Only the other parts of the store call this. It never decides what to do about a failure.

use super::faults::{Faults, Point};
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Reserves the file's first `length` bytes on the disk without changing its length, so that writing them cannot fail
/// for want of space.
///
/// Where the file system cannot do that, it is at least asked whether it has as much left.
///
/// # Errors
/// There is no such space, or nothing can be written at all.
pub(super) fn reserve(file: &File, length: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
        Ok(()) => return Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    let missing = length.saturating_sub(file.metadata()?.len());
    let disk = fstatvfs(file)?;
    if disk.f_bavail.saturating_mul(disk.f_frsize) < missing {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The disk failed.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes every file below a directory durable, and their names. sled makes a handful of files and no links.
///
/// # Errors
/// The disk failed.
pub(super) fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(path)
}

/// Copies a directory of plain files and directories.
///
/// # Errors
/// Something could not be read or written.
pub(super) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Removes a directory if it is there.
///
/// # Errors
/// It is there and cannot be removed.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The acts of one replacement, by the names under which tests make them fail.
pub(super) struct Points {
    pub(super) create: Point,
    pub(super) write: Point,
    pub(super) sync: Point,
    pub(super) rename: Point,
    pub(super) sync_directory: Point,
}

/// A file that will take another's place, its space already taken.
pub(super) struct Replacement<'a> {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    points: &'a Points,
    faults: &'a dyn Faults,
    finished: bool,
}

impl<'a> Replacement<'a> {
    /// Makes the file beside `target` and reserves `bytes`. What a predecessor left there is overwritten.
    ///
    /// # Errors
    /// There is no space, or nothing can be written there.
    pub(super) fn prepare(
        target: &Path,
        bytes: u64,
        points: &'a Points,
        faults: &'a dyn Faults,
    ) -> io::Result<Self> {
        faults.reach(points.create)?;
        let mut temporary = target.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let target = target.to_path_buf();
        let replacement = Self { file, temporary, target, points, faults, finished: false };
        if bytes > 0 {
            reserve(&replacement.file, bytes)?;
        }
        Ok(replacement)
    }

    /// Makes what was written durable and gives it the final name. From then on a crash of the process finds the new
    /// file; a power cut may still bring the old one back, whole, until [`sync_name`] was called.
    ///
    /// # Errors
    /// The disk failed; whether the replacement happened is then unknown.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.faults.reach(self.points.sync)?;
        self.file.sync_all()?;
        self.faults.reach(self.points.rename)?;
        std::fs::rename(&self.temporary, &self.target)?;
        self.finished = true;
        Ok(())
    }
}

/// Makes the name of a finished replacement durable.
///
/// # Errors
/// The disk failed.
pub(super) fn sync_name(target: &Path, points: &Points, faults: &dyn Faults) -> io::Result<()> {
    faults.reach(points.sync_directory)?;
    match target.parent() {
        Some(directory) => sync_directory(directory),
        None => Ok(()),
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        // A part of a file only takes up space, which may be what is missing.
        if !self.finished {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

impl Write for Replacement<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.faults.reach(self.points.write)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
