//! Who may use whom: crates by their manifests, top-level modules by their `crate::` paths.
//!
//! Paths reached through re-exports are not followed, so this finds a lower bound of the edges.

use super::{CRATES, Source};
use crate::step::root;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};

/// `xtask/edges.toml`.
#[derive(serde::Deserialize)]
struct Allowed {
    crates: BTreeMap<String, Vec<String>>,
    modules: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

/// Every edge that is not allowed, and every cycle between the top-level modules of a crate.
pub(super) fn check(sources: &[Source]) -> Result<Vec<String>> {
    let path = root().join("xtask/edges.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let allowed: Allowed = toml::from_str(&text)?;
    let mut findings = crate_edges(&allowed)?;
    for krate in CRATES {
        let edges = module_edges(sources, krate);
        if let Some(table) = allowed.modules.get(krate) {
            for (from, to) in edges.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
                if !table.get(from).is_some_and(|list| list.contains(to)) {
                    findings.push(format!(
                        "{krate}: {from} uses {to}; mend it, or give the edge a reason in xtask/edges.toml"
                    ));
                }
            }
        }
        if let Some(cycle) = cycle(&edges) {
            findings.push(format!("{krate}: its modules form a cycle: {}", cycle.join(" -> ")));
        }
    }
    Ok(findings)
}

fn crate_edges(allowed: &Allowed) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for krate in CRATES {
        let path = root().join(krate).join("Cargo.toml");
        let manifest: toml::Table = std::fs::read_to_string(&path)?.parse()?;
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names =
                manifest.get(table).and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
            for name in names.filter(|name| CRATES.contains(&name.as_str()) || *name == "xtask") {
                if !allowed.crates.get(krate).is_some_and(|list| list.contains(name)) {
                    findings.push(format!("{krate}/Cargo.toml: may not use {name} (xtask/edges.toml)"));
                }
            }
        }
    }
    Ok(findings)
}

type Edges = BTreeMap<String, BTreeSet<String>>;

/// The top-level module that a file of a crate belongs to; `None` for the crate's root and its programs.
fn module_of(source: &Source) -> Option<String> {
    let below = source.path.strip_prefix(format!("{}/src", source.krate)).ok()?;
    let first = below.components().next()?.as_os_str().to_string_lossy().into_owned();
    let name = first.trim_end_matches(".rs").to_owned();
    (!["lib", "main"].contains(&name.as_str()) && name != "bin").then_some(name)
}

fn module_edges(sources: &[Source], krate: &str) -> Edges {
    let files = || sources.iter().filter(|source| source.krate == krate && !source.is_test());
    let modules: BTreeSet<String> = files().filter_map(module_of).collect();
    let mut edges = Edges::new();
    for source in files() {
        let Some(from) = module_of(source) else { continue };
        for line in source.code().lines().filter(|line| !line.trim_start().starts_with("//")) {
            for to in mentioned(line) {
                if to != from && modules.contains(to) {
                    edges.entry(from.clone()).or_default().insert(to.to_owned());
                }
            }
        }
    }
    edges
}

/// Names that follow `crate::`, also within one level of braces.
fn mentioned(line: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for rest in line.split("crate::").skip(1) {
        let list = rest.strip_prefix('{').map_or(rest, |inner| inner);
        let parts: Vec<&str> = if rest.starts_with('{') { list.split(',').collect() } else { vec![list] };
        for part in parts {
            let part = part.trim();
            let end = part.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(part.len());
            names.extend(part.get(..end).filter(|name| !name.is_empty()));
        }
    }
    names
}

/// Some cycle, if there is one.
fn cycle(edges: &Edges) -> Option<Vec<String>> {
    fn visit(
        at: &str,
        edges: &Edges,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|name| name == at) {
            let mut cycle = path.get(start..).unwrap_or_default().to_vec();
            cycle.push(at.to_owned());
            return Some(cycle);
        }
        if !done.insert(at.to_owned()) {
            return None;
        }
        path.push(at.to_owned());
        let found = edges.get(at).into_iter().flatten().find_map(|to| visit(to, edges, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|start| visit(start, edges, &mut Vec::new(), &mut done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_found_and_a_diamond_is_none() {
        let edges = |pairs: &[(&str, &str)]| {
            let mut edges = Edges::new();
            for (from, to) in pairs {
                edges.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            }
            edges
        };
        assert!(cycle(&edges(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])).is_none());
        assert_eq!(cycle(&edges(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap(), ["b", "c", "b"]);
    }

    #[test]
    fn names_are_found_in_paths_and_braces() {
        assert_eq!(mentioned("use crate::policy::model::Rule;"), ["policy"]);
        assert_eq!(mentioned("use crate::{name, net::Cidr};"), ["name", "net"]);
        assert_eq!(mentioned("let x = crate::limit::take(); crate::net::y()"), ["limit", "net"]);
    }
}
