//! Walks a document's tree, and keeps every problem with its line and field.
//!
//! The kinds read their fields with this. A step that fails reports and gives `None`; the reading goes on with the next
//! field, so that a user sees all mistakes at once.

use super::problem::{Code, Problem, Severity};
use super::suggest::nearest;
use super::tree::{Node, Value};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

/// After so many problems a document is not worth more lines on the screen.
const PROBLEMS_MAX: usize = 50;
/// The longest text of any field, in bytes; fields with a shorter limit have it in their types.
const TEXT_BYTES_MAX: usize = 4096;

/// Collects the problems of one document.
#[derive(Debug)]
pub(super) struct Reader {
    file: Arc<str>,
    problems: Vec<Problem>,
    unshown: usize,
}

/// A value and the path that leads to it.
#[derive(Clone, Debug)]
pub(super) struct At<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
}

/// A map whose keys were checked.
#[derive(Clone, Debug)]
pub(super) struct Fields<'n> {
    at: At<'n>,
}

impl<'n> At<'n> {
    /// The line of the value.
    pub(super) fn line(&self) -> u32 {
        self.node.line
    }

    fn below(&self, key: &str, node: &'n Node) -> Self {
        let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
        // A key of the user's choice must not reach a terminal as it is.
        let path = match (self.path.is_empty(), plain) {
            (_, false) => format!("{}[{key:?}]", self.path),
            (true, true) => key.to_owned(),
            (false, true) => format!("{}.{key}", self.path),
        };
        At { node, path }
    }
}

impl<'n> Fields<'n> {
    /// A field that may be left out.
    pub(super) fn optional(&self, key: &str) -> Option<At<'n>> {
        self.at.node.peek(key).map(|node| self.at.below(key, node))
    }

    /// A field that must be there; `hint` says what to write.
    pub(super) fn required(&self, reader: &mut Reader, key: &str, hint: &str) -> Option<At<'n>> {
        let found = self.optional(key);
        if found.is_none() {
            let missing = self.at.below(key, self.at.node);
            reader.error(&missing, Code::MissingField, format!("is missing; {hint}"));
        }
        found
    }

    /// The keys that are there, among those given, in that order.
    pub(super) fn present<'k>(&self, keys: &[&'k str]) -> Vec<&'k str> {
        keys.iter().copied().filter(|key| self.at.node.peek(key).is_some()).collect()
    }

    /// Whether it has no field at all.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.at.node.value, Value::Map(entries) if entries.is_empty())
    }

    /// The map itself, for problems that belong to no single field.
    pub(super) fn whole(&self) -> &At<'n> {
        &self.at
    }
}

impl Reader {
    pub(super) fn new(file: Arc<str>) -> Self {
        Self { file, problems: Vec::new(), unshown: 0 }
    }

    /// The file that is read.
    pub(super) fn file(&self) -> Arc<str> {
        Arc::clone(&self.file)
    }

