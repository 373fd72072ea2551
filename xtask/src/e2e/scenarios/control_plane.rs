//! The control plane goes away, comes back, and changes its root; the traffic does not notice.

use super::Scenario;
use crate::e2e::cluster::{Cluster, SYSTEM};
use crate::e2e::load::Load;
use crate::e2e::manifest::{App, allow};
use crate::e2e::stage::{Area, Stage};
use crate::e2e::wait;
use anyhow::{Result, ensure};
use std::time::Duration;

pub(super) const SCENARIOS: &[Scenario] = &[
    // First: a rotation waits for replicas that were killed until their absence has lasted its grace.
    Scenario { name: "root-rotation", says: "the root is rotated under load: 0 failed", run: root_rotation },
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
    Scenario {
        name: "policy-latency",
        says: "a changed policy is enforced within a second",
        run: policy_latency,
    },
];

const RATE: u32 = 40;

fn web_and_client<'a>(stage: &Stage<'a>) -> Result<Area<'a>> {
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

fn all_gone(stage: &Stage<'_>) -> Result<()> {
    let area = web_and_client(stage)?;
    let load = Load::start(&area, "deploy/client", "http://web:8080/", RATE)?;
    let replicas = format!("--replicas={}", control_pods(stage.cluster)?.len());
    stage.cluster.told(&["scale", "-n", SYSTEM, "deployment/mesh-control", "--replicas=0"])?;
    wait::until("the control plane to be gone", Duration::from_secs(60), || {
        let pods = control_pods(stage.cluster)?;
        ensure!(pods.is_empty(), "{pods:?}");
        Ok(())
    })?;
    let away = || -> Result<()> {
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
    };
    let stayed = away();
    stage.cluster.told(&["scale", "-n", SYSTEM, "deployment/mesh-control", &replicas])?;
    stage.cluster.rolled_out(SYSTEM, "deployment/mesh-control", 90)?;
    stayed?;
    // It is ready a moment before the nodes lead its service's address to it.
    wait::until("the control plane to be reached again", Duration::from_secs(15), || {
        area.apply(&allow("client", "later"))
    })?;
    area.run(&[App::http("later")])?;
    area.until_status("deploy/client", "http://later:8080/", "200")?;
    load.none_failed("the control plane is gone").map(drop)
}

fn policy_latency(stage: &Stage<'_>) -> Result<()> {
    let area = web_and_client(stage)?;
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        // One loop in the pod, so that what is measured is not `kubectl exec`.
        let script = "until [ \"$(curl -s -o /dev/null -w '%{http_code}' http://web:8080/)\" = 403 ]; do :; done; date +%s%3N";
        let (waits, denied_at) = std::thread::scope(|scope| {
            let waits = scope.spawn(|| area.exec("deploy/client", &["timeout", "20", "sh", "-c", script]));
            wait::pause(Duration::from_millis(700));
            let typed = unix_ms();
            let deleted = area.told(&["delete", "accesspolicy", "web-allows-client", "--wait=false"]);
            (waits.join(), deleted.map(|_| (typed, unix_ms())))
        });
        let said =
            waits.map_err(|_| anyhow::anyhow!("the waiting thread ended"))??.ok("the loop in the pod")?;
        let seen: u64 = said.parse()?;
        let (typed, deleted) = denied_at?;
        let since = |at: u64| Duration::from_millis(seen.saturating_sub(at));
        // The API server has it at some time between the two; the second is compared, since a busy machine starts `kubectl` late.
        slowest = slowest.max(since(deleted));
        eprintln!(
            "    round {round}: enforced {:?} after kubectl delete began, {:?} after it ended",
            since(typed),
            since(deleted)
        );
        area.apply(&allow("client", "web"))?;
        area.until_status("deploy/client", "http://web:8080/", "200")?;
    }
    ensure!(slowest < Duration::from_secs(1), "the slowest took {slowest:?}");
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
