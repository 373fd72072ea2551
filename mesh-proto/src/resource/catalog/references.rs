//! Which objects an object names.

use super::super::Resource;
use super::super::key::{Kind, ResourceKey};
use super::super::role::Holder;
use super::super::selector::Selector;
use super::super::subject::Subject;
use super::mesh_wide;
use crate::name::ServiceRef;

/// One mention of another object.
#[derive(Debug)]
pub(super) struct Reference {
    /// The object that must exist.
    pub(super) key: ResourceKey,
    /// The field that names it.
    pub(super) field: String,
    /// Its line; `None`: the object's own.
    pub(super) line: Option<u32>,
}

/// All roles, segments and sinks that an object names.
pub(super) fn references(resource: &Resource) -> Vec<Reference> {
    match resource {
        Resource::AccessPolicy(policy) => {
            let mut found = Vec::new();
            for (index, rule) in policy.rules.iter().enumerate() {
                for (list, subjects) in [("from", &rule.from), ("except", &rule.except)] {
                    let list = format!("spec.rules[{index}].{list}");
                    let named = named(subjects.iter().map(Some), &list);
                    found.extend(named.map(|reference| Reference { line: Some(rule.line), ..reference }));
                }
            }
            found
        }
        Resource::RoleBinding(binding) => {
            let subjects = binding.subjects.iter().map(|holder| match holder {
                Holder::Peers(subject) => Some(subject),
                Holder::Uid(_) => None,
            });
            let role = Reference {
                key: mesh_wide(Kind::Role, &binding.role),
                field: "spec.role".to_owned(),
                line: None,
            };
            std::iter::once(role).chain(named(subjects, "spec.subjects")).collect()
        }
        Resource::Segment(segment) => {
            let accepts = segment.accepts.iter().enumerate();
            let reference = |(index, name)| Reference {
                key: mesh_wide(Kind::Segment, name),
                field: format!("spec.accepts[{index}]"),
                line: None,
            };
            accepts.map(reference).collect()
        }
        Resource::AlertRule(rule) => {
            let reference = |(index, name)| Reference {
                key: mesh_wide(Kind::AlertSink, name),
                field: format!("spec.sinks[{index}]"),
                line: None,
            };
            rule.sinks.iter().enumerate().map(reference).collect()
        }
        Resource::MeshConfig(_)
        | Resource::AlertSink(_)
        | Resource::Role(_)
        | Resource::RateLimit(_)
        | Resource::Service(_)
        | Resource::Workload(_) => Vec::new(),
    }
}

fn named<'s>(
    subjects: impl Iterator<Item = Option<&'s Subject>>,
    list: &str,
) -> impl Iterator<Item = Reference> {
    subjects.enumerate().filter_map(move |(index, subject)| {
        let (kind, name, word) = match subject? {
            Subject::Role(name) => (Kind::Role, name, "role"),
            Subject::Segment(name) => (Kind::Segment, name, "segment"),
            _ => return None,
        };
        Some(Reference { key: mesh_wide(kind, name), field: format!("{list}[{index}].{word}"), line: None })
    })
}

/// The service that an object is about, whose ports decide what can be enforced.
pub(super) fn target_service(resource: &Resource) -> Option<&ServiceRef> {
    let selector = match resource {
        Resource::AccessPolicy(policy) => &policy.target,
        Resource::RateLimit(limit) => &limit.target,
        _ => return None,
    };
    match selector {
        Selector::Service(service) => Some(service),
        _ => None,
    }
}
