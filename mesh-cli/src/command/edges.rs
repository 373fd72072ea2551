//! `meshctl edges`: who calls whom, how it is protected, what was decided, how fast it was.

use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Grid, Tone};
use crate::processes::{self, Signals};
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::io::IsTerminal as _;
use std::time::Duration;

/// How often `--watch` asks; proxies report once a second.
const WATCH_EVERY: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  meshctl edges
  meshctl edges --watch                  # once a second, until Ctrl-C
  meshctl edges --from web --denied
  meshctl edges -o json";

/// What `edges` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EdgesArgs {
    /// Show it again every second until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Only calls from this workload (part of its identity)
    #[arg(long, value_name = "TEXT")]
    from: Option<String>,
    /// Only calls to this service or workload (part of its name or identity)
    #[arg(long, value_name = "TEXT")]
    to: Option<String>,
    /// Only edges on which something was refused or limited
    #[arg(long)]
    denied: bool,
}

/// One edge, as scripts see it and as the tables are made from.
#[derive(Serialize, Clone, Debug, Default)]
pub(crate) struct EdgeOut {
    pub(crate) direction: String,
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) service: String,
    pub(crate) port: u32,
    pub(crate) protocol: String,
    pub(crate) tls_version: String,
    pub(crate) key_exchange: String,
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    pub(crate) limited: u64,
    pub(crate) failed: u64,
    pub(crate) errors: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) last_reason: String,
    pub(crate) last_rule: String,
    pub(crate) last_seen: String,
}

#[derive(Serialize)]
struct Edges {
    edges: Vec<EdgeOut>,
}

/// Prints the edges.
///
/// # Errors
/// When no control plane answers.
pub(crate) async fn run(args: EdgesArgs, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let ask = async || -> Result<Vec<EdgeOut>, Failure> {
        let response = client.answer(client.api().edges(v1::EdgesRequest {}).await)?;
        Ok(select(response.edges.into_iter().map(EdgeOut::from).collect(), &args))
    };
    if !args.watch {
        let edges = ask().await?;
        let edges = Edges { edges };
        output::print_value(session.format, &edges, || table(&edges.edges, output::terminal_width()))?;
        return Ok(Exit::Done);
    }
    let mut signals = Signals::take()?;
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    loop {
        // Cancel safe: an interval keeps its schedule, a signal stream its signal.
        tokio::select! {
            _ = ticks.tick() => {
                let edges = Edges { edges: ask().await? };
                let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
                output::print_value(session.format, &edges, || {
                    format!("{clear}{}", table(&edges.edges, output::terminal_width()))
                })?;
            }
            signal = signals.next() => if processes::asks_to_end(signal) {
                return Ok(Exit::Done);
            },
        }
    }
}

impl From<v1::Edge> for EdgeOut {
    fn from(edge: v1::Edge) -> Self {
        let v1::Edge { stats, last_seen_ms, p50_us, p99_us } = edge;
        let v1::EdgeStats {
            direction,
            source,
            destination,
            service,
            port,
            protocol,
            tls_version,
            key_exchange,
            allowed,
            denied,
            limited,
            failed,
            errors,
            bytes_in,
            bytes_out,
            latency_us: _, // as quantiles
            last_reason,
            last_rule,
        } = stats.unwrap_or_default();
        let direction = if direction == i32::from(v1::Direction::Outbound) { "outbound" } else { "inbound" };
        Self {
            direction: direction.to_owned(),
            source,
            destination,
            service,
            port,
            protocol,
            tls_version,
            key_exchange,
            allowed,
            denied,
            limited,
            failed,
            errors,
            bytes_in,
            bytes_out,
            p50_us,
            p99_us,
            last_reason,
            last_rule,
            last_seen: output::time(last_seen_ms),
        }
    }
}

fn select(mut edges: Vec<EdgeOut>, args: &EdgesArgs) -> Vec<EdgeOut> {
    edges.retain(|edge| {
        args.from.as_ref().is_none_or(|text| edge.source.contains(text))
            && args
                .to
                .as_ref()
                .is_none_or(|text| edge.service.contains(text) || edge.destination.contains(text))
            && (!args.denied || edge.denied + edge.limited > 0)
    });
    edges
}

