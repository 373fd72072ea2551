//! What the commands over the flow ledger share: the question, the figures of a row, what is said of spans of which
//! nothing is known, and the loop of `--watch`.
//!
//! `stat`, `top`, `graph` and `edges --since` use it. The counts come from the control plane's ledger; they are put
//! together by [`mesh_proto::flows`], as on the dashboard.

use crate::admin_client::AdminClient;
use crate::duration;
use crate::failure::Failure;
use crate::output::{self, Tone};
use crate::processes::{self, Signals};
use crate::replicas;
use mesh_proto::flows::{OTHERS, Picture, Tally, UNMESHED};
use mesh_proto::identity::SpiffeId;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::time::Duration;

/// How far back the ledger goes at most.
const WINDOW_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Spans without knowledge that are told beneath a table; JSON has all.
const GAPS_SHOWN: usize = 3;
/// A summed span shorter than this share of the wanted one is worth a word.
const SHORT_PERCENT: u64 = 80;

/// Parses a span of time that the ledger can have.
///
/// # Errors
/// Says what is allowed.
pub(crate) fn window(text: &str) -> Result<Duration, String> {
    let span = duration::parse(text)?;
    if span < Duration::from_secs(1) || span > WINDOW_MAX {
        return Err(format!("{text:?} is not from 1s to 7d, which is how far back the ledger goes"));
    }
    Ok(span)
}

/// Who called whom in a span of time.
pub(crate) struct Span {
    /// What was asked for.
    wanted: Duration,
    /// The span that was really summed, milliseconds since the epoch.
    pub(crate) from_ms: u64,
    /// Its end.
    pub(crate) to_ms: u64,
    /// The rows.
    pub(crate) flows: Vec<v1::Flow>,
    /// Of what nothing is known.
    pub(crate) gaps: Vec<v1::Gap>,
}

/// A span, as scripts see it: in front of the rows.
#[derive(Serialize, Clone, Debug)]
pub(crate) struct SpanOut {
    pub(crate) from: String,
    pub(crate) to: String,
    seconds: f64,
    gaps: Vec<GapOut>,
}

#[derive(Serialize, Clone, Debug)]
struct GapOut {
    from: String,
    to: String,
    reason: String,
}

impl Span {
    /// Asks the control plane for the span that ends now.
    ///
    /// # Errors
    /// The control plane's words.
    pub(crate) async fn ask(client: &AdminClient, wanted: Duration) -> Result<Self, Failure> {
        let window_ms = u64::try_from(wanted.as_millis()).unwrap_or(u64::MAX);
        let request = v1::FlowsRequest { window_ms, until_ms: 0, paths: false };
        let response = replicas::flows(client, request).await?;
        let v1::FlowsResponse { from_ms, to_ms, flows, paths: _, gaps } = response;
        Ok(Self { wanted, from_ms, to_ms, flows, gaps })
    }

    /// For the tests of those who draw it.
    #[cfg(test)]
    pub(crate) fn of_test(flows: Vec<v1::Flow>, from_ms: u64, to_ms: u64) -> Self {
        Self { wanted: Duration::from_millis(to_ms - from_ms), from_ms, to_ms, flows, gaps: Vec::new() }
    }

    /// The rows, put together.
    pub(crate) fn picture(&self) -> Picture {
        Picture::of(&self.flows)
    }

    /// Its length; never 0, since rates are divided by it.
    #[expect(clippy::cast_precision_loss, reason = "a week of milliseconds is far below 2^53")]
    pub(crate) fn seconds(&self) -> f64 {
        self.to_ms.saturating_sub(self.from_ms).max(1) as f64 / 1e3
    }

    /// As scripts see it.
    pub(crate) fn out(&self) -> SpanOut {
        let gap = |gap: &v1::Gap| GapOut {
            from: output::time(gap.from_ms),
            to: output::time(gap.to_ms),
            reason: output::clean(&gap.reason),
        };
        SpanOut {
            from: output::time(self.from_ms),
            to: output::time(self.to_ms),
            seconds: self.seconds(),
            gaps: self.gaps.iter().map(gap).collect(),
        }
    }

