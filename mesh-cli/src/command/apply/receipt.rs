//! The end of every command that changes resources: what changed, and when it is enforced everywhere.

use super::changes::{ChangeOut, FindingOut, What};
use crate::admin_client::AdminClient;
use crate::duration;
use crate::failure::{Exit, Failure, Kind};
use crate::output::{self, Format, Tone};
use mesh_proto::wire::v1;
use serde::Serialize;
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
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<ReceiptOut>,
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
