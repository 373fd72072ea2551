//! Rules that no compiler knows, as checks over the text of the sources: sizes, edges, cycles, words.
//!
//! Reads files, changes nothing. Each finding is one line with file, line and what to do; all are shown at once.

mod edges;
mod words;

use crate::step::root;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The longest source file in lines, its inline tests not counted.
const FILE_LINES_MAX: usize = 600;

/// The crates whose sources are checked.
pub(crate) const CRATES: [&str; 7] =
    ["mesh-proto", "mesh-ca", "mesh-control", "mesh-proxy", "mesh-cli", "xtask", "integration-tests"];

/// One source file of the workspace.
pub(crate) struct Source {
    /// Which crate it belongs to.
    pub(crate) krate: &'static str,
    /// Relative to the workspace's root.
    pub(crate) path: PathBuf,
    /// Its text.
    pub(crate) text: String,
}

impl Source {
    /// The text before the inline test module.
    pub(crate) fn code(&self) -> &str {
        self.text.find("\n#[cfg(test)]\nmod ").and_then(|at| self.text.get(..at)).unwrap_or(&self.text)
    }

    /// Whether it holds tests only.
    pub(crate) fn is_test(&self) -> bool {
        self.path
            .components()
            .any(|part| ["tests", "benches", "examples"].contains(&&*part.as_os_str().to_string_lossy()))
            || self.path.file_name().is_some_and(|name| name == "tests.rs")
    }
}

/// Runs every check and fails with all findings.
pub(crate) fn run() -> Result<()> {
    eprintln!("\n==> tidy: sizes, edges, cycles, words");
    let sources = sources()?;
    let mut findings = sizes(&sources);
    findings.extend(layout(&sources));
    findings.extend(edges::check(&sources)?);
    findings.extend(words::check(&sources)?);
    if !findings.is_empty() {
        bail!("tidy found {} things to mend:\n  {}", findings.len(), findings.join("\n  "));
    }
    eprintln!("==> tidy: {} files hold", sources.len());
    Ok(())
}

fn sizes(sources: &[Source]) -> Vec<String> {
    let long = |source: &&Source| source.code().lines().count() > FILE_LINES_MAX;
    let finding = |source: &Source| {
        let lines = source.code().lines().count();
        format!("{}: {lines} lines, at most {FILE_LINES_MAX}; split it by subject", source.path.display())
    };
    sources.iter().filter(|source| !source.is_test()).filter(long).map(finding).collect()
}

fn layout(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        let place = source.path.display();
        let name = source.path.file_stem().unwrap_or_default().to_string_lossy();
        if name == "mod" {
            findings.push(format!("{place}: no mod.rs; use the folder's name with .rs beside it"));
        }
        if ["util", "utils", "common", "helpers", "misc", "manager", "types"].contains(&&*name) {
            findings.push(format!("{place}: '{name}' names no subject of the domain"));
        }
        if name != "tests" && !source.text.trim_start().starts_with("//!") {
            findings.push(format!("{place}: no head; say what it does, who calls it and what it never does"));
        }
    }
    for krate in CRATES {
        if !root().join(krate).join("README.md").is_file() {
            findings.push(format!("{krate}/README.md is missing"));
        }
    }
    findings
}

fn sources() -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for krate in CRATES {
        for folder in ["src", "tests", "benches", "examples"] {
            collect(krate, &root().join(krate).join(folder), &mut sources)?;
        }
    }
    Ok(sources)
}

fn collect(krate: &'static str, folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(krate, &path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let path = path.strip_prefix(root()).unwrap_or(&path).to_path_buf();
            sources.push(Source { krate, path, text });
        }
    }
    Ok(())
}
