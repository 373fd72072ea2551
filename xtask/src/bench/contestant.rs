//! Who is measured: nothing in between, two bare relays, the mesh, and its peers. All run at once, one is loaded at a time.

use super::backend::Backend;
use super::peers;
use super::process::{Cpu, Process, free_port, loopback, wait, wait_for_listener};
use super::work::{Needs, Work};
use crate::step::root;
use anyhow::{Result, ensure};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A pair of proxies, or what stands for one.
pub(super) struct Contestant {
    /// Its name in the table.
    pub(super) name: String,
    /// The processes whose CPU counts: client side, server side.
    pub(super) proxies: Vec<Process>,
    /// Processes that only must live on.
    pub(super) others: Vec<Process>,
    /// Where the load goes.
    pub(super) http1: Option<SocketAddr>,
    pub(super) http2: Option<SocketAddr>,
    pub(super) tcp: Option<SocketAddr>,
}

impl Contestant {
    pub(super) fn new(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, proxies: Vec::new(), others: Vec::new(), http1: None, http2: None, tcp: None }
    }

    pub(super) fn address(&self, work: &Work) -> Option<SocketAddr> {
        match work.needs() {
            Needs::Http1 => self.http1,
            Needs::Http2 => self.http2,
            Needs::Tcp => self.tcp,
        }
    }

    pub(super) fn cpu(&self) -> Result<Vec<Cpu>> {
        self.proxies.iter().map(Process::cpu).collect()
    }

    pub(super) fn resident_mb(&self) -> u64 {
        self.proxies.iter().map(Process::resident_kib).sum::<u64>() / 1024
    }

    /// Waits until every port it has answers.
    pub(super) fn wait(&self) -> Result<()> {
        for address in [self.http1, self.http2, self.tcp].into_iter().flatten() {
            wait_for_listener(&self.name, address)?;
        }
        Ok(())
    }
}

/// Starts everybody asked for (all when nobody is named).
pub(super) fn start_all(
    folder: &Path,
    backend: &Backend,
    profile: &str,
    only: &[String],
) -> Result<Vec<Contestant>> {
    let asked = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    let mut all = Vec::new();
    if asked("direct") {
        let mut direct = Contestant::new("direct");
        direct.http1 = Some(loopback(backend.http));
        direct.http2 = direct.http1;
        direct.tcp = Some(loopback(backend.tcp));
        all.push(direct);
    }
    if asked("relay") {
        all.push(relay(folder, backend)?);
    }
    if asked("mesh") {
        all.push(mesh(folder, backend, profile)?);
    }
    for (name, start) in peers::ALL {
        if asked(name) {
            all.push(start(folder, backend)?);
        }
    }
    ensure!(!all.is_empty(), "no contestant is called {only:?}");
    for contestant in &all {
        contestant.wait()?;
    }
    Ok(all)
}

/// Two plain relays one after the other: the floor of two more hops.
fn relay(folder: &Path, backend: &Backend) -> Result<Contestant> {
    let mut relay = Contestant::new("relay");
    let ports = [free_port()?, free_port()?, free_port()?, free_port()?];
    let [http_near, http_far, tcp_near, tcp_far] = ports;
    for (what, pairs) in [
        ("relay-near", [(http_near, http_far), (tcp_near, tcp_far)]),
        ("relay-far", [(http_far, backend.http), (tcp_far, backend.tcp)]),
    ] {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bench-relay");
        for (from, to) in pairs {
            command.args([from.to_string(), to.to_string()]);
        }
        relay.proxies.push(Process::start(what, folder, &mut command)?);
    }
    relay.http1 = Some(loopback(http_near));
    relay.http2 = relay.http1;
    relay.tcp = Some(loopback(tcp_near));
    Ok(relay)
}

