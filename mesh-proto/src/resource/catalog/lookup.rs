//! What one check asks again and again, made once: a set of thousands of objects is applied in one piece.
//!
//! `check` makes one for each call. It knows nothing that the catalog does not say.

use super::super::service::{Backing, Service};
use super::super::subject::Subject;
use super::resolve::Resolver;
use super::{Catalog, Target};
use crate::identity::TrustDomain;
use crate::identity::pattern::IdentityPattern;
use crate::name::{Namespace, ObjectName};
use std::collections::{BTreeMap, BTreeSet};

/// Answers of a catalog and a fleet.
pub(super) struct Lookup<'a> {
    /// The trust domain that accounts belong to, if it is known.
    pub(super) domain: Option<TrustDomain>,
    /// Services by the workload that answers for them.
    by_workload: BTreeMap<(&'a Namespace, &'a ObjectName), Vec<&'a Service>>,
    /// Services by namespace that ask for labels.
    by_labels: BTreeMap<&'a Namespace, Vec<&'a Service>>,
    /// Roles that a rule of an access policy names.
    roles_in_rules: BTreeSet<&'a ObjectName>,
    segments: Segments<'a>,
}

impl<'a> Lookup<'a> {
    pub(super) fn of(catalog: &'a Catalog, fleet: &[Target<'_>]) -> Self {
        let mut by_workload: BTreeMap<_, Vec<&Service>> = BTreeMap::new();
        let mut by_labels: BTreeMap<_, Vec<&Service>> = BTreeMap::new();
        for service in catalog.services() {
            let Some(namespace) = &service.meta.namespace else { continue };
            match &service.backing {
                Backing::Workload(workload) => {
                    by_workload.entry((namespace, workload)).or_default().push(service)
                }
                Backing::Labels(_) => by_labels.entry(namespace).or_default().push(service),
                Backing::Endpoints(_) => {}
            }
        }
        let rules = catalog.access_policies().flat_map(|policy| &policy.rules);
        let subjects = rules.flat_map(|rule| rule.from.iter().chain(&rule.except));
        let roles = subjects.filter_map(|subject| match subject {
            Subject::Role(name) => Some(name),
            _ => None,
        });
        let domain = catalog.trust_domain(fleet);
        let segments = domain.clone().or_else(|| "mesh.local".parse().ok());
        let segments = segments.map(|domain| Segments::of(catalog, &domain)).unwrap_or_default();
        Self { domain, by_workload, by_labels, roles_in_rules: roles.collect(), segments }
    }

    /// The services that a workload answers for.
    pub(super) fn services_of(
        &self,
        namespace: &Namespace,
        workload: &ObjectName,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Service> {
        let named = self.by_workload.get(&(namespace, workload)).into_iter().flatten();
        let labelled = self.by_labels.get(namespace).into_iter().flatten();
        let labelled = labelled.filter(|service| service.is_backed_by(namespace, workload, labels));
        let mut found: Vec<&Service> = named.chain(labelled).copied().collect();
        found.sort_by_key(|service| &service.meta.name);
        found.into_iter().cloned().collect()
    }

    /// Whether a rule of an access policy names the role.
    pub(super) fn is_in_rules(&self, role: &ObjectName) -> bool {
        self.roles_in_rules.contains(role)
    }

    /// Who is in which segment.
    pub(super) fn segments(&self) -> &Segments<'a> {
        &self.segments
    }
}

/// The members of all segments.
#[derive(Default)]
pub(super) struct Segments<'a> {
    members: BTreeMap<&'a ObjectName, Vec<Vec<IdentityPattern>>>,
    /// The segments that a pattern is in, by its text; that of a prefix ends in `/`, that of an identity does not.
    by_text: BTreeMap<String, BTreeSet<&'a ObjectName>>,
}

impl<'a> Segments<'a> {
    fn of(catalog: &'a Catalog, domain: &TrustDomain) -> Self {
        let resolver = Resolver::new(catalog, domain);
        let mut segments = Self::default();
        for segment in catalog.segments() {
            let name = &segment.meta.name;
            let members: Vec<_> = segment.members.iter().map(|member| resolver.patterns(member)).collect();
            for pattern in members.iter().flatten() {
                segments.by_text.entry(text(pattern)).or_default().insert(name);
            }
            segments.members.insert(name, members);
        }
        segments
    }

    /// What each member of a segment means, in their order.
    pub(super) fn members(&self, segment: &ObjectName) -> &[Vec<IdentityPattern>] {
        self.members.get(segment).map(Vec::as_slice).unwrap_or_default()
    }

    /// The segments that share an identity with the patterns, in the order of their names.
    pub(super) fn sharing(&self, patterns: &[IdentityPattern]) -> BTreeSet<&'a ObjectName> {
        let mut found = BTreeSet::new();
        for pattern in patterns {
            let text = text(pattern);
            let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
            let wider = ends.filter_map(|at| text.get(..=at)).filter_map(|prefix| self.by_text.get(prefix));
            found.extend(wider.flatten().copied());
            match pattern {
                IdentityPattern::Exact(_) => {
                    found.extend(self.by_text.get(&text).into_iter().flatten().copied())
                }
                IdentityPattern::Below(prefix) => {
                    let below = self.by_text.range(text.clone()..);
                    let below = below.take_while(|(other, _)| other.starts_with(&**prefix));
                    found.extend(below.flat_map(|(_, names)| names).copied());
                }
            }
        }
        found
    }
}

fn text(pattern: &IdentityPattern) -> String {
    match pattern {
        IdentityPattern::Exact(id) => id.to_string(),
        IdentityPattern::Below(prefix) => prefix.to_string(),
    }
}
