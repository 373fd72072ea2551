//! `meshctl uninstall`: takes the mesh off a Kubernetes cluster.

use crate::cluster::removal;
use crate::failure::{Exit, Failure};
use crate::output::{self, Tone};
use crate::session::Session;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  meshctl uninstall            # refuses while pods of the mesh run
  meshctl uninstall --force    # they lose their control plane; restart them without proxies afterwards";

/// What `uninstall` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UninstallArgs {
    /// Even while pods of the mesh run
    #[arg(long)]
    force: bool,
    /// How long to wait for each part to go, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

#[derive(Serialize)]
struct Uninstalled {
    cluster: String,
    /// Whether there was anything.
    found: bool,
    /// Pods that still have a proxy.
    meshed_pods: Vec<String>,
}

/// Removes everything, and waits until it is gone.
///
/// # Errors
/// Pods of the mesh run; what the cluster refused.
pub(crate) async fn run(args: UninstallArgs, session: &Session) -> Result<Exit, Failure> {
    let cluster = session.cluster.connect().await?;
    output::note(&format!("cluster {} (Kubernetes {})", cluster.name, cluster.version));
    let found = removal::look(&cluster).await?;
    let pods = removal::meshed_pods(&cluster).await?;
    if !pods.is_empty() && !args.force {
        return Err(Failure::failed(format!(
            "{} pods of the mesh run on cluster {}: {}; without a control plane their certificates end within a day, and \
             nothing was changed",
            pods.len(),
            cluster.name,
            removal::some(&pods)
        ))
        .next("kubectl label namespace NAME meshctl.io/inject-   # then: kubectl --namespace NAME rollout restart deployment")
        .next("meshctl uninstall --force"));
    }
    let was_there = !found.is_empty();
    if was_there {
        removal::remove(&cluster, found, Duration::from_secs(args.timeout), |step| {
            output::note(&format!("  {} {step}", output::paint(Tone::Good, "✓")));
        })
        .await?;
    }
    let done = Uninstalled { cluster: cluster.name, found: was_there, meshed_pods: pods };
    output::print_value(session.format, &done, || text(&done))?;
    Ok(Exit::Done)
}

fn text(done: &Uninstalled) -> String {
    let mut text = match done.found {
        true => format!("nothing of the mesh is left on cluster {}\n", done.cluster),
        false => format!("there was no mesh on cluster {}\n", done.cluster),
    };
    if !done.meshed_pods.is_empty() {
        text.push_str(&format!(
            "{} pods still have a proxy; restart them to be without: {}\n",
            done.meshed_pods.len(),
            removal::some(&done.meshed_pods)
        ));
    }
    text
}
