//! One step of a run: a command with a name, printed before and timed after.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// The workspace's root, where every command runs.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.clone(), PathBuf::from)
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "cargo's own variable says where programs are built")]
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target
}

/// A command line that must succeed.
pub(crate) struct Step {
    name: &'static str,
    command: Command,
}

impl Step {
    /// A step that runs `cargo` with these arguments.
    pub(crate) fn cargo(name: &'static str, args: &[&str]) -> Self {
        Self::program(name, "cargo", args)
    }

    /// A step that runs any program.
    pub(crate) fn program(name: &'static str, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).current_dir(root());
        Self::of(name, command)
    }

    /// A step that runs a command which is ready.
    pub(crate) fn of(name: &'static str, command: Command) -> Self {
        Self { name, command }
    }

    /// Sets an environment variable for the command.
    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs it in a folder of the workspace.
    pub(crate) fn within(mut self, folder: &str) -> Self {
        self.command.current_dir(root().join(folder));
        self
    }

    /// Runs it, and fails with the command line when it does.
    pub(crate) fn run(mut self) -> Result<()> {
        let line = format!("{:?}", self.command).replace('"', "");
        eprintln!("\n==> {}: {line}", self.name);
        #[expect(clippy::disallowed_methods, reason = "times a whole step for the reader")]
        let started = Instant::now();
        let status = self.command.status().with_context(|| format!("{line} could not be started"))?;
        eprintln!("==> {}: {status} after {:.0?}", self.name, started.elapsed());
        if !status.success() {
            bail!("step '{}' failed; to see it again: {line}", self.name);
        }
        Ok(())
    }
}
