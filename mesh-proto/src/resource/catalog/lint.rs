//! Asks `policy::lint` about the policies that meet at a workload, and says its findings of objects, files and lines.

use super::super::access_policy::AccessPolicy;
use super::super::key::{Kind, ResourceKey};
use super::super::meta::Meta;
use super::super::problem::{Code, Problem, Severity};
use super::super::selector::Selector;
use super::resolve::Resolved;
use super::{Catalog, Resource, Target};
use crate::identity::TrustDomain;
use crate::policy::lint::{Budget, Finding, FindingKind, lint, lint_within};
use crate::policy::model::{Action, Mode, Operation, Policy, PolicyName, Rule, Scope, Source};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Findings that a changed policy has, or is the reason of.
pub(super) fn findings(
    catalog: &Catalog,
    changed: &BTreeSet<&ResourceKey>,
    fleet: &[Target<'_>],
    now: u64,
) -> Vec<Problem> {
    let is_changed = |name: &PolicyName| changed.contains(&policy_key(name));
    if !changed.iter().any(|key| key.kind == Kind::AccessPolicy) {
        return Vec::new();
    }
    let Some(domain) = domain(catalog, fleet) else { return Vec::new() };
    let resolved = catalog.resolved(&domain);
    let mut budget = Budget::default();
    let mut seen: HashSet<Problem> = HashSet::new();
    let mut problems: Vec<Problem> = Vec::new();
    let mut tell = |finding: Finding| {
        let problem = problem(catalog, finding);
        if seen.insert(problem.clone()) {
            problems.push(problem);
        }
    };
    for policies in meetings(&resolved, fleet) {
        if !policies.iter().any(|policy| is_changed(&policy.name)) {
            continue;
        }
        for finding in lint_within(&policies, now, &mut budget) {
            let because = finding.because_of.as_ref().is_some_and(|(name, _)| is_changed(name));
            if because || finding.kind == FindingKind::Unfinished || is_changed(&finding.policy) {
                tell(finding);
            }
        }
        if budget.is_spent() {
            break;
        }
    }
    // What a policy says by itself is looked at in any case, since some of it is refused.
    if budget.is_spent() {
        for (_, policy) in resolved.policies().iter().filter(|(_, policy)| is_changed(&policy.name)) {
            let alone = lint_within(std::slice::from_ref(policy), now, &mut budget).into_iter();
            alone.filter(|finding| finding.kind != FindingKind::Unfinished).for_each(&mut tell);
        }
    }
    problems
}

/// The trust domain to resolve accounts in; before the first workload any will do, since all is compared within it.
pub(super) fn domain(catalog: &Catalog, fleet: &[Target<'_>]) -> Option<TrustDomain> {
    catalog.trust_domain(fleet).or_else(|| "mesh.local".parse().ok())
}

/// The sets of policies that are evaluated together somewhere, each once: those at the running workloads, and for a
/// policy that no running workload meets, those that hold wherever it does.
pub(super) fn meetings<'r>(
    resolved: &'r Resolved,
    fleet: &'r [Target<'_>],
) -> impl Iterator<Item = Vec<Arc<Policy>>> + 'r {
    let all = resolved.policies();
    let mut met: BTreeSet<usize> = BTreeSet::new();
    let mut sets: BTreeSet<Vec<usize>> = BTreeSet::new();
    let mut order = Vec::new();
    let mut add = |set: Vec<usize>| {
        if sets.insert(set.clone()) {
            order.push(set);
        }
    };
    for target in fleet {
        let here = all.iter().enumerate().filter(|(_, (selector, _))| selector.selects(target));
        let here: Vec<usize> = here.map(|(at, _)| at).collect();
        met.extend(&here);
        add(here);
    }
    let places = Places::of(all);
    let mut seen: BTreeSet<&Selector> = BTreeSet::new();
    for (at, (selector, _)) in all.iter().enumerate() {
        if !met.contains(&at) && seen.insert(selector) {
            add(places.holding_at(selector));
        }
    }
    let policies =
        |set: Vec<usize>| set.into_iter().filter_map(|at| all.get(at)).map(|(_, policy)| policy.clone());
    order.into_iter().map(move |set| policies(set).collect())
}

