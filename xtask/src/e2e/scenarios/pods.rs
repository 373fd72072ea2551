//! The life of a pod: its start, its probes, its jobs, its ways past the proxy.

use super::Scenario;
use crate::e2e::manifest::{self, App, allow};
use crate::e2e::stage::{Area, Stage};
use crate::e2e::wait;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "first-dial",
        says: "100 pods that dial in their first moment: not one failure",
        run: first_dial,
    },
    Scenario {
        name: "jobs",
        says: "a Job and a CronJob that call a service complete with their main container",
        run: jobs,
    },
    Scenario {
        name: "probes",
        says: "HTTP, TCP and gRPC probes work under strict mode; a failing one is seen",
        run: probes,
    },
    Scenario {
        name: "no-way-around",
        says: "direct dials, raw ports, other users: nobody gets past a proxy",
        run: no_way_around,
    },
];

/// Pods that dial at once, and how many of them there are at a time.
const DIALLERS: u16 = 100;
const AT_A_TIME: u16 = 25;

fn first_dial(stage: &Stage<'_>) -> Result<()> {
    let area = stage.meshed("a")?;
    area.apply(&allow("dialler", "web"))?;
    area.run(&[App::http("web"), App::client("dialler")])?;
    area.until_status("deploy/dialler", "http://web:8080/", "200")?;
    // The first thing that each pod does is one call, which is not tried again; the pod fails with it.
    let call = ["curl", "-sf", "-o", "/dev/null", "--max-time", "20", "http://web:8080/"];
    let spec = json!({
        "parallelism": AT_A_TIME, "completions": DIALLERS, "backoffLimit": DIALLERS,
        "template": job_pod(&area, "dialler", &call),
    });
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "dialler"}, "spec": spec});
    area.apply(&job.to_string())?;
    let status = wait::until("the dialling pods to end", Duration::from_secs(300), || {
        let status = area.cluster.json(&["get", "-n", &area.namespace, "job/dialler"])?["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let is_over =
            conditions.iter().any(|one| ["Complete", "Failed"].iter().any(|end| one["type"] == *end));
        ensure!(is_over, "{status}");
        Ok(status)
    })?;
    let failed = status["failed"].as_u64().unwrap_or(0);
    ensure!(status["succeeded"] == u64::from(DIALLERS) && failed == 0, "{status}");
    Ok(())
}

/// A pod that ends, as an account.
fn job_pod(area: &Area<'_>, account: &str, command: &[&str]) -> Value {
    let mut pod = App::new(account, command).pod(&area.cluster.programs());
    pod["spec"]["restartPolicy"] = json!("Never");
    pod
}

fn jobs(stage: &Stage<'_>) -> Result<()> {
    let area = stage.meshed("a")?;
    area.apply(&allow("batch", "web"))?;
    area.run(&[App::http("web"), App::client("batch")])?;
    area.until_status("deploy/batch", "http://web:8080/", "200")?;
    let script = "curl -sf --max-time 20 -X POST -d x http://web:8080/charge && date +%s%3N";
    let template = job_pod(&area, "batch", &["sh", "-c", script]);
    let spec = json!({"backoffLimit": 0, "template": template});
    area.apply(&manifest::list(&[
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "spec": spec}),
        json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "often"},
            "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": spec}},
        }),
    ]))?;
    area.told(&["wait", "--for=condition=complete", "job/once", "--timeout=60s"])?;
    let pod = area.cluster.json(&["get", "pods", "-n", &area.namespace, "-l", "job-name=once"])?["items"][0]
        .clone();
    ensure!(pod["status"]["phase"] == "Succeeded", "{}", pod["status"]);
    let ended = |list: &str, name: &str| -> Option<i64> {
        let statuses = pod["status"][list].as_array()?;
        let one = statuses.iter().find(|one| one["name"] == name)?;
        let at = one["state"]["terminated"]["finishedAt"].as_str()?;
        // Whole seconds within a minute: `2026-01-31T12:00:59Z`.
        at.get(17..19)?.parse().ok()
    };
    let main = ended("containerStatuses", "app").context("no end of the main container")?;
    let proxy = ended("initContainerStatuses", "mesh-proxy").context("no end of the proxy")?;
    let outlived = (proxy - main).rem_euclid(60);
    eprintln!("    the proxy outlived the job by {outlived} s");
    ensure!(outlived <= 2, "the proxy outlived the job by {outlived} s");
    // What the schedule would start, now.
    area.told(&["create", "job", "often-now", "--from=cronjob/often"])?;
    area.told(&["wait", "--for=condition=complete", "job/often-now", "--timeout=60s"]).map(drop)
}

