//! The end of every command that changes resources: what changed, and when it is enforced everywhere.

use super::changes::{ChangeOut, FindingOut, What};
use crate::admin_client::AdminClient;
use crate::cluster::access::Cluster;
use crate::cluster::resources::{self, Step};
use crate::duration;
use crate::failure::{Exit, Failure, Kind};
use crate::output::{self, Format, Tone};
use mesh_proto::resource::ResourceKey;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// What the user asked for beside the change itself.
pub(crate) struct Wanted {
    /// Made, or only looked at.
    pub(crate) what: What,
    /// How long to wait for enforcement; `None`: not at all.
    pub(crate) wait: Option<Duration>,
}

/// How far a revision is enforced, as scripts see it.
#[derive(Serialize, Default)]
pub(crate) struct ReceiptOut {
    pub(crate) enforced: u32,
    pub(crate) affected: u32,
    pub(crate) elapsed_us: u64,
    pub(crate) waiting: Vec<String>,
    pub(crate) refused: Vec<String>,
    pub(crate) done: bool,
}

#[derive(Serialize)]
struct Outcome {
    revision: u64,
    dry_run: bool,
    affected_proxies: u32,
    changes: Vec<ChangeOut>,
    findings: Vec<FindingOut>,
    /// What the API server has made so; 0 where the control plane itself has.
    #[serde(skip_serializing_if = "is_none")]
    objects: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<ReceiptOut>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_none(objects: &usize) -> bool {
    *objects == 0
}

/// Makes a change of a cluster's resources that the control plane has judged, waits if that was asked, and prints everything.
/// `documents` has what the objects become, by their key.
///
/// # Errors
/// The API server refuses an object; then nothing was changed.
pub(crate) async fn finish_on(
    cluster: &Cluster,
    format: Format,
    (response, documents): (v1::ApplyResponse, &BTreeMap<Key, String>),
    wanted: Wanted,
) -> Result<Exit, Failure> {
    let steps = steps(&response.changes, documents)?;
    let v1::ApplyResponse { revision: _, changes, findings, affected_proxies } = response;
    let mut outcome = Outcome {
        revision: 0,
        dry_run: wanted.what == What::DryRun,
        affected_proxies,
        changes: changes.into_iter().map(ChangeOut::from).collect(),
        findings: findings.into_iter().map(FindingOut::from).collect(),
        objects: 0,
        receipt: None,
    };
    if wanted.what == What::Made {
        let begun = output::now_ms();
        let written = resources::carry_out(cluster, &steps).await?;
        outcome.objects = steps.len();
        if let Some(timeout) = wanted.wait {
            let far = resources::wait(cluster, &written, timeout).await?;
            let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            outcome.receipt = Some(ReceiptOut {
                enforced: count(far.done),
                affected: count(written.len()),
                elapsed_us: output::now_ms().saturating_sub(begun).saturating_mul(1_000),
                done: far.waiting.is_empty(),
                waiting: far.waiting,
                refused: Vec::new(),
            });
        }
    }
    output::print_value(format, &outcome, || table(&outcome))?;
    Ok(if outcome.receipt.as_ref().is_some_and(|receipt| !receipt.done) { Exit::Bad } else { Exit::Done })
}

/// Kind, namespace and name, as changes bear them.
pub(crate) type Key = (String, String, String);

/// The key as changes bear it.
pub(crate) fn key(key: &ResourceKey) -> Key {
    let namespace = key.namespace.as_ref().map(ToString::to_string).unwrap_or_default();
    (key.kind.to_string(), namespace, key.name.to_string())
}

/// What must be done to the cluster's objects.
fn steps(changes: &[v1::Change], documents: &BTreeMap<Key, String>) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    for v1::Change { kind, namespace, name, verb, diff: _ } in changes {
        let key = (kind.clone(), namespace.clone(), name.clone());
        match (verb.as_str(), documents.get(&key)) {
            ("unchanged", _) => {}
            ("deleted", _) => steps.push(Step::Remove(resources::name(kind, namespace, name)?)),
            (_, Some(yaml)) => steps.push(Step::Write(resources::object(yaml)?)),
            (_, None) => {
                return Err(Failure::failed(format!(
                    "the control plane does not say what {kind} {name} becomes"
                ))
                .next("meshctl version"));
            }
        }
    }
    Ok(steps)
}

