//! A contestant's process: started with its output in a file, its CPU time read from the kernel, ended with its owner.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running process.
pub(super) struct Process {
    child: Child,
    what: String,
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
    pub(super) fn start(what: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let log = File::create(folder.join(format!("{what}.log")))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{what} could not be started with {command:?}"))?;
        Ok(Self { child, what: what.to_owned() })
    }

    /// Fails with its log when it has ended.
    pub(super) fn check(&mut self, folder: &Path) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = std::fs::read_to_string(folder.join(format!("{}.log", self.what))).unwrap_or_default();
            bail!("{} ended with {status}:\n{log}", self.what);
        }
        Ok(())
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
        if started.elapsed() > Duration::from_secs(30) {
            bail!("waited 30 s in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits until something accepts connections there.
pub(super) fn wait_for_listener(what: &str, address: SocketAddr) -> Result<()> {
    wait(what, || Ok(TcpStream::connect(address).is_ok()))
}
