//! Finds rules that do not do what their author meant.

use super::model::{Policy, PolicyName};
use std::sync::Arc;

/// What is wrong with a rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FindingKind {
    /// Its time is over.
    Expired,
    /// It can match nobody.
    NoSource,
    /// Its conditions exclude each other.
    Impossible,
    /// A policy without rules.
    NoRules,
    /// Another rule of the same action covers it.
    Shadowed,
    /// An allow rule that deny rules cover wholly.
    Contradictory,
    /// Allows everything to everyone.
    OpenDoor,
}

impl FindingKind {
    /// A short, stable word.
    pub fn code(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NoSource => "no-source",
            Self::Impossible => "impossible",
            Self::NoRules => "no-rules",
            Self::Shadowed => "shadowed",
            Self::Contradictory => "contradictory",
            Self::OpenDoor => "open-door",
        }
    }
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// The policy.
    pub policy: PolicyName,
    /// The rule; `None`: the policy as a whole.
    pub rule: Option<Arc<str>>,
    /// The policy's file.
    pub file: Arc<str>,
    /// The rule's line.
    pub line: u32,
    /// The other rule that makes it so.
    pub because_of: Option<(PolicyName, Arc<str>)>,
    /// A sentence for people, which says what to do.
    pub message: String,
}

/// Looks at policies that apply to the same workload, in the order of evaluation. `now` is Unix seconds.
pub fn lint(_policies: &[Arc<Policy>], _now: u64) -> Vec<Finding> {
    Vec::new()
}
