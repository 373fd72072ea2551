//! The mesh as users start it: control plane, two sidecars by `meshctl run`, a hundred rules, a rate limit, metrics that
//! are scraped, the access log with its default sample.

use super::backend::Backend;
use super::contestant::Contestant;
use super::process::{Process, free_port, loopback, wait};
use crate::step::target;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rules that one policy may have at most.
const POLICY_RULES_MAX: usize = 1_000;
/// What contestants are called that are set up for one work.
pub(super) const UNSHARED: &str = "mesh-unshared";
pub(super) const FEW_RULES: &str = "mesh-10-rules";
pub(super) const MANY_RULES: &str = "mesh-10000-rules";

/// What of it differs for some works.
#[derive(Clone, Copy)]
pub(super) struct Setup {
    /// Access rules of the server's workload.
    pub(super) rules: usize,
    /// Whether connections share TLS sessions.
    pub(super) multiplexing: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { rules: 100, multiplexing: true }
    }
}

/// Starts control plane and sidecars.
pub(super) fn start(
    name: &str,
    folder: &Path,
    backend: &Backend,
    (program, setup): (&Path, Setup),
) -> Result<Contestant> {
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
    std::fs::write(&file, rules(setup.rules))?;
    let applied = meshctl(&["apply", "-f", &file.to_string_lossy()]).output()?;
    ensure!(applied.status.success(), "apply: {}", String::from_utf8_lossy(&applied.stderr));

    let ports = [free_port()?, free_port()?, free_port()?];
    let [http1, http2, tcp] = ports;
    let to = |port: u16, target: u16, hint: &str| format!("--to=server:{target}=127.0.0.1:{port}{hint}");
    let run = |name: &str, admin: u16| {
        let log = folder.join(format!("access-{name}.log")).to_string_lossy().into_owned();
        let admin = format!("127.0.0.1:{admin}");
        let multiplexing = if setup.multiplexing { "on" } else { "off" };
        ["run", "--name", name, "--admin", &admin, "--access-log", &log, "--multiplexing", multiplexing]
            .map(str::to_owned)
            .to_vec()
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

/// So many rules, of which the last allows the client and no other concerns it; a limit that is never reached.
fn rules(count: usize) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let numbers: Vec<usize> = (1..=count).collect();
    for (policy, numbers) in numbers.chunks(POLICY_RULES_MAX).enumerate() {
        _ = write!(
            text,
            "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: server-{policy}\n  namespace: default\nspec:\n  \
             target:\n    workload: server\n  rules:\n"
        );
        for &number in numbers {
            _ = if number == count {
                writeln!(text, "  - name: client\n    from:\n    - serviceAccount: client")
            } else {
                writeln!(
                    text,
                    "  - name: other-{number}\n    from:\n    - serviceAccount: other-{number}\n    to:\n    - methods: [GET]\n      \
                     paths: [/v{number}/*]"
                )
            };
        }
        text.push_str("---\n");
    }
    text.push_str(
        "apiVersion: meshctl.io/v1alpha1\nkind: RateLimit\nmetadata:\n  name: server\n  namespace: default\nspec:\n  target:\n    \
         workload: server\n  key: sourceIdentity\n  requests: 1000000\n  per: 1s\n  burst: 1000000\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_split_where_a_policy_is_full_and_the_last_one_lets_the_client_in() {
        let text = rules(1_001);
        let policies: Vec<&str> = text.split("---\n").collect();
        assert_eq!(policies.len(), 3, "two policies and the limit");
        assert_eq!(policies[0].matches("  - name: other-").count(), POLICY_RULES_MAX);
        assert!(policies[1].ends_with("  - name: client\n    from:\n    - serviceAccount: client\n"));
        assert_eq!(text.matches("serviceAccount: client").count(), 1);
    }
}
