//! A pod's address goes to another identity; nothing that was its goes with it.
//!
//! # Why
//! Addresses are given in turn, and a node has hundreds: the next pod gets a chosen one only after the node's own note of the
//! last address, which the plugin `host-local` keeps in a file, was set to the one before. A cluster with another plugin
//! fails here and says so.

use super::Scenario;
use crate::e2e::load::Load;
use crate::e2e::manifest::{App, allow};
use crate::e2e::stage::{Area, Stage};
use crate::e2e::wait;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::net::Ipv4Addr;
use std::time::Duration;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "address-reuse",
    says: "a caller's, a callee's and a stranger's address given to another identity: no right goes with it",
    run: address_reuse,
}];

/// Other pods of the cluster may take the address first.
const ATTEMPTS: usize = 5;

fn address_reuse(stage: &Stage<'_>) -> Result<()> {
    let (area, outside) = (stage.meshed("a")?, stage.unmeshed("out")?);
    let keeper = Keeper::start(&outside)?;
    area.apply(&allow("trusted", "vault"))?;
    area.apply(&allow("asker", "victim"))?;
    area.run(&[App::http("vault"), App::http("victim"), App::client("trusted"), App::client("asker")])?;
    outside.run(&[App::http("plain")])?;
    area.until_status("deploy/trusted", "http://vault:8080/", "200")?;

    // A caller's: whoever has it next is asked who it is.
    let ip = keeper.successor((&area, "trusted"), (&area, App::client("other")))?;
    for _ in 0..5 {
        let status = area.status("deploy/other", "http://vault:8080/")?;
        ensure!(status == "403 no_rule_allows", "another identity at {ip} got {status}");
    }
    // A callee's: what is meant for the one never reaches the other, by no name and not by the address.
    never_serves(&area, &keeper, (&area, "victim"), "thief")?;
    // A stranger's: what went there in plaintext is not taken in plaintext by a pod of the mesh.
    never_serves(&area, &keeper, (&outside, "plain"), "late")
}

/// While `asker` calls an application by its address, the address goes to another one that lets nobody call: it never answers.
fn never_serves(
    area: &Area<'_>,
    keeper: &Keeper<'_>,
    (of, app): (&Area<'_>, &str),
    successor: &str,
) -> Result<()> {
    let url = format!("http://{}:8080/", of.pod_ip(app)?);
    area.until_status("deploy/asker", &url, "200")?;
    let load = Load::start(area, "deploy/asker", &url, 20)?;
    let ip = keeper.successor((of, app), (area, App::http(successor)))?;
    area.until_status("deploy/asker", &url, "403 no_rule_allows")?;
    let counted = load.end()?;
    eprintln!("    {ip} from {app} to {successor}: {} ok, {} refused", counted.ok, counted.failed);
    ensure!(
        counted.served_by.keys().all(|pod| pod.starts_with(&format!("{app}-"))),
        "{successor} answered what was meant for {app}: {:?}",
        counted.served_by
    );
    let service = format!("http://{app}.{}:8080/", of.namespace);
    let status = area.status("deploy/asker", &service)?;
    ensure!(!status.starts_with("200"), "a service without pods answered {status}");
    Ok(())
}

/// A pod that may change its node's note of the address that was given last. No other node takes pods meanwhile.
struct Keeper<'a> {
    outside: &'a Area<'a>,
    others: Vec<String>,
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        for node in &self.others {
            if let Err(error) = self.outside.cluster.told(&["uncordon", node]) {
                eprintln!("    {node} takes no pods: {error:#}");
            }
        }
    }
}

impl<'a> Keeper<'a> {
    fn start(outside: &'a Area<'a>) -> Result<Self> {
        let mut pod = App::client("keeper").pod(&outside.cluster.programs());
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!("keeper");
        pod["spec"]["hostNetwork"] = json!(true);
        pod["spec"]["serviceAccountName"] = json!("default");
        pod["spec"]["volumes"] = json!([
            {"name": "run", "hostPath": {"path": "/run"}}, {"name": "cni", "hostPath": {"path": "/var/lib"}},
        ]);
        pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 0});
        pod["spec"]["containers"][0]["volumeMounts"] = json!([
            {"name": "run", "mountPath": "/node/run", "mountPropagation": "HostToContainer"},
            {"name": "cni", "mountPath": "/node/lib"},
        ]);
        outside.apply(&pod.to_string())?;
        outside.told(&["wait", "--for=condition=ready", "pod/keeper", "--timeout=60s"])?;
        let own = outside.told(&["get", "pod", "keeper", "-o", "jsonpath={.spec.nodeName}"])?;
        let nodes = outside.cluster.told(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
        let mut keeper = Self { outside, others: Vec::new() };
        for node in nodes.split_whitespace().filter(|node| *node != own) {
            outside.cluster.told(&["cordon", node])?;
            keeper.others.push(node.to_owned());
        }
        Ok(keeper)
    }

    /// Ends an application and starts another on its node until that has its address; gives the address.
    fn successor(&self, (of, gone): (&Area<'_>, &str), (area, next): (&Area<'_>, App)) -> Result<String> {
        let ip = of.pod_ip(gone)?;
        of.told(&["delete", &format!("deployment/{gone}"), "--wait=false"])?;
        wait::until(&format!("{gone} to be gone"), Duration::from_secs(60), || {
            let pods = of.pods(gone)?;
            ensure!(pods.is_empty(), "there are {}", pods.join(", "));
            Ok(())
        })?;
        for _ in 0..ATTEMPTS {
            self.give_next(&ip)?;
            area.run(std::slice::from_ref(&next))?;
            if area.pod_ip(next.name())? == ip {
                return Ok(ip);
            }
            area.told(&["delete", &format!("deployment/{}", next.name()), "--cascade=foreground"])?;
        }
        bail!("{} never got the address {ip} of {gone}", next.name())
    }

    fn give_next(&self, ip: &str) -> Result<()> {
        let address: Ipv4Addr = ip.parse().with_context(|| format!("{ip} is no IPv4 address"))?;
        let before = Ipv4Addr::from_bits(address.to_bits().saturating_sub(1));
        let script = format!(
            "shopt -s nullglob; for note in /node/run/*/*/last_reserved_ip.0 /node/lib/cni/networks/*/last_reserved_ip.0; do \
             echo -n {before} > $note && echo noted; done"
        );
        let said = self.outside.exec("keeper", &["bash", "-c", &script])?;
        ensure!(
            said.out.contains("noted"),
            "the node keeps no note of host-local, so no address can be chosen: {} {}",
            said.out,
            said.err
        );
        Ok(())
    }
}