/// Waits if that was asked, and prints everything.
///
/// # Errors
/// When the control plane goes away meanwhile.
pub(crate) async fn finish(
    client: &AdminClient,
    format: Format,
    response: v1::ApplyResponse,
    wanted: Wanted,
) -> Result<Exit, Failure> {
    let v1::ApplyResponse { revision, changes, findings, affected_proxies } = response;
    let mut outcome = Outcome {
        revision,
        dry_run: wanted.what == What::DryRun,
        affected_proxies,
        changes: changes.into_iter().map(ChangeOut::from).collect(),
        findings: findings.into_iter().map(FindingOut::from).collect(),
        objects: 0,
        receipt: None,
    };
    if let Some(timeout) = wanted.wait
        && revision != 0
        && wanted.what == What::Made
    {
        outcome.receipt = Some(wait(client, revision, timeout).await?);
    }
    output::print_value(format, &outcome, || table(&outcome))?;
    Ok(match &outcome.receipt {
        Some(receipt) if !receipt.done || !receipt.refused.is_empty() => Exit::Bad,
        _ => Exit::Done,
    })
}

/// Follows the receipts of a revision until all affected proxies enforce or refuse it, or the time is over.
///
/// # Errors
/// When the control plane refuses or goes away.
pub(crate) async fn wait(
    client: &AdminClient,
    revision: u64,
    timeout: Duration,
) -> Result<ReceiptOut, Failure> {
    let mut last = ReceiptOut::default();
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
    let following = async {
        let mut stream = client.answer(client.api().r#await(v1::AwaitRequest { revision }).await)?;
        while let Some(receipt) = stream.message().await.map_err(|status| client.refused(&status))? {
            let v1::Receipt { enforced, affected, elapsed_us, waiting, refused, done } = receipt;
            last = ReceiptOut { enforced, affected, elapsed_us, waiting, refused, done };
            if done {
                break;
            }
        }
        Ok::<(), Failure>(())
    };
    let followed = tokio::select! {
        followed = tokio::time::timeout(timeout, following) => followed,
        // Both may be dropped at any point: nothing is kept but the last receipt.
        _ = interrupt.recv() => return Err(interrupted(revision)),
    };
    // Over time: what came last is told, with `done` false.
    if let Ok(result) = followed {
        result?;
    }
    Ok(last)
}

/// The change stands, although nobody waits for it any longer.
fn interrupted(revision: u64) -> Failure {
    let message = format!(
        "interrupted while waiting; revision {revision} is accepted all the same, and the sidecars take it over one by one"
    );
    Failure::new(Kind::Interrupted, message)
        .next("meshctl get   # shows how far it is")
        .next(format!("meshctl rollback {}   # takes it back", revision.saturating_sub(1)))
}

impl ReceiptOut {
    /// `enforced by 5/5 in 84 ms`, and who is missing.
    pub(crate) fn text(&self) -> String {
        let elapsed = duration::show(Duration::from_micros(self.elapsed_us));
        let counts = format!("{}/{}", self.enforced, self.affected);
        let mut text = match (self.affected, self.done) {
            (0, true) => output::paint(Tone::Good, "enforced: no connected sidecar is affected"),
            (_, true) if self.refused.is_empty() => {
                output::paint(Tone::Good, &format!("enforced by {counts} in {elapsed}"))
            }
            (_, true) => output::paint(Tone::Bad, &format!("enforced by {counts} after {elapsed}")),
            (_, false) => output::paint(Tone::Bad, &format!("enforced by {counts} only, after {elapsed}")),
        };
        for instance in &self.waiting {
            text.push_str(&format!("\n  waiting for {}", output::clean(instance)));
        }
        for refusal in &self.refused {
            text.push_str(&format!("\n  refused by {}", output::clean(refusal)));
        }
        text
    }
}

fn table(outcome: &Outcome) -> String {
    let mut text = String::new();
    for change in &outcome.changes {
        text.push_str(&change.line());
        text.push('\n');
        if outcome.dry_run && change.is_change() {
            text.push_str(&change.painted_diff());
        }
    }
    for finding in &outcome.findings {
        text.push_str(&finding.line());
        text.push('\n');
    }
    let affected = outcome.affected_proxies;
    if outcome.dry_run {
        text.push_str(&format!("nothing was changed; {affected} connected sidecars would be affected\n"));
    } else if outcome.objects > 0 {
        text.push_str(&match &outcome.receipt {
            None => {
                format!("{} objects changed; meshctl get shows how far they are in force\n", outcome.objects)
            }
            Some(receipt) if receipt.done => {
                let elapsed = duration::show(Duration::from_micros(receipt.elapsed_us));
                output::paint(Tone::Good, &format!("{} objects in force after {elapsed}\n", outcome.objects))
            }
            Some(receipt) => {
                let rest: Vec<String> =
                    receipt.waiting.iter().map(|what| format!("\n  {}", output::clean(what))).collect();
                output::paint(Tone::Bad, "not in force yet:") + &rest.concat() + "\n"
            }
        });
    } else if outcome.revision == 0 {
        text.push_str("nothing to change\n");
    } else {
        text.push_str(&format!("revision {}: ", outcome.revision));
        match &outcome.receipt {
            Some(receipt) => text.push_str(&receipt.text()),
            None => text.push_str(&format!("accepted; {affected} connected sidecars affected")),
        }
        text.push('\n');
    }
    text
}
