//! Rules about single lines: words that must not be there, and things only one module may name.

use super::Source;
use crate::step::root;
use anyhow::Result;
use std::process::Command;

/// A word, where it may stand (path prefixes), and what to do instead.
const CODE: [(&str, &[&str], &str); 8] = [
    ("todo!(", &["xtask/"], "finish it or return an error"),
    ("unimplemented!(", &["xtask/"], "finish it or return an error"),
    ("#[ignore", &["xtask/"], "a test that lacks something fails and says what is missing"),
    (
        "tokio::spawn(",
        &["mesh-control/src/app", "mesh-proxy/src/app", "xtask/"],
        "a task is awaited or owned by a JoinSet",
    ),
    ("sled::", &["mesh-control/src/store", "xtask/"], "the store alone knows the database"),
    (
        "thread::sleep",
        &["xtask/", "integration-tests/src/wait.rs", "mesh-control/src/store"],
        "wait for a state with a deadline",
    ),
    ("#[allow(", &["xtask/"], "use #[expect(…, reason = …)]"),
    (
        "kube::",
        &["xtask/", "mesh-control/src/cluster", "mesh-control/src/webhook", "mesh-cli/src/cluster"],
        "the Kubernetes client has one place",
    ),
];

/// Findings over sources, and over every committed file.
pub(super) fn check(sources: &[Source]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for source in sources {
        let place = source.path.to_string_lossy();
        // Tests may own their tasks and wait in their own way; the other words hold there too.
        let in_test = source.is_test() || source.krate == "integration-tests";
        for (word, places, instead) in CODE {
            if places.iter().any(|prefix| place.starts_with(prefix)) || (in_test && word == "tokio::spawn(") {
                continue;
            }
            let text = if word == "tokio::spawn(" { source.code() } else { &source.text };
            for (at, line) in text.lines().enumerate() {
                if line.contains(word) && !line.trim_start().starts_with("//") {
                    findings.push(format!("{place}:{}: '{word}' here; {instead}", at + 1));
                }
            }
        }
    }
    findings.extend(machine_paths()?);
    Ok(findings)
}

/// Paths of the machine at hand in committed files: the workspace's own folder and the home folder.
fn machine_paths() -> Result<Vec<String>> {
    #[expect(clippy::disallowed_methods, reason = "the home folder's name is what is searched for")]
    let home = std::env::var_os("HOME").map(|home| home.to_string_lossy().into_owned()).unwrap_or_default();
    let here = root().to_string_lossy().into_owned();
    let mut findings = Vec::new();
    for path in [here, home].iter().filter(|path| path.len() > 3) {
        let found =
            Command::new("git").args(["grep", "-nF", &format!("{path}/")]).current_dir(root()).output()?;
        findings.extend(
            String::from_utf8_lossy(&found.stdout)
                .lines()
                .map(|line| format!("{line}: a path of this machine")),
        );
    }
    Ok(findings)
}
