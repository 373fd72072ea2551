//! What `meshctl install` says to mistakes: one clear message, nothing changed by half, the next command to type.

use super::Scenario;
use crate::e2e::cluster::{Cluster, SYSTEM, Said};
use crate::e2e::stage::Stage;
use anyhow::{Context, Result, ensure};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "install-mistakes",
        says: "no rights, no API server, wrong values: refused with the next command, nothing changed",
        run: mistakes,
    },
    Scenario {
        name: "install-again",
        says: "a second install changes nothing and restarts nobody",
        run: again,
    },
];

/// What an installation would change if it did.
fn state(cluster: &Cluster) -> Result<String> {
    let versions = "jsonpath={range .items[*]}{.kind}/{.metadata.name}@{.metadata.generation} {end}";
    let own = cluster.told(&[
        "get",
        "deployments,services,secrets,serviceaccounts",
        "-n",
        SYSTEM,
        "-o",
        versions,
    ])?;
    let crds = cluster.told(&["get", "crds", "-o", versions])?;
    Ok(format!("{own}\n{crds}"))
}

fn refused(said: &Said, code: i32, expected: &str) -> Result<()> {
    let text = format!("{}\n{}", said.out, said.err);
    ensure!(said.code == code, "ended with {} instead of {code}: {text}", said.code);
    ensure!(
        text.contains(expected) && text.contains("next: "),
        "says nothing of {expected:?} or of what to do next: {text}"
    );
    Ok(())
}

fn mistakes(stage: &Stage<'_>) -> Result<()> {
    let cluster = stage.cluster;
    let area = stage.unmeshed("a")?;
    let before = state(cluster)?;

    area.apply(&crate::e2e::manifest::account("nobody").to_string())?;
    let token = area.told(&["create", "token", "nobody"])?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("kubeconfig");
    let path = file.to_string_lossy().into_owned();
    // The kubeconfig of this cluster with other users and other addresses in it.
    let own = cluster.told(&["config", "view", "--raw", "--minify", "--flatten"])?;
    std::fs::write(&file, &own)?;
    let name = cluster.told(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].name}"])?;
    let edit = |args: &[&str]| cluster.told(&[&["--kubeconfig", &path, "config"], args].concat());
    edit(&["set-credentials", "nobody", &format!("--token={token}")])?;
    edit(&["set-context", "nobody", &format!("--cluster={name}"), "--user=nobody"])?;
    let said = cluster.meshctl(&["install", "--kubeconfig", &path, "--context", "nobody"])?;
    refused(&said, 1, "customresourcedefinitions.apiextensions.k8s.io")?;

    edit(&["set-cluster", &name, "--server=https://127.0.0.1:1"])?;
    let said = cluster.meshctl(&["install", "--kubeconfig", &path])?;
    refused(&said, 4, "does not answer")?;

    let said = cluster.meshctl(&["install", "--set", "control.replicas=none"])?;
    refused(&said, 2, "a number from 1 to 9")?;

    let after = state(cluster)?;
    ensure!(before == after, "a refused installation changed something: {before}\n{after}");
    Ok(())
}

fn again(stage: &Stage<'_>) -> Result<()> {
    let cluster = stage.cluster;
    let pods = || {
        cluster.told(&[
            "get",
            "pods",
            "-n",
            SYSTEM,
            "-l",
            "app.kubernetes.io/name=mesh-control",
            "-o",
            "name",
        ])
    };
    let (before, running) = (state(cluster)?, pods()?);
    super::lifecycle::install_command(cluster)?.ok("the second meshctl install").context("install twice")?;
    ensure!(before == state(cluster)?, "a second installation changed something: {before}");
    ensure!(running == pods()?, "a second installation restarted the control plane");
    Ok(())
}