    /// All problems in the order of their lines.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.line);
        if self.unshown > 0 {
            let line = self.problems.last().map_or(0, |problem| problem.line);
            self.problems.push(Problem {
                severity: Severity::Error,
                code: Code::TooLarge,
                file: self.file,
                line,
                field: String::new(),
                value: None,
                message: format!("and {} more problems in this document", self.unshown),
            });
        }
        self.problems
    }

    /// Keeps a problem with a value's place.
    pub(super) fn error(&mut self, at: &At<'_>, code: Code, message: impl Into<String>) {
        if self.problems.len() >= PROBLEMS_MAX {
            self.unshown = self.unshown.saturating_add(1);
            return;
        }
        self.problems.push(Problem {
            severity: Severity::Error,
            code,
            file: Arc::clone(&self.file),
            line: at.line(),
            field: at.path.clone(),
            value: at.node.scalar().map(Problem::shown),
            message: message.into(),
        });
    }

    /// Opens a map: reports what is no map, fields that do not exist, and fields that stand there twice.
    pub(super) fn fields<'n>(&mut self, at: At<'n>, allowed: &[&str]) -> Option<Fields<'n>> {
        let Value::Map(entries) = &at.node.value else {
            if !self.was_reported_empty(&at) {
                let message =
                    format!("{}; expected a map with {}", described(at.node), listed(allowed, "and"));
                self.error(&at, Code::WrongType, message);
            }
            return None;
        };
        for (index, entry) in entries.iter().enumerate() {
            let field = At { path: at.below(&Problem::shown(&entry.key), at.node).path, node: &entry.node };
            let here = At { node: &Node { line: entry.line, value: Value::Null }, path: field.path.clone() };
            if !allowed.contains(&entry.key.as_str()) {
                let meant = nearest(&entry.key, allowed.iter().copied());
                let meant = meant.map(|word| format!("did you mean {word}? ")).unwrap_or_default();
                let message =
                    format!("there is no such field; {meant}allowed are {}", listed(allowed, "and"));
                self.error(&here, Code::UnknownField, message);
            } else if let Some(first) = entries.iter().take(index).find(|other| other.key == entry.key) {
                let message = format!("stands here twice, first on line {}; keep one", first.line);
                self.error(&here, Code::Duplicate, message);
            } else if matches!(entry.node.value, Value::Null) {
                self.error(&here, Code::WrongType, "is empty; write a value or remove the line");
            }
        }
        Some(Fields { at })
    }

    /// Opens a map with keys of the user's choice; empty values are empty texts.
    pub(super) fn text_map<'n>(&mut self, at: &At<'n>) -> Option<Vec<(At<'n>, &'n str, &'n str)>> {
        let Value::Map(entries) = &at.node.value else {
            if !self.was_reported_empty(at) {
                let message =
                    format!("{}; expected a map of texts, for instance {{app: web}}", described(at.node));
                self.error(at, Code::WrongType, message);
            }
            return None;
        };
        let mut pairs: Vec<(At<'n>, &'n str, &'n str)> = Vec::new();
        for entry in entries {
            let field = at.below(&Problem::shown(&entry.key), &entry.node);
            if pairs.iter().any(|(_, key, _)| *key == entry.key) {
                self.error(&field, Code::Duplicate, "stands here twice; keep one");
                continue;
            }
            match &entry.node.value {
                Value::Scalar(text) => pairs.push((field, &entry.key, text)),
                Value::Null | Value::List(_) | Value::Map(_) => {
                    let message = format!("{}; expected a text", described(&entry.node));
                    self.error(&field, Code::WrongType, message);
                }
            }
        }
        Some(pairs)
    }

    /// Opens a list of 1 to `max` entries.
    pub(super) fn list<'n>(&mut self, at: &At<'n>, max: usize) -> Option<Vec<At<'n>>> {
        let Value::List(nodes) = &at.node.value else {
            if !self.was_reported_empty(at) {
                let hint = match at.node.scalar() {
                    Some(text) => format!("write [{}]", Problem::shown(text)),
                    None => "each entry begins with '- '".to_owned(),
                };
                let message = format!("{}; expected a list; {hint}", described(at.node));
                self.error(at, Code::WrongType, message);
            }
            return None;
        };
        if nodes.is_empty() {
            self.error(at, Code::InvalidValue, "is an empty list; write an entry or remove the field");
            return None;
        }
        if nodes.len() > max {
            let message = format!("has {} entries; at most {max} are allowed", nodes.len());
            self.error(at, Code::TooLarge, message);
            return None;
        }
        let entry = |(index, node)| At { node, path: format!("{}[{index}]", at.path) };
        Some(nodes.iter().enumerate().map(entry).collect())
    }

    /// Reads every entry of a list; `None` when any of them has a problem.
    pub(super) fn each<'n, T>(
        &mut self,
        at: &At<'n>,
        max: usize,
        mut read: impl FnMut(&mut Self, At<'n>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let entries = self.list(at, max)?;
        let count = entries.len();
        let read: Vec<T> = entries.into_iter().filter_map(|entry| read(self, entry)).collect();
        (read.len() == count).then_some(read)
    }

    /// A text, a word or a number, as spelled.
    pub(super) fn text<'n>(&mut self, at: &At<'n>) -> Option<&'n str> {
        match &at.node.value {
            Value::Scalar(text) if text.len() <= TEXT_BYTES_MAX => Some(text),
            Value::Scalar(text) => {
                let message = format!("has {} bytes; at most {TEXT_BYTES_MAX} are allowed", text.len());
                self.error(at, Code::TooLarge, message);
                None
            }
            Value::Null | Value::List(_) | Value::Map(_) if self.was_reported_empty(at) => None,
            Value::Null | Value::List(_) | Value::Map(_) => {
                let message = format!("{}; expected a single value", described(at.node));
                self.error(at, Code::WrongType, message);
                None
            }
        }
    }

    /// An empty field was reported when its map was opened; an entry of a list, or the whole document, was not.
    fn was_reported_empty(&self, at: &At<'_>) -> bool {
        matches!(at.node.value, Value::Null) && !at.path.is_empty() && !at.path.ends_with(']')
    }

    /// A text that a type of the domain understands.
    pub(super) fn parse<T>(&mut self, at: &At<'_>) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        match self.text(at)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(at, Code::InvalidValue, error.to_string());
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, at: &At<'_>) -> Option<bool> {
        self.word(at, &[("true", true), ("false", false)])
    }

    /// `true`, and nothing else: for fields that say something by being there.
    pub(super) fn only_true(&mut self, at: &At<'_>) -> Option<()> {
        match self.text(at)? {
            "true" => Some(()),
            other => {
                let message =
                    format!("{:?} is not allowed; write true, or leave the field out", Problem::shown(other));
                self.error(at, Code::InvalidValue, message);
                None
            }
        }
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&mut self, at: &At<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(at)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        // With one word to choose from, it is named anyway.
        let meant = nearest(text, names.iter().copied()).filter(|_| names.len() > 1);
        let meant = meant.map(|word| format!("did you mean {word}? ")).unwrap_or_default();
        let message =
            format!("{:?} is not allowed; {meant}write {}", Problem::shown(text), listed(&names, "or"));
        self.error(at, Code::InvalidValue, message);
        None
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, at: &At<'_>, bounds: RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(at)?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if plain { text.parse().ok() } else { None };
        let number = number.filter(|number| bounds.contains(number));
        if number.is_none() {
            let message = format!(
                "{:?} is not allowed; write a whole number from {} to {}",
                Problem::shown(text),
                bounds.start(),
                bounds.end()
            );
            self.error(at, Code::InvalidValue, message);
        }
        number
    }
}

/// What a node is, as the start of a sentence.
fn described(node: &Node) -> &'static str {
    match node.value {
        Value::Null => "is empty",
        Value::Scalar(_) => "is a single value",
        Value::List(_) => "is a list",
        Value::Map(_) => "is a map",
    }
}

/// `a, b and c`.
pub(super) fn listed(words: &[&str], joined_by: &str) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} {joined_by} {last}", first.join(", ")),
    }
}