    /// What a reader of the table must know of its span: that it is shorter than was asked for, and what is missing.
    pub(crate) fn remarks(&self) -> String {
        let mut text = String::new();
        let known = Duration::from_millis(self.to_ms.saturating_sub(self.from_ms));
        let wanted_ms = u64::try_from(self.wanted.as_millis()).unwrap_or(u64::MAX);
        let known_ms = self.to_ms.saturating_sub(self.from_ms);
        if known_ms.saturating_mul(100) < wanted_ms.saturating_mul(SHORT_PERCENT) {
            text.push_str(&format!("of the last {}: nothing is known from before\n", duration::show(known)));
        }
        for gap in self.gaps.iter().rev().take(GAPS_SHOWN) {
            let (from, to) = (output::time(gap.from_ms), output::time(gap.to_ms));
            text.push_str(&format!("not known: {from} to {to}: {}\n", output::clean(&gap.reason)));
        }
        let more = self.gaps.len().saturating_sub(GAPS_SHOWN);
        if more > 0 {
            text.push_str(&format!("and {more} spans more of which nothing is known\n"));
        }
        text.lines().map(|line| format!("{}\n", output::paint(Tone::Dim, line))).collect()
    }

    /// What is said in place of an empty table.
    pub(crate) fn nothing(&self) -> String {
        format!("no traffic in the last {}\n", duration::show(self.wanted))
    }
}

/// The figures of a row, as scripts see them and as the tables are made from.
#[derive(Serialize, Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// All that was asked.
    pub(crate) requests: u64,
    /// For each second of the span.
    pub(crate) rps: f64,
    /// The share, 0 to 1, of what was not refused that was answered without a server error; null when nothing was.
    pub(crate) success_rate: Option<f64>,
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    pub(crate) limited: u64,
    pub(crate) failed: u64,
    pub(crate) errors: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Microseconds; null when nothing was measured.
    pub(crate) p50_us: Option<u64>,
    pub(crate) p95_us: Option<u64>,
    pub(crate) p99_us: Option<u64>,
}

impl Figures {
    /// Of what was counted in so many seconds.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people, exact enough above 2^53")]
    pub(crate) fn of(tally: &Tally, seconds: f64) -> Self {
        let quantile = |q: f64| (tally.latency.count() > 0).then(|| tally.latency.quantile(q));
        Self {
            requests: tally.asked(),
            rps: (tally.asked() as f64 / seconds * 1e3).round() / 1e3,
            success_rate: tally.success(),
            allowed: tally.allowed,
            denied: tally.denied,
            limited: tally.limited,
            failed: tally.failed,
            errors: tally.errors,
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
            p50_us: quantile(0.5),
            p95_us: quantile(0.95),
            p99_us: quantile(0.99),
        }
    }
}

/// A rate: `0.3/s`, `12/s`; a dash for none, and no zero for few.
pub(crate) fn rate(rps: f64) -> String {
    match rps {
        0.0 => "-".to_owned(),
        ..0.1 => "<0.1/s".to_owned(),
        ..10.0 => format!("{rps:.1}/s"),
        _ => format!("{rps:.0}/s"),
    }
}

/// A share in its tone: `99.93%`, cut and never rounded up, so that only all is 100%.
pub(crate) fn share(success: Option<f64>) -> (Tone, String) {
    let Some(success) = success else { return (Tone::Dim, "-".to_owned()) };
    let tone = match success {
        0.999.. => Tone::Good,
        0.95.. => Tone::Warn,
        _ => Tone::Bad,
    };
    let percent = (success * 1e4).floor() / 1e2;
    (tone, if success >= 1.0 { "100%".to_owned() } else { format!("{percent:.2}%") })
}

/// A latency, or a dash.
pub(crate) fn latency(us: Option<u64>) -> (Tone, String) {
    us.map_or((Tone::Dim, "-".to_owned()), |us| (Tone::Plain, duration::show_us(us)))
}

/// Whether a name that was typed means this identity or service: the whole, `namespace/name`, or the name alone.
pub(crate) fn is_named(full: &str, typed: &str) -> bool {
    let short = long_name(full);
    full == typed || short == typed || short.rsplit_once('/').is_some_and(|(_, name)| name == typed)
}

/// The namespace of an identity or a service, if it has one.
pub(crate) fn namespace_of(full: &str) -> Option<String> {
    long_name(full).rsplit_once('/').map(|(namespace, _)| namespace.to_owned())
}