/// The mesh as users start it: control plane, two sidecars, a hundred rules, a rate limit, metrics.
fn mesh(folder: &Path, backend: &Backend, profile: &str) -> Result<Contestant> {
    let program = program(profile);
    let state = folder.join("state");
    let meshctl = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("--state-dir").arg(&state).args(args);
        command
    };
    let mut mesh = Contestant::new("mesh");
    mesh.others.push(Process::start(
        "mesh-control",
        folder,
        &mut meshctl(&["up", "--listen", "127.0.0.1:0"]),
    )?);
    wait("the control plane", || {
        if let Some(control) = mesh.others.first_mut() {
            control.check(folder)?;
        }
        Ok(meshctl(&["status", "-o", "json"])
            .output()?
            .status
            .code()
            .is_some_and(|code| code == 0 || code == 3))
    })?;
    let file = folder.join("rules.yaml");
    std::fs::write(&file, rules())?;
    let applied = meshctl(&["apply", "-f", &file.to_string_lossy()]).output()?;
    ensure!(applied.status.success(), "apply: {}", String::from_utf8_lossy(&applied.stderr));
    let ports = [free_port()?, free_port()?, free_port()?];
    let [http1, http2, tcp] = ports;
    let to = |port: u16, target: u16, hint: &str| format!("server:{target}=127.0.0.1:{port}{hint}");
    let client = ["run", "--name", "client", "--access-log", "off", "--to"].map(str::to_owned);
    let client = client.into_iter().chain([
        to(http1, backend.http, ""),
        "--to".to_owned(),
        to(http2, backend.http, ""),
        "--to".to_owned(),
        to(tcp, backend.tcp, "/tcp"),
    ]);
    let client: Vec<String> = client.collect();
    let server = ["run", "--name", "server", "--access-log", "off", "--port"].map(str::to_owned);
    let server: Vec<String> = server
        .into_iter()
        .chain([backend.http.to_string(), "--port".to_owned(), format!("{}=tcp", backend.tcp)])
        .collect();
    for (what, args) in [("mesh-server", server), ("mesh-client", client)] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        mesh.proxies.push(Process::start(what, folder, &mut meshctl(&args))?);
    }
    mesh.http1 = Some(loopback(http1));
    mesh.http2 = Some(loopback(http2));
    mesh.tcp = Some(loopback(tcp));
    Ok(mesh)
}

fn program(profile: &str) -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "cargo's own variable says where programs are built")]
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(if profile == "dev" { "debug" } else { profile }).join("meshctl")
}

/// A hundred rules, of which the last allows the client; a limit that is never reached.
fn rules() -> String {
    use std::fmt::Write;
    let mut text = String::from(
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: server\n  namespace: default\nspec:\n  target:\n    \
         workload: server\n  rules:\n",
    );
    for number in 0..99 {
        _ = writeln!(
            text,
            "  - name: other-{number}\n    from:\n    - serviceAccount: other-{number}\n    to:\n    - methods: [GET]\n      paths: \
             [/v{number}/*]"
        );
    }
    text.push_str(
        "  - name: client\n    from:\n    - serviceAccount: client\n---\napiVersion: meshctl.io/v1alpha1\nkind: RateLimit\nmetadata:\n  \
         name: server\n  namespace: default\nspec:\n  target:\n    workload: server\n  key: sourceIdentity\n  requests: 1000000\n  per: \
         1s\n  burst: 1000000\n",
    );
    text
}

/// Serves pairs of ports, each relayed to the next, until ended.
pub(crate) fn serve_relay(ports: &[u16]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for pair in ports.chunks(2) {
            let [from, to] = pair else { anyhow::bail!("ports come in pairs") };
            let listener = tokio::net::TcpListener::bind(loopback(*from)).await?;
            let to = loopback(*to);
            tasks.spawn(async move {
                while let Ok((mut near, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        let mut far = tokio::net::TcpStream::connect(to).await?;
                        near.set_nodelay(true)?;
                        far.set_nodelay(true)?;
                        tokio::io::copy_bidirectional(&mut near, &mut far).await
                    });
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    })
}
