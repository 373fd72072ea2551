//! What the control plane says of the running mesh.

use super::Finding;
use crate::admin_client::{AdminClient, Api};
use crate::cluster::access::Cluster;
use crate::command::ca::when;
use crate::command::restore::STORE_NAME;
use crate::failure::Failure;
use crate::output;
use crate::replicas;
use crate::session::Session;
use mesh_proto::wire::v1;
use tonic::Response;

/// A certificate with less than this share of its life left should have been renewed long ago.
const LIFE_LEFT_MIN_PERCENT: u64 = 15;

/// All checks of the mesh; one, skipped, when none runs.
pub(super) async fn check(session: &Session) -> Vec<Finding> {
    const ABOUT: &str = "control plane";
    let client = match session.admin().await {
        Ok(client) => client,
        Err(failure) => {
            let start = format!("meshctl up --state-dir {}", session.state_dir.display());
            return vec![match session.state_dir.join(STORE_NAME).exists() {
                true => Finding::warn(ABOUT, format!("{}, but there is a store", failure.message), start),
                false => Finding::skip(ABOUT, format!("{}; start one with: {start}", failure.message)),
            }];
        }
    };
    ask(&client).await.unwrap_or_else(|failure| vec![failed(ABOUT, &failure)])
}

/// The same of the mesh on a cluster.
pub(super) async fn check_cluster(cluster: &Cluster) -> Vec<Finding> {
    const ABOUT: &str = "administration";
    let asked = match AdminClient::connect_to_cluster(cluster).await {
        Ok(client) => ask(&client).await,
        Err(failure) => Err(failure),
    };
    asked.unwrap_or_else(|failure| vec![failed(ABOUT, &failure)])
}

/// A failure as a finding, which is one line; a refusal says in more of them how the right is granted.
fn failed(about: &'static str, failure: &Failure) -> Finding {
    let first = failure.message.lines().next().unwrap_or_default().to_owned();
    let next = match &*failure.next {
        [] => "meshctl status   # says the whole of it".to_owned(),
        next => next.join("; "),
    };
    Finding::fail(about, first, next)
}

async fn ask(client: &AdminClient) -> Result<Vec<Finding>, Failure> {
    let now = output::now_ms();
    let whole = replicas::status(client).await?;
    let status = &whole.status;
    let verify = v1::AuditRequest { limit: 1, verify: true };
    let ask = async |mut api: Api| api.audit(verify).await.map(Response::into_inner);
    let audits = client.everywhere(ask).await?;
    let objects = client.answer(client.api().get(v1::GetRequest::default()).await)?.objects;
    let edges = replicas::edges(client).await?;
    let mut findings = vec![
        Finding::pass(
            "control plane",
            format!("answers; revision {}, trust domain {}", status.revision, status.trust_domain),
        ),
        version(&status.version),
        store(&status.store),
    ];
    findings.extend(audits.iter().map(|audit| audit_chain(&audit.value.verified)));
    let ca = status.ca.clone().unwrap_or_default();
    for root in &ca.roots {
        findings.push(life("root certificate", root, now, "meshctl ca rotate"));
    }
    if let Some(issuing) = &ca.issuing {
        findings.push(life("issuing certificate", issuing, now, "meshctl ca rotate --intermediate"));
    }
    findings.push(rotation(&ca));
    findings.extend([
        in_sync(&status.proxies),
        certificates(&status.proxies, now),
        resources(&objects),
        plaintext(&edges),
    ]);
    findings.extend(
        status.warnings.iter().map(|warning| Finding::warn("warning", warning.clone(), "meshctl status")),
    );
    Ok(findings)
}

fn version(control: &str) -> Finding {
    const ABOUT: &str = "versions";
    let ours = env!("CARGO_PKG_VERSION");
    match control == ours {
        true => Finding::pass(ABOUT, format!("meshctl and the control plane are {ours}")),
        false => {
            Finding::warn(ABOUT, format!("meshctl is {ours}, the control plane {control}"), "meshctl version")
        }
    }
}

fn store(store: &str) -> Finding {
    const ABOUT: &str = "store";
    match store {
        "ok" => Finding::pass(ABOUT, "takes writes"),
        why => Finding::fail(
            ABOUT,
            format!("refuses writes: {why}"),
            "df -h   # then the control plane goes on by itself",
        ),
    }
}

