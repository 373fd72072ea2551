//! `meshctl check`: this machine and the running mesh, each finding with its reason and the command that mends it.
//!
//! `machine` looks at what a control plane and sidecars need here, `cluster` at what they need there, `mesh` asks the control plane; `repair` salvages a
//! damaged store when told to. Nothing else changes anything.

mod cluster;
mod machine;
mod mesh;
mod repair;

use crate::failure::{Exit, Failure};
use crate::output::{self, Tone};
use crate::session::Session;
use clap::Args;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  meshctl check                     # exit code 3 when anything is wrong
  meshctl check --pre               # before an installation on a cluster
  meshctl check -o json
  meshctl check --repair-store      # salvages a damaged store, and keeps the damaged one";

/// What `check` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckArgs {
    /// Rebuild a damaged store from everything that still verifies; no control plane may run
    #[arg(long)]
    repair_store: bool,
    /// Whether the mesh can be installed on the cluster of the kubeconfig
    #[arg(long, conflicts_with = "repair_store")]
    pre: bool,
}

/// How a check ended.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Pass,
    Warn,
    Fail,
    /// It could not be looked at, and that is no fault.
    Skip,
}

/// One check.
#[derive(Serialize, Debug)]
struct Finding {
    about: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// The command that mends it; empty when there is nothing to mend.
    #[serde(skip_serializing_if = "String::is_empty")]
    mend: String,
}

#[derive(Serialize)]
struct Checked {
    healthy: bool,
    checks: Vec<Finding>,
}

impl Finding {
    fn pass(about: &'static str, found: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Pass, found: found.into(), mend: String::new() }
    }

    fn skip(about: &'static str, found: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Skip, found: found.into(), mend: String::new() }
    }

    fn warn(about: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Warn, found: found.into(), mend: mend.into() }
    }

    fn fail(about: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Fail, found: found.into(), mend: mend.into() }
    }
}

/// Checks everything, or repairs the store.
///
/// # Errors
/// When the output cannot be written, or the repair is impossible.
pub(crate) async fn run(args: CheckArgs, session: &Session) -> Result<Exit, Failure> {
    if args.repair_store {
        return repair::run(session).await;
    }
    let checks = if args.pre {
        let cluster = session.cluster.connect().await?;
        cluster::before(&cluster).await
    } else if let Some(cluster) = session.meant().await? {
        let mut checks = cluster::after(&cluster).await;
        checks.extend(mesh::check_cluster(&cluster).await);
        checks
    } else {
        let mut checks = machine::check(session);
        checks.extend(mesh::check(session).await);
        checks
    };
    let healthy = checks.iter().all(|check| check.verdict != Verdict::Fail);
    let checked = Checked { healthy, checks };
    output::print_value(session.format, &checked, || text(&checked))?;
    Ok(if healthy { Exit::Done } else { Exit::Bad })
}

fn text(checked: &Checked) -> String {
    let width = checked.checks.iter().map(|check| check.about.len()).max().unwrap_or_default();
    let mut text = String::new();
    for check in &checked.checks {
        let (tone, sign) = match check.verdict {
            Verdict::Pass => (Tone::Good, "✓"),
            Verdict::Warn => (Tone::Warn, "!"),
            Verdict::Fail => (Tone::Bad, "✗"),
            Verdict::Skip => (Tone::Dim, "-"),
        };
        let found = output::clean(&check.found);
        text.push_str(&format!("{} {:width$}  {found}\n", output::paint(tone, sign), check.about));
        if !check.mend.is_empty() {
            text.push_str(&format!("  {:width$}  → {}\n", "", output::clean(&check.mend)));
        }
    }
    let count = |verdict| checked.checks.iter().filter(|check| check.verdict == verdict).count();
    let (failed, warned) = (count(Verdict::Fail), count(Verdict::Warn));
    let summary = match (failed, warned) {
        (0, 0) => output::paint(Tone::Good, "all is well"),
        (0, _) => output::paint(Tone::Warn, &format!("nothing is wrong; {warned} to look at")),
        _ => output::paint(Tone::Bad, &format!("{failed} wrong, {warned} to look at")),
    };
    text.push_str(&format!("\n{} checks: {summary}\n", checked.checks.len()));
    text
}
