//! `meshctl status`: whether the mesh is well.

use super::ca::{CaOut, when};
use crate::cluster::health::{self, Health};
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Grid, Tone};
use crate::replicas::{self, Replica, Whole};
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  meshctl status
  meshctl status -o json
  meshctl status >/dev/null || alert    # 3: degraded, 4: no control plane answers";

/// An update that a sidecar has not acknowledged for this long is worth a person's look: enforcement takes below a second.
const LAG_MS_MAX: u64 = 5_000;

/// What `status` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {}

#[derive(Serialize)]
struct StatusOut {
    healthy: bool,
    problems: Vec<String>,
    version: String,
    trust_domain: String,
    revision: u64,
    uptime_ms: u64,
    store: String,
    audit_sequence: u64,
    /// The control plane's replicas; one on one machine.
    replicas: Vec<Replica>,
    proxies: Vec<ProxyOut>,
    /// Pods of namespaces in the mesh that have no proxy, as `namespace/name`; empty on one machine.
    unmeshed: Vec<String>,
    certificate_authority: Option<CaOut>,
    /// The mesh's parts, where it is that of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<Health>,
}

#[derive(Serialize)]
struct ProxyOut {
    instance: String,
    workload: String,
    identity: String,
    address: String,
    revision: u64,
    lag_ms: u64,
    state: String,
    refusal: String,
    certificate_expires: String,
    /// How long it is still good for; 0: expired, or none is known.
    certificate_left_ms: u64,
    /// The control plane that it is connected to: a pod; empty on one machine.
    control_plane: String,
    #[serde(skip)]
    expires_ms: u64,
    version: String,
    connected: String,
    #[serde(skip)]
    connected_ms: u64,
}

/// Prints the status.
///
/// # Errors
/// When no control plane answers.
pub(crate) async fn run(args: StatusArgs, session: &Session) -> Result<Exit, Failure> {
    let StatusArgs {} = args;
    let client = session.admin().await?;
    let mut status = to_out(replicas::status(&client).await?, output::now_ms());
    if let Some(cluster) = session.meant().await? {
        let health = health::look(&cluster).await?;
        status.problems.extend(health.problems.iter().cloned());
        status.healthy = status.problems.is_empty();
        status.unmeshed.clone_from(&health.unmeshed_pods);
        status.kubernetes = Some(health);
    }
    output::print_value(session.format, &status, || table(&status))?;
    Ok(if status.healthy { Exit::Done } else { Exit::Bad })
}

/// What is wrong in a status, one sentence each; empty: the mesh is well.
pub(crate) fn problems(status: &v1::StatusResponse, now_ms: u64) -> Vec<String> {
    let mut problems: Vec<String> = status.warnings.clone();
    if status.store != "ok" {
        problems.push(format!("the store refuses writes: {}", status.store));
    }
    for proxy in &status.proxies {
        let who = &proxy.instance;
        if proxy.state == "refused" {
            problems.push(format!("{who} refused revision: {}", proxy.refusal));
        } else if proxy.lag_ms > LAG_MS_MAX {
            let lag = duration::show(Duration::from_millis(proxy.lag_ms));
            problems.push(format!("{who} has not acknowledged an update for {lag}"));
        }
        if proxy.svid_expires_ms != 0 && proxy.svid_expires_ms <= now_ms {
            problems.push(format!("the certificate of {who} has expired"));
        }
    }
    problems
}

fn to_out(whole: Whole, now_ms: u64) -> StatusOut {
    let Whole { status: response, replicas, served_by } = whole;
    let problems = problems(&response, now_ms);
    let v1::StatusResponse {
        version,
        trust_domain,
        revision,
        uptime_ms,
        proxies,
        warnings: _, // among the problems
        store,
        audit_sequence,
        ca,
    } = response;
    StatusOut {
        healthy: problems.is_empty(),
        problems,
        version,
        trust_domain,
        revision,
        uptime_ms,
        store,
        audit_sequence,
        replicas,
        proxies: proxies.into_iter().map(|proxy| ProxyOut::of(proxy, &served_by, now_ms)).collect(),
        unmeshed: Vec::new(),
        certificate_authority: ca.map(CaOut::from),
        kubernetes: None,
    }
}

impl ProxyOut {
    fn of(proxy: v1::ProxyStatus, served_by: &BTreeMap<String, String>, now_ms: u64) -> Self {
        let v1::ProxyStatus {
            instance,
            workload,
            identity,
            address,
            revision,
            lag_ms,
            state,
            refusal,
            svid_expires_ms,
            version,
            connected_ms,
        } = proxy;
        Self {
            certificate_left_ms: svid_expires_ms.saturating_sub(now_ms),
            control_plane: served_by.get(&instance).cloned().unwrap_or_default(),
            instance,
            workload,
            identity,
            address,
            revision,
            lag_ms,
            state,
            refusal,
            certificate_expires: output::time(svid_expires_ms),
            expires_ms: svid_expires_ms,
            version,
            connected: output::time(connected_ms),
            connected_ms,
        }
    }
}

