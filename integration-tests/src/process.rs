//! A child process whose output goes to a file, and which is ended with its owner.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A running program. Ended (SIGTERM, then SIGKILL) when dropped; its last lines are shown when the test fails.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with both outputs in `<folder>/<name>.log`.
    #[track_caller]
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let also = file.try_clone().unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(also)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} could not be started with {command:?}: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// What it was started as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal by its name, for instance `TERM`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.id().to_string()]).output();
        assert!(sent.is_ok(), "kill: {sent:?}");
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        self.child.wait().unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "shows why a test failed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n  ");
            eprintln!("--- last lines of {}:\n  {tail}", self.name);
        }
        if self.ended().is_none() {
            self.signal("TERM");
            let deadline = 150;
            for _ in 0..deadline {
                if self.ended().is_some() {
                    return;
                }
                crate::wait::pause();
            }
            // It does not heed SIGTERM; nothing more can be done for it.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
