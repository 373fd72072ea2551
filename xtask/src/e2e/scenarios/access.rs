//! Who may call whom.

use super::Scenario;
use crate::e2e::manifest::{App, allow};
use crate::e2e::stage::Stage;
use anyhow::{Result, ensure};

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
