//! The acts of the demo, in their order.
//!
//! Each act makes something happen, waits for the state that must follow, and notes what had to be so. Requests are
//! counted by the applications, decisions by the sidecars: the two must agree.

mod certificates;
mod trouble;

use super::NAMESPACE;
use super::app::Role;
use super::screen::{Mark, edge_table};
use super::stage::{Look, Stage, Verdict};
use super::tally::Counted;
use super::world::{Workload, since};
use crate::command::edges::EdgeOut;
use crate::failure::Failure;
use crate::output;
use mesh_proto::resource;
use mesh_proto::wire::v1;
use std::path::Path;
use std::time::Duration;

/// The resources, as they stand in `deploy/examples/shop`.
const RESOURCES: [(&str, &str); 7] = [
    ("mesh.yaml", include_str!("../../../../deploy/examples/shop/mesh.yaml")),
    ("services.yaml", include_str!("../../../../deploy/examples/shop/services.yaml")),
    ("segments.yaml", include_str!("../../../../deploy/examples/shop/segments.yaml")),
    ("roles.yaml", include_str!("../../../../deploy/examples/shop/roles.yaml")),
    ("access.yaml", include_str!("../../../../deploy/examples/shop/access.yaml")),
    ("guardrails.yaml", include_str!("../../../../deploy/examples/shop/guardrails.yaml")),
    ("limits.yaml", include_str!("../../../../deploy/examples/shop/limits.yaml")),
];

/// The shop, callees first.
const SHOP: [Workload; 5] = [
    Workload { role: Role::Store, port: Some("7000=tcp"), calls: &[] },
    Workload { role: Role::Payments, port: Some("8081=http1"), calls: &["store"] },
    Workload { role: Role::Catalog, port: Some("9090=grpc"), calls: &[] },
    Workload { role: Role::Web, port: Some("8080=http1"), calls: &["catalog", "payments"] },
    Workload { role: Role::Shopper, port: None, calls: &["web"] },
];

/// Generous for a loaded machine; on an idle one each takes about a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the shop's own applications had counted when the policy was in force everywhere: from then on nothing may fail.
#[derive(Default)]
pub(crate) struct Baseline {
    shopper: Counted,
    web: Counted,
    payments: Counted,
}

/// Plays all acts.
///
/// # Errors
/// When one cannot go on: a process fell, a state did not come, or the user interrupted.
pub(crate) async fn play(stage: &mut Stage, socket: &Path) -> Result<(), Failure> {
    start(stage, socket).await?;
    default_deny(stage).await?;
    let baseline = policy(stage).await?;
    trouble::intruder(stage).await?;
    trouble::too_fast(stage, &baseline).await?;
    certificates::all_svids(stage).await?;
    certificates::root(stage).await?;
    finale(stage, &baseline).await
}

async fn start(stage: &mut Stage, socket: &Path) -> Result<(), Failure> {
    stage.screen.step(Mark::Act, "A mesh from nothing")?;
    stage.world.start_control()?;
    stage.connect(socket, PATIENCE).await?;
    stage.screen.step(Mark::Note, "a control plane with its store and its certificate authority is up")?;
    for workload in &SHOP {
        stage.start(workload)?;
    }
    let client = stage.client()?;
    let proxies = stage
        .until("every sidecar gets its certificate and the policy", PATIENCE, async |_| {
            let status = client.answer(client.api().status(v1::StatusRequest {}).await)?;
            let ready = status.proxies.iter().filter(|proxy| proxy.state == "in-sync").count();
            Ok(match ready == SHOP.len() {
                true => Look::There(status.proxies),
                false => Look::NotYet(format!("{ready}/{} sidecars are in sync", SHOP.len())),
            })
        })
        .await?;
    stage.process_count = stage.world.process_count();
    let text = format!(
        "{} processes: the control plane, and {} programs that know nothing of a mesh, each with its sidecar",
        stage.process_count,
        SHOP.len()
    );
    stage.screen.step(Mark::Note, &text)?;
    let identities: Vec<String> = proxies.iter().map(|proxy| crate::output::clean(&proxy.identity)).collect();
    stage.expect(
        Verdict::from(
            identities.iter().all(|identity| identity.starts_with("spiffe://shop.mesh/ns/shop/sa/")),
        ),
        format!(
            "each has an identity of its own, such as {}",
            identities.first().map(String::as_str).unwrap_or("-")
        ),
    )
}

