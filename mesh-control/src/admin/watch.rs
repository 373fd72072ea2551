//! What was seen and what is made of it: flows of the ledger, alarms, acknowledgements and silences.

use super::Control;
use super::access::Actor;
use super::server::Answers;
use crate::clock;
use crate::ledger::{RETAIN_MS, history};
use crate::store::write::{Verb, Write};
use mesh_proto::resource::alert::Detector;
use mesh_proto::wire::v1;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// The span when the caller does not say.
const WINDOW_MS: u64 = 60_000;
/// Alarms are sent to a follower at most this often.
const ALARMS_PAUSE: Duration = Duration::from_millis(200);
/// The longest silence.
const SILENCE_S_MAX: u64 = 30 * 24 * 3_600;
/// The shortest: what is shorter is over before anybody has read about it.
const SILENCE_S_MIN: u64 = 10;

impl Control {
    /// Who called whom in a span of time. Waits for the disk.
    pub(super) fn flows(&self, request: &v1::FlowsRequest) -> Result<v1::FlowsResponse, Status> {
        let now = clock::unix_ms(clock::wall());
        let window = if request.window_ms == 0 { WINDOW_MS } else { request.window_ms.min(RETAIN_MS) };
        let to = if request.until_ms == 0 { now } else { request.until_ms.min(now) };
        let from = to.saturating_sub(window);
        let sum = self.ledger.sum(from, to, now);
        let sum =
            sum.map_err(|error| Status::internal(format!("the flow ledger cannot be read: {error}")))?;
        let history::Sum { span, rows, paths, gaps, .. } = sum;
        let (from_ms, to_ms) = span.unwrap_or((from, to));
        let paths = if request.paths { paths } else { Default::default() };
        let paths = paths.into_iter().map(|(key, counts)| v1::FlowPath {
            source: key.source.to_string(),
            destination: key.destination.to_string(),
            method: key.method.to_string(),
            template: key.template.to_string(),
            seen: counts.seen,
            refused: counts.refused,
        });
        Ok(v1::FlowsResponse {
            from_ms,
            to_ms,
            flows: rows.iter().map(|(key, counts)| key.to_wire(counts)).collect(),
            paths: paths.collect(),
            gaps,
        })
    }

    /// All alarms; with `follow` again whenever they change.
    pub(super) fn alarms(self: &Arc<Self>, request: v1::AlarmsRequest) -> Answers<v1::AlarmsResponse> {
        let changed = self.alarms.watch();
        let state = (self.clone(), changed, request, false);
        Box::pin(futures_util::stream::unfold(
            state,
            |(control, mut changed, request, has_told)| async move {
                if has_told {
                    if !request.follow {
                        return None;
                    }
                    // Cancel safe: `changed` loses no version.
                    tokio::select! {
                        () = control.shutdown.cancelled() => return None,
                        news = changed.changed() => news.ok()?,
                    }
                    tokio::time::sleep(ALARMS_PAUSE).await;
                }
                changed.mark_unchanged();
                let mut all = control.alarms.all();
                if !request.resolved && !request.follow {
                    all.alarms.retain(|alarm| alarm.state == "firing");
                }
                Some((Ok(all), (control, changed, request, true)))
            },
        ))
    }

    /// Acknowledges, silences, ends a silence; leaves an audit record.
    pub(super) async fn alarm_act(
        &self,
        actor: &Actor,
        request: v1::AlarmActRequest,
    ) -> Result<v1::AlarmActResponse, Status> {
        let by = actor.to_string();
        let now = clock::unix_ms(clock::wall());
        let invalid = Status::invalid_argument;
        let v1::AlarmActRequest { action, id, silence, lifetime_seconds, comment } = request;
        let done = match action.as_str() {
            "ack" => {
                let alarm = self.alarms.ack(&id, &by, &comment, now).map_err(invalid)?;
                format!("acknowledged {} {}: {}", alarm.detector, alarm.id, alarm.sentence)
            }
            "silence" => {
                let silence = silence.unwrap_or_default();
                let wanted = read_silence(silence, lifetime_seconds, (&by, &comment), now)?;
                let made = self.alarms.silence(wanted, now).map_err(invalid)?;
                let part = |text: &str| if text.is_empty() { "all".to_owned() } else { text.to_owned() };
                format!(
                    "silence {} of {} from {} to {} for {lifetime_seconds} s",
                    made.id,
                    part(&made.detector),
                    part(&made.source),
                    part(&made.destination)
                )
            }
            "unsilence" => {
                let ended = self.alarms.unsilence(&id).map_err(invalid)?;
                format!("ended silence {}", ended.id)
            }
            other => {
                let other: String = other.chars().take(40).collect();
                return Err(invalid(format!(
                    "unknown action {other:?}; there are ack, silence and unsilence"
                )));
            }
        };
        let detail: String = done.chars().take(1_000).collect();
        let write = Write { actor: by, verb: Verb::Alarm, time_ms: now, changes: Vec::new(), detail };
        self.commit(write).await?;
        Ok(v1::AlarmActResponse { done })
    }
}

fn read_silence(
    silence: v1::Silence,
    seconds: u64,
    (by, comment): (&str, &str),
    now: u64,
) -> Result<v1::Silence, Status> {
    let words = || Detector::ALL.iter().map(|detector| detector.as_str()).collect::<Vec<_>>().join(", ");
    let is_known = Detector::ALL.iter().any(|detector| detector.as_str() == silence.detector);
    if !silence.detector.is_empty() && !is_known {
        let shown: String = silence.detector.chars().take(40).collect();
        return Err(Status::invalid_argument(format!("unknown detector {shown:?}; there are {}", words())));
    }
    if !(SILENCE_S_MIN..=SILENCE_S_MAX).contains(&seconds) {
        return Err(Status::invalid_argument(format!(
            "a silence of {seconds} s is not allowed; give it from {SILENCE_S_MIN} s to 30 days"
        )));
    }
    if [&silence.source, &silence.destination].iter().any(|text| text.len() > 2_048) {
        return Err(Status::invalid_argument("source and destination of a silence have at most 2,048 bytes"));
    }
    Ok(v1::Silence {
        until_ms: now.saturating_add(seconds.saturating_mul(1_000)),
        by: by.to_owned(),
        comment: comment.to_owned(),
        ..silence
    })
}
