//! `meshctl stat`: success rate, rate and latency of services, workloads and edges in a span of time.

use super::edges::short;
use super::flows::{self, Figures, Span, SpanOut};
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, Grid, Tone};
use crate::session::Session;
use clap::{Args, ValueEnum};
use mesh_proto::flows::{EdgeKey, Picture, Tally};
use serde::Serialize;
use std::time::Duration;

/// How often `--watch` asks: proxies report once a second.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Rows of a table when nobody says how many.
const ROWS: usize = 100;

const EXAMPLES: &str = "\
Examples:
  meshctl stat                                # every service, of the last minute
  meshctl stat service payments --window 1h
  meshctl stat workload --namespace shop
  meshctl stat edge web --watch               # who web calls, and who calls it
  meshctl stat -o json

SUCCESS is the share of what was not refused that was answered without a server error and in time. A
refusal (policy, limit) is counted apart: it is the mesh doing what it was told. Latency is what the
callee's proxy measured, from the request's head to the answer's end, at most 12.5 % too high.";

/// What `stat` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatArgs {
    /// Of what
    #[arg(value_enum, default_value_t = Of::Service, hide_default_value = true)]
    of: Of,
    /// Only this one: NAME, NAMESPACE/NAME or a SPIFFE ID
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only those of this namespace; edges with either end there
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The span that ends now, up to 7d
    #[arg(long, value_name = "SPAN", default_value = "1m", value_parser = flows::window)]
    window: Duration,
    /// Show it again every second until Ctrl-C; in JSON one object a line
    #[arg(short, long)]
    watch: bool,
    /// At most so many rows, the busiest; 0: all [default: 100 in a table, all in JSON]
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
}

/// Of what figures are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Of {
    /// What each service was asked
    Service,
    /// What each workload received and sent
    Workload,
    /// Who called which service
    Edge,
}

/// One row, as scripts see it and as the tables are made from.
#[derive(Serialize, Clone, Debug)]
pub(crate) struct Row {
    /// The service or the workload's identity; of an edge the caller's identity.
    pub(crate) name: String,
    /// Of an edge: the service called, or the callee's identity where none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
    /// Of an edge: what was spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protocols: Option<Vec<String>>,
    /// Of an edge: calls in plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plaintext: Option<u64>,
    /// What was asked of it; of an edge, on it.
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// Of a workload: what it asked itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sent: Option<Figures>,
}

/// What `-o json` prints.
#[derive(Serialize)]
struct Stat {
    of: Of,
    #[serde(flatten)]
    span: SpanOut,
    rows: Vec<Row>,
}

impl Row {
    /// What it is sorted and cut by: everything that was asked of it and by it.
    pub(crate) fn weight(&self) -> u64 {
        let sent = self.sent.as_ref().map_or(0, |sent| sent.requests);
        self.figures.requests.saturating_add(sent)
    }

    fn is_about(&self, name: &str) -> bool {
        flows::is_named(&self.name, name) || self.to.as_ref().is_some_and(|to| flows::is_named(to, name))
    }

    fn is_in(&self, namespace: &str) -> bool {
        let is_there = |name: &String| flows::namespace_of(name).as_deref() == Some(namespace);
        is_there(&self.name) || self.to.as_ref().is_some_and(is_there)
    }
}

/// The rows of a picture of so many seconds, in the order of their names.
pub(crate) fn rows(picture: &Picture, of: Of, seconds: f64) -> Vec<Row> {
    let row = |name: &String, tally: &Tally| Row {
        name: name.clone(),
        to: None,
        protocols: None,
        plaintext: None,
        figures: Figures::of(tally, seconds),
        sent: None,
    };
    match of {
        Of::Service => picture.services.iter().map(|(name, tally)| row(name, tally)).collect(),
        Of::Workload => {
            let workload = |(name, workload): (&String, &mesh_proto::flows::Workload)| Row {
                sent: Some(Figures::of(&workload.sent, seconds)),
                ..row(name, &workload.received)
            };
            picture.workloads.iter().map(workload).collect()
        }
        Of::Edge => {
            let edge = |(EdgeKey { source, target }, edge): (&EdgeKey, &mesh_proto::flows::Edge)| Row {
                to: Some(target.clone()),
                protocols: Some(edge.protocols.iter().cloned().collect()),
                plaintext: Some(edge.plaintext),
                ..row(source, &edge.tally)
            };
            picture.edges.iter().map(edge).collect()
        }
    }
}

/// Prints the figures.
///
/// # Errors
/// When no control plane answers.
pub(crate) async fn run(args: StatArgs, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    if !args.watch {
        let span = Span::ask(&client, args.window).await?;
        let (stat, cut) = select(&span, &args, session.format);
        output::print_value(session.format, &stat, || page(&stat, &span, &args, cut))?;
        return Ok(Exit::Done);
    }
    flows::again(WATCH_EVERY, async || {
        let span = Span::ask(&client, args.window).await?;
        let (stat, cut) = select(&span, &args, session.format);
        match session.format {
            Format::Table => output::print(&format!("{}{}", flows::clear(), page(&stat, &span, &args, cut))),
            Format::Json | Format::Yaml => output::print_line(&stat),
        }
    })
    .await?;
    Ok(Exit::Done)
}

