//! Child processes that never outlive us, and the signals meant for them.
//!
//! Used by `run`, `join` and `demo`. A child is started through this same binary (`exec-with-parent`), which asks the
//! kernel to end it when we end, even by `kill -9`, and then becomes the program.
//!
//! # Why
//! The kernel's parent-death signal must be asked for by the child itself between fork and exec. The usual place,
//! `pre_exec`, is unsafe code; a program that asks and then replaces itself needs none, at the price of one exec (about
//! 2 ms). The signal fires when the *thread* that forked ends, so children are spawned on the main thread only.

use crate::failure::{Failure, Kind};
use rustix::process::{Pid, Signal};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

/// What `exec-with-parent` is told.
#[derive(clap::Args, Debug)]
pub(crate) struct ExecArgs {
    /// The process that must still be the parent.
    #[arg(long)]
    parent: i32,
    /// The network namespace that the program shall run in.
    #[arg(long)]
    network: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the program; returns only when that is impossible.
pub(crate) fn exec_with_parent(args: &ExecArgs) -> Failure {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return Failure::new(
            Kind::Sidecar,
            format!("cannot tie the program's life to the sidecar's: {error}"),
        );
    }
    // The parent may have died before the kernel was asked.
    if rustix::process::getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(args.parent) {
        return Failure::new(Kind::Sidecar, "the sidecar ended before its program was started");
    }
    if let Some(network) = &args.network
        && let Err(error) = enter(network)
    {
        let network = network.display();
        return Failure::new(Kind::Sidecar, format!("cannot enter the network namespace {network}: {error}"))
            .next("ip netns list   # is it there?");
    }
    let Some((program, rest)) = args.command.split_first() else {
        return Failure::usage("no program given");
    };
    let error = std::process::Command::new(program).args(rest).exec();
    let program = program.to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(Kind::NoSuchProgram, format!("there is no program {program:?}"))
                .next(format!("command -v {program}   # is it in PATH, or is the path right?"))
        }
        _ => {
            Failure::new(Kind::NotExecutable, format!("the program {program:?} cannot be executed: {error}"))
                .next(format!("ls -l {program}"))
        }
    }
}

/// Moves this thread, and what it becomes, into a network namespace.
#[cfg(target_os = "linux")]
fn enter(network: &Path) -> io::Result<()> {
    use std::os::fd::AsFd as _;
    let file = std::fs::File::open(network)?;
    rustix::thread::move_into_link_name_space(
        file.as_fd(),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn enter(_: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A command that runs `program` tied to this process's life, in a network namespace if one is given. Spawn it on the
/// main thread.
///
/// # Errors
/// When this binary cannot find itself.
pub(crate) fn tied_command(program: &[OsString], network: Option<&Path>) -> Result<Command, Failure> {
    let this = std::env::current_exe().map_err(|error| {
        Failure::new(Kind::Sidecar, format!("cannot find this program's own file: {error}"))
    })?;
    let mut command = Command::new(this);
    command.arg("exec-with-parent").arg("--parent").arg(std::process::id().to_string());
    if let Some(network) = network {
        command.arg("--network").arg(network);
    }
    command.arg("--").args(program);
    command.kill_on_drop(true);
    Ok(command)
}

/// Sends a signal to a child that still runs.
pub(crate) fn send(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(pid) {
        // It may have ended this moment; then there is nobody to tell.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Ends what is left of a process group of ours whose leader had the given id.
pub(crate) fn end_group(leader: u32) {
    if let Some(pid) = pid(leader) {
        // No such group: nothing was left.
        let _ = rustix::process::kill_process_group(pid, Signal::TERM);
    }
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

/// The exit code a shell would report: the program's own, or 128 + the signal that ended it.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128_i32.saturating_add(signal)));
    code.and_then(|code| u8::try_from(code & 0xff).ok()).unwrap_or(255)
}

/// The signals that are passed on to a child.
pub(crate) struct Signals {
    streams: Vec<(Signal, SignalStream)>,
}

impl Signals {
    /// Takes over SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn take() -> Result<Self, Failure> {
        let kinds = [
            (Signal::TERM, SignalKind::terminate()),
            (Signal::INT, SignalKind::interrupt()),
            (Signal::HUP, SignalKind::hangup()),
            (Signal::QUIT, SignalKind::quit()),
            (Signal::USR1, SignalKind::user_defined1()),
            (Signal::USR2, SignalKind::user_defined2()),
        ];
        let mut streams = Vec::with_capacity(kinds.len());
        for (name, kind) in kinds {
            let stream =
                signal(kind).map_err(|error| Failure::failed(format!("cannot handle signals: {error}")))?;
            streams.push((name, stream));
        }
        Ok(Self { streams })
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (name, stream) in &mut self.streams {
                if stream.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*name);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Whether a signal asks for the end.
pub(crate) fn asks_to_end(signal: Signal) -> bool {
    signal == Signal::TERM || signal == Signal::INT || signal == Signal::QUIT || signal == Signal::HUP
}
