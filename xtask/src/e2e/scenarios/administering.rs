//! What an administrator asks and changes with `meshctl`, whichever replica knows it.

use super::Scenario;
use crate::e2e::cluster::{Cluster, SYSTEM};
use crate::e2e::manifest::{App, allow};
use crate::e2e::stage::{Area, Stage};
use crate::e2e::wait;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::Write as _;
use std::time::Duration;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "admin-replicas",
        says: "status, edges, explain and events are those of all replicas together, counted exactly",
        run: all_replicas,
    },
    Scenario {
        name: "admin-rollback",
        says: "apply, delete and rollback with meshctl change the cluster's objects, and wait until they are in force",
        run: rollback,
    },
    Scenario {
        name: "admin-mistakes",
        says: "a foreign definition, a Helm release, another trust domain: refused, nothing changed; half a mesh is mended",
        run: mistakes,
    },
    Scenario {
        name: "admin-checks",
        says: "forty checks and more of a mesh that is well, none of them failed",
        run: checks,
    },
    Scenario {
        name: "admin-values",
        says: "an upgrade that is told nothing keeps what was chosen at the installation",
        run: kept_values,
    },
];

/// What the control plane's objects are called.
const CONTROL: &str = "mesh-control";

/// What `meshctl` prints as JSON, whatever its exit code.
fn json(cluster: &Cluster, args: &[&str]) -> Result<Value> {
    let said = cluster.meshctl(&[args, &["-o", "json"]].concat())?;
    serde_json::from_str(&said.out)
        .with_context(|| format!("meshctl {}: {} {}", args.join(" "), said.out, said.err))
}

/// Waits until what earlier scenarios made is gone: a revision of now would bring it back, and a check would find it half gone.
fn alone(cluster: &Cluster) -> Result<()> {
    wait::until("the namespaces of earlier scenarios to be gone", Duration::from_secs(120), || {
        let names = cluster.told(&["get", "namespaces", "-o", "name"])?;
        let left: Vec<&str> = names.lines().filter(|name| name.starts_with("namespace/e2e-")).collect();
        ensure!(left.is_empty(), "there are still {left:?}");
        Ok(())
    })
}

fn all_replicas(stage: &Stage<'_>) -> Result<()> {
    const CALLS: u64 = 20;
    let cluster = stage.cluster;
    let area = stage.meshed("a")?;
    let http = |name| App::http(name).replicas(3);
    area.run(&[http("web"), App::client("client"), App::client("other")])?;
    area.apply(&allow("client", "web"))?;
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    let pods = [area.pods("web")?, area.pods("client")?].concat();
    wait::until("every proxy in the status of one of two replicas", Duration::from_secs(30), || {
        let status = json(cluster, &["status"])?;
        let replicas = status["replicas"].as_array().context("no replicas")?;
        ensure!(replicas.len() == 2, "replicas: {replicas:?}");
        let served: u64 = replicas.iter().filter_map(|replica| replica["proxies"].as_u64()).sum();
        let proxies = status["proxies"].as_array().context("no proxies")?;
        ensure!(served == proxies.len() as u64, "{served} served, {} shown", proxies.len());
        for pod in &pods {
            let proxy = proxies.iter().find(|proxy| proxy["instance"] == pod.as_str());
            let proxy = proxy.with_context(|| format!("{pod} is missing"))?;
            ensure!(proxy["control_plane"].as_str().is_some_and(|name| !name.is_empty()), "{proxy}");
        }
        eprintln!(
            "    served by each replica: {:?}",
            replicas.iter().map(|r| &r["proxies"]).collect::<Vec<_>>()
        );
        Ok(())
    })?;
    let allowed = || -> Result<u64> {
        let from = format!("/ns/{}/sa/client", area.namespace);
        let edges = json(cluster, &["edges", "--from", &from, "--to", "web"])?;
        let inbound =
            edges["edges"].as_array().into_iter().flatten().filter(|edge| edge["direction"] == "inbound");
        Ok(inbound.filter_map(|edge| edge["allowed"].as_u64()).sum())
    };
    let before = allowed()?;
    for _ in 0..CALLS {
        let status = area.status("deploy/client", "http://web:8080/")?;
        ensure!(status == "200", "it answers {status}");
    }
    wait::until("the edges to have each call once", Duration::from_secs(20), || {
        let now = allowed()?;
        ensure!(now >= before.saturating_add(CALLS), "{before} before, {now} now, {CALLS} calls");
        Ok(())
    })?;
    refusals(cluster, &area)
}

