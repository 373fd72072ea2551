//! The demo's processes: a control plane, and workloads that are each a sidecar with its application.
//!
//! All are this same binary, started as a user would start them. They end with the demo, however it ends: on the way out
//! they are asked, then killed; if the demo itself is killed, the kernel asks them (see `processes`).

use super::app::Role;
use super::tally::{self, Counted};
use crate::failure::Failure;
use crate::processes;
use clap::ValueEnum as _;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a process may take to end by itself.
const END_GRACE: Duration = Duration::from_secs(4);
/// Ports below those that the kernel gives away by itself (Linux, `ip_local_port_range`: from 32768 on). Each demo begins at
/// a place of its own among them, so that two beside each other do not meet.
const PORTS: RangeInclusive<u16> = 20_000..=32_767;
/// Of a log, this much is shown when its process failed.
const LOG_LINES_SHOWN: usize = 12;

/// A workload to start.
pub(crate) struct Workload {
    /// Which application; its name is the workload's.
    pub(crate) role: Role,
    /// The port and protocol that peers call, if any.
    pub(crate) port: Option<&'static str>,
    /// The services it calls.
    pub(crate) calls: &'static [&'static str],
}

/// All processes of the demo.
pub(crate) struct World {
    state_dir: PathBuf,
    logs: PathBuf,
    namespace: &'static str,
    // In the order of their start; they end in the reverse order.
    processes: Vec<Process>,
    readers: JoinSet<()>,
    // For the applications; the next one gets the first free one from here on.
    ports: RangeInclusive<u16>,
}

struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What an application counted last.
pub(crate) type Counters = watch::Receiver<Counted>;

impl World {
    /// Makes the directories.
    ///
    /// # Errors
    /// When they cannot be made.
    pub(crate) fn new(state_dir: &Path, namespace: &'static str) -> Result<Self, Failure> {
        let logs = state_dir.join("logs");
        std::fs::create_dir_all(&logs)
            .map_err(|error| Failure::failed(format!("cannot make {}: {error}", logs.display())))?;
        Ok(Self {
            state_dir: state_dir.to_owned(),
            logs,
            namespace,
            ports: first_port()..=*PORTS.end(),
            processes: Vec::new(),
            readers: JoinSet::new(),
        })
    }

    /// Starts the control plane. Call it on the main thread.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(crate) fn start_control(&mut self) -> Result<(), Failure> {
        let args = ["up", "--listen", "127.0.0.1:0", "--trust-domain", "shop.mesh", "--log", "info"];
        self.start("control", args.iter().map(OsString::from).collect()).map(drop)
    }

    /// Starts a workload and follows what its application counts. Call it on the main thread.
    ///
    /// # Errors
    /// When there is no free port or the process cannot be started.
    pub(crate) fn start_workload(&mut self, workload: &Workload) -> Result<Counters, Failure> {
        let name = role_name(workload.role);
        let mut args: Vec<OsString> =
            ["run", "--name", &name, "--namespace", self.namespace, "--drain", "2s"]
                .iter()
                .map(OsString::from)
                .collect();
        let mut app: Vec<OsString> = vec!["demo-app".into(), name.clone().into()];
        if let Some(port) = workload.port {
            let listen = self.free_address()?;
            args.extend(["--port".into(), format!("{port}@{listen}").into()]);
            app.extend(["--listen".into(), listen.to_string().into()]);
        }
        for service in workload.calls {
            args.extend(["--to".into(), format!("{service}=127.0.0.1:0").into()]);
        }
        args.push("--".into());
        args.push(this_program()?.into());
        args.extend(app);
        let stdout = self.start(&name, args)?;
        let (sender, counters) = watch::channel(Counted::new());
        self.readers.spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(counted) = tally::read(&line)
                    && sender.send(counted).is_err()
                {
                    return;
                }
            }
        });
        Ok(counters)
    }

    /// A loopback address that was free a moment ago, and that nobody gets who asks the kernel for any: sidecars and their
    /// connections take many of those before the application is there.
    fn free_address(&mut self) -> Result<SocketAddr, Failure> {
        let mut addresses = self.ports.by_ref().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        addresses
            .find(|address| TcpListener::bind(address).is_ok())
            .ok_or_else(|| Failure::failed("there is no free port on the loopback"))
    }

    fn start(&mut self, name: &str, args: Vec<OsString>) -> Result<tokio::process::ChildStdout, Failure> {
        let log = self.logs.join(format!("{name}.log"));
        let cannot = |error: std::io::Error| Failure::failed(format!("cannot start {name}: {error}"));
        let file = std::fs::File::options().create(true).append(true).open(&log).map_err(cannot)?;
        let mut line: Vec<OsString> =
            vec![this_program()?.into(), "--state-dir".into(), self.state_dir.clone().into()];
        line.extend(args);
        let mut command = processes::tied_command(&line, None)?;
        // A group of its own: Ctrl-C is for the demo, which then ends its processes in order.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .env_remove("MESHCTL_LOG");
        let mut child = command.spawn().map_err(cannot)?;
        let stdout =
            child.stdout.take().ok_or_else(|| Failure::failed(format!("{name} has no standard output")))?;
        self.processes.push(Process { name: name.to_owned(), child, log });
        Ok(stdout)
    }

    /// How many processes were started: each workload is two, a sidecar and its application.
    pub(crate) fn process_count(&self) -> usize {
        self.processes.iter().map(|process| if process.name == "control" { 1 } else { 2 }).sum()
    }

    /// The first process that ended although nobody asked it to, with the end of its log.
    pub(crate) fn fallen(&mut self) -> Option<Failure> {
        for process in &mut self.processes {
            if let Ok(Some(status)) = process.child.try_wait() {
                let tail = tail(&process.log);
                let message = format!("{} ended ({status}); the end of its log:\n{tail}", process.name);
                return Some(Failure::failed(message).next(format!("less {}", process.log.display())));
            }
        }
        None
    }

    /// Ends everything, the control plane last.
    pub(crate) async fn end(&mut self) {
        let (control, workloads): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.processes).into_iter().partition(|process| process.name == "control");
        for group in [workloads, control] {
            let mut ending = JoinSet::new();
            for Process { mut child, .. } in group {
                ending.spawn(async move { end(&mut child).await });
            }
            ending.join_all().await;
        }
        self.readers.abort_all();
    }
}

/// Asks, waits, kills.
async fn end(child: &mut Child) {
    processes::send(child, Signal::TERM);
    if tokio::time::timeout(END_GRACE, child.wait()).await.is_err() {
        // It is gone or will be: there is nothing else to try.
        let _ = child.kill().await;
    }
}

/// The workload's name.
pub(crate) fn role_name(role: Role) -> String {
    role.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Leaves enough of them behind it.
fn first_port() -> u16 {
    PORTS.start().saturating_add(rand::random::<u16>() % 8_192)
}

fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::failed(format!("cannot find this program's own file: {error}")))
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
    lines
        .get(from..)
        .unwrap_or_default()
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What was counted since a moment, by kind of call.
pub(crate) fn since(now: &Counted, earlier: &Counted) -> Counted {
    let none = tally::Counts::default();
    now.iter()
        .map(|(call, counts)| (call.clone(), counts.since(earlier.get(call).unwrap_or(&none))))
        .collect::<BTreeMap<_, _>>()
}
