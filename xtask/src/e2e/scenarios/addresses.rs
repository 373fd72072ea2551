//! Every way in which a pod can name another: each ends in mutual TLS where the peer is meshed.

use super::Scenario;
use crate::e2e::manifest::{self, App, allow};
use crate::e2e::stage::{Area, Stage};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "names",
        says: "short, long and foreign names of a service; several ports; named target ports; its address",
        run: names,
    },
    Scenario {
        name: "stateful",
        says: "a StatefulSet behind a headless service: the service's name, a pod's own name, a pod's address",
        run: stateful,
    },
    Scenario {
        name: "selectorless",
        says: "a service without a selector, to meshed and unmeshed addresses; ExternalName",
        run: selectorless,
    },
];

fn expect(area: &Area<'_>, url: &str, expected: &str) -> Result<()> {
    let status = area.status("deploy/client", url)?;
    ensure!(status == expected, "{url} gave {status:?} instead of {expected:?}");
    Ok(())
}

fn service(name: &str, spec: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}).to_string()
}

fn names(stage: &Stage<'_>) -> Result<()> {
    let area = stage.meshed("a")?;
    let both = "python3 /pods/serve.py 8081 & exec python3 /pods/serve.py 8080";
    let web = App::new("web", &["sh", "-c", both]).port("http", 8080).port("second", 8081);
    let web = web.ready_when(json!({"httpGet": {"path": "/", "port": "second"}}));
    area.apply(&allow("client", "web"))?;
    area.apply(&service(
        "front",
        &json!({
            "selector": {"app": "web"},
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http"},
                {"name": "second", "port": 81, "targetPort": "second"},
                {"name": "number", "port": 82, "targetPort": 8081},
            ],
        }),
    ))?;
    area.run(&[web, App::client("client")])?;
    area.until_status("deploy/client", "http://front/", "200")?;
    let namespace = &area.namespace;
    let ip = area.told(&["get", "service", "front", "-o", "jsonpath={.spec.clusterIP}"])?;
    for host in
        ["front".to_owned(), format!("front.{namespace}"), format!("front.{namespace}.svc.cluster.local"), ip]
    {
        for port in [80, 81, 82] {
            expect(&area, &format!("http://{host}:{port}/"), "200")?;
        }
    }
    // A port that the service does not have: an answer, and a prompt one.
    let status = area.status("deploy/client", "http://front:83/")?;
    ensure!(status != "200", "a port that is not there answered {status}");
    Ok(())
}

fn stateful(stage: &Stage<'_>) -> Result<()> {
    let area = stage.meshed("a")?;
    let app = App::http("db");
    area.apply(&allow("client", "db"))?;
    area.apply(&manifest::list(&[
        manifest::account("db"),
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
            "spec": {
                "serviceName": "db", "replicas": 2, "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": {"app": "db"}}, "template": app.pod(&area.cluster.programs()),
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
            "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"name": "http", "port": 8080}]},
        }),
    ]))?;
    area.run(&[App::client("client"), App::client("other")])?;
    area.cluster.rolled_out(&area.namespace, "statefulset/db", 120)?;
    area.until_status("deploy/client", "http://db:8080/", "200")?;
    for pod in ["db-0", "db-1"] {
        let said = area
            .exec("deploy/client", &["curl", "-s", "--max-time", "15", &format!("http://{pod}.db:8080/")])?;
        ensure!(said.out.starts_with(pod), "{pod}.db answered {:?} {}", said.out, said.err);
    }
    let ip = area.pod_ip("db")?;
    expect(&area, &format!("http://{ip}:8080/"), "200")?;
    // Nobody gets past the policy by a pod's own address.
    let other = area.status("deploy/other", &format!("http://{ip}:8080/"))?;
    ensure!(other == "403 no_rule_allows", "another account got {other} by the pod's address");
    Ok(())
}

fn selectorless(stage: &Stage<'_>) -> Result<()> {
    let (area, outside) = (stage.meshed("a")?, stage.unmeshed("out")?);
    outside.run(&[App::http("plain")])?;
    area.run(&[App::http("web"), App::client("client"), App::client("other")])?;
    area.apply(&allow("client", "web"))?;
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    for (name, ip) in [("inside", area.pod_ip("web")?), ("outside", outside.pod_ip("plain")?)] {
        area.apply(&service(name, &json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}]})))?;
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        });
        area.apply(&slice.to_string())?;
        area.until_status("deploy/client", &format!("http://{name}/"), "200")?;
    }
    let other = area.status("deploy/other", "http://inside/")?;
    ensure!(
        other == "403 no_rule_allows",
        "another account got {other} through a service without a selector"
    );
    let target = format!("plain.{}.svc.cluster.local", outside.namespace);
    area.apply(&service("alias", &json!({"type": "ExternalName", "externalName": target})))?;
    area.until_status("deploy/client", "http://alias:8080/", "200")
}
