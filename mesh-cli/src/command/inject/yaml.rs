//! JSON values as YAML that every reader takes alike, those of YAML 1.1 included.
//!
//! # Why
//! kubectl reads YAML 1.1, where `yes`, `on`, `0x10` and `12:30` are no texts. So a text stands without quotes only where no
//! version could take it for anything else; all others are JSON strings, which are YAML in every version.

use serde_json::Value;

/// The document, with a line end.
pub(crate) fn write(value: &Value) -> String {
    let mut out = String::new();
    node(&mut out, value, 0, Line::Open);
    out
}

/// What stands on the line already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Nothing, so that a map may begin in it.
    Open,
    /// A key, or the sign of a list's entry.
    Begun,
}

/// Writes a value behind what introduces it.
fn node(out: &mut String, value: &Value, indent: usize, line: Line) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            if line == Line::Begun {
                out.push('\n');
            }
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 || line == Line::Begun {
                    pad(out, indent);
                }
                out.push_str(&scalar(key));
                out.push(':');
                // A list under a key stands at the key's own depth, as kubectl writes it.
                let inner = if value.is_array() { indent } else { indent.saturating_add(2) };
                node(out, value, inner, Line::Begun);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            if line == Line::Begun {
                out.push('\n');
            }
            for (index, value) in list.iter().enumerate() {
                if index > 0 || line == Line::Begun {
                    pad(out, indent);
                }
                out.push('-');
                let is_nested = value.as_object().is_some_and(|map| !map.is_empty())
                    || value.as_array().is_some_and(|list| !list.is_empty());
                let line = if is_nested { Line::Open } else { Line::Begun };
                if is_nested {
                    out.push(' ');
                }
                node(out, value, indent.saturating_add(2), line);
            }
        }
        Value::String(text) if is_block(text) => block(out, text, indent),
        other => {
            if line == Line::Begun {
                out.push(' ');
            }
            out.push_str(&match other {
                Value::String(text) => scalar(text),
                // Empty maps and lists, numbers, truth values, null: as in JSON.
                other => other.to_string(),
            });
            out.push('\n');
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn scalar(text: &str) -> String {
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte))
        && !words.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { Value::from(text).to_string() }
}

/// A script or a file of several lines, which nobody wants to read in quotes.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    body.contains('\n')
        && !body.starts_with([' ', '\n', '\t'])
        && !body.ends_with('\n')
        && body.chars().all(|character| character == '\n' || !character.is_control())
        && !body.contains(['\u{85}', '\u{2028}', '\u{2029}', '\u{feff}'])
}

fn block(out: &mut String, text: &str, indent: usize) {
    out.push_str(if text.ends_with('\n') { " |\n" } else { " |-\n" });
    for line in text.lines() {
        if !line.is_empty() {
            pad(out, indent.max(2));
            out.push_str(line);
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for value in [
            json!({"a": 1, "b": {"c": [1, "two", {"d": null, "e": []}, [1, [2]], {}], "f": {}}, "g": true}),
            json!({"words": ["yes", "On", "null", "~", "", "12:30", "0x10", "1e3", "-", "a: b", "a #b", "*x", "é", "\u{0}", " x ", "TRUE"]}),
            json!({"script": "set -e\n  run \"it\"\n\nend\n", "cut": "a\nb", "odd": " a\nb", "list": ["x\ny\n", "\n"], "tab": "a\n\tb"}),
            json!({"yes": "key", "a b": "key", "": "key", "app.kubernetes.io/name": "x"}),
            json!([1, {"a": ["b"]}]),
            json!("text"),
            json!({}),
        ] {
            let text = write(&value);
            let read: Value = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(read, value, "{text}");
        }
        assert_eq!(write(&json!({"a": [{"b": "yes", "c": "d/e-1"}]})), "a:\n- b: \"yes\"\n  c: d/e-1\n");
    }
}