/// The rows that were asked for, and how many more there would be.
fn select(span: &Span, args: &StatArgs, format: Format) -> (Stat, usize) {
    let mut rows = rows(&span.picture(), args.of, span.seconds());
    rows.retain(|row| {
        args.name.as_ref().is_none_or(|name| row.is_about(name))
            && args.namespace.as_ref().is_none_or(|namespace| row.is_in(namespace))
    });
    let limit = args.limit.unwrap_or(if format == Format::Table { ROWS } else { 0 });
    let cut = flows::keep_heaviest(&mut rows, limit, Row::weight);
    (Stat { of: args.of, span: span.out(), rows }, cut)
}

fn page(stat: &Stat, span: &Span, args: &StatArgs, cut: usize) -> String {
    let mut text = if stat.rows.is_empty() { nothing(span, args) } else { table(&stat.rows, stat.of) };
    if cut > 0 {
        text.push_str(&format!("{cut} more that are less busy: --limit 0\n"));
    }
    text.push_str(&span.remarks());
    text
}

/// Why there is no row: nothing at all, or nothing of that name.
fn nothing(span: &Span, args: &StatArgs) -> String {
    let known = rows(&span.picture(), args.of, span.seconds());
    let asked = args.name.as_ref().or(args.namespace.as_ref());
    let Some(asked) = asked.filter(|_| !known.is_empty()) else { return span.nothing() };
    let mut names: Vec<String> = known.iter().map(|row| short(&row.name)).collect();
    names.dedup();
    let shown = names.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
    let window = duration::show(args.window);
    output::clean(&format!("no traffic of {asked} in the last {window}; there was some of {shown}")) + "\n"
}

/// The table for people.
pub(crate) fn table(rows: &[Row], of: Of) -> String {
    let first: &[&str] = match of {
        Of::Service => &["SERVICE"],
        Of::Workload => &["WORKLOAD"],
        Of::Edge => &["FROM", "TO", "PROTOCOL"],
    };
    let last: &[&str] = if of == Of::Workload { &["SENT", "OF IT WELL"] } else { &[] };
    let figures = &["SUCCESS", "RATE", "P50", "P95", "P99", "REQUESTS", "ERRORS", "REFUSED", "LIMITED"];
    let header: Vec<&str> = first.iter().chain(figures).chain(last).copied().collect();
    let mut grid = Grid::new(&header);
    for row in rows {
        let mut cells = vec![(Tone::Plain, short(&row.name))];
        if let Some(to) = &row.to {
            cells.push((Tone::Plain, short(to.strip_prefix("default/").unwrap_or(to))));
            let spoken = row.protocols.iter().flatten().cloned().collect::<Vec<_>>().join(", ");
            cells.push(match row.plaintext {
                Some(0) | None => (Tone::Plain, spoken),
                Some(_) => (Tone::Bad, format!("{spoken} PLAINTEXT")),
            });
        }
        let Figures { requests, rps, success_rate, denied, limited, failed, errors, .. } = row.figures;
        cells.extend([
            flows::share(success_rate),
            (Tone::Plain, flows::rate(rps)),
            flows::latency(row.figures.p50_us),
            flows::latency(row.figures.p95_us),
            flows::latency(row.figures.p99_us),
            (Tone::Plain, requests.to_string()),
            super::edges::count(errors.saturating_add(failed), Tone::Bad),
            super::edges::count(denied, Tone::Bad),
            super::edges::count(limited, Tone::Warn),
        ]);
        if let Some(sent) = &row.sent {
            cells.extend([(Tone::Plain, flows::rate(sent.rps)), flows::share(sent.success_rate)]);
        }
        grid.row(cells);
    }
    grid.to_text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_proto::wire::v1;

    fn flow(source: &str, service: &str, allowed: u64) -> v1::Flow {
        v1::Flow {
            source: format!("spiffe://mesh.local/ns/shop/sa/{source}"),
            destination: format!("spiffe://mesh.local/ns/shop/sa/{service}"),
            service: format!("shop/{service}"),
            protocol: "http1".to_owned(),
            tls_version: "TLSv1.3".to_owned(),
            allowed,
            latency_us: vec![v1::Bucket { index: 80, count: allowed }],
            ..v1::Flow::default()
        }
    }

    fn text(flows: &[v1::Flow], of: Of) -> String {
        table(&rows(&Picture::of(flows), of, 60.0), of)
    }

    #[test]
    fn each_cut_has_its_table() {
        let flows = [
            v1::Flow { errors: 30, denied: 7, ..flow("web", "pay", 600) },
            v1::Flow { tls_version: String::new(), ..flow("batch", "pay", 6) },
        ];
        assert_eq!(
            text(&flows, Of::Service),
            "SERVICE   SUCCESS  RATE  P50     P95     P99     REQUESTS  ERRORS  REFUSED  LIMITED\n\
             shop/pay  95.04%   10/s  4.6 ms  4.6 ms  4.6 ms  613       30      7        -\n"
        );
        let edges = text(&flows, Of::Edge);
        assert!(edges.contains("shop/batch  shop/pay  http1 PLAINTEXT  100%"), "{edges}");
        let workloads = text(&flows, Of::Workload);
        assert!(workloads.contains("shop/web    -        -  "), "{workloads}");
    }

    #[test]
    fn a_hostile_name_cannot_reach_the_terminal() {
        let hostile = v1::Flow { service: "a/\x1b]0;x\x07\u{202e}b\nc".to_owned(), ..flow("web", "pay", 1) };
        for of in [Of::Service, Of::Edge] {
            let text = text(std::slice::from_ref(&hostile), of);
            assert_eq!(text.lines().count(), 2, "{text:?}");
            assert!(!text.contains(['\x1b', '\x07', '\u{202e}']), "{text:?}");
        }
    }
}
