//! Says why a request is decided as it is, and what comes nearest to deciding it otherwise.
//!
//! `meshctl explain` prints an [`Explanation`] for a past decision or a hypothetical request; the control plane makes it.
//! The decision in it is the evaluator's own walk, watched; nothing here decides. Values of credential headers are never
//! shown.
//!
//! # Why
//! "Access denied" without a rule is the most frequent complaint about meshes. Peers name the rule that denied; when
//! *no rule allows*, there is none, and their users are left to read all of them. So each rule says which conditions failed,
//! and the one with the least to change is named with that change. Distance counts failed conditions first, then how hard
//! each is to change (a method is nearer than a caller), then how far apart the values are.

mod condition;
mod nearest;

use super::compile::{Entry, PolicySet};
use super::evaluate::{
    Condition, Decision, DenyReason, Facts, Fails, Match, Request, RuleRef, SourceFacts, Watch,
};
use super::model::{Action, Mode, PolicyName, Scope};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Why a request is decided as it is. [`fmt::Display`] renders it for a terminal: several lines, the last without its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The decision, the same as [`PolicySet::authorize`] makes.
    pub decision: Decision,
    /// What an audit-mode policy would have done.
    pub audited: Option<(Action, RuleRef)>,
    /// One sentence: what was asked.
    pub question: String,
    /// One sentence: what was decided, and by what.
    pub summary: String,
    /// Every rule that was considered, in the order of evaluation. Stages after the deciding one are not reached.
    pub rules: Vec<ExplainedRule>,
    /// How many enforced rules were not reached, since an earlier stage decided.
    pub not_reached: usize,
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
    /// The file of its policy; empty when unknown.
    pub file: Arc<str>,
    /// Its line there; 0 when unknown.
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
    /// The conditions that failed, as clauses ("method is GET, not POST"), in the order of checking; those of the
    /// operation that comes nearest. Empty when it matched; a deny rule that matched since it could not be judged says so.
    pub misses: Vec<String>,
}

/// What comes nearest to allowing a refused request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NearestMiss {
    /// The rule that would have to be otherwise; `None` when no rule comes near.
    pub rule: Option<RuleRef>,
    /// One sentence: what would have to be otherwise.
    pub sentence: String,
    /// The smallest change of the policies that would let the request pass, with the YAML to write; empty when it is not
    /// a matter of policies.
    pub change: String,
}

/// How many rules are printed: what fits a terminal. [`Explanation::rules`] has all.
const RULES_SHOWN_MAX: usize = 40;

/// What the walk saw of one entry.
pub(super) struct Checked {
    entry: u32,
    found: Match,
    failed: Vec<Condition>,
}

/// Wants to see everything.
#[derive(Default)]
pub(super) struct Recorder(Vec<Checked>);

#[derive(Default)]
pub(super) struct Collected(Vec<Condition>);

impl Watch for Recorder {
    type Fails = Collected;
    const EVERY_RULE: bool = true;

    fn checked(&mut self, entry: u32, found: Match, fails: Collected) {
        self.0.push(Checked { entry, found, failed: fails.0 });
    }
}

