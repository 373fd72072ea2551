//! What goes over the wire between two pods.

use super::Scenario;
use crate::e2e::manifest::{App, allow};
use crate::e2e::stage::{Area, Stage};
use crate::e2e::wait;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::time::Duration;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "strict-mtls",
    says: "a capture on the node shows no plaintext between meshed pods",
    run: strict_mtls,
}];

/// What is looked for in the capture.
const SECRET: &str = "canary-4711-in-the-clear";

fn strict_mtls(stage: &Stage<'_>) -> Result<()> {
    let (area, outside) = (stage.meshed("a")?, stage.unmeshed("out")?);
    area.apply(&allow("client", "web"))?;
    outside.run(&[App::http("plain")])?;
    area.run(&[App::http("web"), App::client("client")])?;
    area.until_status("deploy/client", "http://web:8080/", "200")?;
    sniffer(
        &outside,
        &area.told(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].spec.nodeName}"])?,
    )?;
    let call = |host: &str| {
        let url = format!("http://{host}:8080/{SECRET}");
        area.exec("deploy/client", &["curl", "-sf", "--max-time", "15", "-X", "POST", "-d", SECRET, &url])
    };
    let seen = || -> Result<u64> {
        let said = outside.exec("sniffer", &["grep", "-c", "-a", SECRET, "/tmp/capture"])?;
        said.out.parse().with_context(|| format!("grep: {} {}", said.out, said.err))
    };
    call("web")?.ok("the call between meshed pods")?;
    let through = area.exec(
        "deploy/client",
        &["curl", "-sf", "--max-time", "15", &format!("http://{}:8080/{SECRET}", area.pod_ip("web")?)],
    )?;
    through.ok("the call to the pod's address")?;
    // The capture works: what goes to a pod outside of the mesh is seen, and all that was sent before was written before.
    call(&format!("plain.{}", outside.namespace))?.ok("the call to a pod outside")?;
    wait::until("the capture to hold the plaintext that went outside", Duration::from_secs(20), || {
        ensure!(seen()? > 0, "nothing is in it yet");
        Ok(())
    })?;
    let script = format!(
        "tcpdump -Z root -r /tmp/capture -A 'port 15008' 2>/dev/null | grep -c {SECRET}; tcpdump -Z root -r /tmp/capture 'port 15008' 2>/dev/null | grep -c .; tcpdump -Z root -r /tmp/capture -A 'host {}' 2>/dev/null | grep -c {SECRET}",
        area.pod_ip("web")?
    );
    let said = outside.exec("sniffer", &["sh", "-c", &script])?;
    let counts: Vec<u64> = said.out.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let [in_mesh, packets, to_web] = counts[..] else {
        anyhow::bail!("the capture could not be read: {} {}", said.out, said.err)
    };
    eprintln!(
        "    {packets} packets between proxies, {in_mesh} with plaintext; {to_web} lines of plaintext from or to the callee"
    );
    ensure!(packets > 0, "nothing between proxies was captured");
    ensure!(
        in_mesh == 0 && to_web == 0,
        "plaintext between meshed pods: {in_mesh} on 15008, {to_web} at the callee"
    );
    Ok(())
}

/// A pod `sniffer` that captures on a node's own network, with all interfaces of its pods, into `/tmp/capture`.
fn sniffer(outside: &Area<'_>, node: &str) -> Result<()> {
    let mut pod = App::client("sniffer").pod(&outside.cluster.programs());
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("sniffer");
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["nodeName"] = json!(node);
    pod["spec"]["serviceAccountName"] = json!("default");
    pod["spec"]["containers"][0]["command"] = json!([
        "tcpdump",
        "-i",
        "any",
        "-U",
        "-s",
        "0",
        "-w",
        "/tmp/capture",
        "-Z",
        "root",
        "tcp and not port 6443 and not port 10250"
    ]);
    pod["spec"]["containers"][0]["securityContext"] =
        json!({"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}});
    outside.apply(&pod.to_string())?;
    outside.told(&["wait", "--for=condition=ready", "pod/sniffer", "--timeout=60s"])?;
    wait::until("tcpdump to listen", Duration::from_secs(20), || {
        let said = outside.told(&["logs", "sniffer"])?;
        ensure!(said.contains("listening on"), "{said:?}");
        Ok(())
    })
}
