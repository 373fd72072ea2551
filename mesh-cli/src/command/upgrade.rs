//! `meshctl upgrade`: the mesh on a cluster becomes that of this program's version.

use super::install::{Before, Chosen, tell_kept};
use crate::cluster::access::Cluster;
use crate::cluster::change::{self, Change};
use crate::cluster::object::{self, Write};
use crate::cluster::removal::some;
use crate::cluster::values::Kept;
use crate::cluster::{health, installation, manifest, ready};
use crate::failure::{Exit, Failure};
use crate::output::{self, Tone};
use crate::session::Session;
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  meshctl upgrade --plan                 # which objects change, and which pods must restart afterwards
  meshctl upgrade                        # with what was chosen at the installation
  meshctl upgrade --set control.replicas=3
  meshctl upgrade --reset-values --values mesh.yaml   # with these values alone";

/// What `upgrade` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    before: Before,
    /// Only show what would change
    #[arg(long)]
    plan: bool,
    /// How long to wait for the control plane before it is set back, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

#[derive(Serialize)]
struct Upgraded {
    cluster: String,
    version: &'static str,
    /// Whether it was done rather than planned.
    done: bool,
    /// The values that differ from those of before: `control.replicas: 2 -> 3`.
    values: Vec<String>,
    changes: Vec<Change>,
    /// Pods with a proxy of another version: they go on, and get theirs at their next restart.
    restart: Vec<String>,
}

/// Upgrades, or shows what that would be.
///
/// # Errors
/// There is no mesh; what the cluster refused; the new control plane was not ready and the old one is back.
pub(crate) async fn run(args: UpgradeArgs, session: &Session) -> Result<Exit, Failure> {
    let typed = args.chosen.read(&Kept::new())?;
    let cluster = session.cluster.connect().await?;
    output::note(&format!("cluster {} (Kubernetes {})", cluster.name, cluster.version));
    let Some(before) = change::deployment(&cluster).await? else {
        return Err(Failure::failed(format!("there is no mesh on cluster {} to upgrade", cluster.name))
            .next("meshctl install"));
    };
    installation::permit(&cluster).await?;
    let was = installation::kept(&cluster).await?;
    let values = args.chosen.read(&args.before.kept(&cluster).await?)?;
    tell_kept(&values, &typed);
    let objects = manifest::for_version(manifest::objects(&values), cluster.minor);
    installation::prepare(&cluster, &objects, &values).await?;
    let changes = change::plan(&cluster, &objects).await?;
    let version = env!("CARGO_PKG_VERSION");
    if !args.plan && !changes.is_empty() {
        let deadline = Duration::from_secs(args.timeout);
        installation::make(&cluster, &objects, |step| {
            output::note(&format!("  {} {step}", output::paint(Tone::Good, "✓")));
        })
        .await?;
        let wait = |state: &str| output::note(&format!("  {} {state}", output::paint(Tone::Dim, "…")));
        if let Err(failure) = installation::finish(&cluster, deadline, wait).await {
            return Err(set_back(&cluster, &before, deadline, failure).await);
        }
    }
    let restart = change::outdated(&health::all(&cluster).await?, version);
    let upgraded = Upgraded {
        cluster: cluster.name,
        version,
        done: !args.plan,
        values: values.against(&was),
        changes,
        restart,
    };
    output::print_value(session.format, &upgraded, || text(&upgraded))?;
    Ok(Exit::Done)
}

/// Brings the former control plane back after a new one that does not become ready.
async fn set_back(cluster: &Cluster, before: &Value, deadline: Duration, why: Failure) -> Failure {
    output::note(&format!("  {} not ready; setting the control plane back", output::paint(Tone::Warn, "!")));
    let mut failure = why;
    failure.next.clear();
    let back = match object::apply(cluster, before, Write::Do).await {
        Ok(_) => ready::wait(cluster, deadline, |_| {}).await,
        Err(error) => Err(cluster.failure("set the control plane back", &error)),
    };
    match back {
        Ok(()) => {
            failure
                .message
                .push_str("\nthe former control plane is back and ready; the mesh goes on as before");
            failure.next("meshctl upgrade --plan").next("meshctl check")
        }
        Err(worse) => {
            failure.message.push_str(&format!("\nand it could not be set back: {}", worse.message));
            failure
                .next("kubectl --namespace mesh-system rollout undo deployment mesh-control")
                .next("meshctl status")
        }
    }
}

fn text(upgraded: &Upgraded) -> String {
    let mut text = String::new();
    for value in &upgraded.values {
        text.push_str(&format!("{} {}\n", output::paint(Tone::Warn, "value"), output::clean(value)));
    }
    for change in &upgraded.changes {
        let (tone, sign) = if change.verb == "create" { (Tone::Good, "+") } else { (Tone::Warn, "~") };
        text.push_str(&format!("{} {}\n", output::paint(tone, sign), output::clean(&change.object)));
        for field in &change.fields {
            text.push_str(&format!("    {}\n", output::clean(field)));
        }
    }
    text.push_str(&match (upgraded.changes.len(), upgraded.done) {
        (0, _) => format!("the mesh on cluster {} is as this version makes it\n", upgraded.cluster),
        (count, true) => format!("{count} objects changed; the control plane is ready\n"),
        (count, false) => format!("{count} objects would change, the control plane before all proxies\n"),
    });
    match upgraded.restart.len() {
        0 => text.push_str("no pod must restart\n"),
        count => text.push_str(&format!(
            "{count} pods have a proxy of another version and get theirs when they restart: {}\n",
            some(&upgraded.restart)
        )),
    }
    text
}
