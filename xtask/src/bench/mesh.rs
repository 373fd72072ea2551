//! The mesh as users start it: control plane, two sidecars by `meshctl run`, a hundred rules, a rate limit, metrics that
//! are scraped, the access log with its default sample.

use super::backend::Backend;
use super::contestant::Contestant;
use super::process::{Process, free_port, loopback, wait};
use crate::step::target;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rules that do not concern the client, before the one that does.
const OTHER_RULES: usize = 99;

/// Starts control plane and sidecars.
pub(super) fn start(name: &str, folder: &Path, backend: &Backend, program: &Path) -> Result<Contestant> {
    let state = folder.join("state");
    let meshctl = |args: &[&str]| {
        let mut command = Command::new(program);
        command.arg("--state-dir").arg(&state).args(args);
        command
    };
    let mut mesh = Contestant::new(name, folder);
    let up = &mut meshctl(&["up", "--listen", "127.0.0.1:0"]);
    let mut control = Process::start("mesh-control", folder, up)?;
    wait("the control plane", || {
        control.check(folder)?;
        let status = meshctl(&["status", "-o", "json"]).output()?.status;
        Ok(status.code().is_some_and(|code| code == 0 || code == 3))
    })?;
    mesh.others.push(control);
    let file = folder.join("rules.yaml");
    std::fs::write(&file, rules())?;
    let applied = meshctl(&["apply", "-f", &file.to_string_lossy()]).output()?;
    ensure!(applied.status.success(), "apply: {}", String::from_utf8_lossy(&applied.stderr));

    let ports = [free_port()?, free_port()?, free_port()?];
    let [http1, http2, tcp] = ports;
    let to = |port: u16, target: u16, hint: &str| format!("--to=server:{target}=127.0.0.1:{port}{hint}");
    let run = |name: &str, admin: u16| {
        let log = folder.join(format!("access-{name}.log")).to_string_lossy().into_owned();
        let admin = format!("127.0.0.1:{admin}");
        ["run", "--name", name, "--admin", &admin, "--access-log", &log].map(str::to_owned).to_vec()
    };
    let admin = [free_port()?, free_port()?];
    let mut client = run("client", admin[0]);
    client.extend([to(http1, backend.http, ""), to(http2, backend.http, ""), to(tcp, backend.tcp, "/tcp")]);
    let mut server = run("server", admin[1]);
    server.extend([format!("--port={}", backend.http), format!("--port={}=tcp", backend.tcp)]);
    for (what, args) in [("mesh-client", client), ("mesh-server", server)] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        mesh.proxies.push(Process::start(what, folder, &mut meshctl(&args))?);
    }
    mesh.http1 = Some(loopback(http1));
    mesh.http2 = Some(loopback(http2));
    mesh.tcp = Some(loopback(tcp));
    mesh.metrics = admin.map(|port| (loopback(port), "/metrics")).to_vec();
    Ok(mesh)
}

/// How long after its certificate each sidecar could carry calls, in ms, as it logs it itself.
pub(super) fn ready_after_certificate_ms(mesh: &Contestant) -> Result<Vec<f64>> {
    mesh.proxies
        .iter()
        .map(|proxy| {
            let log = proxy.log(&mesh.folder);
            let (_, rest) = log.split_once("after_certificate_ms=").context("its log does not say it")?;
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            number.parse().with_context(|| format!("its log says {number:?}"))
        })
        .collect()
}

/// Where cargo has put `meshctl`.
pub(super) fn built(profile: &str) -> PathBuf {
    target().join(if profile == "dev" { "debug" } else { profile }).join("meshctl")
}

/// A hundred rules, of which the last allows the client; a limit that is never reached.
fn rules() -> String {
    use std::fmt::Write;
    let mut text = String::from(
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: server\n  namespace: default\nspec:\n  target:\n    \
         workload: server\n  rules:\n",
    );
    for number in 0..OTHER_RULES {
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