/// `namespace/name` of an identity; a service and anything else as it is.
fn long_name(full: &str) -> String {
    match full.parse::<SpiffeId>().ok().and_then(|id| id.workload()) {
        Some((namespace, account)) => format!("{namespace}/{account}"),
        None => full.to_owned(),
    }
}

/// Whether a name stands for many: peers without an identity, what found no room.
pub(crate) fn is_collective(name: &str) -> bool {
    matches!(name, OTHERS | UNMESHED)
}

/// Keeps the heaviest so many rows in the order in which they are, and says how many went; 0 keeps all.
pub(crate) fn keep_heaviest<T>(rows: &mut Vec<T>, limit: usize, weight: impl Fn(&T) -> u64) -> usize {
    let surplus = rows.len().saturating_sub(limit);
    if limit == 0 || surplus == 0 {
        return 0;
    }
    let mut order: Vec<(u64, usize)> = rows.iter().map(&weight).zip(0..).collect();
    // Of equally heavy ones the first stay.
    order.sort_by_key(|(weight, at)| (std::cmp::Reverse(*weight), *at));
    let kept: std::collections::BTreeSet<usize> = order.iter().take(limit).map(|(_, at)| *at).collect();
    let mut at = 0_usize;
    rows.retain(|_| {
        let is_kept = kept.contains(&at);
        at = at.saturating_add(1);
        is_kept
    });
    surplus
}

/// Does something at once and then again and again until Ctrl-C.
///
/// # Errors
/// The work's own: a control plane that went away ends the loop.
pub(crate) async fn again(
    every: Duration,
    mut work: impl AsyncFnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut signals = Signals::take()?;
    let mut ticks = tokio::time::interval(every);
    // After a pause of the machine one look is enough.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Cancel safe: an interval keeps its schedule, a signal stream its signal.
        tokio::select! {
            _ = ticks.tick() => work().await?,
            signal = signals.next() => if processes::asks_to_end(signal) {
                return Ok(());
            },
        }
    }
}

/// What clears a terminal before the next table; nothing elsewhere.
pub(crate) fn clear() -> &'static str {
    use std::io::IsTerminal as _;
    if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_a_service_or_an_identity() {
        let pay = "spiffe://mesh.local/ns/shop/sa/pay";
        for (full, typed, expected) in [
            (pay, "pay", true),
            (pay, "shop/pay", true),
            (pay, pay, true),
            (pay, "ay", false),
            (pay, "shop", false),
            ("shop/pay", "pay", true),
            ("shop/pay", "other/pay", false),
            ("unmeshed", "unmeshed", true),
        ] {
            assert_eq!(is_named(full, typed), expected, "{full} {typed}");
        }
        assert_eq!(namespace_of(pay).as_deref(), Some("shop"));
        assert_eq!(namespace_of("unmeshed"), None);
    }

    #[test]
    fn the_heaviest_stay_in_their_order() {
        let mut rows = vec![("a", 1), ("b", 5), ("c", 5), ("d", 0), ("e", 9)];
        assert_eq!(keep_heaviest(&mut rows, 3, |row| row.1), 2);
        assert_eq!(rows, [("b", 5), ("c", 5), ("e", 9)]);
        assert_eq!(keep_heaviest(&mut rows, 0, |row| row.1), 0);
        assert_eq!(keep_heaviest(&mut rows, 2, |_| 1), 1);
        assert_eq!(rows, [("b", 5), ("c", 5)]);
    }

    #[test]
    fn only_all_is_a_hundred_per_cent() {
        assert_eq!(share(Some(1.0)).1, "100%");
        assert_eq!(share(Some(0.999_999)), (Tone::Good, "99.99%".to_owned()));
        assert_eq!(share(Some(0.5)), (Tone::Bad, "50.00%".to_owned()));
        assert_eq!(share(None).1, "-");
    }

    #[test]
    fn spans_that_the_ledger_cannot_have_are_refused() {
        assert_eq!(window("1m"), Ok(Duration::from_secs(60)));
        for text in ["0s", "500ms", "8d", "x"] {
            assert!(window(text).is_err(), "{text}");
        }
    }
}
