//! `meshctl logs`: what proxies tell of single requests, those that are kept and those that come.
//!
//! Proxies tell every refusal and failure, and a sample of what passed (`spec.accessLog.sample` of the MeshConfig). They do so
//! anyway: looking costs them nothing. Nothing of a request but its method, host and path is in a record, and no query.

use super::edges::short;
use super::flows;
use crate::admin_client::AdminClient;
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Tone};
use crate::session::Session;
use clap::{Args, ValueEnum};
use mesh_proto::wire::v1;
use serde::Serialize;
use std::collections::HashSet;
use std::time::Duration;

/// How often `--follow` asks; proxies report once a second.
const EVERY: Duration = Duration::from_secs(1);
/// Records looked at in one second; what is beyond is told as missed.
const LOOK: u32 = 2_000;
/// Records shown without `--follow`.
const SHOWN: usize = 50;

const EXAMPLES: &str = "\
Examples:
  meshctl logs                               # the last 50 records
  meshctl logs -f --to payments              # and those that come, until Ctrl-C
  meshctl logs --verdict denied --from web --since 10m
  meshctl logs -f --path /charge -o json     # one JSON object a line

Every refusal and failure is told, and of what passed the share that the MeshConfig samples
(spec.accessLog.sample, 0.01 unless set). Queries, header values and bodies are never recorded.";

/// What `logs` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LogsArgs {
    /// Go on until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only by this caller (part of its identity)
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    from: String,
    /// Only to this callee (part of its identity, or of the host)
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    to: String,
    /// Only paths that begin so
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    path: String,
    /// Only what passed, or only what did not
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// Only those of the last while, for instance 10m
    #[arg(long, value_name = "SPAN", value_parser = duration::parse)]
    since: Option<Duration>,
    /// At most so many of those that are kept; 0: all
    #[arg(long, value_name = "RECORDS", default_value_t = SHOWN)]
    limit: usize,
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Verdict {
    /// It passed
    Allowed,
    /// It was refused, or failed
    Denied,
}

/// One record, as scripts see it.
#[derive(Serialize, Debug)]
struct RecordOut {
    time: String,
    id: String,
    verdict: &'static str,
    reason: String,
    source: String,
    source_instance: String,
    destination: String,
    destination_instance: String,
    port: u32,
    protocol: String,
    host: String,
    method: String,
    path: String,
    rule: String,
}

impl From<v1::Decision> for RecordOut {
    fn from(decision: v1::Decision) -> Self {
        let v1::Decision { id, time_ms, source, source_instance, destination, destination_instance, .. } =
            decision;
        let v1::Decision { port, protocol, host, method, path, allowed, reason, rule, .. } = decision;
        Self {
            time: output::time(time_ms),
            id,
            verdict: if allowed { "allowed" } else { "denied" },
            reason,
            source,
            source_instance,
            destination,
            destination_instance,
            port,
            protocol,
            host,
            method,
            path,
            rule,
        }
    }
}

impl RecordOut {
    fn line(&self) -> String {
        let tone = if self.verdict == "allowed" { Tone::Plain } else { Tone::Bad };
        let Self { time, id, verdict, reason, source, destination, port, method, host, path, rule, .. } =
            self;
        let what = if method.is_empty() { self.protocol.clone() } else { format!("{method} {host}{path}") };
        let why = [reason.as_str(), rule]
            .iter()
            .filter(|text| !text.is_empty())
            .fold(String::new(), |all, text| all + "  " + text);
        let said =
            format!("{verdict}  {} -> {}:{port}  {what}{why}  {id}", short(source), short(destination));
        format!(
            "{}  {}",
            output::paint(Tone::Dim, &output::clean(time)),
            output::paint(tone, &output::clean(&said))
        )
    }
}

/// What has been seen, so that each record is told once.
#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<String>,
    has_looked: bool,
}

impl Seen {
    /// The new ones of a look (newest first), oldest first; and whether some were missed, which is so when a full look has
    /// none of those of the last.
    fn news(&mut self, look: Vec<v1::Decision>) -> (Vec<v1::Decision>, bool) {
        let is_full = look.len() >= usize::try_from(LOOK).unwrap_or(usize::MAX);
        let is_known = |decision: &v1::Decision| self.ids.contains(&decision.id);
        let has_missed = self.has_looked && is_full && !look.iter().any(is_known);
        let ids = look.iter().map(|decision| decision.id.clone()).collect();
        let mut news: Vec<v1::Decision> = look.into_iter().filter(|decision| !is_known(decision)).collect();
        news.reverse();
        (self.ids, self.has_looked) = (ids, true);
        (news, has_missed)
    }
}

