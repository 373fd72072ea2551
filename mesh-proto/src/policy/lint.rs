//! Finds rules that do not do what their author meant: without effect, shadowed, contradicted, or open to everybody.
//!
//! `resource` calls it when objects are applied and for their status. It looks at policies alone, never at traffic, and
//! it never changes a decision. What it says of coverage is certain: a rule that it calls shadowed cannot decide. The
//! reverse does not hold; a rule that only several others together cover is not found.

mod cover;
mod single;

use super::compile::protocol_bits;
use super::model::{Action, Mode, Operation, Policy, PolicyName, ProtocolMatch, Rule, Scope};
use cover::{Atom, Candidates};
use std::fmt;
use std::sync::Arc;

/// How many pairs of rules are compared before it stops: about a second. A set of 2,000 rules of one caller stays below.
const PAIRS_MAX: usize = 4_000_000;
/// How many rules are looked at, one that applies at several places once for each: about two seconds.
const RULES_MAX: usize = 1_000_000;

/// How much may still be looked at, by one or several calls of [`lint_within`] together.
#[derive(Debug)]
pub struct Budget {
    pairs: usize,
    rules: usize,
    is_spent: bool,
}

impl Default for Budget {
    /// Enough for some seconds.
    fn default() -> Self {
        Self { pairs: PAIRS_MAX, rules: RULES_MAX, is_spent: false }
    }
}

impl Budget {
    /// Whether something was left out.
    pub fn is_spent(&self) -> bool {
        self.is_spent
    }

    fn take(&mut self, rules: usize, pairs: usize) -> bool {
        match (self.rules.checked_sub(rules), self.pairs.checked_sub(pairs)) {
            (Some(rules), Some(pairs)) => (self.rules, self.pairs) = (rules, pairs),
            _ => self.is_spent = true,
        }
        !self.is_spent
    }
}

/// What is wrong with a rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FindingKind {
    /// A policy without rules.
    NoRules,
    /// Its time is over.
    Expired,
    /// It can match nobody: its groups are empty, or its exceptions cover its sources.
    NoSource,
    /// One of its groups is empty.
    EmptyGroup,
    /// One of its exceptions is none of its sources.
    IdleException,
    /// The conditions of an operation exclude each other.
    Impossible,
    /// Another rule of the same action covers it.
    Shadowed,
    /// An allow rule that a deny rule covers.
    Contradictory,
    /// Allows everything to everyone.
    OpenDoor,
    /// A deny rule with HTTP conditions for all ports, beside a rule that allows other protocols: it refuses those.
    DeniesNonHttp,
    /// Too many rules to compare each with each.
    Unfinished,
}

impl FindingKind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NoRules,
        Self::Expired,
        Self::NoSource,
        Self::EmptyGroup,
        Self::IdleException,
        Self::Impossible,
        Self::Shadowed,
        Self::Contradictory,
        Self::OpenDoor,
        Self::DeniesNonHttp,
        Self::Unfinished,
    ];

    /// A short, stable word.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoRules => "no-rules",
            Self::Expired => "expired",
            Self::NoSource => "no-source",
            Self::EmptyGroup => "empty-group",
            Self::IdleException => "idle-exception",
            Self::Impossible => "impossible",
            Self::Shadowed => "shadowed",
            Self::Contradictory => "contradictory",
            Self::OpenDoor => "open-door",
            Self::DeniesNonHttp => "denies-non-http",
            Self::Unfinished => "unfinished",
        }
    }

    /// Whether the rule can never do what it says, whatever else changes; the others may be meant, or a matter of time.
    pub fn is_error(self) -> bool {
        match self {
            Self::NoRules | Self::Impossible => true,
            Self::Expired
            | Self::NoSource
            | Self::EmptyGroup
            | Self::IdleException
            | Self::Shadowed
            | Self::Contradictory
            | Self::OpenDoor
            | Self::DeniesNonHttp
            | Self::Unfinished => false,
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
    /// The policy's file; empty when unknown.
    pub file: Arc<str>,
    /// The rule's line; 0 when unknown.
    pub line: u32,
    /// The other rule that makes it so.
    pub because_of: Option<(PolicyName, Arc<str>)>,
    /// A sentence for people: what is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    /// `pay.yaml:12: shop/pay checkout: … [shadowed]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:{}: ", self.file, self.line)?;
        }
        write!(f, "{}", self.policy)?;
        if let Some(rule) = &self.rule {
            write!(f, " {rule}")?;
        }
        write!(f, ": {} [{}]", self.message, self.kind.code())
    }
}

/// Looks at policies that apply to the same workload, in the order of evaluation. `now` is Unix seconds.
///
/// The findings come in the order of the policies and their rules.
pub fn lint(policies: &[Arc<Policy>], now: u64) -> Vec<Finding> {
    lint_within(policies, now, &mut Budget::default())
}

/// The same, as far as the budget goes; where it ends, there is one finding that says so.
pub fn lint_within(policies: &[Arc<Policy>], now: u64, budget: &mut Budget) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut places = Vec::new();
    for policy in policies {
        if policy.rules.is_empty() {
            findings.push((
                usize::MAX,
                finding(
                    policy,
                    None,
                    FindingKind::NoRules,
                    "has no rules, so it does nothing; add one or delete it".to_owned(),
                ),
            ));
        }
        for rule in &policy.rules {
            let place = Place {
                policy,
                rule,
                atoms: cover::atoms(&rule.from),
                except: cover::atoms(&rule.except),
                order: places.len(),
            };
            for (kind, message) in single::check(&place, now) {
                findings.push((place.order, finding(policy, Some(rule), kind, message)));
            }
            places.push(place);
        }
    }
    findings.extend(compare(&places, now, budget));
    findings.extend(raw_denials(&places));
    findings.sort_by_key(|(order, finding)| (*order, finding.kind));
    findings.into_iter().map(|(_, finding)| finding).collect()
}

