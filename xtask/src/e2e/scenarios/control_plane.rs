//! The control plane goes away, comes back, and changes its root; the traffic does not notice.

use super::Scenario;
use crate::e2e::cluster::{Cluster, SYSTEM};
use crate::e2e::flips::Flips;
use crate::e2e::load::Load;
use crate::e2e::manifest::{App, allow};
use crate::e2e::stage::{Area, Stage};
use crate::e2e::wait;
use anyhow::{Result, ensure};
use std::time::Duration;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "replica-killed",
        says: "one control-plane replica is killed under load: 0 failed, new pods start",
        run: replica_killed,
    },
    Scenario {
        name: "control-plane-gone",
        says: "all replicas gone under load: 0 failed; new pods come up when they are back",
        run: all_gone,
    },
    // After them: a rotation gives up the replicas that were killed when their absence has lasted its grace.
    Scenario { name: "root-rotation", says: "the root is rotated under load: 0 failed", run: root_rotation },
    Scenario {
        name: "policy-latency",
        says: "100 changes of a policy, each enforced by all callees: the 99th within a second",
        run: policy_latency,
    },
];

const RATE: u32 = 40;

/// A callee, and a caller that may call it.
pub(super) fn web_and_client<'a>(stage: &Stage<'a>) -> Result<Area<'a>> {
    let area = stage.meshed("a")?;
    area.apply(&allow("client", "web"))?;
    area.run(&[App::http("web"), App::client("client")])?;
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    Ok(area)
}

fn control_pods(cluster: &Cluster) -> Result<Vec<String>> {
    let told = cluster.told(&[
        "get",
        "pods",
        "-n",
        SYSTEM,
        "-l",
        "app.kubernetes.io/name=mesh-control",
        "-o",
        "name",
    ])?;
    Ok(told.lines().map(str::to_owned).collect())
}

fn replica_killed(stage: &Stage<'_>) -> Result<()> {
    let area = web_and_client(stage)?;
    let load = Load::start(&area, "deploy/client", "http://web:8080/", RATE)?;
    let pods = control_pods(stage.cluster)?;
    let first = pods.first().cloned().unwrap_or_default();
    ensure!(pods.len() > 1, "only one replica: {pods:?}");
    stage.cluster.told(&["delete", "-n", SYSTEM, &first, "--grace-period=0", "--force", "--wait=false"])?;
    // At once: the other replica injects and issues.
    area.run(&[App::http("later"), App::client("client2")])?;
    stage.cluster.rolled_out(SYSTEM, "deployment/mesh-control", 60)?;
    area.apply(&allow("client2", "later"))?;
    area.until_status("deploy/client2", "http://later:8080/", "200")?;
    load.none_failed("a replica is killed").map(drop)
}

/// Does something while there is no control plane, and brings it back.
pub(super) fn without(cluster: &Cluster, during: impl FnOnce() -> Result<()>) -> Result<()> {
    let replicas = format!("--replicas={}", control_pods(cluster)?.len());
    cluster.told(&["scale", "-n", SYSTEM, "deployment/mesh-control", "--replicas=0"])?;
    let gone = wait::until("the control plane to be gone", Duration::from_secs(60), || {
        let pods = control_pods(cluster)?;
        ensure!(pods.is_empty(), "{pods:?}");
        Ok(())
    });
    let done = gone.and_then(|()| during());
    cluster.told(&["scale", "-n", SYSTEM, "deployment/mesh-control", &replicas])?;
    cluster.rolled_out(SYSTEM, "deployment/mesh-control", 90)?;
    done
}

fn all_gone(stage: &Stage<'_>) -> Result<()> {
    let area = web_and_client(stage)?;
    let load = Load::start(&area, "deploy/client", "http://web:8080/", RATE)?;
    without(stage.cluster, || {
        wait::pause(Duration::from_secs(5));
        // What is known goes on, over new connections as well.
        let status = area.status("deploy/client", "http://web:8080/")?;
        ensure!(status == "200", "without a control plane a known call got {status}");
        let api = area.exec(
            "deploy/client",
            &["curl", "-sk", "--max-time", "5", "https://kubernetes.default.svc/version"],
        )?;
        ensure!(api.code == 0, "without a control plane the API server was not reached: {}", api.err);
        Ok(())
    })?;
    // It is ready a moment before the nodes lead its service's address to it.
    wait::until("the control plane to be reached again", Duration::from_secs(15), || {
        area.apply(&allow("client", "later"))
    })?;
    area.run(&[App::http("later")])?;
    area.until_status("deploy/client", "http://later:8080/", "200")?;
    load.none_failed("the control plane is gone").map(drop)
}

/// How often the policy changes, and who enforces it.
const CHANGES: usize = 100;
const CALLEES: u16 = 3;

fn policy_latency(stage: &Stage<'_>) -> Result<()> {
    let area = stage.meshed("a")?;
    area.apply(&allow("client", "web"))?;
    area.run(&[App::http("web").replicas(CALLEES), App::client("client")])?;
    let ips = area.told(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}"])?;
    let urls: Vec<String> = ips.split_whitespace().map(|ip| format!("http://{ip}:8080/")).collect();
    ensure!(urls.len() == usize::from(CALLEES), "the callees are at {ips}");
    urls.iter().try_for_each(|url| area.until_status("deploy/client", url, "200"))?;
    let mut flips = Flips::watch(&area, "deploy/client", &urls)?;
    flips.until("200")?;
    let mut latencies = Vec::new();
    for change in 0..CHANGES {
        let (account, expected) = if change % 2 == 0 { ("nobody", "403") } else { ("client", "200") };
        let patch = format!(
            r#"[{{"op": "replace", "path": "/spec/rules/0/from/0/serviceAccount", "value": "{account}"}}]"#
        );
        area.told(&["patch", "accesspolicy", "web-allows-client", "--type=json", "-p", &patch])?;
        // The API server has it at some time before; a busy machine starts `kubectl` late and ends it late.
        let changed = unix_ms();
        latencies.push(flips.until(expected)?.saturating_sub(changed));
    }
    latencies.sort_unstable();
    let at =
        |share: usize| latencies.get(CHANGES * share / 100).or(latencies.last()).copied().unwrap_or(u64::MAX);
    eprintln!(
        "    {CHANGES} changes by {CALLEES} callees: enforced {} ms (median), {} ms (99th), {} ms (last) after kubectl patch",
        at(50),
        at(98),
        at(100)
    );
    ensure!(at(98) < 1000, "the 99th of {CHANGES} changes took {} ms", at(98));
    Ok(())
}

fn unix_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "compared with a pod's clock, which is this machine's")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn root_rotation(stage: &Stage<'_>) -> Result<()> {
    let area = web_and_client(stage)?;
    let load = Load::start(&area, "deploy/client", "http://web:8080/", RATE)?;
    stage.cluster.meshctl(&["ca", "rotate"])?.ok("meshctl ca rotate")?;
    // Who starts now knows the new root alone.
    area.apply(&allow("client", "later"))?;
    area.run(&[App::http("later")])?;
    area.until_status("deploy/client", "http://later:8080/", "200")?;
    load.none_failed("the root is rotated").map(drop)
}
