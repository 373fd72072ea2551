//! One container image: a root file system in a folder, and what of it is started.
//!
//! Used for the mesh's own images and for the unmodified programs that the scenarios of `e2e` call.

use crate::tools::Tools;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An image that is being put together.
pub(crate) struct Image {
    name: &'static str,
    user: &'static str,
    entrypoint: Option<String>,
    environment: Vec<String>,
    root: tempfile::TempDir,
}

impl Image {
    /// An empty one, whose programs run as this `uid:gid`.
    pub(crate) fn new(name: &'static str, user: &'static str) -> Result<Self> {
        let root = tempfile::tempdir().context("no temporary folder")?;
        // The folder becomes `/` of the image: every user must be able to pass.
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { name, user, entrypoint: None, environment: Vec::new(), root })
    }

    /// Adds a program without its symbols, with the libraries it needs. The first one is what the image starts.
    pub(crate) fn program(mut self, from: &Path, to: &str) -> Result<Self> {
        let place = self.place(to)?;
        let stripped = Command::new("strip").arg("--strip-all").arg("-o").arg(&place).arg(from).status();
        // Scripts, and programs on a machine without binutils, are taken as they are.
        if !stripped.is_ok_and(|status| status.success()) {
            std::fs::copy(from, &place).with_context(|| format!("{} cannot be copied", from.display()))?;
        }
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755))?;
        self.libraries(from)?;
        self.entrypoint.get_or_insert_with(|| to.to_owned());
        Ok(self)
    }

    /// Adds a program as it is, where it is on this machine.
    pub(crate) fn installed(self, from: &Path) -> Result<Self> {
        self.installed_as(from, &from.to_string_lossy())
    }

    /// Adds a program as it is, with the libraries it needs.
    pub(crate) fn installed_as(mut self, from: &Path, to: &str) -> Result<Self> {
        let place = self.place(to)?;
        std::fs::copy(from, place).with_context(|| format!("{} cannot be copied", from.display()))?;
        self.libraries(from)?;
        Ok(self)
    }

    /// Adds a folder as it is, where it is on this machine, but nothing of it whose name is listed; with the libraries that
    /// its shared objects need.
    pub(crate) fn folder(mut self, from: &Path, without: &[&str]) -> Result<Self> {
        let mut waiting = vec![from.to_path_buf()];
        while let Some(folder) = waiting.pop() {
            for entry in
                std::fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?
            {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if without.contains(&&*name) {
                    continue;
                }
                if path.is_dir() {
                    waiting.push(path);
                    continue;
                }
                std::fs::copy(&path, self.place(&path.to_string_lossy())?)
                    .with_context(|| format!("{} cannot be copied", path.display()))?;
                if name.ends_with(".so") || name.contains(".so.") {
                    self.libraries(&path)?;
                }
            }
        }
        Ok(self)
    }

    /// Adds a small file.
    pub(crate) fn file(self, to: &str, text: &str) -> Result<Self> {
        std::fs::write(self.place(to)?, text)?;
        Ok(self)
    }

    /// Adds a name for what is elsewhere in the image.
    pub(crate) fn link(self, name: &str, to: &Path) -> Result<Self> {
        std::os::unix::fs::symlink(to, self.place(name)?)?;
        Ok(self)
    }

    /// Adds an empty folder that everybody may write into.
    pub(crate) fn scratch(self, to: &str) -> Result<Self> {
        let place = self.place(to)?;
        std::fs::create_dir_all(&place)?;
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o1777))?;
        Ok(self)
    }

    /// Sets a variable of the environment.
    pub(crate) fn env(mut self, pair: &str) -> Self {
        self.environment.push(format!("ENV {pair}"));
        self
    }

    /// Adds the libraries that a program or library needs, as the loader finds them.
    pub(crate) fn libraries(&mut self, of: &Path) -> Result<()> {
        for library in needed(of)? {
            let place = self.place(&library.to_string_lossy())?;
            if !place.exists() {
                std::fs::copy(&library, &place)
                    .with_context(|| format!("{} cannot be copied", library.display()))?;
            }
        }
        Ok(())
    }

    /// Where a file of the image lies on this machine; its folder is made.
    fn place(&self, to: &str) -> Result<PathBuf> {
        let place = self.root.path().join(to.trim_start_matches('/'));
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(place)
    }

    /// Hands it to docker; gives `name:tag`.
    pub(crate) fn import(self, tools: &Tools, tag: &str) -> Result<String> {
        let full = format!("{}:{tag}", self.name);
        let before = tools.told("docker", &["images", "--quiet", &full])?;
        let mut tar = Command::new("tar")
            // The same files make the same archive.
            .args([
                "--create",
                "--sort=name",
                "--mtime=@0",
                "--owner=0",
                "--group=0",
                "--numeric-owner",
                "-C",
            ])
            .arg(self.root.path())
            .arg(".")
            .stdout(Stdio::piped())
            .spawn()
            .context("tar could not be started")?;
        let archive = tar.stdout.take().context("tar has no output")?;
        let mut import = tools.command("docker");
        import.args(["import", "--change", &format!("USER {}", self.user)]);
        for change in &self.environment {
            import.args(["--change", change]);
        }
        if let Some(program) = &self.entrypoint {
            import.args(["--change", &format!("ENTRYPOINT [{program:?}]")]);
        }
        let done =
            import.args(["-", &full]).stdin(archive).output().context("docker could not be started")?;
        let packed = tar.wait()?;
        if !done.status.success() || !packed.success() {
            bail!("docker import of {full} failed: {}", String::from_utf8_lossy(&done.stderr).trim());
        }
        // What had the name before is not left lying about without one; containers that still use it keep it.
        if !before.is_empty() && before != tools.told("docker", &["images", "--quiet", &full])? {
            let _ = tools.command("docker").args(["rmi", &before]).output();
        }
        eprintln!("==> image {full}: {:.1} MB", size(self.root.path())? as f64 / 1e6);
        Ok(full)
    }
}

/// The libraries of a program with all that they need, and the loader, by `ldd`.
fn needed(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd could not be started")?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    // A static program or a script needs none, which `ldd` calls a failure.
    if !output.status.success() {
        return Ok(BTreeSet::new());
    }
    let mut found = BTreeSet::new();
    for line in told.lines() {
        ensure!(!line.contains("not found"), "{} cannot run here: {}", program.display(), line.trim());
        // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
        let path = line.split_once("=> ").map_or(line, |(_, path)| path).split_whitespace().next();
        found.extend(path.filter(|path| path.starts_with('/')).map(PathBuf::from));
    }
    Ok(found)
}

/// Bytes of all files below a folder.
fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
