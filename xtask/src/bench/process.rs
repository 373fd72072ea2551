//! A contestant's process: started with its output in a file, its CPU time, memory and system calls read from the
//! kernel, ended with its owner.

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Descriptors for each process of a run: 10,000 tunnels need 20,000 in a proxy, and ours takes a quarter of what it may
/// have for each direction.
const DESCRIPTORS: u64 = 100_000;
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running process.
pub(super) struct Process {
    child: Child,
    what: String,
    started: Instant,
}

/// CPU time of a process since its start.
#[derive(Clone, Copy, Default)]
pub(super) struct Cpu {
    /// On a processor, from `schedstat`, in nanoseconds.
    pub(super) total_ns: u64,
    /// In user mode, from `stat`, in ticks of 10 ms.
    pub(super) user_ticks: u64,
    /// In all, from `stat`, in ticks of 10 ms.
    pub(super) all_ticks: u64,
}

impl Process {
    #[expect(clippy::disallowed_methods, reason = "remembers when it began")]
    pub(super) fn start(what: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let log = File::create(folder.join(format!("{what}.log")))?;
        let started = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{what} could not be started with {command:?}"))?;
        Ok(Self { child, what: what.to_owned(), started })
    }

    /// The kernel's number for it.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// When it was started.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Fails with its log when it has ended.
    pub(super) fn check(&mut self, folder: &Path) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}:\n{}", self.what, self.log(folder));
        }
        Ok(())
    }

    /// What it has said so far.
    pub(super) fn log(&self, folder: &Path) -> String {
        std::fs::read_to_string(folder.join(format!("{}.log", self.what))).unwrap_or_default()
    }

    pub(super) fn cpu(&self) -> Result<Cpu> {
        let id = self.child.id();
        let mut total_ns = 0;
        for task in std::fs::read_dir(format!("/proc/{id}/task")).with_context(|| self.what.clone())? {
            let path = task?.path().join("schedstat");
            // A thread may end between the listing and the reading.
            let text = std::fs::read_to_string(path).unwrap_or_default();
            total_ns += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
        }
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        Ok(Cpu { total_ns, user_ticks: ticks(11), all_ticks: ticks(11) + ticks(12) })
    }

    /// Resident memory, shared pages of its program file included, as `ps` shows it.
    pub(super) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Counts the system calls that a process makes, by `perf`, which alone does so at a cost that changes little.
pub(super) struct Calls(Child);

impl Calls {
    /// Begins to count.
    pub(super) fn count(id: u32) -> Result<Self> {
        let child = Command::new("perf")
            .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &id.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("perf could not be started")?;
        Ok(Self(child))
    }

    /// How many there were since the beginning.
    pub(super) fn end(self) -> Result<u64> {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::INT)?;
        let output = self.0.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().find(|line| line.contains("raw_syscalls")).unwrap_or_default();
        let count = line.split(',').next().and_then(|first| first.parse().ok());
        count.with_context(|| format!("perf counted no system calls: {said}"))
    }
}

/// Lets this process and those it starts have enough descriptors. Where that is refused, many connections will be too.
pub(super) fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.maximum = limit.maximum.map(|most| most.max(DESCRIPTORS));
    limit.current = Some(DESCRIPTORS);
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        // What there is is what there is; `memory` says so where it is too little.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// `127.0.0.1` with a port.
pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Waits until a condition holds.
#[expect(clippy::disallowed_methods, reason = "owns the deadline and the pause")]
pub(super) fn wait(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !holds()? {
        if started.elapsed() > PATIENCE {
            bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Waits until something accepts connections there.
pub(super) fn wait_for_listener(what: &str, address: SocketAddr) -> Result<()> {
    wait(what, || Ok(TcpStream::connect(address).is_ok()))
}
