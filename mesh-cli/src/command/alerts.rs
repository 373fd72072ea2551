//! `meshctl alerts`: alarms that burn, and what people say to them.

use super::edges::short;
use crate::admin_client::Api;
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Grid, Tone};
use crate::processes::{self, Signals};
use crate::replicas::{self, Alarms};
use crate::session::Session;
use clap::{Args, Subcommand};
use mesh_proto::wire::v1;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Response;

const EXAMPLES: &str = "\
Examples:
  meshctl alerts                                 # what burns
  meshctl alerts --all                           # and what is over
  meshctl alerts -f                              # each alarm when it begins, gets heavier or ends
  meshctl alerts ack 7k3f --comment \"mine\"       # not told again unless it gets heavier
  meshctl alerts silence --detector denialBurst --from loadtest --for 2h
  meshctl alerts sinks                           # where alarms go, and whether they arrive";

/// What `alerts` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct AlertsArgs {
    #[command(subcommand)]
    act: Option<Act>,
    /// Goes on telling what changes, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Also alarms that are over
    #[arg(short, long)]
    all: bool,
}

#[derive(Subcommand, Debug)]
enum Act {
    /// Takes note of an alarm: it is not told again unless it gets heavier
    #[command(after_help = "Examples:\n  meshctl alerts ack 7k3f --comment \"mine\"")]
    Ack {
        /// The alarm's id, or its beginning
        id: String,
        /// What to say about it
        #[arg(long, default_value = "", hide_default_value = true)]
        comment: String,
    },
    /// Tells nobody of alarms that match, for a while; they are raised and shown all the same
    #[command(
        after_help = "Examples:\n  meshctl alerts silence --detector denialBurst --from loadtest --for 2h"
    )]
    Silence(SilenceArgs),
    /// Ends a silence
    #[command(after_help = "Examples:\n  meshctl alerts unsilence 9x2m")]
    Unsilence {
        /// The silence's id, or its beginning
        id: String,
    },
    /// Shows where alarms are sent, and whether they arrive
    #[command(after_help = "Examples:\n  meshctl alerts sinks")]
    Sinks,
    /// Shows the silences in force
    #[command(after_help = "Examples:\n  meshctl alerts silences")]
    Silences,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true, id = "what", args = ["detector", "from", "to"])]
struct SilenceArgs {
    /// Only alarms of this detector
    #[arg(long)]
    detector: Option<String>,
    /// Only alarms about this source (part of its identity)
    #[arg(long, value_name = "TEXT")]
    from: Option<String>,
    /// Only alarms about this destination (part of its identity or service)
    #[arg(long, value_name = "TEXT")]
    to: Option<String>,
    /// For how long, up to 30d
    #[arg(long = "for", value_name = "SPAN", value_parser = duration::parse)]
    lifetime: Duration,
    /// What to say about it
    #[arg(long, default_value = "", hide_default_value = true)]
    comment: String,
}

#[derive(Serialize, Clone, PartialEq)]
struct AlarmOut {
    id: String,
    state: String,
    severity: String,
    detector: String,
    source: String,
    destination: String,
    service: String,
    since: String,
    raised: String,
    last_seen: String,
    resolved: String,
    count: u64,
    value: f64,
    threshold: f64,
    summary: String,
    command: String,
    acknowledged_by: String,
    acknowledged: String,
    comment: String,
    silenced: bool,
    sinks: Vec<String>,
    #[serde(skip)]
    raised_ms: u64,
}

#[derive(Serialize)]
struct SilenceOut {
    id: String,
    detector: String,
    source: String,
    destination: String,
    until: String,
    by: String,
    comment: String,
}

#[derive(Serialize)]
struct SinkOut {
    name: String,
    kind: String,
    target: String,
    delivered: u64,
    waiting: u64,
    lost: u64,
    problem: String,
    failing_since: String,
}

#[derive(Serialize)]
struct Alerts {
    alerts: Vec<AlarmOut>,
    silences: Vec<SilenceOut>,
    sinks: Vec<SinkOut>,
}

/// Shows alarms, or does something about one.
///
/// # Errors
/// When no control plane answers, or the id means none or several.
pub(crate) async fn run(args: AlertsArgs, session: &Session) -> Result<Exit, Failure> {
    match args.act {
        None if args.follow => follow(session).await,
        None => show(session, v1::AlarmsRequest { resolved: args.all, follow: false }).await,
        Some(Act::Sinks) => {
            let alerts = ask(session, v1::AlarmsRequest::default()).await?;
            output::print_value(session.format, &alerts.sinks, || sinks_table(&alerts.sinks))?;
            let is_bad = alerts.sinks.iter().any(|sink| !sink.problem.is_empty());
            Ok(if is_bad { Exit::Bad } else { Exit::Done })
        }
        Some(Act::Silences) => {
            let alerts = ask(session, v1::AlarmsRequest::default()).await?;
            output::print_value(session.format, &alerts.silences, || silences_table(&alerts.silences))?;
            Ok(Exit::Done)
        }
        Some(Act::Ack { id, comment }) => {
            act(session, v1::AlarmActRequest { action: "ack".to_owned(), id, comment, ..Default::default() })
                .await
        }
        Some(Act::Unsilence { id }) => {
            act(session, v1::AlarmActRequest { action: "unsilence".to_owned(), id, ..Default::default() })
                .await
        }
        Some(Act::Silence(SilenceArgs { detector, from, to, lifetime, comment })) => {
            let silence = v1::Silence {
                detector: detector.unwrap_or_default(),
                source: from.unwrap_or_default(),
                destination: to.unwrap_or_default(),
                ..v1::Silence::default()
            };
            let request = v1::AlarmActRequest {
                action: "silence".to_owned(),
                silence: Some(silence),
                lifetime_seconds: lifetime.as_secs(),
                comment,
                ..Default::default()
            };
            act(session, request).await
        }
    }
}

