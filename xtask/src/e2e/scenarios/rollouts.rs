//! Pods come and go under counted load: not one request fails.

use super::Scenario;
use super::control_plane::web_and_client;
use crate::e2e::load::Load;
use crate::e2e::manifest::{App, allow};
use crate::e2e::stage::{Area, Stage};
use crate::e2e::wait;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "callee-restarts",
        says: "10 rolling restarts of callees under load: 0 failed",
        run: callee_restarts,
    },
    Scenario {
        name: "caller-restarts",
        says: "15 rolling restarts of callers under load: 0 failed",
        run: caller_restarts,
    },
    Scenario {
        name: "scaling",
        says: "the callee from 1 to 10 pods and back under load: 0 failed",
        run: scaling,
    },
];

/// Requests a second: enough that every moment of a restart meets some, on two cores that also run the cluster.
const RATE: u32 = 60;
/// Deployments that are restarted together, since a node that waits for one pod has time for others; and how often. Two pods
/// for a callee: of a single one the application has gone, on a busy machine, before anybody can know of its successor.
const CALLEES: u32 = 2;
const CALLERS: u32 = 3;
const ROUNDS: u32 = 5;
const CALLEE_PODS: u16 = 2;
const PODS_MOST: u16 = 10;

/// Restarts all of them at once, and waits until each has its new pods, so many times.
fn restart(area: &Area<'_>, deployments: &[String]) -> Result<()> {
    let named: Vec<String> = deployments.iter().map(|name| format!("deployment/{name}")).collect();
    let args: Vec<&str> =
        ["rollout", "restart"].into_iter().chain(named.iter().map(String::as_str)).collect();
    for _ in 0..ROUNDS {
        area.told(&args)?;
        deployments.iter().try_for_each(|name| area.ready(name))?;
    }
    Ok(())
}

fn callee_restarts(stage: &Stage<'_>) -> Result<()> {
    let area = stage.meshed("a")?;
    let names: Vec<String> = (0..CALLEES).map(|number| format!("web-{number}")).collect();
    for name in &names {
        area.apply(&allow("client", name))?;
        area.apply(&App::http(name).replicas(CALLEE_PODS).manifest(&area.cluster.programs()))?;
    }
    area.run(&[App::client("client")])?;
    let urls: Vec<String> = names.iter().map(|name| format!("http://{name}:8080/")).collect();
    names.iter().try_for_each(|name| area.ready(name))?;
    urls.iter().try_for_each(|url| area.until_status("deploy/client", url, "200"))?;
    let load = Load::start(&area, "deploy/client", &urls.join(","), RATE)?;
    restart(&area, &names)?;
    names.iter().try_for_each(|name| gone(&area, name, usize::from(CALLEE_PODS)))?;
    let counted = load.none_failed(&format!("{} restarts of callees", CALLEES * ROUNDS))?;
    let pods = usize::try_from(CALLEES * (ROUNDS + 1) * u32::from(CALLEE_PODS))?;
    ensure!(counted.served_by.len() >= pods, "{} of {pods} pods were called", counted.served_by.len());
    Ok(())
}

fn caller_restarts(stage: &Stage<'_>) -> Result<()> {
    let (area, outside) = (stage.meshed("a")?, stage.unmeshed("out")?);
    outside.run(&[App::new("collector", &["python3", "/pods/collect.py", "9000"]).port("lines", 9000)])?;
    let names: Vec<String> = (0..CALLERS).map(|number| format!("caller-{number}")).collect();
    area.run(&[App::http("web").replicas(2)])?;
    let rate = (RATE / CALLERS).to_string();
    for name in &names {
        area.apply(&allow(name, "web"))?;
        let caller = App::new(name, &["python3", "/pods/load.py", "http://web:8080/", &rate])
            .env("COLLECTOR", &format!("collector.{}:9000", outside.namespace));
        area.apply(&caller.manifest(&area.cluster.programs()))?;
    }
    names.iter().try_for_each(|name| area.ready(name))?;
    restart(&area, &names)?;
    names.iter().try_for_each(|name| {
        area.told(&["scale", &format!("deployment/{name}"), "--replicas=0"]).map(drop)
    })?;
    let pods = usize::try_from(CALLERS * (ROUNDS + 1))?;
    let lines = wait::until("every caller to say what it counted", Duration::from_secs(60), || {
        let told = outside.told(&["logs", "deployment/collector"])?;
        let lines: Vec<String> = told.lines().map(str::to_owned).collect();
        ensure!(lines.len() >= pods, "{} of {pods} have", lines.len());
        Ok(lines)
    })?;
    let mut total = 0;
    for line in &lines {
        let counted: crate::e2e::load::Counted = serde_json::from_str(line).context("a caller's line")?;
        ensure!(counted.failed == 0, "{line}");
        total += counted.ok;
    }
    eprintln!("    {} restarts of callers: {total} ok, 0 failed, {} pods", CALLERS * ROUNDS, lines.len());
    ensure!(total > 0, "nobody called");
    Ok(())
}

fn scaling(stage: &Stage<'_>) -> Result<()> {
    let area = web_and_client(stage)?;
    let load = Load::start(&area, "deploy/client", "http://web:8080/", RATE)?;
    area.told(&["scale", "deployment/web", &format!("--replicas={PODS_MOST}")])?;
    area.ready("web")?;
    wait::pause(Duration::from_secs(3));
    area.told(&["scale", "deployment/web", "--replicas=1"])?;
    gone(&area, "web", 1)?;
    let counted = load.none_failed("the callee is scaled")?;
    ensure!(
        counted.served_by.len() >= usize::from(PODS_MOST),
        "new pods got no requests: {:?}",
        counted.served_by
    );
    Ok(())
}

/// Waits until only so many pods are left of an application, those that end included.
fn gone(area: &Area<'_>, app: &str, left: usize) -> Result<()> {
    wait::until(&format!("pods of {app} to be gone"), Duration::from_secs(90), || {
        let pods = area.pods(app)?;
        ensure!(pods.len() == left, "there are {}", pods.join(", "));
        Ok(())
    })
}