impl Fails for Collected {
    fn failed(&mut self, condition: Condition) -> ControlFlow<()> {
        self.0.push(condition);
        ControlFlow::Continue(())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PolicySet {
    /// Says why a request is decided as it is.
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let standing = self.standing(&request.source);
        let facts = self.facts(&standing, request);
        let mut recorder = Recorder::default();
        let (decision, audited) = self.walk(&facts, &mut recorder);
        let rules = self.explained(&recorder.0, &decision, request);
        let enforced = |rule: &&ExplainedRule| rule.mode == Mode::Enforce;
        let seen = rules.iter().filter(enforced).count();
        let policies = self.inputs.policies.iter().filter(|policy| policy.mode == Mode::Enforce);
        let all: usize = policies.map(|policy| policy.rules.len()).sum();
        Explanation {
            audited,
            question: question(request),
            summary: self.summary(&decision, request),
            rules,
            not_reached: all.saturating_sub(seen),
            nearest_miss: match &decision {
                Decision::Allowed(_) => None,
                Decision::Denied(denial) => self.nearest_miss(denial, &facts, &recorder.0),
            },
            decision,
        }
    }

    /// One line for each rule, from the entry of it that matched or came nearest.
    fn explained(
        &self,
        checked: &[Checked],
        decision: &Decision,
        request: &Request<'_>,
    ) -> Vec<ExplainedRule> {
        let decided = match decision {
            Decision::Allowed(by) => *by,
            Decision::Denied(denial) if denial.reason == DenyReason::GuardrailNotMet => None,
            Decision::Denied(denial) => denial.rule,
        };
        let rule_of = |checked: &Checked| self.entries.get(checked.entry as usize).map(|entry| entry.rule);
        let mut rules = Vec::new();
        for group in checked.chunk_by(|a, b| rule_of(a) == rule_of(b)) {
            let nearest = group.iter().min_by_key(|checked| self.distance(checked, request));
            let Some((checked, reference)) = nearest.and_then(|checked| Some((checked, rule_of(checked)?)))
            else {
                continue;
            };
            let Some(policy) = self.inputs.policies.get(reference.policy as usize) else { continue };
            let Some(rule) = self.rule(reference) else { continue };
            rules.push(ExplainedRule {
                rule: reference,
                policy: policy.name.clone(),
                name: Arc::clone(&rule.name),
                file: Arc::clone(&policy.file),
                line: rule.line,
                action: rule.action,
                mode: policy.mode,
                scope: policy.scope,
                matched: checked.found != Match::Misses,
                decided: decided == Some(reference),
                misses: self.clauses(checked, request),
            });
        }
        rules
    }

    fn clauses(&self, checked: &Checked, request: &Request<'_>) -> Vec<String> {
        let Some(entry) = self.entries.get(checked.entry as usize) else { return Vec::new() };
        if checked.found == Match::NeedsHttp {
            return vec![self.clause(Condition::NeedsHttp, entry, request)];
        }
        checked.failed.iter().map(|failed| self.clause(*failed, entry, request)).collect()
    }

    fn summary(&self, decision: &Decision, request: &Request<'_>) -> String {
        let denial = match decision {
            Decision::Allowed(Some(rule)) => return format!("allowed by {}", self.named(*rule)),
            Decision::Allowed(None) => {
                return "allowed by default: no rule denies it, and the mesh allows what no rule denies"
                    .to_owned();
            }
            Decision::Denied(denial) => denial,
        };
        let rule = denial.rule.map(|rule| self.named(rule)).unwrap_or_default();
        match denial.reason {
            DenyReason::Quarantined => {
                "denied: the caller's identity is quarantined or revoked, no rule is looked at".to_owned()
            }
            DenyReason::Isolated => match &self.inputs.isolation {
                Some(isolation) => format!(
                    "denied: the target is in segment {}{}, which does not accept the caller",
                    isolation.segment,
                    origin(&isolation.file, isolation.line)
                ),
                None => "denied: the target's segment does not accept the caller".to_owned(),
            },
            DenyReason::DeniedByRule => format!("denied by {rule}"),
            DenyReason::NeedsHttp => format!(
                "denied by {rule}: it can only be judged on HTTP, and the connection speaks {}",
                request.protocol.as_str()
            ),
            DenyReason::NameUnreadable => format!(
                "denied by {rule}: it asks for the server name, and the connection shows none that can be read"
            ),
            DenyReason::GuardrailNotMet => {
                let policy = denial.rule.and_then(|rule| self.describe(rule));
                let name = policy.map(|policy| policy.policy.to_string()).unwrap_or_default();
                format!("denied: guard-rail {name} must allow it too, and none of its allow rules does")
            }
            DenyReason::NoRuleAllows if self.inputs.policies.is_empty() => {
                "denied: no policy applies to the target, and what no rule allows is denied".to_owned()
            }
            DenyReason::NoRuleAllows => "denied: no rule allows it".to_owned(),
        }
    }

    /// `rule checkout of shop/pay (pay.yaml:12)`.
    fn named(&self, rule: RuleRef) -> String {
        let Some(about) = self.describe(rule) else { return "a rule".to_owned() };
        let word = if about.rule.starts_with("rule ") { "" } else { "rule " };
        format!("{word}{} of {}{}", about.rule, about.policy, origin(about.file, about.line))
    }

    fn entry_of(&self, checked: &Checked) -> Option<&Entry> {
        self.entries.get(checked.entry as usize)
    }

    /// Looks at a stage that the walk may not have reached.
    fn look_at(&self, stage: &super::index::Stage, facts: &Facts<'_>) -> (bool, Vec<Checked>) {
        let mut recorder = Recorder::default();
        let found = self.first(stage, facts, &mut recorder);
        (found.is_some(), recorder.0)
    }
}

/// ` (pay.yaml:12)`, or nothing when the file is unknown.
fn origin(file: &str, line: u32) -> String {
    match (file, line) {
        ("", _) => String::new(),
        (file, 0) => format!(" ({file})"),
        (file, line) => format!(" ({file}:{line})"),
    }
}

/// The caller as a phrase.
fn caller(source: &SourceFacts<'_>) -> String {
    match source {
        SourceFacts::Meshed { id, instance: Some(instance) } => format!("{id} (instance {instance})"),
        SourceFacts::Meshed { id, instance: None } => id.to_string(),
        SourceFacts::Unmeshed { ip } => format!("{ip} (no mesh identity)"),
    }
}

fn question(request: &Request<'_>) -> String {
    let from = caller(&request.source);
    let (port, protocol) = (request.port, request.protocol.as_str());
    match (&request.http, request.sni) {
        (Some(http), _) => {
            format!("{from} -> {} {}:{port}{} ({protocol})", http.method, http.host, http.path)
        }
        (None, Some(sni)) => format!("{from} -> port {port} ({protocol}, server name {sni})"),
        (None, None) => format!("{from} -> port {port} ({protocol})"),
    }
}

impl Explanation {
    /// The rules for a terminal: all of them, or of many those that matched and the first of those that nearly did.
    fn shown(&self) -> Vec<&ExplainedRule> {
        if self.rules.len() <= RULES_SHOWN_MAX {
            return self.rules.iter().collect();
        }
        let mut misses: Vec<_> =
            self.rules.iter().filter(|rule| !rule.matched).map(|rule| rule.misses.len()).collect();
        misses.sort_unstable();
        let near = misses.get(RULES_SHOWN_MAX / 2).copied().unwrap_or(usize::MAX);
        let mut left = RULES_SHOWN_MAX;
        let mut is_shown = |rule: &&ExplainedRule| {
            let is_near = rule.misses.len() < near && left > 0;
            left = left.saturating_sub(usize::from(is_near && !rule.matched));
            rule.matched || is_near
        };
        self.rules.iter().filter(|rule| is_shown(rule)).collect()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.question)?;
        write!(f, "  {}", self.summary)?;
        if !self.rules.is_empty() {
            write!(f, "\n\nrules in the order of evaluation:")?;
        }
        let shown = self.shown();
        for rule in &shown {
            write!(f, "\n  {rule}")?;
        }
        if shown.len() < self.rules.len() {
            write!(f, "\n    {} more rules do not match", self.rules.len().saturating_sub(shown.len()))?;
        }
        if self.not_reached > 0 {
            let s = if self.not_reached == 1 { "" } else { "s" };
            write!(f, "\n    {} more rule{s} not reached", self.not_reached)?;
        }
        if let Some((action, rule)) = &self.audited {
            let word = match action {
                Action::Allow => "allow",
                Action::Deny => "deny",
            };
            let named = self.rules.iter().find(|explained| explained.rule == *rule);
            let name =
                named.map(|rule| format!(" (rule {} of {})", rule.name, rule.policy)).unwrap_or_default();
            write!(f, "\n\nif policies in audit mode were enforced, they would {word} it{name}")?;
        }
        if let Some(miss) = &self.nearest_miss {
            write!(f, "\n\nnearest miss: {}", miss.sentence)?;
            if !miss.change.is_empty() {
                write!(f, "\nsmallest change: {}", miss.change)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for ExplainedRule {
    /// `> deny  no-legacy/old  (rails.yaml:4)  matches`; `>` marks the deciding rule, `~` one in audit mode.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match (self.decided, self.mode) {
            (true, _) => '>',
            (false, Mode::Audit) => '~',
            (false, Mode::Enforce) => ' ',
        };
        let action = match self.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        let rail = match self.scope {
            Scope::Guardrail => "guard-rail ",
            Scope::Ordinary => "",
        };
        write!(
            f,
            "{mark} {action:5} {rail}{} {}{}: ",
            self.policy,
            self.name,
            origin(&self.file, self.line)
        )?;
        match (self.matched, self.misses.first()) {
            (true, None) => f.write_str("matches")?,
            (true, Some(why)) => write!(f, "matches: {why}")?,
            (false, Some(first)) => f.write_str(first)?,
            (false, None) => f.write_str("does not match")?,
        }
        match self.misses.len() {
            0 | 1 => Ok(()),
            more => write!(f, " (and {} more)", more.saturating_sub(1)),
        }
    }
}