async fn default_deny(stage: &mut Stage) -> Result<(), Failure> {
    stage.screen.step(Mark::Act, "No policy yet: nothing passes")?;
    let browse = stage
        .until("the shopper is refused", PATIENCE, async |stage: &Stage| {
            let counts = stage.counts(Role::Shopper, "browse");
            Ok(if counts.refused >= 3 { Look::There(counts) } else { Look::NotYet(format!("{counts:?}")) })
        })
        .await?;
    stage.expect(
        Verdict::from(browse.ok == 0),
        format!(
            "the shopper's calls are refused: {} ({} of {})",
            browse.last,
            browse.unanswered(),
            browse.unanswered() + browse.ok
        ),
    )
}

async fn policy(stage: &mut Stage) -> Result<Baseline, Failure> {
    stage.screen.step(Mark::Act, "The policy of the shop: deploy/examples/shop/*.yaml")?;
    let documents: Vec<v1::Document> = RESOURCES
        .iter()
        .flat_map(|(name, text)| resource::split_documents(&format!("deploy/examples/shop/{name}"), text))
        .map(|resource::SourceDocument { file, line, yaml }| v1::Document { file, line, yaml })
        .collect();
    let count = documents.len();
    let client = stage.client()?;
    let response = client.answer(client.api().apply(v1::ApplyRequest { documents, dry_run: false }).await)?;
    let receipt = crate::command::apply::receipt::wait(&client, response.revision, PATIENCE).await?;
    let is_enforced = receipt.done && receipt.refused.is_empty() && receipt.enforced == receipt.affected;
    stage.expect(
        Verdict::from(is_enforced),
        format!("{count} resources, revision {}: {}", response.revision, receipt.text()),
    )?;
    stage
        .until("the shop works", PATIENCE, async |stage: &Stage| {
            let calls = [
                ("browsing", stage.counts(Role::Shopper, "browse")),
                ("buying", stage.counts(Role::Shopper, "buy")),
                ("the price stream", stage.counts(Role::Web, "price stream")),
                ("keeping receipts", stage.counts(Role::Payments, "store")),
            ];
            let missing = calls.iter().find(|(_, counts)| counts.ok == 0);
            Ok(match missing {
                None => Look::There(()),
                Some((what, counts)) => Look::NotYet(format!("{what} does not work yet: {}", counts.last)),
            })
        })
        .await?;
    // What was refused just before is told with the next line of each application.
    stage.watch_for("the shop works", Duration::from_millis(500)).await?;
    let baseline = Baseline {
        shopper: stage.counted(Role::Shopper),
        web: stage.counted(Role::Web),
        payments: stage.counted(Role::Payments),
    };
    stage.watch_for("the shop works", Duration::from_secs(2)).await?;
    let failed = failures(stage, &baseline);
    stage.expect(
        Verdict::from(failed.is_empty()),
        with_list(
            "customers browse and buy: HTTP/1.1, gRPC with a stream, and plain TCP, all through the mesh",
            &failed,
        ),
    )?;
    let edges = settled_edges(stage).await?;
    let plain: Vec<String> = edges
        .iter()
        .filter(|edge| {
            edge.allowed > 0 && (edge.tls_version != "TLSv1.3" || !edge.key_exchange.contains("MLKEM"))
        })
        .map(|edge| {
            format!("{} → {}: {:?} {:?}", edge.source, edge.service, edge.tls_version, edge.key_exchange)
        })
        .collect();
    stage.expect(
        Verdict::from(plain.is_empty() && !edges.is_empty()),
        with_list(
            "every connection is TLS 1.3 with a post-quantum key exchange (X25519MLKEM768), both ends proven",
            &plain,
        ),
    )?;
    show_edges(stage, &edges)?;
    Ok(baseline)
}

