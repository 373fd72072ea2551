//! `meshctl graph`: the mesh as a picture (SVG), for Graphviz (DOT) or for scripts (JSON): who calls whom, with lock, rate,
//! success and latency on each edge.
//!
//! [`Graph`] is what is drawn; `layout` says where, `svg` and `dot` how. Everything that came from outside is escaped in the
//! language that it is written in. The picture needs nothing from outside, and the same traffic gives the same bytes.

mod dot;
mod layout;
mod svg;

use super::edges::short;
use super::flows::{self, Figures, Span, SpanOut};
use crate::failure::{Exit, Failure};
use crate::output::{self, Drawing, Format, Typed};
use crate::session::Session;
use clap::Args;
use mesh_proto::flows::{Edge, EdgeKey, Picture, Tally};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Edges of a drawing when nobody says how many: more cannot be read.
const EDGES: usize = 200;
/// The most, since the layout's time grows with their square.
const EDGES_MAX: usize = 5_000;

const EXAMPLES: &str = "\
Examples:
  meshctl graph -o svg > mesh.svg                  # a picture; opens in any browser
  meshctl graph -o dot --window 1h | dot -Tpdf > mesh.pdf
  meshctl graph -o json --namespace shop

Formats: dot (also without -o), svg, json, yaml.";

/// What `graph` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GraphArgs {
    /// Only edges with either end in this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The span that ends now, up to 7d
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = flows::window)]
    window: Duration,
    /// At most so many edges, the busiest [default: 200 drawn, all in JSON]
    #[arg(long, value_name = "EDGES", value_parser = clap::value_parser!(u16).range(1..=EDGES_MAX as i64))]
    limit: Option<u16>,
}

/// What is drawn.
#[derive(Serialize, Debug)]
struct Graph {
    #[serde(flatten)]
    span: SpanOut,
    /// Edges that found no room.
    left_out: usize,
    nodes: Vec<Node>,
    edges: Vec<Link>,
}

/// A workload; or a service that none, or several identities answer for.
#[derive(Serialize, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Node {
    /// The identity, or `namespace/name` of the service.
    id: String,
    /// As people call it.
    label: String,
    kind: Kind,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Workload,
    Service,
    /// Peers without an identity, and what found no room.
    Collective,
}

/// All calls from one node to another.
#[derive(Serialize, Debug)]
struct Link {
    source: String,
    target: String,
    services: Vec<String>,
    protocols: Vec<String>,
    tls: Vec<String>,
    plaintext: u64,
    #[serde(flatten)]
    figures: Figures,
    /// Where in `nodes`.
    #[serde(skip)]
    ends: (usize, usize),
}

/// Prints the graph in the format that was typed.
///
/// # Errors
/// When no control plane answers.
pub(crate) async fn run(args: GraphArgs, session: &Session, typed: Typed) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let span = Span::ask(&client, args.window).await?;
    let drawing = match typed {
        Typed::Json | Typed::Yaml => None,
        Typed::Svg => Some(Drawing::Svg),
        Typed::Table | Typed::Dot => Some(Drawing::Dot),
    };
    let default = if drawing.is_some() { EDGES } else { usize::MAX };
    let limit = args.limit.map_or(default, usize::from);
    let graph = graph(&span.picture(), &span, args.namespace.as_deref(), limit);
    for line in [span.remarks(), left_out(&graph)].iter().filter(|text| !text.is_empty() && drawing.is_some())
    {
        output::note(line.trim_end());
    }
    match drawing {
        Some(Drawing::Svg) => output::print_raw(svg::draw(&graph).as_bytes())?,
        Some(Drawing::Dot) => output::print_raw(dot::draw(&graph).as_bytes())?,
        None => {
            let format = if typed == Typed::Yaml { Format::Yaml } else { Format::Json };
            output::print_value(format, &graph, String::new)?;
        }
    }
    Ok(Exit::Done)
}

fn left_out(graph: &Graph) -> String {
    match graph.left_out {
        0 => String::new(),
        more => format!("{more} edges that are less busy are left out: --limit {EDGES_MAX}"),
    }
}