/// A rule with its policy.
struct Place<'a> {
    policy: &'a Policy,
    rule: &'a Rule,
    atoms: Vec<Atom<'a>>,
    except: Vec<Atom<'a>>,
    order: usize,
}

fn finding(policy: &Policy, rule: Option<&Rule>, kind: FindingKind, message: String) -> Finding {
    Finding {
        kind,
        policy: policy.name.clone(),
        rule: rule.map(|rule| Arc::clone(&rule.name)),
        file: Arc::clone(&policy.file),
        line: rule.map_or(0, |rule| rule.line),
        because_of: None,
        message,
    }
}

/// Compares rules with each other.
fn compare(places: &[Place<'_>], now: u64, budget: &mut Budget) -> Vec<(usize, Finding)> {
    let mut findings = Vec::new();
    let candidates = Candidates::new(places);
    for place in places {
        if single::is_without_effect(place, now) {
            continue;
        }
        let others = candidates.of(place);
        if !budget.take(1, others.len()) {
            let message = "so many rules apply together that the rest was not compared with each other; split roles or merge rules";
            findings.push((
                place.order,
                finding(place.policy, Some(place.rule), FindingKind::Unfinished, message.to_owned()),
            ));
            break;
        }
        let others = || {
            others
                .iter()
                .filter_map(|at| places.get(*at))
                .filter(|other| !single::is_without_effect(other, now))
        };
        let denied = others().find(|other| is_contradicted(place, other));
        let other = denied.or_else(|| others().find(|other| is_shadowed(place, other)));
        let Some(other) = other else { continue };
        let by = format!("{} of {}{}", other.rule.name, other.policy.name, line(other));
        let (kind, message) = if denied.is_some() {
            (
                FindingKind::Contradictory,
                format!(
                    "never takes effect: everything it allows is denied by {by}; remove one of them, or except its callers there"
                ),
            )
        } else {
            (
                FindingKind::Shadowed,
                format!("never decides: {by} covers all of it; remove it, or narrow that one"),
            )
        };
        let mut finding = finding(place.policy, Some(place.rule), kind, message);
        finding.because_of = Some((other.policy.name.clone(), Arc::clone(&other.rule.name)));
        findings.push((place.order, finding));
    }
    findings
}

/// Deny rules that cannot be judged on the raw connections which another rule allows.
fn raw_denials(places: &[Place<'_>]) -> Vec<(usize, Finding)> {
    let raw = protocol_bits(&[ProtocolMatch::Tcp, ProtocolMatch::Tls]);
    let is_raw = |operation: &Operation| {
        let bits = protocol_bits(&operation.protocols);
        bits & raw != 0 && bits & !raw == 0
    };
    let allows_raw =
        |place: &&Place<'_>| place.rule.action == Action::Allow && place.rule.to.iter().any(is_raw);
    let Some(allow) = places.iter().find(allows_raw) else { return Vec::new() };
    let any_port = |operation: &Operation| {
        operation.needs_http() && operation.ports.is_empty() && operation.sni.is_empty()
    };
    let denies = |place: &&Place<'_>| {
        place.rule.action == Action::Deny
            && place.policy.mode == Mode::Enforce
            && place.rule.to.iter().any(any_port)
    };
    let found = places.iter().filter(denies).map(|place| {
        let message = format!(
            "also refuses the connections of its callers that are not HTTP, such as those that {} of {}{} allows, since it \
             cannot be judged there; add the ports that speak HTTP to it if that is not meant",
            allow.rule.name,
            allow.policy.name,
            line(allow)
        );
        let mut finding = finding(place.policy, Some(place.rule), FindingKind::DeniesNonHttp, message);
        finding.because_of = Some((allow.policy.name.clone(), Arc::clone(&allow.rule.name)));
        (place.order, finding)
    });
    found.collect()
}

fn line(place: &Place<'_>) -> String {
    match (&*place.policy.file, place.rule.line) {
        ("", _) => String::new(),
        (file, line) => format!(" ({file}:{line})"),
    }
}

/// Whether `other` is an enforced deny that leaves nothing of this allow. The allow rules of a guard-rail are not asked:
/// they narrow by being there.
fn is_contradicted(place: &Place<'_>, other: &Place<'_>) -> bool {
    place.rule.action == Action::Allow
        && place.policy.scope == Scope::Ordinary
        && other.rule.action == Action::Deny
        && other.policy.mode == Mode::Enforce
        && cover::covers(other, place)
}

/// Whether `other` always matches where this one does, and does the same. Of two that cover each other the later one is shadowed.
fn is_shadowed(place: &Place<'_>, other: &Place<'_>) -> bool {
    let rank = |place: &Place<'_>| (place.policy.scope == Scope::Ordinary, place.order);
    let same_stage = match place.rule.action {
        // Guard-rails deny before ordinary policies, and for them too.
        Action::Deny => other.policy.scope == place.policy.scope || other.policy.scope == Scope::Guardrail,
        // Each guard-rail must be met by itself.
        Action::Allow if place.policy.scope == Scope::Guardrail => std::ptr::eq(place.policy, other.policy),
        Action::Allow => other.policy.scope == Scope::Ordinary,
    };
    place.order != other.order
        && place.rule.action == other.rule.action
        && place.policy.mode == other.policy.mode
        && same_stage
        && cover::covers(other, place)
        && (rank(other) < rank(place) || !cover::covers(place, other))
}
