//! The graph as SVG: one document without scripts, fonts or anything else from outside.
//!
//! Colours follow the reader's light or dark preference. Every edge says in words what its colour and its dashes say, and
//! has a title for screen readers and pointers.

use super::{Graph, Health, Kind, Link, Node, layout};
use crate::output;
use std::fmt::Write as _;

/// Height of a box.
const BOX: i64 = 34;
/// From one box to the next below it.
const STEP: i64 = 74;
/// Between two layers, where the edges' texts stand.
const GAP: i64 = 260;
/// Height of an edge's two lines of text.
const TEXT: i64 = 30;
/// Around everything.
const MARGIN: i64 = 30;
/// Of a letter at 13 px, generously; the document cannot measure its font.
const LETTER: i64 = 8;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1b1f24}.e{font-size:11px;paint-order:stroke;stroke:#fff;stroke-width:3px}.p{fill:#57606a}\
.bg{fill:#fff}rect.n{fill:#f6f8fa;stroke:#8c959f}rect.collective{stroke-dasharray:4 3}rect.service{rx:0}\
path.l{fill:none;stroke-width:1.6}.good{stroke:#2e7d32}.fair{stroke:#b26a00}.bad{stroke:#c62828;stroke-width:2.6}\
.refused{stroke:#c62828;stroke-dasharray:5 4}text.alarm{fill:#c62828;font-weight:600}.k{fill:none;stroke:#57606a}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.e{stroke:#0d1117}.p{fill:#9da7b1}.bg{fill:#0d1117}rect.n{fill:#161b22;stroke:#6e7681}\
.good{stroke:#56d364}.fair{stroke:#e3b341}.bad,.refused{stroke:#ff7b72}text.alarm{fill:#ff7b72}.k{stroke:#9da7b1}}";

/// A box.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    x: i64,
    y: i64,
    width: i64,
}

/// The whole document.
pub(super) fn draw(graph: &Graph) -> String {
    let ends: Vec<(usize, usize)> = graph.edges.iter().map(|link| link.ends).collect();
    let layers = layout::layers(graph.nodes.len(), &ends);
    let (places, width, height) = places(graph, &layers);
    let mut out = String::new();
    let what = format!(
        "{} nodes, {} edges, {} to {}",
        graph.nodes.len(),
        graph.edges.len(),
        graph.span.from,
        graph.span.to
    );
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-labelledby=\"title\">\n<title id=\"title\">Who calls whom: {}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"bg\" width=\"{width}\" height=\"{height}\"/>",
        escaped(&what)
    );
    if graph.nodes.is_empty() {
        let _ = writeln!(out, "<text x=\"{MARGIN}\" y=\"{}\">no traffic</text>", MARGIN + BOX / 2);
    }
    let mut texts = Texts::default();
    for link in &graph.edges {
        edge(&mut out, link, &places, &mut texts);
    }
    for (node, place) in graph.nodes.iter().zip(&places) {
        draw_node(&mut out, node, *place);
    }
    out.push_str("</svg>\n");
    out
}

/// The box of each node, and the size of the whole.
fn places(graph: &Graph, layers: &[Vec<usize>]) -> (Vec<Place>, i64, i64) {
    let width_of = |node: usize| {
        let chars = graph.nodes.get(node).map_or(0, |node| node.label.chars().count());
        i64::try_from(chars).unwrap_or(0).saturating_mul(LETTER).saturating_add(24).max(80)
    };
    let count = |layer: &Vec<usize>| i64::try_from(layer.len()).unwrap_or(0);
    let tallest = layers.iter().map(count).max().unwrap_or(1);
    let mut places = vec![Place::default(); graph.nodes.len()];
    let mut x = MARGIN;
    for layer in layers {
        let widest = layer.iter().map(|node| width_of(*node)).max().unwrap_or(0);
        // Layers with fewer boxes stand in the middle.
        let mut y = MARGIN.saturating_add(tallest.saturating_sub(count(layer)).saturating_mul(STEP) / 2);
        for node in layer {
            if let Some(place) = places.get_mut(*node) {
                *place = Place { x, y, width: width_of(*node) };
            }
            y = y.saturating_add(STEP);
        }
        x = x.saturating_add(widest).saturating_add(GAP);
    }
    let width = x.saturating_sub(GAP).saturating_add(MARGIN).max(200);
    let height = tallest.saturating_mul(STEP).saturating_sub(STEP - BOX).saturating_add(2 * MARGIN);
    (places, width, height.saturating_add(STEP + BOX))
}

fn draw_node(out: &mut String, node: &Node, place: Place) {
    let class = match node.kind {
        Kind::Workload => "n",
        Kind::Service => "n service",
        Kind::Collective => "n collective",
    };
    let Place { x, y, width } = place;
    let (middle, base) = (x.saturating_add(width / 2), y.saturating_add(BOX / 2 + 4));
    let _ = writeln!(
        out,
        "<g><title>{}</title><rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{BOX}\" rx=\"6\"/>\
         <text x=\"{middle}\" y=\"{base}\" text-anchor=\"middle\">{}</text></g>",
        escaped(&node.id),
        escaped(&node.label)
    );
}

/// Where edges' texts stand already: left end, line, width.
#[derive(Debug, Default)]
struct Texts(Vec<(i64, i64, i64)>);

impl Texts {
    /// The first free line from `y` on down; after some tries, whatever comes.
    fn place(&mut self, x: i64, y: i64, width: i64) -> i64 {
        let left = x.saturating_sub(width / 2);
        let is_free = |line: i64| {
            self.0.iter().all(|(other, at, wide)| {
                line.abs_diff(*at) >= TEXT.unsigned_abs()
                    || left.saturating_add(width) < *other
                    || other.saturating_add(*wide) < left
            })
        };
        let lines = (0..12).map(|step| y.saturating_add(step * TEXT / 2));
        let line = lines.clone().find(|line| is_free(*line)).unwrap_or(y);
        self.0.push((left, line, width));
        line
    }
}

fn edge(out: &mut String, link: &Link, places: &[Place], texts: &mut Texts) {
    let place = |at: usize| places.get(at).copied().unwrap_or_default();
    let (from, to) = (place(link.ends.0), place(link.ends.1));
    let (x1, y1) = (from.x.saturating_add(from.width), from.y.saturating_add(BOX / 2));
    let (x2, y2) = (to.x, to.y.saturating_add(BOX / 2));
    // What leads back, or to its own box, goes around below.
    let is_back = x2 <= x1;
    let (reach, dip) = if is_back { (60, STEP + BOX) } else { (x2.saturating_sub(x1) / 2, 0) };
    let (c1, c2) = (x1.saturating_add(reach), x2.saturating_sub(reach));
    let (d1, d2) = (y1.saturating_add(dip), y2.saturating_add(dip));
    let class = match link.health() {
        Health::Good => "good",
        Health::Fair => "fair",
        Health::Bad => "bad",
        Health::Refused => "refused",
    };
    // The text stands nearer to the callee, where several edges from one box have parted.
    let x = if is_back {
        c2.midpoint(c1)
    } else {
        x1.saturating_add(x2.saturating_sub(x1).saturating_mul(11) / 20)
    };
    let along = if is_back { dip.saturating_mul(3) / 4 } else { 0 };
    let y = y1.saturating_add(y2.saturating_sub(y1).saturating_mul(23) / 40).saturating_add(along);
    let chars = i64::try_from(link.text().chars().count()).unwrap_or(0);
    let y = texts.place(x, y, chars.saturating_mul(LETTER - 2));
    let protection = link.protection();
    let says = format!("{} calls {}: {}, {protection}", link.source, link.target, link.text());
    let is_plain = link.plaintext > 0;
    let _ = writeln!(
        out,
        "<g><title>{}</title><path class=\"l {class}\" d=\"M{x1} {y1}C{c1} {d1} {c2} {d2} {x2} {y2}m-7 -4l7 4l-7 4\"/>\
         <text class=\"e\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
         <text class=\"e {}\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>{}</g>",
        escaped(&says),
        y.saturating_sub(5),
        escaped(&link.text()),
        if is_plain { "alarm" } else { "p" },
        y.saturating_add(11),
        escaped(&protection),
        if is_plain || protection.is_empty() {
            String::new()
        } else {
            lock(x.saturating_sub(34), y.saturating_add(2))
        }
    );
}

/// A closed lock, ten by ten.
fn lock(x: i64, y: i64) -> String {
    let (left, top, arch) = (x.saturating_sub(5), y.saturating_add(3), x.saturating_sub(3));
    format!("<path class=\"k\" d=\"M{left} {top}h10v7h-10zM{arch} {top}v-2a3 3 0 0 1 6 0v2\"/>")
}

/// Text for XML 1.0, which knows no control characters and two characters less.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in output::clean(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
