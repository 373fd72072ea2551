//! What became of resources: one line for each, its difference, and the findings.
//!
//! Used by `apply`, `delete`, `diff`, `history` and `rollback`.

use crate::output::{self, Tone};
use mesh_proto::wire::v1;
use serde::Serialize;

/// Whether the changes were made or would be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// They were made.
    Made,
    /// Nothing was changed.
    DryRun,
}

/// One resource's change, as scripts see it.
#[derive(Serialize)]
pub(crate) struct ChangeOut {
    kind: String,
    namespace: String,
    name: String,
    verb: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    diff: String,
}

/// One finding, as scripts see it.
#[derive(Serialize)]
pub(crate) struct FindingOut {
    severity: String,
    code: String,
    file: String,
    line: u32,
    field: String,
    message: String,
}

impl From<v1::Change> for ChangeOut {
    fn from(change: v1::Change) -> Self {
        let v1::Change { kind, namespace, name, verb, diff } = change;
        Self { kind, namespace, name, verb, diff }
    }
}

impl From<v1::Finding> for FindingOut {
    fn from(finding: v1::Finding) -> Self {
        let v1::Finding { severity, code, file, line, field, message } = finding;
        Self { severity, code, file, line, field, message }
    }
}

impl ChangeOut {
    /// `accesspolicy/shop/web`, which other commands take.
    pub(crate) fn object(&self) -> String {
        let kind = self.kind.to_ascii_lowercase();
        if self.namespace.is_empty() {
            format!("{kind}/{}", self.name)
        } else {
            format!("{kind}/{}/{}", self.namespace, self.name)
        }
    }

    /// Whether anything is different.
    pub(crate) fn is_change(&self) -> bool {
        self.verb != "unchanged"
    }

    /// `accesspolicy/shop/web configured`.
    pub(crate) fn line(&self) -> String {
        let tone = match self.verb.as_str() {
            "created" => Tone::Good,
            "configured" => Tone::Warn,
            "deleted" => Tone::Bad,
            _ => Tone::Dim,
        };
        format!("{} {}", output::clean(&self.object()), output::paint(tone, &output::clean(&self.verb)))
    }

    /// The difference, coloured; empty when there is none.
    pub(crate) fn painted_diff(&self) -> String {
        output::paint_diff(&self.diff)
    }
}

impl FindingOut {
    /// `shop.yaml:12: warning: spec.rules[0]: … (shadowed-rule)`.
    pub(crate) fn line(&self) -> String {
        let place = match (self.file.as_str(), self.line) {
            ("", 0) => String::new(),
            ("", line) => format!("line {line}: "),
            (file, 0) => format!("{file}: "),
            (file, line) => format!("{file}:{line}: "),
        };
        let field = if self.field.is_empty() { String::new() } else { format!("{}: ", self.field) };
        let tone = if self.severity == "error" { Tone::Bad } else { Tone::Warn };
        let severity = output::paint(tone, &format!("{}:", output::clean(&self.severity)));
        let rest = format!("{field}{} ({})", self.message, self.code);
        format!("{}{severity} {}", output::clean(&place), output::clean(&rest))
    }
}
