//! One release after the other, and certificates that end while nobody renews them.
//!
//! The release before is this one's programs under another tag: what is proven is the way from one to the other, with every
//! replica of the control plane replaced under load and proxies of both at the same time. That their messages are understood by the
//! release before is tested where they are defined (`mesh_proto::wire`).

use super::Scenario;
use super::control_plane::{self, web_and_client};
use crate::e2e::cluster::Cluster;
use crate::e2e::load::Load;
use crate::e2e::manifest::allow;
use crate::e2e::stage::{Area, Stage};
use crate::e2e::wait;
use anyhow::{Result, ensure};
use std::time::Duration;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "upgrade",
        says: "from the build before to this one under load: 0 failed, proxies of both at once",
        run: upgrade,
    },
    Scenario {
        name: "expired",
        says: "the control plane is away for longer than certificates live: all recovers by itself",
        run: expired,
    },
];

const RATE: u32 = 40;
/// How long certificates live in one scenario, and in all others.
const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// Upgrades to a tag and a lifetime of certificates; gives what was said.
fn to(cluster: &Cluster, tag: &str, lifetime: Duration) -> Result<String> {
    let tag = format!("image.tag={tag}");
    let lifetime = format!("certificates.svidLifetime={}", lifetime.as_secs());
    let args = ["upgrade", "--set", &tag, "--set", "image.pullPolicy=IfNotPresent", "--set", &lifetime];
    cluster.meshctl(&args)?.ok("meshctl upgrade")
}

fn proxy_image(area: &Area<'_>, app: &str) -> Result<String> {
    let path = "jsonpath={.items[*].spec.initContainers[?(@.name==\"mesh-proxy\")].image}";
    area.told(&["get", "pods", "-l", &format!("app={app}"), "-o", path])
}

fn upgrade(stage: &Stage<'_>) -> Result<()> {
    let cluster = stage.cluster;
    to(cluster, &cluster.previous_tag(), LONG)?;
    let area = web_and_client(stage)?;
    let before = proxy_image(&area, "client")?;
    ensure!(before.ends_with(&cluster.previous_tag()), "the former release injects {before}");
    let load = Load::start(&area, "deploy/client", "http://web:8080/", RATE)?;
    let said = to(cluster, &cluster.tag, LONG)?;
    ensure!(said.contains("the control plane is ready"), "meshctl upgrade: {said}");
    load.none_failed("the control plane is upgraded")?;
    // The proxies are of the former release still: what is changed reaches them.
    area.told(&["delete", "accesspolicy", "web-allows-client"])?;
    area.until_status("deploy/client", "http://web:8080/", "403 no_rule_allows")?;
    area.apply(&allow("client", "web"))?;
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    // The callee gets its new proxy under load of a caller that has the former one.
    let load = Load::start(&area, "deploy/client", "http://web:8080/", RATE)?;
    area.told(&["rollout", "restart", "deployment/web"])?;
    area.ready("web")?;
    let (caller, callee) = (proxy_image(&area, "client")?, proxy_image(&area, "web")?);
    ensure!(
        caller == before && callee.contains(&cluster.tag),
        "the caller's proxy is {caller}, the callee's {callee}"
    );
    load.none_failed("the callee's proxy is upgraded").map(drop)
}

fn expired(stage: &Stage<'_>) -> Result<()> {
    let cluster = stage.cluster;
    to(cluster, &cluster.tag, SHORT)?;
    let done = outlive(stage);
    to(cluster, &cluster.tag, LONG)?;
    done
}

fn outlive(stage: &Stage<'_>) -> Result<()> {
    let area = web_and_client(stage)?;
    let pods = (area.pods("web")?, area.pods("client")?);
    control_plane::without(stage.cluster, || {
        wait::pause(SHORT + SHORT / 2);
        let status = area.status("deploy/client", "http://web:8080/")?;
        eprintln!(
            "    {:?} without a control plane, certificates of {SHORT:?}: a call gets {status:?}",
            SHORT * 3 / 2
        );
        Ok(())
    })?;
    let back = wait::now();
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    eprintln!("    well again {:.1?} after the control plane was ready", back.elapsed());
    ensure!((area.pods("web")?, area.pods("client")?) == pods, "pods were replaced");
    let restarts = "jsonpath={.items[*].status.initContainerStatuses[*].restartCount}";
    let restarts = area.told(&["get", "pods", "-o", restarts])?;
    ensure!(restarts.split_whitespace().all(|count| count == "0"), "proxies were started anew: {restarts}");
    Ok(())
}
