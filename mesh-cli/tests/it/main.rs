//! The built `meshctl` as people and scripts meet it: help texts, mistakes, exit codes, a program under its sidecar.

#![expect(clippy::expect_used, reason = "a test that cannot set itself up must fail")]

mod chart;
mod demo;
mod help;
mod inject;
mod mistakes;
mod scripts;
mod up;

use assert_cmd::Command;
use std::path::Path;
use tempfile::TempDir;

/// `meshctl` with nothing of this machine's environment but `PATH`, and a state directory of its own.
fn meshctl(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.env_remove("MESHCTL_LOG").env_remove("NO_COLOR").env("MESHCTL_STATE_DIR", state);
    command
}

/// A directory that goes with the test; short, since a socket's path must be.
fn folder() -> TempDir {
    tempfile::Builder::new().prefix("cli-").tempdir().expect("a temporary directory")
}

/// Runs `meshctl`, which must fail with this code, one message that contains all of these, and nothing on standard output.
#[track_caller]
fn fails(state: &Path, args: &[&str], code: i32, contains: &[&str]) -> String {
    let output = meshctl(state).args(args).output().expect("meshctl runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "meshctl {args:?}:\n{text}");
    for part in contains {
        assert!(text.contains(part), "meshctl {args:?} does not say {part:?}:\n{text}");
    }
    assert_eq!(text.matches("error:").count(), 1, "meshctl {args:?} says more than one error:\n{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(!text.contains('\u{1b}'), "meshctl {args:?} colours a pipe:\n{text:?}");
    assert!(output.stdout.is_empty(), "meshctl {args:?} prints a result beside its error");
    text
}