fn probes(stage: &Stage<'_>) -> Result<()> {
    let area = stage.meshed("a")?;
    let tcp = App::new("tcp", &["python3", "/pods/greet.py", "2525"])
        .port("line", 2525)
        .ready_when(json!({"tcpSocket": {"port": 2525}}));
    let http = App::http("http").ready_when(
        json!({"httpGet": {"path": "/x", "port": "http", "httpHeaders": [{"name": "x-a", "value": "b"}]}}),
    );
    area.run(&[tcp, http])?;
    // One that is ill stays unready, and is ready when it is well: the server begins after a while.
    area.apply(
        &App::new("late", &["python3", "/pods/serve.py", "8080", "6"])
            .port("http", 8080)
            .ready_when(json!({"httpGet": {"path": "/", "port": 8080}}))
            .manifest(&area.cluster.programs()),
    )?;
    wait::until("the kubelet to say that the late one is not ready", Duration::from_secs(60), || {
        let told = area.told(&[
            "get",
            "events",
            "--field-selector",
            "reason=Unhealthy",
            "-o",
            "jsonpath={.items[*].message}",
        ])?;
        ensure!(told.contains("Readiness probe failed"), "{told:?}");
        Ok(())
    })?;
    area.ready("late")
}

fn no_way_around(stage: &Stage<'_>) -> Result<()> {
    let area = stage.meshed("a")?;
    area.run(&[App::http("web"), App::client("client")])?;
    area.until_status("deploy/client", "http://web:8080/", "403 no_rule_allows")?;
    let ip = area.pod_ip("web")?;
    for port in [8080, 15000, 15001, 15006, 15008] {
        let status = area.status("deploy/client", &format!("http://{ip}:{port}/"))?;
        ensure!(status != "200", "port {port} of a peer answered {status}");
    }
    // The health port answers the platform, and gives nothing of the application.
    let status = area.status("deploy/client", &format!("http://{ip}:15020/probe/app/none"))?;
    ensure!(!status.starts_with("200"), "an unknown probe answered {status}");
    for host in ["127.0.0.1", "[::1]"] {
        for port in [15001, 15006, 15008] {
            let status = area.status("deploy/client", &format!("http://{host}:{port}/"))?;
            ensure!(status == "000", "the proxy's own {host}:{port} answered {status}");
        }
    }
    // By IPv6 there is no other way: to the peer's own address, written as one.
    let status = area.status("deploy/client", &format!("http://[::ffff:{ip}]:8080/"))?;
    ensure!(status == "403 no_rule_allows", "a mapped address answered {status}");
    // Who would run as the proxy's user, whose connections are not redirected, does not run at all.
    let mut pod = App::client("client").pod(&area.cluster.programs());
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("as-the-proxy");
    pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = json!(1774);
    let said = area
        .cluster
        .fed(area.cluster.kubectl().args(["apply", "-n", &area.namespace, "-f", "-"]), &pod.to_string())?;
    ensure!(said.code != 0 && said.err.contains("runAsUser"), "{} {}", said.out, said.err);
    // Every other user's connections go through the proxy, root's among them.
    pod["metadata"]["name"] = json!("as-root");
    pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 0});
    area.apply(&pod.to_string())?;
    area.told(&["wait", "--for=condition=ready", "pod/as-root", "--timeout=60s"])?;
    let status = area.status("as-root", &format!("http://{ip}:8080/"))?;
    ensure!(status == "403 no_rule_allows", "root got {status}");
    Ok(())
}
