//! What is proven, in order. Each scenario stands alone on a mesh that is installed; `install` and `uninstall` are the first and the last.

mod access;
mod addresses;
mod administering;
mod control_plane;
mod installing;
mod lifecycle;
mod pods;
mod protocols;
mod reuse;
mod rollouts;
mod shop;
mod upgrade;
mod wire;

use super::cluster::Cluster;
use super::report::Report;
use super::stage::Stage;
use super::wait;
use anyhow::Result;
use std::cell::RefCell;
use std::path::Path;

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct Scenario {
    /// What it is called, also as a part of its namespaces' names.
    pub(super) name: &'static str,
    /// What holds when it passes.
    pub(super) says: &'static str,
    /// Proves it.
    pub(super) run: fn(&Stage<'_>) -> Result<()>,
}

/// What happens to what the scenarios made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It is deleted.
    Clear,
    /// It stays, to be looked at.
    Keep,
}

/// What happens to the scenarios that failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// They run once more, and the report says so: on a machine that others use as well, a deadline that was missed once may
    /// be the machine's doing, and one that is missed twice is not.
    WhatFailed,
    /// Nothing.
    Nothing,
}

/// All of them, in the order in which they run.
pub(super) fn all() -> Vec<Scenario> {
    [
        shop::SCENARIOS,
        access::SCENARIOS,
        wire::SCENARIOS,
        protocols::SCENARIOS,
        addresses::SCENARIOS,
        pods::SCENARIOS,
        reuse::SCENARIOS,
        rollouts::SCENARIOS,
        control_plane::SCENARIOS,
        administering::SCENARIOS,
        installing::SCENARIOS,
        upgrade::SCENARIOS,
    ]
    .concat()
}

/// Runs these on an installed mesh.
pub(super) fn run(
    cluster: &Cluster,
    chosen: &[&Scenario],
    folder: &Path,
    (after, again): (After, Again),
) -> Report {
    let mut report = Report::default();
    let failed = RefCell::new(Vec::new());
    let mut one = |name: &'static str, run: &dyn Fn(&Stage<'_>) -> Result<()>| {
        eprintln!("\n==> {name}");
        let stage = Stage::new(cluster, name);
        let started = wait::now();
        let outcome = run(&stage);
        report.note(name, started.elapsed(), &outcome);
        if outcome.is_err() {
            failed.borrow_mut().push(name);
        }
        if outcome.is_err()
            && let Err(error) = stage.gather(&folder.join(name))
        {
            eprintln!("==> {name}: its logs could not be had: {error:#}");
        }
        if after == After::Clear
            && let Err(error) = stage.clear()
        {
            eprintln!("==> {name}: its namespaces could not be deleted: {error:#}");
        }
        outcome.is_ok()
    };
    if one("install", &lifecycle::install) {
        for scenario in chosen {
            one(scenario.name, &scenario.run);
        }
        for scenario in chosen.iter().filter(|_| again == Again::WhatFailed) {
            if failed.borrow().contains(&scenario.name) {
                one(scenario.name, &scenario.run);
            }
        }
    }
    if after == After::Clear {
        one("uninstall", &lifecycle::uninstall);
    }
    report
}