/// The graph of a picture.
fn graph(picture: &Picture, span: &Span, namespace: Option<&str>, limit: usize) -> Graph {
    let is_in =
        |name: &str| namespace.is_none_or(|wanted| flows::namespace_of(name).as_deref() == Some(wanted));
    let mut joined: BTreeMap<(Node, Node), (Tally, Edge, BTreeSet<String>)> = BTreeMap::new();
    for (EdgeKey { source, target }, edge) in &picture.edges {
        if !is_in(source) && !is_in(target) {
            continue;
        }
        let ends = (caller(source), callee(target, edge));
        let (tally, sum, services) = joined.entry(ends).or_default();
        tally.merge(&edge.tally);
        sum.protocols.extend(edge.protocols.iter().cloned());
        sum.tls.extend(edge.tls.iter().cloned());
        sum.plaintext = sum.plaintext.saturating_add(edge.plaintext);
        services.extend(edge.is_service.then(|| target.clone()));
    }
    let mut joined: Vec<_> = joined.into_iter().collect();
    let left_out = flows::keep_heaviest(&mut joined, limit, |(_, (tally, ..))| tally.asked());
    let nodes: BTreeSet<&Node> = joined.iter().flat_map(|((from, to), _)| [from, to]).collect();
    let nodes: Vec<Node> = nodes.into_iter().cloned().collect();
    let at = |node: &Node| nodes.binary_search(node).unwrap_or(0);
    let edges = joined.iter().map(|((from, to), (tally, edge, services))| Link {
        source: from.id.clone(),
        target: to.id.clone(),
        services: services.iter().cloned().collect(),
        protocols: edge.protocols.iter().cloned().collect(),
        tls: edge.tls.iter().cloned().collect(),
        plaintext: edge.plaintext,
        figures: Figures::of(tally, span.seconds()),
        ends: (at(from), at(to)),
    });
    let edges = edges.collect();
    Graph { span: span.out(), left_out, nodes, edges }
}

fn caller(identity: &str) -> Node {
    let kind = if flows::is_collective(identity) { Kind::Collective } else { Kind::Workload };
    Node { id: identity.to_owned(), label: label(identity), kind }
}

/// The workload that answers; the service where there is none or several.
fn callee(target: &str, edge: &Edge) -> Node {
    let mut destinations = edge.destinations.iter();
    match (destinations.next(), destinations.next()) {
        (Some(only), None) => caller(only),
        _ if edge.is_service && !flows::is_collective(target) => {
            Node { id: target.to_owned(), label: label(target), kind: Kind::Service }
        }
        _ => caller(target),
    }
}

/// A name as it is drawn: short, on one line, without control characters.
fn label(name: &str) -> String {
    /// Longer ones would make boxes that nobody sees the ends of.
    const CHARS_MAX: usize = 40;
    let short = output::clean(&short(name));
    if short.chars().count() <= CHARS_MAX {
        return short;
    }
    let mut cut: String = short.chars().take(CHARS_MAX - 1).collect();
    cut.push('…');
    cut
}

impl Link {
    /// What stands on the edge: rate, success, the slow end of latency; or that all was refused.
    fn text(&self) -> String {
        let Figures { rps, success_rate, p95_us, denied, limited, .. } = self.figures;
        let mut parts = vec![flows::rate(rps)];
        if success_rate.is_some() {
            parts.push(flows::share(success_rate).1);
        }
        if p95_us.is_some() {
            parts.push(flows::latency(p95_us).1);
        }
        if denied > 0 {
            parts.push(format!("{denied} denied"));
        }
        if limited > 0 {
            parts.push(format!("{limited} limited"));
        }
        parts.join(" · ")
    }

    /// How well it goes.
    fn health(&self) -> Health {
        match self.figures.success_rate {
            None => Health::Refused,
            Some(0.999..) => Health::Good,
            Some(0.95..) => Health::Fair,
            Some(_) => Health::Bad,
        }
    }

    /// `TLS 1.3`, or the alarming word.
    fn protection(&self) -> String {
        if self.plaintext > 0 {
            return "plaintext".to_owned();
        }
        let versions: Vec<String> =
            self.tls.iter().map(|version| output::clean(&version.replace("TLSv", "TLS "))).collect();
        versions.join(", ")
    }
}

/// How well an edge goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Health {
    /// Nearly everything is answered well.
    Good,
    /// Up to one in twenty is not.
    Fair,
    /// More are not.
    Bad,
    /// Nothing was let through.
    Refused,
}

#[cfg(test)]
mod tests;