fn audit_chain(verified: &str) -> Finding {
    const ABOUT: &str = "audit chain";
    match verified.contains("intact") {
        true => Finding::pass(ABOUT, verified),
        false => Finding::fail(ABOUT, verified, "meshctl audit --verify"),
    }
}

fn life(about: &'static str, certificate: &v1::CaCertificate, now: u64, mend: &str) -> Finding {
    let (from, until) = (certificate.not_before_ms, certificate.not_after_ms);
    let found = format!("{}, expires {}", certificate.state, when(until, now));
    let left = until.saturating_sub(now);
    let whole = until.saturating_sub(from).max(1);
    if left == 0 {
        return Finding::fail(about, found, mend);
    }
    match left.saturating_mul(100) / whole < LIFE_LEFT_MIN_PERCENT {
        true => Finding::warn(about, found, mend),
        false => Finding::pass(about, found),
    }
}

fn rotation(ca: &v1::CaStatusResponse) -> Finding {
    const ABOUT: &str = "root rotation";
    match ca.rotation.as_str() {
        rotation if rotation.is_empty() || rotation.starts_with("idle") => {
            Finding::pass(ABOUT, "none under way")
        }
        paused if paused.contains("paused") => {
            Finding::warn(ABOUT, format!("stands at {paused}"), "meshctl ca rotate --resume")
        }
        step => Finding::pass(ABOUT, format!("at step {step}; waiting for {}", ca.waiting_for)),
    }
}

fn in_sync(proxies: &[v1::ProxyStatus]) -> Finding {
    const ABOUT: &str = "sidecars";
    if let Some(refusing) = proxies.iter().find(|proxy| proxy.state == "refused") {
        return Finding::fail(
            ABOUT,
            format!("{} refused an update: {}", refusing.instance, refusing.refusal),
            "meshctl status",
        );
    }
    let late: Vec<&str> =
        proxies.iter().filter(|proxy| proxy.lag_ms > 5_000).map(|proxy| proxy.instance.as_str()).collect();
    match late.is_empty() {
        true => Finding::pass(ABOUT, format!("{} connected, none behind", proxies.len())),
        false => Finding::fail(ABOUT, format!("behind: {}", late.join(", ")), "meshctl status"),
    }
}

fn certificates(proxies: &[v1::ProxyStatus], now: u64) -> Finding {
    const ABOUT: &str = "workload certificates";
    let expired: Vec<&str> = proxies
        .iter()
        .filter(|proxy| proxy.svid_expires_ms != 0 && proxy.svid_expires_ms <= now)
        .map(|proxy| proxy.instance.as_str())
        .collect();
    match expired.is_empty() {
        true => Finding::pass(ABOUT, "none expired"),
        false => Finding::fail(ABOUT, format!("expired: {}", expired.join(", ")), "meshctl identity"),
    }
}

fn resources(objects: &[v1::Object]) -> Finding {
    const ABOUT: &str = "resources";
    let without_effect: Vec<String> = objects
        .iter()
        .filter(|object| {
            ["NoMatch", "Shadowed", "Invalid"].iter().any(|word| object.status.starts_with(word))
        })
        .filter_map(|object| {
            let about = object.r#ref.as_ref()?;
            Some(format!("{} {}/{}: {}", about.kind, about.namespace, about.name, object.status))
        })
        .collect();
    match without_effect.first() {
        None => Finding::pass(ABOUT, format!("{} in force, none without effect", objects.len())),
        Some(first) => Finding::warn(
            ABOUT,
            format!("{} without effect, such as {first}", without_effect.len()),
            "meshctl get",
        ),
    }
}

fn plaintext(edges: &[v1::Edge]) -> Finding {
    const ABOUT: &str = "encryption";
    let plain: Vec<String> = edges
        .iter()
        .filter_map(|edge| edge.stats.as_ref())
        .filter(|stats| stats.allowed > 0 && stats.tls_version.is_empty())
        .map(|stats| format!("{} → {}", stats.source, stats.service))
        .collect();
    match plain.first() {
        None => Finding::pass(ABOUT, format!("{} edges, none in plaintext", edges.len())),
        Some(first) => Finding::warn(
            ABOUT,
            format!("{} edges in plaintext, such as {first}", plain.len()),
            "meshctl edges",
        ),
    }
}