async fn finale(stage: &mut Stage, baseline: &Baseline) -> Result<(), Failure> {
    stage.screen.step(Mark::Act, "The reckoning")?;
    stage.watch_for("the last reports come in", Duration::from_millis(1_200)).await?;
    let failed = failures(stage, baseline);
    let shopper = since(&stage.counted(Role::Shopper), &baseline.shopper);
    let answered: u64 = shopper.values().map(|counts| counts.ok).sum();
    stage.expect(
        Verdict::from(failed.is_empty() && answered > 0),
        with_list(
            &format!(
                "no failed request since the policy was in force: {answered} of the customer's were answered"
            ),
            &failed,
        ),
    )?;
    let connections = stage.counts(Role::Payments, "store connection").ok;
    let stream = since(&stage.counted(Role::Web), &baseline.web).remove("price stream").unwrap_or_default();
    stage.expect(
        Verdict::from(connections == 1 && stream.failed == 0),
        format!(
            "no dropped connection: one TCP connection to the store carried everything, one gRPC stream told {} prices",
            stream.ok
        ),
    )?;
    let client = stage.client()?;
    let status = client.answer(client.api().status(v1::StatusRequest {}).await)?;
    let problems = crate::command::status::problems(&status, output::now_ms());
    stage.expect(
        Verdict::from(problems.is_empty()),
        with_list("the mesh is well (meshctl status)", &problems),
    )?;
    stage.edges().await.map(drop)
}

/// What was not answered since the baseline, in words; empty when all is well.
pub(crate) fn failures(stage: &Stage, baseline: &Baseline) -> Vec<String> {
    let mut failed = Vec::new();
    for (role, name, earlier) in [
        (Role::Shopper, "shopper", &baseline.shopper),
        (Role::Web, "web", &baseline.web),
        (Role::Payments, "payments", &baseline.payments),
    ] {
        for (call, counts) in since(&stage.counted(role), earlier) {
            if counts.unanswered() > 0 {
                failed.push(format!(
                    "{name}, {call}: {} not answered, last: {}",
                    counts.unanswered(),
                    counts.last
                ));
            }
        }
    }
    failed
}

/// A sentence, and below it what contradicts it.
pub(crate) fn with_list(sentence: &str, contradictions: &[String]) -> String {
    let mut text = sentence.to_owned();
    for contradiction in contradictions {
        text.push_str(&format!("\n            {}", output::clean(contradiction)));
    }
    text
}

/// The edges, once the sidecars have told of all four of the shop's.
async fn settled_edges(stage: &mut Stage) -> Result<Vec<EdgeOut>, Failure> {
    let client = stage.client()?;
    stage
        .until("the sidecars report their traffic", PATIENCE, async |_| {
            let response = client.answer(client.api().edges(v1::EdgesRequest {}).await)?;
            let edges: Vec<EdgeOut> = response.edges.into_iter().map(EdgeOut::from).collect();
            let missing = ["web", "catalog", "payments", "store"].into_iter().find(|name| {
                let service = format!("{NAMESPACE}/{name}");
                !edges.iter().any(|edge| edge.service == service && edge.allowed > 0)
            });
            Ok(match missing {
                None => Look::There(edges),
                Some(name) => Look::NotYet(format!("nothing was reported of calls to {name}")),
            })
        })
        .await
}

/// In a pipe, the table of edges at the end of an act; on a terminal it is always there.
pub(crate) fn show_edges(stage: &mut Stage, edges: &[EdgeOut]) -> Result<(), Failure> {
    if stage.screen.is_live() {
        return Ok(());
    }
    stage.screen.text(&format!("\n{}", edge_table(edges, None)))
}
