//! `cargo xtask e2e`: the mesh proven on a real Kubernetes cluster, with real pods and counted requests.
//!
//! Brings up a kind cluster (or takes the one it is given), builds and loads the images, installs with `meshctl install`, runs the
//! [`scenarios`], and deletes what it made. Writes `target/e2e/junit.xml`, and what the pods logged wherever a scenario failed.
//!
//! # Why
//! Each scenario is a function over a [`stage::Stage`] that speaks through `kubectl` and `meshctl` alone, as a user does: what
//! it proves is what a user sees, and what it waits for is what a user could wait for.

mod cluster;
mod flips;
mod kind;
mod load;
mod manifest;
mod programs;
mod report;
mod scenarios;
mod stage;
mod wait;

use crate::images::{self, Profile};
use crate::step::target;
use crate::tools::Tools;
use anyhow::{Context, Result, bail};
use cluster::Cluster;
use kind::Kind;
use report::Report;
use scenarios::{After, Again, Scenario};
use std::io::Write as _;
use std::path::PathBuf;

/// What to run, and where.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the cluster, the mesh and the images as they are at the end.
    #[arg(long)]
    keep: bool,
    /// Only scenarios whose name contains one of these, which commas separate.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Say which scenarios there are, and nothing else.
    #[arg(long)]
    list: bool,
    /// How many nodes the kind cluster has.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    nodes: u8,
    /// Use the cluster of this kubeconfig. Images are loaded into it when it is one of kind.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Run what failed once more, and say so.
    #[arg(long)]
    again: bool,
    /// How the mesh's programs are built.
    #[arg(long, default_value = "dev")]
    profile: Profile,
}

/// Runs the scenarios; fails when one of them did.
pub(crate) fn run(args: &Args) -> Result<()> {
    let all = scenarios::all();
    let chosen: Vec<&Scenario> = all
        .iter()
        .filter(|scenario| {
            args.filter.as_ref().is_none_or(|texts| texts.split(',').any(|text| scenario.name.contains(text)))
        })
        .collect();
    if args.list {
        return list(&chosen);
    }
    if chosen.is_empty() {
        bail!("no scenario has that in its name; see them with: cargo xtask e2e --list");
    }
    let folder = target().join("e2e");
    std::fs::create_dir_all(&folder)?;
    // A cluster that is given need not be one of kind, and then the images are expected to be there.
    let tools = Tools::find(&["docker", "kind", "kubectl"]).or_else(|absent| match &args.kubeconfig {
        Some(_) => Tools::find(&["docker", "kubectl"]),
        None => Err(absent),
    });
    let tools = tools.context("e2e")?;
    let run = Run { args, tag: format!("e2e-{}", std::process::id()), folder };
    let mut made = Made::default();
    let outcome = run.on_a_cluster(&tools, &chosen, &mut made);
    if args.keep {
        eprintln!("==> kept; look around with: export KUBECONFIG={}", made.kubeconfig.display());
    } else {
        made.remove(&tools);
    }
    let report = outcome.context("e2e")?;
    report.write(&run.folder.join("junit.xml"))?;
    eprintln!("\nslowest: {}", report.slowest());
    eprintln!("{}", report.summary());
    if report.failed() > 0 {
        bail!("{} of {} failed; logs are in {}", report.failed(), report.total(), run.folder.display());
    }
    Ok(())
}

fn list(scenarios: &[&Scenario]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for scenario in scenarios {
        writeln!(out, "{:20} {}", scenario.name, scenario.says)?;
    }
    Ok(())
}

/// What a run leaves behind unless it is removed.
#[derive(Default)]
struct Made {
    kind: Option<Kind>,
    images: Vec<String>,
    kubeconfig: PathBuf,
}

impl Made {
    fn remove(self, tools: &Tools) {
        if let Some(kind) = self.kind {
            kind.delete(tools);
        }
        for image in self.images {
            // An image that a container still uses stays; docker says so and the next run does not mind.
            let _ = tools.command("docker").args(["rmi", &image]).output();
        }
    }
}

struct Run<'a> {
    args: &'a Args,
    /// Tag of the images: another run on this machine has its own.
    tag: String,
    folder: PathBuf,
}

impl Run<'_> {
    fn on_a_cluster(&self, tools: &Tools, chosen: &[&Scenario], made: &mut Made) -> Result<Report> {
        let name = format!("mesh-{}", self.tag);
        // The cluster takes half a minute in which this machine mostly waits.
        let (kind, images) = std::thread::scope(|scope| {
            let kind = scope.spawn(|| match &self.args.kubeconfig {
                Some(file) => Kind::given(tools, file),
                None => Kind::create(tools, &name, self.args.nodes, &self.folder),
            });
            let images = self.images(tools);
            (kind.join(), images)
        });
        let kind = kind.map_err(|_| anyhow::anyhow!("the thread that makes the cluster ended early"))??;
        made.kubeconfig = kind.kubeconfig().to_path_buf();
        let loads_by = kind.name().map(str::to_owned);
        made.kind = Some(kind);
        made.images = images?;
        if let Some(name) = loads_by {
            images::load(tools, &name, &made.images)?;
        }
        let cluster =
            Cluster::new(tools.clone(), &made.kubeconfig, self.args.profile.program("meshctl"), &self.tag);
        let after = if self.args.keep { After::Keep } else { After::Clear };
        let again = if self.args.again { Again::WhatFailed } else { Again::Nothing };
        Ok(scenarios::run(&cluster, chosen, &self.folder, (after, again)))
    }

    fn images(&self, tools: &Tools) -> Result<Vec<String>> {
        self.args.profile.build().context("the mesh's programs could not be built")?;
        let mut images = images::make(tools, self.args.profile, &self.tag)?;
        for image in images.clone() {
            // What the scenario of the upgrade comes from.
            let before = format!("{image}-{}", cluster::PREVIOUS);
            tools.told("docker", &["tag", &image, &before])?;
            images.push(before);
        }
        images.push(programs::make(tools, &self.tag)?);
        Ok(images)
    }
}
