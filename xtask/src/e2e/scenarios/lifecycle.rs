//! The mesh comes and goes.

use crate::e2e::cluster::{Cluster, SYSTEM, Said};
use crate::e2e::stage::Stage;
use crate::e2e::wait;
use anyhow::{Result, ensure};
use std::time::Duration;

/// `meshctl install` ends when the control plane is ready, within a minute.
pub(super) fn install(stage: &Stage<'_>) -> Result<()> {
    let started = wait::now();
    let tag = format!("image.tag={}", stage.cluster.tag);
    let said =
        stage.cluster.meshctl(&["install", "--set", &tag, "--set", "image.pullPolicy=IfNotPresent"])?;
    let took = started.elapsed();
    eprintln!("    installed after {took:.1?}");
    said.ok("meshctl install")?;
    stage.cluster.rolled_out(SYSTEM, "deployment/mesh-control", 5)?;
    ensure!(took < Duration::from_secs(60), "meshctl install took {took:?}");
    Ok(())
}

/// Installs this run's images.
pub(super) fn install_command(cluster: &Cluster) -> Result<Said> {
    let tag = format!("image.tag={}", cluster.tag);
    cluster.meshctl(&["install", "--set", &tag, "--set", "image.pullPolicy=IfNotPresent"])
}

/// `meshctl uninstall` leaves nothing of the mesh.
pub(super) fn uninstall(stage: &Stage<'_>) -> Result<()> {
    let cluster = stage.cluster;
    wait::until("the scenarios' namespaces to be gone", Duration::from_secs(120), || {
        let left = cluster.told(&["get", "namespaces", "-l", "e2e.meshctl.io/scenario", "-o", "name"])?;
        ensure!(left.is_empty(), "there are {left}");
        Ok(())
    })?;
    cluster.meshctl(&["uninstall"])?.ok("meshctl uninstall")?;
    let kinds = "namespaces,crds,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,priorityclasses,apiservices";
    let all = cluster.told(&["get", kinds, "-o", "name"])?;
    let is_ours = |line: &&str| ["meshctl", SYSTEM, "mesh-control"].iter().any(|name| line.contains(name));
    let left: Vec<&str> = all.lines().filter(is_ours).collect();
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    let trust = cluster.told(&["get", "configmaps", "-A", "-o", "jsonpath={.items[*].metadata.name}"])?;
    ensure!(!trust.contains("meshctl-trust"), "the trust of the mesh is still in a namespace");
    Ok(())
}
