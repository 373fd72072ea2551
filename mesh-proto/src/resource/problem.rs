//! What is wrong with a document or between objects: one finding, with where, what and what is allowed.
//!
//! `parse` and `Catalog::check` make them; `meshctl` and the control plane print them. Nothing here decides.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

/// The longest offending value shown, in characters.
const VALUE_CHARS_MAX: usize = 120;

/// Whether a finding stops an apply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// The object is refused.
    Error,
    /// The object is accepted, and the user told.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// The stable name of a finding, for scripts and documentation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Code {
    /// Not YAML, or YAML that resources do not use (anchors, tags).
    Syntax,
    /// Too big, too deep, too many.
    TooLarge,
    /// A field that does not exist.
    UnknownField,
    /// A field that must be there is not.
    MissingField,
    /// A list where a word was expected, or the like.
    WrongType,
    /// A value that is not allowed.
    InvalidValue,
    /// The same thing twice.
    Duplicate,
    /// Fields that exclude each other, or a field that needs another.
    Conflict,
    /// Says something that the mesh cannot enforce.
    NotEnforceable,
    /// Refers to an object that does not exist.
    UnknownReference,
    /// No workload is meant at present.
    NoMatch,
    /// Another rule decides first, always.
    ShadowedRule,
    /// Two rules say the opposite of the same thing.
    Contradiction,
    /// Changes nothing.
    NoEffect,
    /// Opens more than is wise.
    OpenDoor,
}

impl Code {
    /// In kebab case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::TooLarge => "too-large",
            Self::UnknownField => "unknown-field",
            Self::MissingField => "missing-field",
            Self::WrongType => "wrong-type",
            Self::InvalidValue => "invalid-value",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::NotEnforceable => "not-enforceable",
            Self::UnknownReference => "unknown-reference",
            Self::NoMatch => "no-match",
            Self::ShadowedRule => "shadowed-rule",
            Self::Contradiction => "contradiction",
            Self::NoEffect => "no-effect",
            Self::OpenDoor => "open-door",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Problem {
    /// Whether it stops an apply.
    pub severity: Severity,
    /// Its stable name.
    pub code: Code,
    /// The file as the user named it; empty when there is none.
    pub file: Arc<str>,
    /// The line in it, from 1; 0 when unknown.
    pub line: u32,
    /// The path of the field, for instance `spec.rules[0].to[1].paths[0]`; empty for the whole document.
    pub field: String,
    /// The offending value, if there is one.
    pub value: Option<String>,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl Problem {
    /// The value as it is shown: cut, and without control characters, which must not reach a terminal.
    pub(crate) fn shown(value: &str) -> String {
        let mut text: String = value.chars().take(VALUE_CHARS_MAX).collect();
        let is_cut = text.len() < value.len();
        text = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        if is_cut {
            text.push('…');
        }
        text
    }

    /// Whether it stops an apply.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    /// One line: `shop.yaml:12: spec.rules[0].action: "alow" is not allowed; …`, with `warning: ` before a warning.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.file, self.line) {
            ("", 0) => {}
            ("", line) => write!(f, "line {line}: ")?,
            (file, 0) => write!(f, "{file}: ")?,
            (file, line) => write!(f, "{file}:{line}: ")?,
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// All findings as text for a person, each followed by its line of the source, where `source` has it.
///
/// `source` gives a file's text by name; `None` when it is not at hand.
pub fn render<'a>(problems: &[Problem], source: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut out = String::new();
    for problem in problems {
        let lines = files
            .entry(&problem.file)
            .or_insert_with(|| source(&problem.file).map(|text| text.lines().collect()).unwrap_or_default());
        let index = usize::try_from(problem.line).ok().and_then(|line| line.checked_sub(1));
        let text = index.and_then(|index| lines.get(index));
        let _ = writeln!(out, "{problem}");
        if let Some(text) = text {
            let text: String = text.chars().filter(|c| !c.is_control()).take(160).collect();
            let _ = writeln!(out, "  {:>4} | {text}", problem.line);
        }
    }
    out
}