async fn act(session: &Session, request: v1::AlarmActRequest) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Done {
        done: String,
    }
    let client = session.admin().await?;
    let ask = async |mut api: Api| api.alarm_act(request.clone()).await.map(Response::into_inner);
    let done = match request.action.as_str() {
        // Whoever raises the alarm must know of it, and that may be any replica.
        "silence" => client.everywhere(ask).await?.pop().map(|answer| answer.value).unwrap_or_default(),
        _ => replicas::any(&client, ask).await?,
    }
    .done;
    output::print_value(session.format, &Done { done: done.clone() }, || output::clean(&done))?;
    Ok(Exit::Done)
}

async fn ask(session: &Session, request: v1::AlarmsRequest) -> Result<Alerts, Failure> {
    let client = session.admin().await?;
    let first = Alarms::begin(&client, request).await?.next().await.transpose();
    Ok(Alerts::from(first.map_err(|status| client.refused(&status))?.unwrap_or_default()))
}

async fn show(session: &Session, request: v1::AlarmsRequest) -> Result<Exit, Failure> {
    let alerts = ask(session, request).await?;
    output::print_value(session.format, &alerts, || {
        let mut text = table(&alerts.alerts);
        for sink in alerts.sinks.iter().filter(|sink| !sink.problem.is_empty()) {
            text.push_str(&output::paint(
                Tone::Warn,
                &output::clean(&format!("AlertSink {} takes nothing: {}", sink.name, sink.problem)),
            ));
            text.push('\n');
        }
        text
    })?;
    let burns = alerts.alerts.iter().any(|alarm| alarm.state == "firing" && alarm.severity != "info");
    Ok(if burns { Exit::Bad } else { Exit::Done })
}

/// Prints each alarm when it begins, gets heavier, is acknowledged or ends; in JSON one object for each line.
async fn follow(session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let mut signals = Signals::take()?;
    let request = v1::AlarmsRequest { follow: true, resolved: true };
    let mut stream = Alarms::begin(&client, request).await?;
    let mut told: BTreeMap<String, (String, String, String)> = BTreeMap::new();
    let mut is_first = true;
    loop {
        // Cancel safe: a message that is not taken stays in the stream, a signal in its own.
        let message = tokio::select! {
            message = stream.next() => message,
            signal = signals.next() => {
                if processes::asks_to_end(signal) {
                    return Ok(Exit::Done);
                }
                continue;
            }
        };
        let Some(message) = message.transpose().map_err(|status| client.refused(&status))? else {
            return Err(Failure::failed("the control plane has ended the stream").next("meshctl status"));
        };
        let mut alarms: Vec<AlarmOut> = message.alarms.into_iter().map(AlarmOut::from).collect();
        alarms.sort_by_key(|alarm| alarm.raised_ms);
        let mut now = BTreeMap::new();
        for alarm in alarms {
            let word = (alarm.state.clone(), alarm.severity.clone(), alarm.acknowledged_by.clone());
            let is_news = told.get(&alarm.id) != Some(&word);
            // What was over before we came is history.
            if is_news && !(is_first && alarm.state == "resolved") {
                print_line(session.format, &alarm)?;
            }
            now.insert(alarm.id.clone(), word);
        }
        told = now;
        is_first = false;
    }
}

fn print_line(format: Format, alarm: &AlarmOut) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let line = serde_json::to_string(alarm)
                .map_err(|error| Failure::failed(format!("cannot write the alarm as JSON: {error}")))?;
            output::print(&line)
        }
        Format::Yaml => output::print_value(format, &[alarm], String::new),
        Format::Table => {
            let time = if alarm.state == "resolved" { &alarm.resolved } else { &alarm.last_seen };
            let (tone, word) = weight(alarm);
            let text = format!("{} {} {} {}", alarm.id, alarm.detector, alarm.summary, alarm.command);
            output::print(&format!("{time} {} {}", output::paint(tone, &word), output::clean(&text)))
        }
    }
}

/// How the state of an alarm is shown.
fn weight(alarm: &AlarmOut) -> (Tone, String) {
    match (alarm.state.as_str(), alarm.severity.as_str()) {
        ("resolved", _) => (Tone::Dim, "resolved".to_owned()),
        (_, "critical") => (Tone::Bad, "CRITICAL".to_owned()),
        (_, "warning") => (Tone::Warn, "warning".to_owned()),
        (_, other) => (Tone::Plain, other.to_owned()),
    }
}

