//! The example that users start with, and the answers that `meshctl` gives about it.

use super::Scenario;
use crate::e2e::stage::{Area, Stage};
use crate::e2e::wait;
use crate::step::root;
use anyhow::{Result, ensure};
use std::time::Duration;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "shop",
    says: "the example of deploy/examples/kubernetes: meshed, ready, as its policies say; status, edges",
    run: shop,
}];

/// The image that the example names for users with a registry.
const IMAGE: &str = "image: python:3-slim";

fn shop(stage: &Stage<'_>) -> Result<()> {
    let read = |file: &str| std::fs::read_to_string(root().join("deploy/examples/kubernetes").join(file));
    let apps = read("shop.yaml")?;
    ensure!(apps.contains(IMAGE), "the example has another image than {IMAGE:?}");
    let policies = read("policies.yaml")?;
    stage.cluster.apply(&apps.replace(IMAGE, &format!("image: {}", stage.cluster.programs())))?;
    stage.cluster.apply(&policies)?;
    // After the example, which has this namespace as well: what is applied last says what it is labelled with.
    let area = stage.named("shop")?;
    let done = visit(stage, &area);
    // Not of the namespace, and so not deleted with it.
    stage.cluster.told(&["delete", "meshaccesspolicy", "payments-stays-in-the-shop"])?;
    done
}

fn visit(stage: &Stage<'_>, area: &Area<'_>) -> Result<()> {
    ["shopper", "web", "catalog", "payments"].iter().try_for_each(|app| area.ready(app))?;
    area.until_status("deploy/shopper", "http://web/", "200")?;
    area.until_status("deploy/web", "http://catalog/", "200")?;
    for (from, url) in [
        ("deploy/shopper", "http://catalog/"),
        ("deploy/shopper", "http://payments/"),
        ("deploy/web", "http://payments/"),
        ("deploy/catalog", "http://web/"),
    ] {
        let status = area.status(from, url)?;
        ensure!(status == "403 no_rule_allows", "{from} got {status} from {url}");
    }
    area.told(&["create", "job", "tonight", "--from=cronjob/batch"])?;
    area.told(&["wait", "--for=condition=complete", "job/tonight", "--timeout=60s"])?;

    let meshctl = |args: &[&str]| stage.cluster.meshctl(args);
    let status = wait::until("status to find all well", Duration::from_secs(30), || {
        meshctl(&["status"])?.ok("meshctl status")
    })?;
    ensure!(status.starts_with("cluster ") && status.contains("cluster.local"), "meshctl status: {status}");
    // Each replica tells of the proxies that are connected to it.
    let edges = meshctl(&["edges"])?.ok("meshctl edges")?;
    ensure!(edges.contains("FROM"), "meshctl edges: {edges}");
    Ok(())
}
