//! What each object does at present: what `meshctl get` shows in its last column, together with the acknowledgements.

use super::super::access_policy::AccessPolicy;
use super::super::key::ResourceKey;
use super::super::selector::Selector;
use super::super::{Resource, segment};
use super::lint::{domain, meetings, policy_name};
use super::resolve::Resolver;
use super::{Catalog, Target};
use crate::identity::TrustDomain;
use crate::name::InstanceName;
use crate::policy::lint::{Budget, Finding, FindingKind, lint_within};
use crate::policy::model::PolicyName;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What an object does at present.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// It is in force at these instances.
    Effective {
        /// The instances it is about, in order.
        instances: Vec<InstanceName>,
    },
    /// It is about the mesh as a whole, or about names only.
    Accepted,
    /// No workload is meant.
    NoMatch,
    /// All its rules are decided elsewhere.
    Shadowed {
        /// By which rule: `policy shop/web, rule 2`.
        by: String,
    },
    /// All its rules have ended.
    Expired,
}

impl fmt::Display for Status {
    /// `Effective 3`, `Accepted`, `NoMatch`, `Shadowed by …`, `Expired`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Effective { instances } => write!(f, "Effective {}", instances.len()),
            Self::Accepted => f.write_str("Accepted"),
            Self::NoMatch => f.write_str("NoMatch"),
            Self::Shadowed { by } => write!(f, "Shadowed by {by}"),
            Self::Expired => f.write_str("Expired"),
        }
    }
}

pub(super) fn statuses(catalog: &Catalog, fleet: &[Target<'_>], now: u64) -> BTreeMap<ResourceKey, Status> {
    let domain = domain(catalog, fleet);
    let shadowed = domain.as_ref().map(|domain| shadows(catalog, domain, fleet, now)).unwrap_or_default();
    let resolver = domain.as_ref().map(|domain| Resolver::new(catalog, domain));
    let status = |resource: &Resource| match resource {
        Resource::AccessPolicy(policy) => of_policy(policy, &shadowed, fleet, now),
        Resource::RateLimit(limit) => selected(&limit.target, fleet),
        Resource::Segment(segment) => {
            resolver.as_ref().map_or(Status::Accepted, |resolver| of_segment(resolver, segment, fleet))
        }
        Resource::Service(service) => match &service.backing {
            super::super::service::Backing::Endpoints(_) => Status::Accepted,
            _ => effective(fleet.iter().filter(|target| service.is_backed_by_target(target))),
        },
        Resource::Workload(workload) => effective(fleet.iter().filter(|target| {
            workload.meta.namespace.as_ref() == Some(target.namespace)
                && workload.meta.name == *target.workload
        })),
        Resource::MeshConfig(_)
        | Resource::Role(_)
        | Resource::RoleBinding(_)
        | Resource::AlertRule(_)
        | Resource::AlertSink(_) => Status::Accepted,
    };
    catalog.iter().map(|(key, resource)| (key.clone(), status(resource))).collect()
}

fn of_policy(
    policy: &AccessPolicy,
    shadowed: &BTreeMap<PolicyName, String>,
    fleet: &[Target<'_>],
    now: u64,
) -> Status {
    let status = selected(&policy.target, fleet);
    if status == Status::NoMatch {
        return status;
    }
    if policy.rules.iter().all(|rule| rule.valid_until.is_some_and(|until| until <= now)) {
        return Status::Expired;
    }
    match shadowed.get(&policy_name(policy)) {
        Some(by) => Status::Shadowed { by: by.clone() },
        None => status,
    }
}

fn of_segment(resolver: &Resolver<'_>, segment: &segment::Segment, fleet: &[Target<'_>]) -> Status {
    let members = resolver.segment_members(&segment.meta.name);
    effective(fleet.iter().filter(|target| members.iter().any(|member| member.matches(target.identity))))
}

fn selected(selector: &Selector, fleet: &[Target<'_>]) -> Status {
    effective(fleet.iter().filter(|target| selector.selects(target)))
}

fn effective<'t>(targets: impl Iterator<Item = &'t Target<'t>>) -> Status {
    let mut instances: Vec<InstanceName> = targets.map(|target| target.instance.clone()).collect();
    instances.sort();
    if instances.is_empty() { Status::NoMatch } else { Status::Effective { instances } }
}

/// Policies all of whose rules are shadowed at every workload they meet, with what shadows the first.
fn shadows(
    catalog: &Catalog,
    domain: &TrustDomain,
    fleet: &[Target<'_>],
    now: u64,
) -> BTreeMap<PolicyName, String> {
    let resolved = catalog.resolved(domain);
    let mut by: BTreeMap<PolicyName, Option<String>> = BTreeMap::new();
    let mut budget = Budget::default();
    for policies in meetings(&resolved, fleet) {
        let mut findings: BTreeMap<PolicyName, Vec<Finding>> = BTreeMap::new();
        for finding in lint_within(&policies, now, &mut budget) {
            if matches!(finding.kind, FindingKind::Shadowed | FindingKind::Contradictory) {
                findings.entry(finding.policy.clone()).or_default().push(finding);
            }
        }
        for policy in &policies {
            let hidden = findings.get(&policy.name).map(Vec::as_slice).unwrap_or_default();
            let first = hidden.iter().find_map(|finding| finding.because_of.as_ref());
            let is_hidden =
                |rule: &Arc<str>| hidden.iter().any(|finding| finding.rule.as_ref() == Some(rule));
            let mut names = policy.rules.iter().map(|rule| &rule.name);
            let all = !policy.rules.is_empty() && names.all(is_hidden);
            let reason = first.filter(|_| all).map(|(name, rule)| format!("policy {name}, {rule}"));
            let kept = by.entry(policy.name.clone()).or_insert_with(|| reason.clone());
            if reason.is_none() {
                *kept = None;
            }
        }
        // What was not looked at may be where a policy decides.
        if budget.is_spent() {
            return BTreeMap::new();
        }
    }
    by.into_iter().filter_map(|(name, reason)| Some((name, reason?))).collect()
}
