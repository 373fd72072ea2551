//! `meshctl edges`: who calls whom, how it is protected, what was decided, how fast it was.
//!
//! Without `--since` these are the totals since the control plane started; with it, the sums of a span from the flow
//! ledger, to which the key exchange and the last refusal are added as far as the control plane still knows them.

use super::flows::{self, Span};
use crate::admin_client::AdminClient;
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Grid, Tone};
use crate::replicas;
use crate::session::Session;
use clap::Args;
use mesh_proto::ops::histogram::Sketch;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// How often `--watch` asks; proxies report once a second.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Edges of a table when nobody says how many.
const ROWS: usize = 200;

const EXAMPLES: &str = "\
Examples:
  meshctl edges
  meshctl edges --watch                  # once a second, until Ctrl-C
  meshctl edges --from web --denied
  meshctl edges --since 24h              # of the last day, restarts of the control plane included
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
    /// Of this span up to now, at most 7d [default: since the control plane started]
    #[arg(long, value_name = "SPAN", value_parser = flows::window)]
    since: Option<Duration>,
    /// At most so many edges, the busiest; 0: all [default: 200 in a table, all in JSON]
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
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
    let show = async || -> Result<(), Failure> {
        let (edges, remarks) = ask(&client, args.since).await?;
        let mut edges = Edges { edges: select(edges, &args) };
        let limit = args.limit.unwrap_or(if session.format == Format::Table { ROWS } else { 0 });
        let cut = flows::keep_heaviest(&mut edges.edges, limit, EdgeOut::asked);
        output::print_value(session.format, &edges, || {
            let mut text = if args.watch { flows::clear().to_owned() } else { String::new() };
            text.push_str(&table(&edges.edges, output::terminal_width()));
            if cut > 0 {
                text.push_str(&format!("{cut} more that are less busy: --limit 0\n"));
            }
            text + &remarks
        })
    };
    if args.watch {
        flows::again(WATCH_EVERY, show).await?;
    } else {
        show().await?;
    }
    Ok(Exit::Done)
}

/// The edges, and what is to be said of the span that they are of.
async fn ask(client: &AdminClient, since: Option<Duration>) -> Result<(Vec<EdgeOut>, String), Failure> {
    let totals = replicas::edges(client).await?;
    let totals: Vec<EdgeOut> = totals.into_iter().map(EdgeOut::from).collect();
    let Some(since) = since else { return Ok((totals, String::new())) };
    let span = Span::ask(client, since).await?;
    let remarks = span.remarks();
    Ok((of_span(span.flows, &totals), remarks))
}

/// Rows of the ledger with what only the totals know: key exchange, last refusal, when an edge was last seen.
fn of_span(rows: Vec<v1::Flow>, totals: &[EdgeOut]) -> Vec<EdgeOut> {
    let known: HashMap<_, &EdgeOut> = totals.iter().map(|edge| (edge.key(), edge)).collect();
    let mut edges: Vec<EdgeOut> = rows.into_iter().map(EdgeOut::from).collect();
    for edge in &mut edges {
        let Some(total) = known.get(&edge.key()) else { continue };
        let (exchange, seen) = (total.key_exchange.clone(), total.last_seen.clone());
        if !edge.tls_version.is_empty() {
            edge.key_exchange = exchange;
        }
        edge.last_seen = seen;
        if edge.denied > 0 || edge.limited > 0 || edge.failed > 0 {
            edge.last_reason.clone_from(&total.last_reason);
            edge.last_rule.clone_from(&total.last_rule);
        }
    }
    edges
}

impl EdgeOut {
    /// What tells edges apart, as in the control plane's table of totals.
    fn key(&self) -> (String, String, String, String, u32, String) {
        let Self { direction, source, destination, service, port, protocol, .. } = self;
        let [direction, source, destination, service, protocol] =
            [direction, source, destination, service, protocol].map(String::clone);
        (direction, source, destination, service, *port, protocol)
    }