/// What one replica knows of a refusal is found by whoever asks.
fn refusals(cluster: &Cluster, area: &Area<'_>) -> Result<()> {
    area.until_status("deploy/other", "http://web:8080/", "403 no_rule_allows")?;
    wait::until("the refusal to be known", Duration::from_secs(20), || {
        let denied = json(cluster, &["explain", "--denied", "--limit", "200"])?;
        let source = format!("/ns/{}/sa/other", area.namespace);
        let ours = denied["decisions"].as_array().into_iter().flatten();
        let mut ours = ours.filter(|one| one["source"].as_str().is_some_and(|text| text.ends_with(&source)));
        let id = ours.next().and_then(|one| one["id"].as_str()).context("no decision about it")?;
        let said = cluster.meshctl(&["explain", id])?;
        ensure!(said.code == 3 && said.out.contains("no_rule_allows"), "{} {}", said.out, said.err);
        let events = cluster.meshctl(&["events", "--kind", "refused", "--from", &source])?;
        ensure!(!events.out.is_empty(), "no event: {}", events.err);
        Ok(())
    })
}

fn rollback(stage: &Stage<'_>) -> Result<()> {
    let cluster = stage.cluster;
    alone(cluster)?;
    let area = stage.meshed("a")?;
    area.run(&[App::http("web"), App::client("client")])?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("policy.yaml");
    let policy = |from: &str| {
        format!(
            "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: web, namespace: {}}}\n\
             spec:\n  target: {{service: web}}\n  rules:\n  - from: [{{serviceAccount: {from}}}]\n",
            area.namespace
        )
    };
    let path = file.to_string_lossy().into_owned();
    let apply = |from: &str| -> Result<()> {
        std::fs::File::create(&file)?.write_all(policy(from).as_bytes())?;
        cluster.meshctl(&["apply", "-f", &path, "--wait"])?.ok("meshctl apply").map(drop)
    };
    apply("client")?;
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    let key = format!("accesspolicy/{}/web", area.namespace);
    let history = json(cluster, &["history", &key])?;
    let revision = history["entries"][0]["revision"].as_u64().context("no history")?.to_string();
    apply("nobody")?;
    area.until_status("deploy/client", "http://web:8080/", "403 no_rule_allows")?;
    let said = cluster.meshctl(&["rollback", &revision, "--dry-run"])?.ok("meshctl rollback --dry-run")?;
    ensure!(said.contains("nothing was changed"), "{said}");
    area.until_status("deploy/client", "http://web:8080/", "403 no_rule_allows")?;
    cluster.meshctl(&["rollback", &revision, "--wait"])?.ok("meshctl rollback")?;
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    cluster.meshctl(&["delete", &key, "--wait"])?.ok("meshctl delete")?;
    area.until_status("deploy/client", "http://web:8080/", "403 no_rule_allows")?;
    let left = area.told(&["get", "accesspolicies", "-o", "name"])?;
    ensure!(left.is_empty(), "still there: {left}");
    Ok(())
}

