//! Who may call whom.

use super::Scenario;
use crate::e2e::manifest::{App, account, allow};
use crate::e2e::stage::{Area, Stage};
use anyhow::{Result, ensure};
use serde_json::json;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "default-deny",
        says: "nobody calls anybody until a policy allows it, and then only whom it names",
        run: default_deny,
    },
    Scenario {
        name: "strangers",
        says: "a pod outside of the mesh cannot call one inside; inside calls outside as before",
        run: strangers,
    },
    Scenario {
        name: "guard-rail",
        says: "who rules a namespace alone cannot widen what holds for the whole mesh, nor touch it",
        run: guard_rail,
    },
];

fn default_deny(stage: &Stage<'_>) -> Result<()> {
    let area = stage.meshed("a")?;
    area.run(&[App::http("web"), App::client("client"), App::client("other")])?;
    area.until_status("deploy/client", "http://web:8080/", "403 no_rule_allows")?;
    area.apply(&allow("client", "web"))?;
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    let other = area.status("deploy/other", "http://web:8080/")?;
    ensure!(other == "403 no_rule_allows", "another account got {other}");
    area.told(&["delete", "accesspolicy", "web-allows-client"])?;
    area.until_status("deploy/client", "http://web:8080/", "403 no_rule_allows")
}

fn strangers(stage: &Stage<'_>) -> Result<()> {
    let (inside, outside) = (stage.meshed("in")?, stage.unmeshed("out")?);
    outside.run(&[App::http("plain"), App::client("stranger")])?;
    inside.run(&[App::http("web"), App::client("client")])?;
    inside.apply(&allow("client", "web"))?;
    inside.until_status("deploy/client", "http://web:8080/", "200")?;
    let web = inside.pod_ip("web")?;
    let service = format!("http://web.{}:8080/", inside.namespace);
    for url in [
        service,
        format!("http://{web}:8080/"),
        format!("http://{web}:15006/"),
        format!("http://{web}:15001/"),
    ] {
        let status = outside.status("deploy/stranger", &url)?;
        ensure!(status == "000", "a stranger got {status} from {url}");
    }
    let plain = format!("http://plain.{}:8080/", outside.namespace);
    let status = inside.status("deploy/client", &plain)?;
    ensure!(status == "200", "the mesh's own got {status} from {plain}");
    let api = inside.exec(
        "deploy/client",
        &["curl", "-sk", "--max-time", "10", "https://kubernetes.default.svc/version"],
    )?;
    ensure!(api.out.contains("gitVersion"), "the API server: {} {}", api.out, api.err);
    Ok(())
}

fn guard_rail(stage: &Stage<'_>) -> Result<()> {
    let (area, elsewhere) = (stage.meshed("a")?, stage.meshed("b")?);
    let namespace = &area.namespace;
    area.run(&[App::http("web"), App::client("client")])?;
    elsewhere.run(&[App::client("foreign")])?;
    let rail = |verb: &str| -> Result<()> {
        let name = format!("{namespace}-stays-within");
        if verb == "delete" {
            return stage.cluster.told(&["delete", "meshaccesspolicy", &name]).map(drop);
        }
        stage.cluster.apply(
            &json!({
                "apiVersion": "meshctl.io/v1alpha1", "kind": "MeshAccessPolicy", "metadata": {"name": name},
                "spec": {
                    "guardrail": true, "target": {"service": format!("{namespace}/web")},
                    "rules": [{"name": "only-from-within", "from": [{"namespace": namespace}]}],
                },
            })
            .to_string(),
        )
    };
    rail("apply")?;
    let done = tenant(&area, &elsewhere);
    rail("delete")?;
    done
}

fn tenant(area: &Area<'_>, elsewhere: &Area<'_>) -> Result<()> {
    let namespace = &area.namespace;
    area.apply(&account("tenant").to_string())?;
    let account = format!("--serviceaccount={namespace}:tenant");
    area.told(&["create", "rolebinding", "tenant", "--clusterrole=admin", &account])?;
    let user = format!("--as=system:serviceaccount:{namespace}:tenant");
    let all = json!({
        "apiVersion": "meshctl.io/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "all"},
        "spec": {"target": {"workload": "web"}, "rules": [{
            "name": "all", "from": [{"namespace": namespace}, {"namespace": elsewhere.namespace}],
        }]},
    });
    let mut command = area.cluster.kubectl();
    let said =
        area.cluster.fed(command.args(["apply", &user, "-n", namespace, "-f", "-"]), &all.to_string())?;
    said.ok("the tenant's own policy")?;
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    let status = elsewhere.status("deploy/foreign", &format!("http://web.{namespace}:8080/"))?;
    ensure!(status.starts_with("403 "), "past the guard-rail: {status}");
    eprintln!("    the tenant's rule lets its own in; another namespace gets {status}");
    for verb in ["create", "patch", "delete"] {
        let said = area.cluster.tried(&["auth", "can-i", verb, "meshaccesspolicies.meshctl.io", &user])?;
        ensure!(said.out == "no", "the tenant may {verb} what holds for the whole mesh: {}", said.out);
    }
    Ok(())
}
