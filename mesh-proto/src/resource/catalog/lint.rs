//! Asks `policy::lint` about the policies that meet at a workload, and says its findings of objects, files and lines.

use super::super::access_policy::AccessPolicy;
use super::super::key::{Kind, ResourceKey};
use super::super::meta::Meta;
use super::super::problem::{Code, Problem, Severity};
use super::super::selector::Selector;
use super::resolve::Resolved;
use super::{Catalog, Target};
use crate::identity::TrustDomain;
use crate::policy::lint::{Finding, FindingKind, lint};
use crate::policy::model::{Action, Mode, Operation, Policy, PolicyName, Rule, Scope, Source};
use std::collections::BTreeSet;
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
    let mut problems: Vec<Problem> = Vec::new();
    for policies in meetings(&resolved, fleet) {
        if !policies.iter().any(|policy| is_changed(&policy.name)) {
            continue;
        }
        for finding in lint(&policies, now) {
            let because = finding.because_of.as_ref().is_some_and(|(name, _)| is_changed(name));
            if !is_changed(&finding.policy) && !because {
                continue;
            }
            let problem = problem(catalog, finding);
            if !problems.contains(&problem) {
                problems.push(problem);
            }
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
pub(super) fn meetings(resolved: &Resolved, fleet: &[Target<'_>]) -> Vec<Vec<Arc<Policy>>> {
    let mut seen: BTreeSet<Vec<PolicyName>> = BTreeSet::new();
    let mut met: BTreeSet<PolicyName> = BTreeSet::new();
    let mut sets = Vec::new();
    let mut add = |policies: Vec<Arc<Policy>>, met: &mut BTreeSet<PolicyName>| {
        let names: Vec<PolicyName> = policies.iter().map(|policy| policy.name.clone()).collect();
        met.extend(names.iter().cloned());
        if seen.insert(names) {
            sets.push(policies);
        }
    };
    for target in fleet {
        add(resolved.policies_for(target), &mut met);
    }
    for (selector, policy) in resolved.policies() {
        if !met.contains(&policy.name) {
            let holds = resolved.policies().iter().filter(|(other, _)| holds_wherever(other, selector));
            add(holds.map(|(_, policy)| Arc::clone(policy)).collect(), &mut BTreeSet::new());
        }
    }
    sets
}

/// Whether what `wide` selects includes all that `narrow` selects.
fn holds_wherever(wide: &Selector, narrow: &Selector) -> bool {
    match (wide, narrow) {
        (Selector::Mesh, _) => true,
        (Selector::Namespace(wide), Selector::Service(narrow) | Selector::Workload(narrow)) => {
            *wide == narrow.namespace
        }
        (Selector::Namespace(wide), Selector::Labels { namespace, .. }) => namespace.as_ref() == Some(wide),
        (wide, narrow) => wide == narrow,
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
    let object = catalog.access_policies().find(|object| policy_name(object) == policy);
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
