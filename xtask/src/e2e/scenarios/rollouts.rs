//! Pods come and go under counted load: not one request fails.

use super::Scenario;
use crate::e2e::load::Load;
use crate::e2e::manifest::{App, allow};
use crate::e2e::stage::{Area, Stage};
use crate::e2e::wait;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "callee-restarts",
        says: "rolling restarts of the callee under load: 0 failed",
        run: callee_restarts,
    },
    Scenario {
        name: "caller-restarts",
        says: "rolling restarts of the caller under load: 0 failed",
        run: caller_restarts,
    },
    Scenario {
        name: "scaling",
        says: "the callee from 1 to 5 pods and back under load: 0 failed",
        run: scaling,
    },
];

/// Requests a second: enough that every moment of a restart meets some, on two cores that also run the cluster.
const RATE: u32 = 60;
const RESTARTS: u32 = 3;

fn web_and_client<'a>(stage: &Stage<'a>, replicas: u16) -> Result<Area<'a>> {
    let area = stage.meshed("a")?;
    area.apply(&allow("client", "web"))?;
    area.run(&[App::http("web").replicas(replicas), App::client("client")])?;
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    Ok(area)
}

fn callee_restarts(stage: &Stage<'_>) -> Result<()> {
    let area = web_and_client(stage, 2)?;
    let load = Load::start(&area, "deploy/client", "http://web:8080/", RATE)?;
    for _ in 0..RESTARTS {
        area.told(&["rollout", "restart", "deployment/web"])?;
        area.ready("web")?;
    }
    gone(&area, "web", 2)?;
    load.none_failed("the callee restarts").map(drop)
}

fn caller_restarts(stage: &Stage<'_>) -> Result<()> {
    let (area, outside) = (stage.meshed("a")?, stage.unmeshed("out")?);
    outside.run(&[App::new("collector", &["python3", "/pods/collect.py", "9000"]).port("lines", 9000)])?;
    area.apply(&allow("client", "web"))?;
    let url = "http://web:8080/";
    let rate = (RATE / 2).to_string();
    let caller = App::new("client", &["python3", "/pods/load.py", url, &rate])
        .replicas(2)
        .env("COLLECTOR", &format!("collector.{}:9000", outside.namespace));
    area.run(&[App::http("web").replicas(2)])?;
    area.run(&[caller])?;
    for _ in 0..RESTARTS {
        area.told(&["rollout", "restart", "deployment/client"])?;
        area.ready("client")?;
    }
    area.told(&["scale", "deployment/client", "--replicas=0"])?;
    let pods = usize::try_from(2 * (RESTARTS + 1))?;
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
    eprintln!("    the callers restart: {total} ok, 0 failed, {} pods", lines.len());
    ensure!(total > 0, "nobody called");
    Ok(())
}

fn scaling(stage: &Stage<'_>) -> Result<()> {
    let area = web_and_client(stage, 1)?;
    let load = Load::start(&area, "deploy/client", "http://web:8080/", RATE)?;
    area.told(&["scale", "deployment/web", "--replicas=5"])?;
    area.ready("web")?;
    wait::pause(Duration::from_secs(3));
    area.told(&["scale", "deployment/web", "--replicas=1"])?;
    gone(&area, "web", 1)?;
    let counted = load.none_failed("the callee is scaled")?;
    ensure!(counted.served_by.len() >= 5, "new pods got no requests: {:?}", counted.served_by);
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
