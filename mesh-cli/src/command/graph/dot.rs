//! The graph in the language of Graphviz.

use super::{Graph, Health, Kind, Link, Node};
use crate::output;

/// The whole document.
pub(super) fn draw(graph: &Graph) -> String {
    let mut text = String::from(
        "digraph mesh {\n  rankdir=LR;\n  node [fontname=\"sans-serif\" shape=box style=rounded];\n  \
         edge [fontname=\"sans-serif\" fontsize=10];\n",
    );
    for (number, Node { id, label, kind }) in graph.nodes.iter().enumerate() {
        let shape = match kind {
            Kind::Workload => "",
            Kind::Service => " shape=component",
            Kind::Collective => " style=dashed",
        };
        text.push_str(&format!("  n{number} [label={} tooltip={}{shape}];\n", quoted(label), quoted(id)));
    }
    for link in &graph.edges {
        text.push_str(&edge(link));
    }
    text.push_str("}\n");
    text
}

fn edge(link: &Link) -> String {
    let style = match link.health() {
        Health::Good => "color=\"#2e7d32\"",
        Health::Fair => "color=\"#b26a00\"",
        Health::Bad => "color=\"#c62828\" penwidth=2",
        Health::Refused => "color=\"#c62828\" style=dashed",
    };
    let says = format!("{}\n{}", link.text(), link.protection());
    let (from, to) = link.ends;
    let tip = format!("{} calls {}", link.source, link.services.join(", "));
    format!("  n{from} -> n{to} [label={} tooltip={} {style}];\n", quoted(says.trim_end()), quoted(&tip))
}

/// A quoted string: quotes and backslashes are escaped, so that no name is an escape sequence of Graphviz (`\N`, `\E`).
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in output::clean_lines(text).chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // Graphviz reads entities of HTML in any label.
            '&' => out.push_str("&amp;"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