/// What an installation leaves alone, with one message that says why and what to type.
fn mistakes(stage: &Stage<'_>) -> Result<()> {
    const DEFINITION: &str = "segments.meshctl.io";
    const PART: &str = "app.kubernetes.io/part-of";
    let cluster = stage.cluster;
    let generations = "jsonpath={range .items[*]}{.metadata.name}@{.metadata.generation} {end}";
    let state = || {
        let own = cluster.told(&["get", "deployments,services", "-n", SYSTEM, "-o", generations])?;
        Ok::<_, anyhow::Error>(own + &cluster.told(&["get", "crds", "-o", generations])?)
    };
    let before = state()?;
    let refused = |args: &[&str], expected: &str| -> Result<()> {
        let said = cluster.meshctl(args)?;
        let text = format!("{} {}", said.out, said.err);
        ensure!(said.code == 1, "{args:?} ended with {}: {text}", said.code);
        ensure!(
            text.contains(expected) && text.contains("next: "),
            "{args:?} does not say {expected:?}: {text}"
        );
        ensure!(text.contains("nothing was changed") && text.matches("error:").count() == 1, "{text}");
        ensure!(before == state()?, "{args:?} changed something");
        Ok(())
    };
    cluster.told(&["label", "crd", DEFINITION, &format!("{PART}-")])?;
    let foreign = refused(&["install"], "was not made by meshctl");
    cluster.told(&["label", "crd", DEFINITION, &format!("{PART}=meshctl")])?;
    foreign?;
    cluster.told(&["annotate", "service", CONTROL, "-n", SYSTEM, "meta.helm.sh/release-name=other"])?;
    let helm = refused(&["install"], "belongs to the Helm release other");
    cluster.told(&["annotate", "service", CONTROL, "-n", SYSTEM, "meta.helm.sh/release-name-"])?;
    helm?;
    refused(&["install", "--set", "trustDomain=other.example"], "cannot be changed")?;
    refused(&["upgrade", "--set", "trustDomain=other.example"], "cannot be changed")?;
    cluster.told(&["delete", "clusterrole", "meshctl-viewer"])?;
    cluster.told(&["delete", "poddisruptionbudget", CONTROL, "-n", SYSTEM])?;
    cluster.meshctl(&["install"])?.ok("meshctl install over half a mesh")?;
    cluster.told(&["get", "clusterrole", "meshctl-viewer"])?;
    cluster.told(&["get", "poddisruptionbudget", CONTROL, "-n", SYSTEM])?;
    Ok(())
}

/// Every check has its say: what was found, and what mends it where something is wrong.
fn checks(stage: &Stage<'_>) -> Result<()> {
    const CHECKS_MIN: usize = 40;
    alone(stage.cluster)?;
    let checked = json(stage.cluster, &["check"])?;
    let checks = checked["checks"].as_array().context("no checks")?;
    eprintln!("    {} checks", checks.len());
    ensure!(checks.len() >= CHECKS_MIN, "{} checks only: {checked}", checks.len());
    for check in checks {
        let (found, mend) = (check["found"].as_str().unwrap_or_default(), check["mend"].as_str());
        let is_bad = check["verdict"] == "fail" || check["verdict"] == "warn";
        ensure!(!found.is_empty() && (!is_bad || mend.is_some_and(|mend| !mend.is_empty())), "{check}");
        ensure!(check["verdict"] != "fail", "{check}");
    }
    Ok(())
}

fn kept_values(stage: &Stage<'_>) -> Result<()> {
    let cluster = stage.cluster;
    let plan = json(cluster, &["upgrade", "--plan"])?;
    ensure!(plan["changes"].as_array().is_some_and(Vec::is_empty), "it would change: {plan}");
    let plan = json(cluster, &["upgrade", "--plan", "--set", "control.replicas=3"])?;
    ensure!(plan["values"] == serde_json::json!(["control.replicas: 2 -> 3"]), "{plan}");
    let plan = json(cluster, &["upgrade", "--plan", "--reset-values"])?;
    let values = plan["values"].to_string();
    ensure!(values.contains(&format!("image.tag: {} ->", cluster.tag)), "{plan}");
    Ok(())
}