fn table(status: &StatusOut) -> String {
    let now = output::now_ms();
    let head = match status.healthy {
        true => output::paint(Tone::Good, "the mesh is well"),
        false => output::paint(Tone::Bad, "the mesh is degraded"),
    };
    let uptime = duration::show(Duration::from_millis(status.uptime_ms));
    let mut text = format!("{head}\n");
    for problem in &status.problems {
        text.push_str(&format!("  {} {}\n", output::paint(Tone::Bad, "✗"), output::clean(problem)));
    }
    text.push_str(&format!(
        "\ntrust domain  {}\ncontrol       version {}, up {uptime}\nrevision      {}\nstore         {}, {} audit records\n",
        output::clean(&status.trust_domain),
        output::clean(&status.version),
        status.revision,
        output::clean(&status.store),
        status.audit_sequence,
    ));
    if let Some(ca) = &status.certificate_authority {
        text.push_str(&format!("authority     {}\n", ca.summary(now)));
    }
    if let Some(health) = &status.kubernetes {
        text.push_str(&components(health));
    }
    text.push('\n');
    if status.proxies.is_empty() {
        text.push_str(match status.kubernetes {
            None => "no workload is connected; start one with: meshctl run --name NAME -- CMD…\n",
            Some(_) => {
                "no workload is connected; bring a namespace in: kubectl label namespace NAME meshctl.io/inject=enabled\n"
            }
        });
        return text;
    }
    let mut grid =
        Grid::new(&["INSTANCE", "IDENTITY", "STATE", "REVISION", "LAG", "CERTIFICATE", "CONNECTED"]);
    for proxy in &status.proxies {
        let tone = match proxy.state.as_str() {
            "in-sync" => Tone::Good,
            "refused" => Tone::Bad,
            _ => Tone::Warn,
        };
        let lag = if proxy.lag_ms == 0 {
            "-".to_owned()
        } else {
            duration::show(Duration::from_millis(proxy.lag_ms))
        };
        grid.row([
            (Tone::Plain, proxy.instance.clone()),
            (Tone::Plain, proxy.identity.clone()),
            (tone, proxy.state.clone()),
            (Tone::Plain, proxy.revision.to_string()),
            (Tone::Plain, lag),
            (Tone::Plain, when(proxy.expires_ms, now)),
            (Tone::Dim, duration::show(Duration::from_millis(now.saturating_sub(proxy.connected_ms)))),
        ]);
    }
    text.push_str(&grid.to_text());
    text
}

/// The parts of the mesh on a cluster.
fn components(health: &Health) -> String {
    let mut text = format!(
        "cluster       {}, Kubernetes {}\nreplicas      {} of {} ready\npods          {} with a proxy, {} without that should have one\n\n",
        output::clean(&health.cluster),
        output::clean(&health.kubernetes),
        health.replicas_ready,
        health.replicas_wanted,
        health.meshed_pods,
        health.unmeshed_pods.len(),
    );
    let mut grid = Grid::new(&["CONTROL PLANE", "STATE", "RESTARTS", "IMAGE", "NODE"]);
    for component in &health.components {
        let (tone, state) = match component.ready {
            true => (Tone::Good, "ready".to_owned()),
            false => (Tone::Bad, component.trouble.clone()),
        };
        grid.row([
            (Tone::Plain, component.pod.clone()),
            (tone, state),
            (Tone::Plain, component.restarts.to_string()),
            (Tone::Plain, component.image.clone()),
            (Tone::Dim, component.node.clone()),
        ]);
    }
    text.push_str(&grid.to_text());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What scripts read; documented in mesh-cli/README.md. A key may come, none may go or change its meaning.
    #[test]
    fn scripts_find_these_keys() {
        let proxy =
            v1::ProxyStatus { instance: "web-1".into(), svid_expires_ms: 5_000, ..Default::default() };
        let whole = Whole {
            status: v1::StatusResponse { store: "ok".into(), proxies: vec![proxy], ..Default::default() },
            replicas: vec![Replica {
                pod: "c-1".into(),
                version: "1".into(),
                revision: 1,
                uptime_ms: 1,
                store: "ok".into(),
                proxies: 1,
            }],
            served_by: BTreeMap::from([("web-1".to_owned(), "c-1".to_owned())]),
        };
        let out = serde_json::to_value(to_out(whole, 2_000)).unwrap();
        let keys = |value: &serde_json::Value| {
            let keys = value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
            keys.unwrap_or_default().join(" ")
        };
        assert_eq!(
            keys(&out),
            "audit_sequence certificate_authority healthy problems proxies replicas revision store trust_domain unmeshed \
             uptime_ms version"
        );
        assert_eq!(
            keys(&out["proxies"][0]),
            "address certificate_expires certificate_left_ms connected control_plane identity instance lag_ms refusal \
             revision state version workload"
        );
        assert_eq!(keys(&out["replicas"][0]), "pod proxies revision store uptime_ms version");
        assert_eq!(out["proxies"][0]["certificate_left_ms"], 3_000);
        assert_eq!(out["proxies"][0]["control_plane"], "c-1");
        let documented = include_str!("../../README.md");
        for key in [keys(&out), keys(&out["proxies"][0]), keys(&out["replicas"][0])].join(" ").split(' ') {
            assert!(documented.contains(&format!("`{key}`")), "{key} is not in mesh-cli/README.md");
        }
    }

    #[test]
    fn what_makes_a_mesh_degraded() {
        let proxy =
            v1::ProxyStatus { instance: "web-1".into(), state: "in-sync".into(), ..Default::default() };
        let well =
            v1::StatusResponse { store: "ok".into(), proxies: vec![proxy.clone()], ..Default::default() };
        assert_eq!(problems(&well, 1_000), Vec::<String>::new());
        let ill = v1::StatusResponse {
            store: "disk full".into(),
            warnings: vec!["a root expires soon".into()],
            proxies: vec![
                v1::ProxyStatus { state: "refused".into(), refusal: "bad bundle".into(), ..proxy.clone() },
                v1::ProxyStatus { lag_ms: 6_000, state: "updating".into(), ..proxy.clone() },
                v1::ProxyStatus { svid_expires_ms: 1_000, ..proxy },
            ],
            ..Default::default()
        };
        assert_eq!(problems(&ill, 1_000).len(), 5);
    }
}