/// Policies by what they are about, so that not each is compared with each.
struct Places<'a>(BTreeMap<&'a Selector, Vec<usize>>);

impl<'a> Places<'a> {
    fn of(all: &'a [(Selector, Arc<Policy>)]) -> Self {
        let mut places: BTreeMap<&Selector, Vec<usize>> = BTreeMap::new();
        for (at, (selector, _)) in all.iter().enumerate() {
            places.entry(selector).or_default().push(at);
        }
        Self(places)
    }

    /// The policies that hold wherever one with this target does, in their order: of the same target, of its namespace and
    /// of the mesh.
    fn holding_at(&self, narrow: &Selector) -> Vec<usize> {
        let namespace = match narrow {
            Selector::Service(narrow) | Selector::Workload(narrow) => Some(&narrow.namespace),
            Selector::Labels { namespace, .. } => namespace.as_ref(),
            Selector::Mesh | Selector::Namespace(_) => None,
        };
        let namespace = namespace.map(|namespace| Selector::Namespace(namespace.clone()));
        let wide = [Some(&Selector::Mesh), namespace.as_ref(), Some(narrow)];
        let found = wide.into_iter().flatten().filter_map(|selector| self.0.get(selector)).flatten();
        let found: BTreeSet<usize> = found.copied().collect();
        found.into_iter().collect()
    }
}

/// A finding about an object, with the place of its rule.
fn problem(catalog: &Catalog, finding: Finding) -> Problem {
    let Finding { kind, policy, rule, file, line, because_of: _, message } = finding;
    let severity = if kind.is_error() { Severity::Error } else { Severity::Warning };
    let code = match kind {
        FindingKind::Impossible => Code::NotEnforceable,
        FindingKind::Expired
        | FindingKind::NoSource
        | FindingKind::EmptyGroup
        | FindingKind::IdleException
        | FindingKind::NoRules => Code::NoEffect,
        FindingKind::DeniesNonHttp => Code::Conflict,
        FindingKind::Unfinished => Code::TooLarge,
        FindingKind::Shadowed => Code::ShadowedRule,
        FindingKind::Contradictory => Code::Contradiction,
        FindingKind::OpenDoor => Code::OpenDoor,
    };
    let object = catalog.get(&policy_key(&policy)).and_then(|resource| match &**resource {
        Resource::AccessPolicy(object) => Some(object),
        _ => None,
    });
    let index = object.and_then(|object| {
        let by_line = |line: u32| object.rules.iter().position(|own| own.line == line);
        rule.as_ref().and_then(|_| by_line(line))
    });
    let field = index.map(|index| format!("spec.rules[{index}]")).unwrap_or_default();
    let line = match (line, object) {
        (0, Some(object)) => object.meta.origin.line,
        (line, _) => line,
    };
    Problem { severity, code, file, line, field, value: None, message }
}

/// Why an operation of a role or a limit can never match; `None` when it can.
pub(super) fn impossible(meta: &Meta, operation: &Operation) -> Option<String> {
    let name = PolicyName { namespace: meta.namespace.clone(), name: meta.name.clone() };
    let rule = Rule {
        name: "".into(),
        line: 0,
        action: Action::Allow,
        from: vec![Source::AnyMeshed],
        except: Vec::new(),
        to: vec![operation.clone()],
        valid_until: None,
    };
    let policy =
        Policy { name, scope: Scope::Ordinary, mode: Mode::Enforce, rules: vec![rule], file: "".into() };
    let findings = lint(&[Arc::new(policy)], 0);
    let found = findings.into_iter().find(|finding| finding.kind == FindingKind::Impossible)?;
    // The only operation needs no number.
    Some(found.message.trim_start_matches("to[0] ").to_owned())
}

pub(super) fn policy_name(policy: &AccessPolicy) -> PolicyName {
    PolicyName { namespace: policy.meta.namespace.clone(), name: policy.meta.name.clone() }
}

fn policy_key(name: &PolicyName) -> ResourceKey {
    ResourceKey { kind: Kind::AccessPolicy, namespace: name.namespace.clone(), name: name.name.clone() }
}
