//! How a command ends: what happened, what to type next, and the exit code.
//!
//! Every command returns `Result<Exit, Failure>`; `main` alone turns either into a process exit. It never holds a secret:
//! messages are printed.
//!
//! # Why
//! One error type for all commands instead of `anyhow`: the exit code and the next command are part of what a command
//! promises to scripts and people, so they are fields, not text to be guessed from a chain.

use std::process::ExitCode;

/// The exit codes, as `--help` tells them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done, and everything is as it should be
  1    failed; the message says why and what to type next
  2    wrong usage
  3    done, but the answer is bad: degraded, a check failed, refused, differences found
  4    no control plane answers
  125  `run` and `join`: the sidecar could not start or failed while the program ran
  126  `run` and `join`: the program cannot be executed
  127  `run` and `join`: there is no such program
  128+N  `run` and `join`: the program was ended by signal N; else its own exit code
  130  interrupted before it was done";

/// How a command that worked ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// All is well.
    Done,
    /// The question was answered, and the answer is bad.
    Bad,
    /// A child's own exit code.
    Child(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Bad => Self::from(3),
            Exit::Child(code) => Self::from(code),
        }
    }
}

/// Whose fault it is, which fixes the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// What was asked could not be done.
    Failed,
    /// The command line is wrong in a way that clap cannot see.
    Usage,
    /// No control plane answers.
    Unreachable,
    /// The sidecar failed.
    Sidecar,
    /// The program of `run` exists but cannot be executed.
    NotExecutable,
    /// The program of `run` does not exist.
    NoSuchProgram,
    /// The user asked for the end before the work was done.
    Interrupted,
    /// Whoever read our output went away; nobody is left to tell.
    ReaderGone,
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Fixes the exit code.
    pub(crate) kind: Kind,
    /// What happened, to whom. Lower case, no full stop; may have several lines.
    pub(crate) message: String,
    /// Commands to type next, or a short advice; may be empty.
    pub(crate) next: Vec<String>,
}

impl Failure {
    /// What was asked could not be done.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// With the kind given.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), next: Vec::new() }
    }

    /// Adds a command to type next.
    pub(crate) fn next(mut self, command: impl Into<String>) -> Self {
        self.next.push(command.into());
        self
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::ReaderGone => 0,
            Kind::Failed => 1,
            Kind::Interrupted => 130,
            Kind::Usage => 2,
            Kind::Unreachable => 4,
            Kind::Sidecar => 125,
            Kind::NotExecutable => 126,
            Kind::NoSuchProgram => 127,
        })
    }
}

impl From<std::io::Error> for Failure {
    /// Only writing to standard output uses this: every other I/O error is told with its file.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Kind::ReaderGone, "the reader of the output went away");
        }
        Self::failed(format!("cannot write the output: {error}"))
    }
}

/// An error with its causes on one line, each once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