    fn asked(&self) -> u64 {
        [self.denied, self.limited, self.failed]
            .iter()
            .fold(self.allowed, |sum, more| sum.saturating_add(*more))
    }
}

impl From<v1::Flow> for EdgeOut {
    fn from(flow: v1::Flow) -> Self {
        let mut latency = Sketch::default();
        flow.latency_us.iter().for_each(|bucket| latency.add(bucket.index, bucket.count));
        let v1::Flow {
            direction,
            source,
            destination,
            service,
            port,
            protocol,
            tls_version,
            allowed,
            denied,
            limited,
            failed,
            errors,
            bytes_in,
            bytes_out,
            latency_us: _, // as quantiles
        } = flow;
        Self {
            direction: direction_word(direction).to_owned(),
            source,
            destination,
            service,
            port,
            protocol,
            tls_version,
            allowed,
            denied,
            limited,
            failed,
            errors,
            bytes_in,
            bytes_out,
            p50_us: latency.quantile(0.5),
            p99_us: latency.quantile(0.99),
            ..Self::default()
        }
    }
}

fn direction_word(direction: i32) -> &'static str {
    if direction == i32::from(v1::Direction::Outbound) { "outbound" } else { "inbound" }
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
        Self {
            direction: direction_word(direction).to_owned(),
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
    // The callee's sidecar knows the caller's proven identity and what was decided, so that its word is shown where both
    // tell of the same calls. JSON and YAML have both.
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
    let inbound = edges.iter().filter(|edge| edge.direction == "inbound");
    let told: HashSet<(&str, &str)> = inbound.map(|edge| (&*edge.source, &*edge.service)).collect();
    let is_told_by_callee =
        |edge: &&EdgeOut| edge.direction == "outbound" && told.contains(&(&*edge.source, &*edge.service));
    for edge in edges.iter().filter(|edge| !is_told_by_callee(edge)) {
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
    if edges.iter().any(|edge| edge.direction == "outbound" && !is_told_by_callee(&edge)) {
        text.push_str(&output::paint(Tone::Dim, "↑ as seen by the caller's sidecar\n"));
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_takes_protection_and_reason_from_the_totals() {
        let flow = v1::Flow {
            source: "a".to_owned(),
            service: "default/b".to_owned(),
            protocol: "http1".to_owned(),
            tls_version: "TLSv1.3".to_owned(),
            allowed: 1,
            ..v1::Flow::default()
        };
        let total = EdgeOut {
            key_exchange: "X25519MLKEM768".to_owned(),
            last_reason: "no_rule_allows".to_owned(),
            allowed: 100,
            ..EdgeOut::from(flow.clone())
        };
        let refused = v1::Flow { port: 9, denied: 1, ..flow.clone() };
        let refused_total = EdgeOut { port: 9, ..total.clone() };
        let edges = of_span(vec![flow, refused], &[total, refused_total]);
        let [first, second] = &edges[..] else { panic!("{edges:?}") };
        assert_eq!((first.allowed, &*first.key_exchange, &*first.last_reason), (1, "X25519MLKEM768", ""));
        assert_eq!(&*second.last_reason, "no_rule_allows");
    }

    #[test]
    fn ten_thousand_edges_make_a_table_in_no_time() {
        let edge = |number: u32, direction: &str| EdgeOut {
            direction: direction.to_owned(),
            service: format!("default/{number}"),
            allowed: u64::from(number),
            ..EdgeOut::default()
        };
        let edges: Vec<EdgeOut> =
            (0..10_000).flat_map(|number| [edge(number, "inbound"), edge(number, "outbound")]).collect();
        assert_eq!(table(&edges, None).lines().count(), 10_001, "each call once");
        let mut busiest = edges;
        assert_eq!(flows::keep_heaviest(&mut busiest, 200, EdgeOut::asked), 19_800);
        assert_eq!(busiest.last().unwrap().service, "default/9999");
    }
}