/// The table of edges; empty text in place of what is not known.
pub(crate) fn table(edges: &[EdgeOut], width: Option<u16>) -> String {
    if edges.is_empty() {
        return "no traffic yet\n".to_owned();
    }
    let mut grid = Grid::new(&[
        "FROM",
        "TO",
        "PROTOCOL",
        "TLS",
        "ALLOWED",
        "REFUSED",
        "LIMITED",
        "FAILED",
        "P50",
        "P99",
        "LAST REFUSAL",
    ]);
    for edge in edges.iter().filter(|edge| !is_told_by_callee(edge, edges)) {
        let is_outbound = edge.direction == "outbound";
        let from = if is_outbound { format!("{} ↑", short(&edge.source)) } else { short(&edge.source) };
        grid.row([
            (Tone::Plain, from),
            (
                Tone::Plain,
                if edge.port == 0 { target(edge) } else { format!("{}:{}", target(edge), edge.port) },
            ),
            (Tone::Plain, edge.protocol.clone()),
            tls(edge),
            count(edge.allowed, Tone::Good),
            count(edge.denied, Tone::Bad),
            count(edge.limited, Tone::Warn),
            count(edge.failed + edge.errors, Tone::Bad),
            latency(edge.p50_us, edge.allowed),
            latency(edge.p99_us, edge.allowed),
            (Tone::Plain, refusal(edge)),
        ]);
    }
    let mut text = grid.render(width);
    if edges.iter().any(|edge| edge.direction == "outbound" && !is_told_by_callee(edge, edges)) {
        text.push_str(&output::paint(Tone::Dim, "↑ as seen by the caller's sidecar\n"));
    }
    text
}

/// Whether the callee's sidecar tells of the same calls: it knows the caller's proven identity and what was decided, so that
/// its word is shown. JSON and YAML have both.
fn is_told_by_callee(edge: &EdgeOut, all: &[EdgeOut]) -> bool {
    edge.direction == "outbound"
        && all.iter().any(|other| {
            other.direction == "inbound" && other.source == edge.source && other.service == edge.service
        })
}

/// The last part of an identity with its namespace unless that is `default`: `web`, `shop/web`.
pub(crate) fn short(identity: &str) -> String {
    match identity.parse::<mesh_proto::identity::SpiffeId>().ok().and_then(|id| id.workload()) {
        Some((namespace, account)) if namespace.as_str() == "default" => account.to_string(),
        Some((namespace, account)) => format!("{namespace}/{account}"),
        None => identity.to_owned(),
    }
}

/// The service if known, else the callee's identity.
pub(crate) fn target(edge: &EdgeOut) -> String {
    match edge.service.as_str() {
        "" => short(&edge.destination),
        service => service.strip_prefix("default/").unwrap_or(service).to_owned(),
    }
}

/// TLS version and key exchange, or the alarming word.
pub(crate) fn tls(edge: &EdgeOut) -> (Tone, String) {
    match (edge.tls_version.as_str(), edge.key_exchange.as_str()) {
        ("", _) => (Tone::Bad, "plaintext".to_owned()),
        (version, "") => (Tone::Good, version.to_owned()),
        (version, exchange) => (Tone::Good, format!("{} {exchange}", version.replace("TLSv", ""))),
    }
}

/// A count, quiet when it is zero.
pub(crate) fn count(number: u64, tone: Tone) -> (Tone, String) {
    if number == 0 { (Tone::Dim, "-".to_owned()) } else { (tone, number.to_string()) }
}

/// A latency, if anything was measured.
pub(crate) fn latency(us: u64, allowed: u64) -> (Tone, String) {
    if allowed == 0 || us == 0 { (Tone::Dim, "-".to_owned()) } else { (Tone::Plain, duration::show_us(us)) }
}

/// Why the last refusal, and by which rule.
pub(crate) fn refusal(edge: &EdgeOut) -> String {
    match (edge.last_reason.as_str(), edge.last_rule.as_str()) {
        ("", "") => String::new(),
        (reason, "") => reason.to_owned(),
        ("", rule) => rule.to_owned(),
        (reason, rule) => format!("{reason}: {rule}"),
    }
}
