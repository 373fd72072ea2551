//! Folded stacks as a flame graph: an SVG of boxes, each as wide as its share, with its name and share as a tooltip.
//!
//! # Why
//! A hundred lines instead of a package that this tool alone would need; nothing in it is interactive but the tooltips.

use std::collections::BTreeMap;
use std::fmt::Write;

const WIDTH: f64 = 1600.0;
const ROW: f64 = 17.0;
/// Narrower boxes are left out: they cannot be read.
const NARROWEST: f64 = 1.0;
/// Width of a character at the size that is used.
const CHARACTER: f64 = 6.6;

#[derive(Default)]
struct Node {
    count: u64,
    below: BTreeMap<String, Self>,
}

/// The picture.
pub(super) fn svg(title: &str, stacks: &BTreeMap<String, u64>) -> String {
    let mut all = Node::default();
    let mut depth = 0_u32;
    for (stack, count) in stacks {
        let mut node = &mut all;
        node.count += count;
        let mut levels = 0;
        for frame in stack.split(';') {
            node = node.below.entry(frame.to_owned()).or_default();
            node.count += count;
            levels += 1;
        }
        depth = depth.max(levels);
    }
    let height = f64::from(depth + 2) * ROW;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/><text x=\"4\" y=\"13\">{}</text>\n",
        escaped(title)
    );
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    let scale = WIDTH / all.count.max(1) as f64;
    draw(&all, (0.0, height - ROW), scale, &mut text);
    text.push_str("</svg>\n");
    text
}

/// Draws what is below a node, bottom up.
fn draw(node: &Node, (left, bottom): (f64, f64), scale: f64, text: &mut String) {
    let mut x = left;
    for (name, child) in &node.below {
        #[expect(clippy::cast_precision_loss, reason = "a picture")]
        let width = child.count as f64 * scale;
        if width >= NARROWEST {
            // The name's bytes choose among warm colours, so that a function looks the same in two pictures.
            let hue = name.bytes().fold(0_u32, |sum, byte| (sum * 31 + u32::from(byte)) % 60);
            let shown: String = name.chars().take(letters(width)).collect();
            _ = writeln!(
                text,
                "<g><title>{} ({} samples, {:.1} %)</title><rect x=\"{x:.1}\" y=\"{bottom:.1}\" width=\"{width:.1}\" height=\"16\" \
                 fill=\"hsl({hue},80%,70%)\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
                escaped(name),
                child.count,
                width / WIDTH * 100.0,
                x + 2.0,
                bottom + 12.0,
                escaped(&shown)
            );
            draw(child, (x, bottom - ROW), scale, text);
        }
        x += width;
    }
}

/// How many letters fit into a box.
fn letters(width: f64) -> usize {
    let mut room = width - 4.0;
    let mut count = 0;
    while room >= CHARACTER {
        room -= CHARACTER;
        count += 1;
    }
    count
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_as_wide_as_their_share_and_names_are_escaped() {
        let stacks = [("main;f<T>".to_owned(), 3), ("main;g".to_owned(), 1)].into_iter().collect();
        let text = svg("test", &stacks);
        assert!(text.contains("f&lt;T&gt; (3 samples, 75.0 %)"), "{text}");
        assert!(text.contains("g (1 samples, 25.0 %)"), "{text}");
    }
}
