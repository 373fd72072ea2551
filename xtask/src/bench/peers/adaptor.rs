//! Any other proxy, by a file that says how to start a pair of it. `xtask/bench/README.md` describes the file.
//!
//! # Why
//! linkerd2-proxy and ztunnel can be had from no package registry as programs: whoever has built one names it here and
//! gets its figures in the same run.

use super::super::backend::Backend;
use super::super::contestant::Contestant;
use super::super::pki::Pki;
use super::super::process::{Process, loopback};
use super::Ports;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that holds the paths of adaptor files, with colons between.
const VARIABLE: &str = "MESH_BENCH_ADAPTORS";

/// One file.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub(in crate::bench) struct Adaptor {
    /// Its name in the table.
    pub(in crate::bench) name: String,
    /// The program: a path, a name on PATH, or `$VARIABLE`.
    program: String,
    /// What it carries: `http1`, `http2`, `tcp`.
    carries: Vec<String>,
    /// A path that answers with Prometheus metrics at `{metrics}`; empty: none.
    #[serde(default)]
    metrics: String,
    client: Side,
    server: Side,
}

/// One of the two proxies.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Side {
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// File name to text.
    #[serde(default)]
    files: BTreeMap<String, String>,
}

/// All adaptors named in the environment.
pub(in crate::bench) fn from_environment() -> Result<Vec<Adaptor>> {
    #[expect(clippy::disallowed_methods, reason = "a developer's setting, documented beside the adaptors")]
    let paths = std::env::var_os(VARIABLE).unwrap_or_default();
    std::env::split_paths(&paths)
        .filter(|path| !path.as_os_str().is_empty())
        .map(|path| read(&path))
        .collect()
}

fn read(path: &Path) -> Result<Adaptor> {
    let place = || format!("{VARIABLE} names {}", path.display());
    let text = std::fs::read_to_string(path).with_context(place)?;
    let adaptor: Adaptor = toml::from_str(&text).with_context(place)?;
    for word in &adaptor.carries {
        let known = ["http1", "http2", "tcp"];
        ensure!(known.contains(&word.as_str()), "{}: carries: {word:?} is none of {known:?}", path.display());
    }
    Ok(adaptor)
}

impl Adaptor {
    /// Starts a pair.
    pub(in crate::bench) fn start(&self, folder: &Path, backend: &Backend) -> Result<Contestant> {
        let program = self.program()?;
        let (pki, ports) = (super::pki(folder)?, Ports::free()?);
        let mut contestant = Contestant::new(&self.name, folder);
        let far = [backend.http, backend.http, backend.tcp];
        let [near_metrics, far_metrics] = ports.metrics;
        for (name, side, listen, to, metrics) in [
            ("client", &self.client, ports.near, ports.far, near_metrics),
            ("server", &self.server, ports.far, far, far_metrics),
        ] {
            let mut words = words(folder, name, &pki);
            let numbers = ["http1", "http2", "tcp"].into_iter().zip(listen.into_iter().zip(to));
            for (kind, (listen, to)) in numbers {
                words.push((format!("{{listen_{kind}}}"), listen.to_string()));
                words.push((format!("{{to_{kind}}}"), to.to_string()));
            }
            words.push(("{metrics}".to_owned(), metrics.to_string()));
            let filled = |text: &str| {
                words.iter().fold(text.to_owned(), |text, (word, meaning)| text.replace(word, meaning))
            };
            for (file, text) in &side.files {
                std::fs::write(folder.join(file), filled(text))?;
            }
            let mut command = Command::new(&program);
            command.args(side.args.iter().map(|arg| filled(arg))).current_dir(folder);
            command.envs(side.env.iter().map(|(key, value)| (key, filled(value))));
            let what = format!("{}-{name}", self.name);
            contestant.proxies.push(Process::start(&what, folder, &mut command)?);
        }
        ports.of(&mut contestant);
        let carries = |kind: &str| self.carries.iter().any(|word| word == kind);
        contestant.http1 = contestant.http1.filter(|_| carries("http1"));
        contestant.http2 = contestant.http2.filter(|_| carries("http2"));
        contestant.tcp = contestant.tcp.filter(|_| carries("tcp"));
        if !self.metrics.is_empty() {
            // Lives as long as the process, which ends with the run.
            let path: &'static str = self.metrics.clone().leak();
            contestant.metrics = ports.metrics.map(|port| (loopback(port), path)).to_vec();
        }
        Ok(contestant)
    }

    fn program(&self) -> Result<PathBuf> {
        let Some(variable) = self.program.strip_prefix('$') else { return Ok(PathBuf::from(&self.program)) };
        #[expect(clippy::disallowed_methods, reason = "the adaptor names the variable")]
        let path = std::env::var_os(variable);
        let path = path.with_context(|| format!("{}: set {variable} to the program's path", self.name))?;
        Ok(PathBuf::from(path))
    }
}

/// What stands for paths in an adaptor's texts.
fn words(folder: &Path, side: &str, pki: &Pki) -> Vec<(String, String)> {
    [
        ("{folder}", folder.to_path_buf()),
        ("{root}", pki.root.clone()),
        ("{certificate}", pki.certificate(side)),
        ("{key}", pki.key(side)),
        ("{certificate_and_key}", pki.both(side)),
    ]
    .map(|(word, path)| (word.to_owned(), path.to_string_lossy().into_owned()))
    .to_vec()
}
