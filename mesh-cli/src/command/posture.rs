//! `meshctl posture`: what deviates from strict mTLS and default deny, with the command that mends it; for people, and with
//! `--fail-on` for continuous integration.

use super::edges::short;
use super::flows;
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Grid, Tone};
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Milliseconds of a day.
const DAY_MS: f64 = 86_400_000.0;
/// Findings of a table when nobody says how many.
const ROWS: usize = 100;

const EXAMPLES: &str = "\
Examples:
  meshctl posture
  meshctl posture --namespace shop -o json
  meshctl posture --fail-on plaintext,unmeshed,wildcard          # exit code 3 when there is one
  meshctl posture --fail-on 'unused-rule>7d,cert<25%'

What --fail-on knows: plaintext, unmeshed, default-allow, wildcard, audit-mode, expired-rule; unused-rule,
or unused-rule>SPAN for rules unused for longer; cert<PERCENT% for certificates with less of their life
left, from 1 to 50. Without --fail-on the exit code is 0 whatever is found; with it, 3 when one of the
conditions holds, 2 when the expression is wrong, 1 and 4 when the question could not be answered.

A rule is unused when the flow ledger (7 days at most) has no call that it could have let through. Of a
longer time nothing is known: such a condition is told as not answerable, and does not fail.";

/// What `posture` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PostureArgs {
    /// Ends with exit code 3 when one of these is found
    #[arg(long, value_name = "CONDITION,…", value_delimiter = ',', value_parser = Condition::parse)]
    fail_on: Vec<Condition>,
    /// Only this namespace, and what is about the whole mesh
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// At most so many findings in a table; 0: all
    #[arg(long, value_name = "ROWS", default_value_t = ROWS)]
    limit: usize,
}

/// Conditions without a number: their word is the findings' code.
const PLAIN: [&str; 7] =
    ["plaintext", "unmeshed", "default-allow", "wildcard", "audit-mode", "expired-rule", "unused-rule"];

/// What a gate does not let through.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Condition {
    /// Any finding of this code.
    Any(&'static str),
    /// A rule unused for longer.
    Unused(Duration),
    /// A certificate with less of its life left.
    Certificate(u8),
}

impl Condition {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: String| {
            format!(
                "{why}; allowed are {}, unused-rule>SPAN (unused-rule>7d) and cert<PERCENT% (cert<25%)",
                PLAIN.join(", ")
            )
        };
        let text = text.trim();
        if let Some(word) = PLAIN.iter().find(|word| **word == text) {
            return Ok(Self::Any(word));
        }
        if let Some(span) = text.strip_prefix("unused-rule>") {
            return duration::parse(span).map(Self::Unused).map_err(wrong);
        }
        if let Some(share) = text.strip_prefix("cert<") {
            let percent = share.strip_suffix('%').and_then(|number| number.parse().ok());
            return match percent {
                Some(percent @ 1..=50) => Ok(Self::Certificate(percent)),
                _ => Err(wrong(format!("{share:?} is not from 1% to 50%"))),
            };
        }
        Err(wrong(format!("{text:?} is no condition")))
    }

    fn holds(self, finding: &FindingOut) -> bool {
        match self {
            Self::Any(code) => finding.code == code,
            Self::Unused(span) => {
                finding.code == "unused-rule"
                    && finding.measure.is_some_and(|days| days * DAY_MS > span.as_secs_f64() * 1e3)
            }
            Self::Certificate(percent) => {
                finding.code == "certificate" && finding.measure.is_some_and(|left| left < f64::from(percent))
            }
        }
    }

    /// Why nothing can be said, when the ledger reaches back only so far.
    fn unanswerable(self, watched: Duration) -> Option<String> {
        let Self::Unused(span) = self else { return None };
        (watched <= span).then(|| {
            let known = duration::show(watched);
            format!("{self} cannot be answered: what was called is known for {known} only")
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(code) => f.write_str(code),
            Self::Unused(span) => write!(f, "unused-rule>{}", duration::show(*span).replace(' ', "")),
            Self::Certificate(percent) => write!(f, "cert<{percent}%"),
        }
    }
}

#[derive(Serialize, Clone, Debug)]
struct FindingOut {
    namespace: String,
    severity: String,
    code: String,
    subject: String,
    message: String,
    /// Mends it, or shows more.
    command: String,
    /// unused-rule: days; certificate: per cent of its life that is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    measure: Option<f64>,
}

#[derive(Serialize)]
struct Posture {
    findings: Vec<FindingOut>,
    /// How far back is known what was called.
    watched_seconds: u64,
    /// Conditions of `--fail-on` that hold.
    failed: Vec<String>,
    /// Conditions of `--fail-on` of which nothing can be said, and why.
    unanswered: Vec<String>,
}

/// Prints what deviates.
///
/// # Errors
/// When no control plane answers.
pub(crate) async fn run(args: PostureArgs, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let response = client.answer(client.api().posture(v1::PostureRequest {}).await)?;
    let posture = judged(response, &args);
    output::print_value(session.format, &posture, || page(&posture, args.limit))?;
    Ok(if posture.failed.is_empty() { Exit::Done } else { Exit::Bad })
}