impl LogsArgs {
    fn wants(&self, decision: &v1::Decision, now_ms: u64) -> bool {
        let span = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let oldest = self.since.map_or(0, |since| now_ms.saturating_sub(span(since)));
        decision.time_ms >= oldest
            && decision.source.contains(&self.from)
            && (decision.destination.contains(&self.to) || decision.host.contains(&self.to))
            && decision.path.starts_with(&self.path)
            && self.verdict.is_none_or(|verdict| (verdict == Verdict::Allowed) == decision.allowed)
    }
}

/// Prints records, with `--follow` as they come.
///
/// # Errors
/// When no control plane answers.
pub(crate) async fn run(args: LogsArgs, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let mut seen = Seen::default();
    let (kept, _) = seen.news(look(&client, &args).await?);
    let mut first: Vec<RecordOut> = chosen(kept, &args);
    let surplus = if args.limit == 0 { 0 } else { first.len().saturating_sub(args.limit) };
    first.drain(..surplus);
    if !args.follow {
        output::print_value(session.format, &first, || match first.is_empty() {
            true => "no record: nothing was refused, and nothing that passed was sampled\n".to_owned(),
            false => first.iter().map(|record| record.line() + "\n").collect(),
        })?;
        return Ok(Exit::Done);
    }
    first.iter().try_for_each(|record| tell(record, session.format))?;
    flows::again(EVERY, async || {
        let (news, has_missed) = seen.news(look(&client, &args).await?);
        if has_missed {
            output::warn("more came within a second than can be shown; some are left out");
        }
        chosen(news, &args).iter().try_for_each(|record| tell(record, session.format))
    })
    .await?;
    Ok(Exit::Done)
}

async fn look(client: &AdminClient, args: &LogsArgs) -> Result<Vec<v1::Decision>, Failure> {
    let request = v1::DecisionsRequest { limit: LOOK, denied_only: args.verdict == Some(Verdict::Denied) };
    Ok(client.answer(client.api().decisions(request).await)?.decisions)
}

fn chosen(decisions: Vec<v1::Decision>, args: &LogsArgs) -> Vec<RecordOut> {
    let now = output::now_ms();
    decisions.into_iter().filter(|decision| args.wants(decision, now)).map(RecordOut::from).collect()
}

fn tell(record: &RecordOut, format: Format) -> Result<(), Failure> {
    match format {
        Format::Table => output::print(&record.line()),
        Format::Json | Format::Yaml => output::print_line(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(id: u32) -> v1::Decision {
        v1::Decision {
            id: id.to_string(),
            source: "spiffe://mesh.local/ns/shop/sa/web".to_owned(),
            destination: "spiffe://mesh.local/ns/shop/sa/pay".to_owned(),
            method: "GET".to_owned(),
            host: "pay".to_owned(),
            path: "/a\x1b[2J\nforged".to_owned(),
            port: 80,
            ..v1::Decision::default()
        }
    }

    #[test]
    fn each_record_is_told_once_and_missed_ones_are_noticed() {
        let mut seen = Seen::default();
        let mut news = |ids: std::ops::Range<u32>| {
            let (news, has_missed) = seen.news(ids.rev().map(decision).collect());
            (news.iter().map(|decision| decision.id.parse::<u32>().unwrap()).collect::<Vec<_>>(), has_missed)
        };
        assert_eq!(news(0..3), (vec![0, 1, 2], false), "oldest first");
        assert_eq!(news(0..5), (vec![3, 4], false));
        assert_eq!(news(0..5), (vec![], false));
        assert!(!news(4..2_004).1, "one is known: none was missed");
        assert!(news(5_000..7_000).1);
    }

    #[test]
    fn a_record_is_one_clean_line() {
        let line = RecordOut::from(decision(7)).line();
        assert!(!line.contains('\n') && !line.contains("\x1b[2J"), "{line:?}");
        assert!(line.contains("denied  shop/web -> shop/pay:80  GET pay/a"), "{line:?}");
    }
}
