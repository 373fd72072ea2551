//! A mesh: one control plane, any number of workloads with their sidecars, in a folder that goes with the test.

use crate::process::Process;
use crate::{programs, wait};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;

/// A mesh of real processes.
pub struct World {
    // Dropped in this order: workloads first, then the control plane, then the folder.
    workloads: Vec<Process>,
    control: Option<Process>,
    control_args: Vec<String>,
    /// Where sidecars reach the control plane; the same after a restart.
    address: SocketAddr,
    folder: TempDir,
}

impl World {
    /// A mesh with default settings.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A mesh whose control plane gets these further arguments of `meshctl up`.
    #[track_caller]
    pub fn start_with(args: &[&str]) -> Self {
        let folder =
            TempDir::with_prefix("mesh-").unwrap_or_else(|error| panic!("a folder for the test: {error}"));
        let control_args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let address = loopback(free_port());
        let mut world = Self { workloads: Vec::new(), control: None, control_args, address, folder };
        world.start_control();
        world
    }

    /// Starts the control plane (again) and waits until it answers.
    #[track_caller]
    pub fn start_control(&mut self) {
        let mut command = Command::new(programs::built("meshctl"));
        command
            .arg("--state-dir")
            .arg(self.state())
            .args(["up", "--listen", &self.address.to_string()])
            .args(&self.control_args);
        let mut control = Process::start("control", self.folder.path(), &mut command);
        wait::until("the control plane to answer", || {
            if let Some(status) = control.ended() {
                panic!("the control plane ended with {status}:\n{}", control.output());
            }
            self.meshctl(&["status", "-o", "json"]).status.code().filter(|code| *code == 0 || *code == 3)
        });
        self.control = Some(control);
    }

    /// The control plane's process.
    #[track_caller]
    pub fn control(&mut self) -> &mut Process {
        self.control.as_mut().unwrap_or_else(|| panic!("the control plane is down"))
    }

    /// Kills the control plane as a crash does.
    #[track_caller]
    pub fn kill_control(&mut self) {
        self.control().kill();
        self.control = None;
    }

    /// The folder of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The control plane's state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Runs `meshctl` against this mesh.
    #[track_caller]
    pub fn meshctl(&self, args: &[&str]) -> Output {
        Command::new(programs::built("meshctl"))
            .arg("--state-dir")
            .arg(self.state())
            .args(args)
            .output()
            .unwrap_or_else(|error| panic!("meshctl: {error}"))
    }

    /// Runs `meshctl`, which must succeed, and gives its standard output.
    #[track_caller]
    pub fn told(&self, args: &[&str]) -> String {
        let output = self.meshctl(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "meshctl {args:?} ended with {}:\n{text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Runs `meshctl … -o json` and parses what it prints.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let output = self.meshctl(&all);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("meshctl {all:?}: {error}:\n{}", String::from_utf8_lossy(&output.stdout))
        })
    }

    /// Applies resources and waits until every affected proxy enforces them.
    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        let file = self.folder.path().join("applied.yaml");
        std::fs::write(&file, yaml).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.told(&["apply", "-f", &file.to_string_lossy(), "--wait"])
    }

    /// Starts a workload behind its sidecar: `meshctl run --name NAME ARGS -- COMMAND`, or a sidecar alone without one.
    ///
    /// Waits until the control plane lists it, that is, until it has a certificate and a snapshot.
    #[track_caller]
    pub fn run(&mut self, name: &str, args: &[&str], command: &[&str]) -> usize {
        let mut line = Command::new(programs::built("meshctl"));
        line.arg("--state-dir")
            .arg(self.state())
            .args(["run", "--name", name])
            .args(args)
            .arg("--")
            .args(command);
        line.current_dir(self.folder.path());
        let label = format!("{name}-{}", self.workloads.len());
        let mut process = Process::start(&label, self.folder.path(), &mut line);
        wait::until(&format!("workload {name} to join the mesh"), || {
            if let Some(status) = process.ended() {
                panic!("workload {name} ended with {status}:\n{}", process.output());
            }
            let status = self.json(&["status"]);
            let listed = status["proxies"].as_array().into_iter().flatten();
            listed
                .filter(|proxy| proxy["workload"] == format!("default/{name}") && proxy["state"] == "in-sync")
                .count()
                .checked_sub(1)
        });
        self.workloads.push(process);
        self.workloads.len() - 1
    }

    /// All processes of the mesh: the control plane, then the workloads.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.control.iter().chain(&self.workloads)
    }

    /// A workload's process, by the number that [`World::run`] gave.
    #[track_caller]
    pub fn workload(&mut self, number: usize) -> &mut Process {
        &mut self.workloads[number]
    }
}

/// Below the range from which the system gives ports by itself, so that no port 0 of another process gets it meanwhile.
const FIRST_PORT: u16 = 20_000;
/// As many as lie between the first and the system's range.
const PORTS: u16 = 12_000;

/// A port that is free, and that no other test of this process is given.
#[track_caller]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time begin at different places.
    let begin = u16::try_from(std::process::id() % 40).unwrap_or(0) * (PORTS / 40);
    for _ in 0..PORTS {
        let port = FIRST_PORT + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        if TcpListener::bind(loopback(port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST_PORT} on");
}

/// `127.0.0.1` with a port.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A policy that allows one workload to call another in the namespace `default`.
pub fn allow(from: &str, to: &str) -> String {
    format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: {to}-allows-{from}\n  namespace: default\n\
         spec:\n  target:\n    workload: {to}\n  rules:\n  - name: {from}\n    from:\n    - serviceAccount: {from}\n---\n"
    )
}
