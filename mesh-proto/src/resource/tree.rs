//! YAML text as a tree that knows its lines: scalars keep their spelling, maps their order.
//!
//! `parse` reads a document with this; `reader` walks the tree. Nothing here knows a kind.
//!
//! # Why
//! A tree, not serde: derived deserialisation stops at the first mistake, loses how a scalar was spelled (`1.10` becomes
//! 1.1) and knows no line for a missing field. The parser below serde-saphyr gives events; what resources do not need is
//! refused here (anchors, aliases, tags), so that no small text can become a large tree.

use super::document::{DOCUMENT_BYTES_MAX, SourceDocument};
use super::problem::{Code, Problem, Severity};
use serde_saphyr::granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, Tag};

/// The deepest legal document (a name within an instance within `from`) has eight levels.
const DEPTH_MAX: usize = 16;
/// More nodes than a document of full size with ordinary content has.
const NODES_MAX: usize = 200_000;

/// A value and its line in the file.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) value: Value,
}

/// What stands there.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A word, a number, a text: as spelled.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One line of a map.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u32,
    pub(super) node: Node,
}

impl Node {
    /// The value of a key, when this is a map that has it.
    pub(super) fn peek(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// The fields, when this is a map.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Scalar(_) | Value::List(_) => &[],
        }
    }

    /// The entries, when this is a list.
    pub(super) fn list(&self) -> &[Self] {
        match &self.value {
            Value::List(nodes) => nodes,
            Value::Null | Value::Scalar(_) | Value::Map(_) => &[],
        }
    }

    /// The text, when this is a scalar.
    pub(super) fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }
}

/// Reads the one node of a document.
pub(super) fn read(document: &SourceDocument) -> Result<Node, Problem> {
    let mut builder = Builder { document, open: Vec::new(), root: None, nodes: 0 };
    if document.yaml.len() > DOCUMENT_BYTES_MAX {
        let size = document.yaml.len();
        let message =
            format!("the document has {size} bytes; at most {DOCUMENT_BYTES_MAX} are allowed, split it");
        return Err(builder.problem(Code::TooLarge, document.line, message));
    }
    for event in Parser::new_from_str(&document.yaml) {
        let (event, span) = event.map_err(|error| builder.syntax(&error))?;
        builder.take(event, span)?;
    }
    let message = "the document is empty".to_owned();
    builder.root.take().ok_or_else(|| builder.problem(Code::Syntax, document.line, message))
}

enum Open {
    List { line: u32, nodes: Vec<Node> },
    Map { line: u32, entries: Vec<Entry>, key: Option<(String, u32)> },
}

