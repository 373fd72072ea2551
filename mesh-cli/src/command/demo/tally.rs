//! What the demo's applications count, and how they tell it: one JSON object a line on standard output.
//!
//! The applications know nothing of the mesh; a refusal is to them an HTTP 403, a gRPC `PERMISSION_DENIED` or a connection
//! that was closed. The demo reads the lines and compares them with what it expects.

use crate::output;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often an application tells its counts.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// How one call ended, as an application sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// Answered.
    Ok,
    /// 403, PERMISSION_DENIED, or closed before a byte came.
    Refused,
    /// 429 or RESOURCE_EXHAUSTED.
    Limited,
    /// Anything else.
    Failed,
}

/// The counts of one kind of call.
#[derive(Serialize, Deserialize, Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ok: u64,
    pub(crate) refused: u64,
    pub(crate) limited: u64,
    pub(crate) failed: u64,
    /// Of the last call that was not answered: why, in the application's words.
    pub(crate) last: String,
    /// The decision id that the last refusal carried.
    pub(crate) decision: String,
}

impl Counts {
    /// What happened since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            ok: self.ok.saturating_sub(earlier.ok),
            refused: self.refused.saturating_sub(earlier.refused),
            limited: self.limited.saturating_sub(earlier.limited),
            failed: self.failed.saturating_sub(earlier.failed),
            last: self.last.clone(),
            decision: self.decision.clone(),
        }
    }

    /// Calls that were not answered.
    pub(crate) fn unanswered(&self) -> u64 {
        self.refused.saturating_add(self.limited).saturating_add(self.failed)
    }
}

/// The counts of one application, by kind of call.
pub(crate) type Counted = BTreeMap<String, Counts>;

/// Counts calls; shared by an application's tasks.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<Counted>>);

impl Tally {
    /// Counts one call. `why` and `decision` are kept unless the call was answered.
    pub(crate) fn count(&self, call: &str, ending: Ending, why: &str, decision: &str) {
        // A panicking counter leaves counts that are still counts.
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = counted.entry(call.to_owned()).or_default();
        let field = match ending {
            Ending::Ok => &mut counts.ok,
            Ending::Refused => &mut counts.refused,
            Ending::Limited => &mut counts.limited,
            Ending::Failed => &mut counts.failed,
        };
        *field = field.saturating_add(1);
        if ending != Ending::Ok {
            why.clone_into(&mut counts.last);
            decision.clone_into(&mut counts.decision);
        }
    }

    /// Tells the counts for as long as somebody listens.
    pub(crate) async fn tell(&self) {
        let mut told = Counted::new();
        let mut ticks = tokio::time::interval(TELL_EVERY);
        loop {
            ticks.tick().await;
            let now = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if now == told {
                continue;
            }
            let Ok(line) = serde_json::to_string(&now) else { continue };
            if output::print(&line).is_err() {
                // Nobody listens any more: the demo is over.
                return;
            }
            told = now;
        }
    }
}

/// Reads one line of an application; `None` when it is none.
pub(crate) fn read(line: &str) -> Option<Counted> {
    serde_json::from_str(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_the_way_to_the_demo() {
        let tally = Tally::default();
        tally.count("buy", Ending::Ok, "", "");
        tally.count("buy", Ending::Refused, "403 no_rule_allows", "abc");
        let counted = tally.0.lock().expect("no panic").clone();
        let line = serde_json::to_string(&counted).expect("json");
        assert_eq!(read(&line), Some(counted.clone()));
        let buy = &counted["buy"];
        assert_eq!((buy.ok, buy.refused, buy.decision.as_str()), (1, 1, "abc"));
        assert_eq!(buy.since(&Counts { ok: 1, ..Counts::default() }).ok, 0);
        assert_eq!(read("not json"), None);
    }
}