fn table(alarms: &[AlarmOut]) -> String {
    if alarms.is_empty() {
        return "no alarm burns\n".to_owned();
    }
    let mut grid = Grid::new(&["ID", "SEVERITY", "SINCE", "DETECTOR", "FROM", "TO", "WHAT"]);
    for alarm in alarms {
        let mut what = alarm.summary.clone();
        if !alarm.acknowledged_by.is_empty() {
            what.push_str(&format!(" (acknowledged by {}", alarm.acknowledged_by));
            what.push_str(&if alarm.comment.is_empty() {
                ")".to_owned()
            } else {
                format!(": {})", alarm.comment)
            });
        }
        if alarm.silenced {
            what.push_str(" (silenced)");
        }
        let to = if alarm.service.is_empty() { short(&alarm.destination) } else { alarm.service.clone() };
        grid.row([
            (Tone::Plain, alarm.id.clone()),
            weight(alarm),
            (Tone::Dim, alarm.since.clone()),
            (Tone::Plain, alarm.detector.clone()),
            (Tone::Plain, short(&alarm.source)),
            (Tone::Plain, to),
            (Tone::Plain, what),
        ]);
    }
    grid.to_text()
}

fn silences_table(silences: &[SilenceOut]) -> String {
    if silences.is_empty() {
        return "no silence is in force\n".to_owned();
    }
    let mut grid = Grid::new(&["ID", "DETECTOR", "FROM", "TO", "UNTIL", "BY", "COMMENT"]);
    let any = |text: &String| if text.is_empty() { "any".to_owned() } else { text.clone() };
    for silence in silences {
        grid.row([
            (Tone::Plain, silence.id.clone()),
            (Tone::Plain, any(&silence.detector)),
            (Tone::Plain, any(&silence.source)),
            (Tone::Plain, any(&silence.destination)),
            (Tone::Dim, silence.until.clone()),
            (Tone::Plain, silence.by.clone()),
            (Tone::Plain, silence.comment.clone()),
        ]);
    }
    grid.to_text()
}

fn sinks_table(sinks: &[SinkOut]) -> String {
    if sinks.is_empty() {
        return "alarms are sent nowhere; apply an AlertSink and an AlertRule that names it\n".to_owned();
    }
    let mut grid = Grid::new(&["NAME", "KIND", "WHERE", "DELIVERED", "WAITING", "LOST", "PROBLEM"]);
    for sink in sinks {
        let lost = if sink.lost > 0 { Tone::Bad } else { Tone::Plain };
        grid.row([
            (Tone::Plain, sink.name.clone()),
            (Tone::Plain, sink.kind.clone()),
            (Tone::Plain, sink.target.clone()),
            (Tone::Plain, sink.delivered.to_string()),
            (Tone::Plain, sink.waiting.to_string()),
            (lost, sink.lost.to_string()),
            (Tone::Bad, sink.problem.clone()),
        ]);
    }
    grid.to_text()
}

impl From<v1::AlarmsResponse> for Alerts {
    fn from(response: v1::AlarmsResponse) -> Self {
        let v1::AlarmsResponse { alarms, silences, sinks } = response;
        Self {
            alerts: alarms.into_iter().map(AlarmOut::from).collect(),
            silences: silences.into_iter().map(SilenceOut::from).collect(),
            sinks: sinks.into_iter().map(SinkOut::from).collect(),
        }
    }
}

impl From<v1::Alarm> for AlarmOut {
    fn from(alarm: v1::Alarm) -> Self {
        let v1::Alarm {
            id,
            detector,
            severity,
            state,
            source,
            destination,
            service,
            since_ms,
            raised_ms,
            last_ms,
            resolved_ms,
            count,
            value,
            threshold,
            sentence,
            command,
            acked_by,
            acked_ms,
            comment,
            silenced,
            sinks,
        } = alarm;
        Self {
            id,
            state,
            severity,
            detector,
            source,
            destination,
            service,
            since: output::time(since_ms),
            raised: output::time(raised_ms),
            last_seen: output::time(last_ms),
            resolved: output::time(resolved_ms),
            count,
            value,
            threshold,
            summary: sentence,
            command,
            acknowledged_by: acked_by,
            acknowledged: output::time(acked_ms),
            comment,
            silenced,
            sinks,
            raised_ms,
        }
    }
}

impl From<v1::Silence> for SilenceOut {
    fn from(silence: v1::Silence) -> Self {
        let v1::Silence { id, detector, source, destination, until_ms, by, comment } = silence;
        Self { id, detector, source, destination, until: output::time(until_ms), by, comment }
    }
}

impl From<v1::SinkStatus> for SinkOut {
    fn from(sink: v1::SinkStatus) -> Self {
        let v1::SinkStatus { name, kind, target, delivered, waiting, lost, problem, failing_since_ms } = sink;
        let failing_since = output::time(failing_since_ms);
        Self { name, kind, target, delivered, waiting, lost, problem, failing_since }
    }
}
