//! `meshctl events`: security events, those that are kept and those that come.

use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Tone};
use crate::processes::{self, Signals};
use crate::replicas;
use crate::session::Session;
use clap::Args;
use futures_util::StreamExt as _;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  meshctl events                            # those that are kept, oldest first
  meshctl events -f                         # and those that come, until Ctrl-C
  meshctl events --kind refused --to payments --since 1h
  meshctl events -f --severity warning -o json   # one JSON object a line

Kinds: refused, limited, unauthenticated, plaintext, certificate, policy_changed, key_rotated,
quarantine, admin_refused, dishonest_report. The first of a kind, source, destination and reason is
told at once; what repeats it once in two seconds, with its exact count.";

/// What `events` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EventsArgs {
    /// Go on until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only this kind; may be given several times
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// Only this severe or more: info, notice, warning, critical
    #[arg(long, value_name = "SEVERITY", default_value = "info")]
    severity: String,
    /// Only by this source (part of it)
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    from: String,
    /// Only to this destination (part of it)
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    to: String,
    /// Only those of the last while, for instance 1h
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    since: Option<Duration>,
}

/// One event, as scripts see it.
#[derive(Serialize)]
struct EventOut {
    time: String,
    kind: String,
    severity: String,
    source: String,
    destination: String,
    reason: String,
    count: u64,
    detail: String,
    #[serde(skip_serializing_if = "is_zero")]
    missed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(missed: &u64) -> bool {
    *missed == 0
}

impl From<v1::MeshEvent> for EventOut {
    fn from(event: v1::MeshEvent) -> Self {
        let v1::MeshEvent { time_ms, kind, severity, source, destination, reason, count, detail, missed } =
            event;
        Self {
            time: output::time(time_ms),
            kind,
            severity,
            source,
            destination,
            reason,
            count,
            detail,
            missed,
        }
    }
}

impl EventOut {
    fn line(&self) -> String {
        let tone = match self.severity.as_str() {
            "critical" => Tone::Bad,
            "warning" => Tone::Warn,
            "notice" => Tone::Plain,
            _ => Tone::Dim,
        };
        let mut text = String::new();
        if self.missed > 0 {
            let missed = format!("{} events were missed here: too many at once\n", self.missed);
            text.push_str(&output::paint(Tone::Warn, &missed));
        }
        let times = if self.count == 1 { String::new() } else { format!(" ×{}", self.count) };
        let to =
            if self.destination.is_empty() { String::new() } else { format!(" → {}", self.destination) };
        let detail = if self.detail.is_empty() { String::new() } else { format!("; {}", self.detail) };
        let said = format!("{}{times}  {}{to}  {}{detail}", self.kind, self.source, self.reason);
        let said = output::paint(tone, &output::clean(&said));
        text.push_str(&format!("{}  {said}", output::paint(Tone::Dim, &output::clean(&self.time))));
        text
    }
}

/// Prints events, with `--follow` as they come.
///
/// # Errors
/// When no control plane answers, or a filter names what there is not.
pub(crate) async fn run(args: EventsArgs, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let ago = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let since_ms = args.since.map_or(0, |since| output::now_ms().saturating_sub(ago(since)));
    let request = v1::EventsRequest {
        kinds: args.kinds,
        severity: args.severity,
        source: args.from,
        destination: args.to,
        since_ms,
        follow: args.follow,
    };
    let mut stream = replicas::events(&client, request).await?;
    if !args.follow && session.format != Format::Table {
        let mut events: Vec<EventOut> = Vec::new();
        while let Some(event) = stream.next().await {
            events.push(event.map_err(|status| client.refused(&status))?.into());
        }
        output::print_value(session.format, &events, String::new)?;
        return Ok(Exit::Done);
    }
    let mut signals = Signals::take()?;
    loop {
        let next = tokio::select! {
            // Both are cancel safe: a signal or a message that is not received is kept.
            signal = signals.next() => if processes::asks_to_end(signal) { return Ok(Exit::Done) } else { continue },
            next = stream.next() => next,
        };
        let Some(event) = next else { return Ok(Exit::Done) };
        let event = event.map_err(|status| client.refused(&status))?;
        let event = EventOut::from(event);
        match session.format {
            Format::Table => output::print(&event.line())?,
            Format::Json | Format::Yaml => {
                // A stream is one JSON object a line, which is YAML, too.
                let text = serde_json::to_string(&event)
                    .map_err(|error| Failure::failed(format!("cannot write the event as JSON: {error}")))?;
                output::print(&text)?;
            }
        }
    }
}
