//! What rules say too widely, and what they say in vain.

use super::{Facts, InForce, Severity, days, finding, float, see_edges};
use mesh_proto::flows::{OTHERS, UNMESHED};
use mesh_proto::identity::SpiffeId;
use mesh_proto::identity::pattern::IdentityPattern;
use mesh_proto::policy::model::{Action, Mode, PolicyName, Rule, Source};
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, BTreeSet};

/// Who was let through to an identity.
#[derive(Debug, Default)]
struct Callers {
    /// Proven ones.
    known: BTreeSet<SpiffeId>,
    /// Somebody without an identity.
    has_strangers: bool,
    /// Somebody for whom there was no room in a table: it can have been anybody.
    has_others: bool,
}

pub(super) fn look(facts: &Facts, say: &mut impl FnMut(Severity, v1::PostureFinding)) {
    let callers = callers(&facts.flows);
    // For whom there was no room as a callee: it can have been any.
    let is_blind = callers.contains_key(OTHERS);
    for in_force in &facts.policies {
        let InForce { policy, .. } = in_force;
        if policy.mode == Mode::Audit {
            let message = "is only recorded, not enforced (mode audit)".to_owned();
            let command = show(&policy.name, "set spec.mode to enforce, then meshctl apply -f");
            say(
                Severity::Info,
                finding("audit-mode", namespace(&policy.name), subject(&policy.name, None), message, command),
            );
        }
        for rule in policy.rules.iter().filter(|rule| rule.action == Action::Allow) {
            if policy.mode == Mode::Enforce {
                wide(facts, in_force, rule, say);
            }
            if !is_blind {
                unused(facts, in_force, rule, &callers, say);
            }
        }
    }
}

/// A rule that admits everybody.
fn wide(facts: &Facts, in_force: &InForce, rule: &Rule, say: &mut impl FnMut(Severity, v1::PostureFinding)) {
    let name = &in_force.policy.name;
    let is_whole_domain = |pattern: &IdentityPattern| matches!(pattern, IdentityPattern::Below(prefix) if prefix.matches('/').count() <= 3);
    let admits = rule.from.iter().filter_map(|source| match source {
        Source::Anyone => {
            Some((Severity::Critical, "unmeshed", "admits everybody, peers without an identity included"))
        }
        Source::Unmeshed(_) => Some((Severity::Warning, "unmeshed", "admits peers without an identity")),
        Source::AnyMeshed => Some((Severity::Warning, "wildcard", "admits every workload of the mesh")),
        Source::Identity(pattern) if is_whole_domain(pattern) => {
            Some((Severity::Warning, "wildcard", "admits every workload of a trust domain"))
        }
        Source::Identity(_) | Source::Group { .. } | Source::Instance { .. } => None,
    });
    let told: BTreeMap<&str, (Severity, &str)> =
        admits.map(|(severity, code, message)| (code, (severity, message))).collect();
    let callee = in_force.targets.first().map(|id| format!(" --to {id}")).unwrap_or_default();
    for (code, (severity, message)) in told {
        let place = place(in_force, rule);
        let command = format!(
            "{}   # who really calls; name them in the rule{place}",
            see_edges(&callee, facts.watched_ms)
        );
        say(severity, finding(code, namespace(name), subject(name, Some(rule)), message.to_owned(), command));
    }
}

/// A rule through which nothing can have passed.
fn unused(
    facts: &Facts,
    in_force: &InForce,
    rule: &Rule,
    callers: &BTreeMap<String, Callers>,
    say: &mut impl FnMut(Severity, v1::PostureFinding),
) {
    let InForce { policy, targets, changed_ms } = in_force;
    let name = &policy.name;
    let take_out = show(name, &format!("take the rule out{}, then meshctl apply -f", place(in_force, rule)));
    let is_expired = rule.valid_until.is_some_and(|until| until <= facts.now_ms / 1_000);
    if is_expired {
        let message = "is past its validUntil and matches nothing".to_owned();
        say(
            Severity::Info,
            finding("expired-rule", namespace(name), subject(name, Some(rule)), message, take_out),
        );
        return;
    }
    if targets.iter().filter_map(|target| callers.get(target.as_str())).any(|callers| admits(rule, callers)) {
        return;
    }
    let span = facts.watched_ms.min(facts.now_ms.saturating_sub(*changed_ms));
    let what = if targets.is_empty() {
        "no workload that it is about runs now"
    } else {
        "no call that it could have let through"
    };
    let message = format!("{what}: unused for {}, as far back as is known", days(span));
    let found = finding("unused-rule", namespace(name), subject(name, Some(rule)), message, take_out);
    say(Severity::Info, v1::PostureFinding { measure: float(span) / 86_400_000.0, ..found });
}

/// Whether one of the callers is meant by the rule.
fn admits(rule: &Rule, callers: &Callers) -> bool {
    let is_excepted = |id: &SpiffeId| rule.except.iter().any(|source| means(source, id));
    callers.has_others
        || callers.known.iter().any(|id| rule.from.iter().any(|source| means(source, id)) && !is_excepted(id))
        || callers.has_strangers
            && rule.from.iter().any(|source| matches!(source, Source::Unmeshed(_) | Source::Anyone))
}

fn means(source: &Source, id: &SpiffeId) -> bool {
    match source {
        Source::Identity(pattern) => pattern.matches(id),
        Source::Group { members, .. } => members.iter().any(|member| member.matches(id)),
        // Flows do not tell instances apart.
        Source::Instance { id: named, .. } => named == id,
        Source::Unmeshed(_) => false,
        Source::AnyMeshed | Source::Anyone => true,
    }
}

/// By callee, who was let through.
fn callers(flows: &[v1::Flow]) -> BTreeMap<String, Callers> {
    let mut all: BTreeMap<String, Callers> = BTreeMap::new();
    let inbound = flows.iter().filter(|flow| flow.direction == i32::from(v1::Direction::Inbound));
    for flow in inbound.filter(|flow| flow.allowed > 0) {
        let callers = all.entry(flow.destination.clone()).or_default();
        match (flow.source.as_str(), flow.source.parse::<SpiffeId>()) {
            (UNMESHED, _) => callers.has_strangers = true,
            (_, Ok(id)) => drop(callers.known.insert(id)),
            (_, Err(_)) => callers.has_others = true,
        }
    }
    all
}

fn namespace(name: &PolicyName) -> &str {
    name.namespace.as_ref().map_or("", |namespace| namespace.as_str())
}

fn subject(name: &PolicyName, rule: Option<&Rule>) -> String {
    match rule {
        Some(rule) => format!("AccessPolicy/{name} rule {:?}", rule.name),
        None => format!("AccessPolicy/{name}"),
    }
}

fn show(name: &PolicyName, then: &str) -> String {
    format!("meshctl get accesspolicy/{name} -o yaml   # {then}")
}

/// ` (file:line)`, where that is known.
fn place(in_force: &InForce, rule: &Rule) -> String {
    let file = &in_force.policy.file;
    if file.is_empty() { String::new() } else { format!(" ({file}:{})", rule.line) }
}