fn judged(response: v1::PostureResponse, args: &PostureArgs) -> Posture {
    let v1::PostureResponse { findings, watched_ms, gaps: _ } = response;
    let watched = Duration::from_millis(watched_ms);
    let mut findings: Vec<FindingOut> = findings.into_iter().map(FindingOut::from).collect();
    findings.retain(|finding| {
        args.namespace
            .as_ref()
            .is_none_or(|wanted| finding.namespace == *wanted || finding.namespace.is_empty())
    });
    let holds = |condition: &&Condition| findings.iter().any(|finding| condition.holds(finding));
    let failed = args.fail_on.iter().filter(holds).map(ToString::to_string).collect();
    let unanswered = args.fail_on.iter().filter(|condition| !holds(condition));
    let unanswered = unanswered.filter_map(|condition| condition.unanswerable(watched)).collect();
    Posture { findings, watched_seconds: watched.as_secs(), failed, unanswered }
}

impl From<v1::PostureFinding> for FindingOut {
    fn from(finding: v1::PostureFinding) -> Self {
        let v1::PostureFinding { code, severity, namespace, subject, message, command, measure } = finding;
        let measure = matches!(code.as_str(), "unused-rule" | "certificate").then_some(measure);
        Self { namespace, severity, code, subject, message, command, measure }
    }
}

fn page(posture: &Posture, limit: usize) -> String {
    let mut shown = posture.findings.clone();
    let weight = |finding: &FindingOut| match finding.severity.as_str() {
        "critical" => 3,
        "warning" => 2,
        _ => 1,
    };
    let cut = flows::keep_heaviest(&mut shown, limit, weight);
    let mut text = if shown.is_empty() {
        line(Tone::Good, "strict: no plaintext, nothing unmeshed, no rule too wide, none in vain")
    } else {
        table(&shown)
    };
    if cut > 0 {
        text.push_str(&format!("{cut} findings more: --limit 0\n"));
    }
    let known = duration::show(Duration::from_secs(posture.watched_seconds));
    text.push_str(&line(Tone::Dim, &format!("what was called is known for {known}")));
    for why in &posture.unanswered {
        text.push_str(&line(Tone::Warn, why));
    }
    if !posture.failed.is_empty() {
        text.push_str(&line(Tone::Bad, &format!("failed: {}", posture.failed.join(", "))));
    }
    text
}

fn line(tone: Tone, text: &str) -> String {
    format!("{}\n", output::paint(tone, text))
}

fn table(findings: &[FindingOut]) -> String {
    let mut grid = Grid::new(&["NAMESPACE", "SEVERITY", "FINDING", "SUBJECT", "WHAT", "NEXT"]);
    for finding in findings {
        let tone = match finding.severity.as_str() {
            "critical" => Tone::Bad,
            "warning" => Tone::Warn,
            _ => Tone::Plain,
        };
        let namespace = if finding.namespace.is_empty() { "(mesh)" } else { &finding.namespace };
        grid.row([
            (Tone::Plain, namespace.to_owned()),
            (tone, finding.severity.clone()),
            (tone, finding.code.clone()),
            (Tone::Plain, short(&finding.subject)),
            (Tone::Plain, finding.message.clone()),
            (Tone::Dim, finding.command.clone()),
        ]);
    }
    grid.to_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(code: &str, measure: f64) -> v1::PostureFinding {
        let message = "x\x1b[2J".to_owned();
        let severity = "info".to_owned();
        v1::PostureFinding { code: code.to_owned(), severity, message, measure, ..Default::default() }
    }

    fn check(fail_on: &str, watched_days: u64, failed: &[&str], unanswered: usize) {
        let conditions = fail_on.split(',').map(|text| Condition::parse(text).unwrap()).collect();
        let args = PostureArgs { fail_on: conditions, namespace: None, limit: 0 };
        let findings =
            vec![finding("unused-rule", 6.5), finding("certificate", 20.0), finding("wildcard", 0.0)];
        let watched_ms = watched_days * 86_400_000;
        let posture = judged(v1::PostureResponse { findings, watched_ms, gaps: Vec::new() }, &args);
        assert_eq!(
            (&posture.failed[..], posture.unanswered.len()),
            (&failed.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()[..], unanswered),
            "{fail_on}"
        );
    }

    #[test]
    fn conditions_fail_on_what_they_say_and_no_more() {
        check("plaintext,unmeshed", 7, &[], 0);
        check("wildcard,plaintext", 7, &["wildcard"], 0);
        check("unused-rule>6d,cert<25%", 7, &["unused-rule>6d", "cert<25%"], 0);
        check("unused-rule>156h,cert<20%", 7, &[], 0);
        check("unused-rule", 7, &["unused-rule"], 0);
        check("unused-rule>30d", 7, &[], 1);
    }

    #[test]
    fn a_wrong_condition_names_what_is_allowed() {
        for text in [
            "",
            "plain",
            "unused-rule>",
            "unused-rule>x",
            "cert<",
            "cert<25",
            "cert<0%",
            "cert<51%",
            "cert<-1%",
        ] {
            let message = Condition::parse(text).unwrap_err();
            assert!(message.contains("allowed are plaintext, unmeshed"), "{text}: {message}");
        }
    }

    #[test]
    fn a_hostile_name_cannot_reach_the_terminal() {
        let text = table(&[finding("wildcard", 0.0).into()]);
        assert!(!text.contains('\x1b') && text.lines().count() == 2, "{text:?}");
    }
}