struct Builder<'d> {
    document: &'d SourceDocument,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let line = self.line(&span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_extras(line, anchor, tag.as_deref())?;
                let is_null =
                    style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if is_null { Value::Null } else { Value::Scalar(text.into_owned()) };
                self.close(Node { line, value })
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_extras(line, anchor, tag.as_deref())?;
                self.open(Open::List { line, nodes: Vec::new() })
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_extras(line, anchor, tag.as_deref())?;
                self.open(Open::Map { line, entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { line, nodes }) => self.close(Node { line, value: Value::List(nodes) }),
                Some(Open::Map { line, entries, .. }) => {
                    self.close(Node { line, value: Value::Map(entries) })
                }
                None => {
                    Err(self.problem(Code::Syntax, line, "a list or map ends that never began".to_owned()))
                }
            },
            Event::Alias(_) => Err(self.no_anchors(line)),
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(self.problem(Code::Syntax, line, "a second document begins here".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn refuse_extras(&self, line: u32, anchor: usize, tag: Option<&Tag>) -> Result<(), Problem> {
        if anchor != 0 {
            return Err(self.no_anchors(line));
        }
        if tag.is_some() {
            return Err(self.problem(
                Code::Syntax,
                line,
                "tags (!…) are not used in resources; remove it".to_owned(),
            ));
        }
        Ok(())
    }

    fn open(&mut self, open: Open) -> Result<(), Problem> {
        if self.open.len() >= DEPTH_MAX {
            let (Open::List { line, .. } | Open::Map { line, .. }) = open;
            let message = format!("the document is nested deeper than {DEPTH_MAX} levels");
            return Err(self.problem(Code::TooLarge, line, message));
        }
        self.open.push(open);
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn close(&mut self, node: Node) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > NODES_MAX {
            let message = format!("the document has more than {NODES_MAX} values; split it");
            return Err(self.problem(Code::TooLarge, node.line, message));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { nodes, .. }) => nodes.push(node),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                Some((key, line)) => {
                    // An empty value has no place of its own: the parser gives the next token's.
                    let value_line = if matches!(node.value, Value::Null) { line } else { node.line };
                    entries.push(Entry { key, line, node: Node { line: value_line, ..node } });
                }
                None => {
                    let Value::Scalar(text) = node.value else {
                        let message = "a field's name must be a word".to_owned();
                        return Err(self.problem(Code::Syntax, node.line, message));
                    };
                    *key = Some((text, node.line));
                }
            },
        }
        Ok(())
    }

    fn line(&self, span: &Span) -> u32 {
        let within = u32::try_from(span.start.line()).unwrap_or(u32::MAX).saturating_sub(1);
        self.document.line.saturating_add(within)
    }

    fn no_anchors(&self, line: u32) -> Problem {
        let message = "anchors and aliases (&…, *…) are not used in resources; write the value out, and quote a text \
                       that begins with '*' or '&'";
        self.problem(Code::Syntax, line, message.to_owned())
    }

    fn syntax(&self, error: &ScanError) -> Problem {
        let within = u32::try_from(error.marker().line()).unwrap_or(u32::MAX).saturating_sub(1);
        let line = self.document.line.saturating_add(within);
        if *error.kind() == ErrorKind::UnknownAnchor {
            return self.no_anchors(line);
        }
        self.problem(Code::Syntax, line, format!("not YAML: {}", error.info()))
    }

    fn problem(&self, code: Code, line: u32, message: String) -> Problem {
        let file = self.document.file.as_str().into();
        Problem { severity: Severity::Error, code, file, line, field: String::new(), value: None, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(yaml: &str) -> Result<Node, Problem> {
        read(&SourceDocument { file: "f".to_owned(), line: 10, yaml: yaml.to_owned() })
    }

    #[test]
    fn spelling_and_lines_are_kept() {
        let root = read_text("a: 1.10\nb:\n  - true\n  - \"null\"\n  - ~\nc:\nd: x\n").unwrap();
        assert_eq!(root.peek("a").unwrap().scalar(), Some("1.10"));
        let Value::List(list) = &root.peek("b").unwrap().value else { panic!("a list") };
        assert_eq!(list.iter().map(|node| node.line).collect::<Vec<_>>(), [12, 13, 14]);
        assert_eq!(list[1].scalar(), Some("null"));
        assert!(matches!(list[2].value, Value::Null));
        assert_eq!(root.peek("c").unwrap().line, 15);
    }

    #[test]
    fn bombs_are_refused_before_they_grow() {
        let bomb = "a: &a [x,x]\nb: &b [*a,*a]\n";
        assert_eq!(read_text(bomb).unwrap_err().code, Code::Syntax);
        assert_eq!(read_text(&"- ".repeat(100)).unwrap_err().code, Code::TooLarge);
        // Very deep ones reach a limit of the parser first.
        assert!(read_text(&"[".repeat(100_000)).is_err());
        assert!(read_text(&"- ".repeat(100_000)).is_err());
        assert_eq!(read_text(&"x,".repeat(1 << 20)).unwrap_err().code, Code::TooLarge);
        let many = format!("[{}]", "x,".repeat(300_000));
        assert_eq!(read_text(&many).unwrap_err().code, Code::TooLarge);
    }
}
