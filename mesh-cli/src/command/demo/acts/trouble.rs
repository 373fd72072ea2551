//! Callers that must not get through, or not that fast.

use super::{Baseline, PATIENCE, failures, show_edges, with_list};
use crate::command::demo::app::Role;
use crate::command::demo::screen::Mark;
use crate::command::demo::stage::{Look, Stage, Verdict};
use crate::command::demo::world::Workload;
use crate::failure::Failure;
use crate::output;
use mesh_proto::wire::v1;
use std::time::Duration;

/// So many refusals of each kind of call are waited for.
const TRIES: u64 = 4;
/// So many 429 are waited for.
const LIMITED: u64 = 100;

const INTRUDER: Workload =
    Workload { role: Role::Intruder, port: None, calls: &["payments", "catalog", "store"] };
const BATCH: Workload = Workload { role: Role::Batch, port: None, calls: &["payments"] };

/// A workload with a valid identity that no rule allows.
///
/// # Errors
/// When its refusals do not come.
pub(super) async fn intruder(stage: &mut Stage) -> Result<(), Failure> {
    stage.screen.step(Mark::Act, "An intruder: a proven identity alone opens nothing")?;
    stage.start(&INTRUDER)?;
    stage.process_count = stage.world.process_count();
    let counts = stage
        .until("the intruder tries everything", PATIENCE, async |stage: &Stage| {
            let counts = ["payments", "catalog", "store"].map(|call| stage.counts(Role::Intruder, call));
            let is_enough = counts.iter().all(|counts| counts.refused >= TRIES || counts.ok > 0);
            let what = || {
                let kinds = counts
                    .iter()
                    .map(|counts| format!("{}r/{}f {}", counts.refused, counts.failed, counts.last));
                kinds.collect::<Vec<_>>().join("; ")
            };
            Ok(if is_enough { Look::There(counts.clone()) } else { Look::NotYet(what()) })
        })
        .await?;
    let through: Vec<String> = ["payments", "catalog", "store"]
        .iter()
        .zip(&counts)
        .filter(|(_, counts)| counts.ok > 0 || counts.limited > 0)
        .map(|(call, counts)| format!("{} calls to {call} got through", counts.ok + counts.limited))
        .collect();
    let refused: u64 = counts.iter().map(|counts| counts.refused).sum();
    stage.expect(
        Verdict::from(through.is_empty()),
        with_list(&format!("all {refused} calls refused: HTTP 403, gRPC PERMISSION_DENIED, TCP closed before the first byte"), &through),
    )?;
    let decision = counts.first().map(|counts| counts.decision.clone()).unwrap_or_default();
    explain(stage, decision).await?;
    let edges = stage.edges().await?;
    show_edges(stage, &edges)
}

/// The decision that the intruder was told, explained by the control plane.
async fn explain(stage: &mut Stage, decision: String) -> Result<(), Failure> {
    let client = stage.client()?;
    let asked = decision.clone();
    let explained = stage
        .until("the refusal is reported", PATIENCE, async |_| {
            let request = v1::ExplainRequest { decision_id: asked.clone(), ..Default::default() };
            match client.api().explain(request).await {
                Ok(response) => Ok(Look::There(response.into_inner())),
                Err(status) if status.code() == tonic::Code::NotFound => {
                    Ok(Look::NotYet(status.message().to_owned()))
                }
                Err(status) => Err(client.refused(&status)),
            }
        })
        .await?;
    let decided = explained.rules.iter().find(|rule| rule.decided);
    let named = match decided {
        Some(rule) => format!("{} rule {:?} at {}:{}", rule.policy, rule.rule, rule.file, rule.line),
        None => String::new(),
    };
    let is_named = decided.is_some_and(|rule| !rule.file.is_empty() && rule.line > 0);
    stage.expect(
        Verdict::from(!explained.allowed && is_named),
        format!(
            "the refusal names its rule: {}",
            output::clean(if named.is_empty() { &explained.reason } else { &named })
        ),
    )?;
    let text: String =
        output::clean_lines(&explained.text).lines().map(|line| format!("            {line}\n")).collect();
    stage.screen.step(Mark::Note, &format!("meshctl explain {decision}\n{}", text.trim_end()))
}

/// A caller that is allowed, but asks too much.
///
/// # Errors
/// When it is not limited.
pub(super) async fn too_fast(stage: &mut Stage, baseline: &Baseline) -> Result<(), Failure> {
    stage.screen.step(Mark::Act, "The nightly batch runs wild: four times its limit")?;
    stage.start(&BATCH)?;
    stage.process_count = stage.world.process_count();
    let counts = stage
        .until("the batch is limited", PATIENCE, async |stage: &Stage| {
            let counts = stage.counts(Role::Batch, "charge");
            let is_enough = counts.limited >= LIMITED && counts.ok > 0;
            Ok(if is_enough { Look::There(counts) } else { Look::NotYet(format!("{counts:?}")) })
        })
        .await?;
    stage.expect(
        Verdict::from(counts.failed == 0 && counts.refused == 0),
        format!(
            "it gets 429 for what is too much ({}), and {} answers for the rest",
            counts.limited, counts.ok
        ),
    )?;
    stage.watch_for("the batch is limited", Duration::from_millis(500)).await?;
    let failed = failures(stage, baseline);
    stage.expect(
        Verdict::from(failed.is_empty()),
        with_list("the other callers of payments notice nothing", &failed),
    )?;
    let edges = stage.edges().await?;
    show_edges(stage, &edges)
}
