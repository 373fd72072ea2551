//! Writes canonical YAML: block style, short lists of words in one line, quotes only where needed.
//!
//! The same tree always gives the same bytes, which is what makes "unchanged" a comparison of texts.

/// A value to write.
#[derive(Clone, Debug)]
pub(super) enum Yaml {
    /// A text; quoted when it would be read as something else.
    Text(String),
    /// A number or a truth value, as it is.
    Bare(String),
    List(Vec<Self>),
    Map(Map),
}

/// Fields in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Map(Vec<(String, Yaml)>);

/// A list in one line is at most so long.
const FLOW_CHARS_MAX: usize = 80;

impl Map {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds a field.
    #[must_use]
    pub(super) fn with(mut self, key: &str, value: impl Into<Yaml>) -> Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a field that there may be.
    #[must_use]
    pub(super) fn with_some(self, key: &str, value: Option<impl Into<Yaml>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Adds a list unless it is empty.
    #[must_use]
    pub(super) fn with_list(self, key: &str, entries: impl IntoIterator<Item = Yaml>) -> Self {
        let entries: Vec<Yaml> = entries.into_iter().collect();
        if entries.is_empty() { self } else { self.with(key, Yaml::List(entries)) }
    }

    /// The document.
    pub(super) fn document(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0, Lead::Indent);
        out
    }

    fn write(&self, out: &mut String, indent: usize, first: Lead) {
        let mut lead = first;
        for (key, value) in &self.0 {
            if lead == Lead::Indent {
                out.push_str(&" ".repeat(indent));
            }
            lead = Lead::Indent;
            out.push_str(&scalar(key));
            out.push(':');
            value.write_after_key(out, indent);
        }
    }
}

/// Whether the place for the next key is reached already, as after `- `.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lead {
    Indent,
    Here,
}

impl Yaml {
    /// A text.
    pub(super) fn text(value: impl ToString) -> Self {
        Self::Text(value.to_string())
    }

    /// A number or a truth value.
    pub(super) fn bare(value: impl ToString) -> Self {
        Self::Bare(value.to_string())
    }

    /// The value in one line, when it fits.
    fn inline(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(scalar(text)),
            Self::Bare(text) => Some(text.clone()),
            Self::Map(map) if map.0.is_empty() => Some("{}".to_owned()),
            Self::Map(_) => None,
            Self::List(entries) => {
                let is_word = |entry: &Self| matches!(entry, Self::Text(_) | Self::Bare(_));
                let words: Option<Vec<String>> =
                    entries.iter().map(|entry| entry.inline().filter(|_| is_word(entry))).collect();
                let line = format!("[{}]", words?.join(", "));
                (line.chars().count() <= FLOW_CHARS_MAX).then_some(line)
            }
        }
    }

    fn write_after_key(&self, out: &mut String, indent: usize) {
        let deeper = indent.saturating_add(2);
        if let Some(line) = self.inline() {
            out.push(' ');
            out.push_str(&line);
            out.push('\n');
            return;
        }
        out.push('\n');
        match self {
            Self::Map(map) => map.write(out, deeper, Lead::Indent),
            Self::List(entries) => {
                for entry in entries {
                    out.push_str(&" ".repeat(deeper));
                    out.push_str("- ");
                    match entry {
                        Self::Map(map) if !map.0.is_empty() => {
                            map.write(out, deeper.saturating_add(2), Lead::Here);
                        }
                        other => {
                            out.push_str(&other.inline().unwrap_or_default());
                            out.push('\n');
                        }
                    }
                }
            }
            Self::Text(_) | Self::Bare(_) => {}
        }
    }
}

impl From<Map> for Yaml {
    fn from(map: Map) -> Self {
        Self::Map(map)
    }
}

impl From<&str> for Yaml {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Yaml {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A text as a scalar.
fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// Whether any YAML reader, of version 1.1 or 1.2, in a list or not, reads the bare text as this text.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let starts_well =
        text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'/' || b == b'_');
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_./-@+*;=~: ".contains(&byte);
    let number_like = text.bytes().all(|b| b.is_ascii_digit() || b"_.:".contains(&b))
        || text.parse::<f64>().is_ok()
        || text.starts_with("0x")
        || text.starts_with("0o");
    starts_well
        && text.bytes().all(good)
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
        && !number_like
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || c == '\u{feff}' || c == '\u{2028}' || c == '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::super::document::SourceDocument;
    use super::super::tree;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_is_what_people_write() {
        let rule = Map::new()
            .with("name", "web may list")
            .with("from", Yaml::List(vec![Map::new().with("serviceAccount", "web").into()]))
            .with("ports", Yaml::List(vec![Yaml::bare(80), Yaml::text("8000-8099")]));
        let map = Map::new().with("a", Map::new().with("rules", Yaml::List(vec![rule.into()])));
        let expected = "a:\n  rules:\n    - name: web may list\n      from:\n        - serviceAccount: web\n      \
                        ports: [80, 8000-8099]\n";
        assert_eq!(map.document(), expected);
    }

    #[test]
    fn words_that_mean_something_else_are_quoted() {
        for text in [
            "", "true", "No", "null", "~", "1", "1.5", "0x1f", "1e3", "a: b", "a:", "- a", "*.a", "{id}",
            "a #b", "12:30",
        ] {
            assert!(scalar(text).starts_with('"'), "{text:?}");
        }
        for text in
            ["web", "/v1/*", "spiffe://m/ns/a/sa/b", "8000-8099", "10.0.0.0/8", "2027-01-31T18:00:00Z"]
        {
            assert_eq!(scalar(text), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_survives(key in ".{0,40}", text in ".{0,60}", other in "[a-z0-9~.:#*-]{0,8}") {
            let list = Yaml::List(vec![Yaml::text(&text), Yaml::text(&other)]);
            let yaml = Map::new().with(&key, text.as_str()).with("list", list).document();
            let document = SourceDocument { file: String::new(), line: 1, yaml: yaml.clone() };
            let root = tree::read(&document).map_err(|problem| TestCaseError::fail(format!("{problem}\n{yaml}")))?;
            prop_assert_eq!(root.peek(&key).and_then(tree::Node::scalar), Some(text.as_str()));
            let list = root.peek("list").map(|node| format!("{node:?}")).unwrap_or_default();
            prop_assert!(list.contains(&format!("Scalar({other:?})")), "{}", list);
        }
    }
}
