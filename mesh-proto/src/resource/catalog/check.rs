//! What is wrong between objects: names that point nowhere, targets that nobody is, conditions that nothing can judge.
//!
//! Called when something is applied or deleted, before it is stored. It never changes what an object means.

use super::super::access_policy::{AccessPolicy, AccessRule};
use super::super::key::{Kind, ResourceKey};
use super::super::meta::{Labels, Meta};
use super::super::problem::{Code, Problem, Severity};
use super::super::rate_limit::RateLimit;
use super::super::role::{Grants, Holder, Role, RoleBinding};
use super::super::segment::Segment;
use super::super::selector::Selector;
use super::super::service::Service;
use super::super::subject::Subject;
use super::super::{Resource, mesh_config};
use super::doubts::{self, Doubt, Known};
use super::lookup::Lookup;
use super::references::{references, target_service};
use super::resolve::narrowed;
use super::{Catalog, Target, lint};
use crate::config::MtlsMode;
use crate::limit::{LimitKey, Unit};
use crate::name::ServiceRef;
use crate::policy::model::{Action, Operation, Protocol};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Looks at the changed objects and at those that refer to them.
pub(super) fn check(
    catalog: &Catalog,
    changed: &[ResourceKey],
    fleet: &[Target<'_>],
    now: u64,
) -> Vec<Problem> {
    let changed: BTreeSet<&ResourceKey> = changed.iter().collect();
    let (known, lookup) = (Known::of(catalog, fleet), Lookup::of(catalog, fleet));
    let mut check = Check { catalog, changed: &changed, fleet, known, lookup, problems: Vec::new() };
    for (key, resource) in catalog.iter() {
        if changed.contains(key) || check.depends_on_change(resource) {
            check.references(resource);
            check.object(resource, now);
        }
    }
    let mut problems = check.problems;
    // A rule that names what does not exist matches nobody; saying that too would only be noise.
    let unknown = problems.iter().filter(|error| error.code == Code::UnknownReference);
    let unknown: BTreeSet<(Arc<str>, u32)> = unknown.map(|error| (error.file.clone(), error.line)).collect();
    let is_explained = |finding: &Problem| {
        finding.code == Code::NoEffect && unknown.contains(&(finding.file.clone(), finding.line))
    };
    let findings = lint::findings(catalog, &changed, fleet, now);
    let findings: Vec<Problem> = findings.into_iter().filter(|finding| !is_explained(finding)).collect();
    problems.extend(findings);
    problems.sort_by(|a, b| (a.severity, &a.file, a.line).cmp(&(b.severity, &b.file, b.line)));
    problems.dedup();
    problems
}

struct Check<'a> {
    catalog: &'a Catalog,
    changed: &'a BTreeSet<&'a ResourceKey>,
    fleet: &'a [Target<'a>],
    known: Known,
    lookup: Lookup<'a>,
    problems: Vec<Problem>,
}

/// Where a problem is.
struct Place<'a> {
    meta: &'a Meta,
    line: u32,
    field: String,
}

impl<'a> Place<'a> {
    fn of(meta: &'a Meta, field: impl Into<String>) -> Self {
        let field = field.into();
        Self { meta, line: meta.origin.line_of(&field), field }
    }
}

impl Check<'_> {
    fn depends_on_change(&self, resource: &Resource) -> bool {
        let names = references(resource).iter().any(|reference| self.changed.contains(&reference.key));
        names || target_service(resource).is_some_and(|service| self.changed.contains(&service_key(service)))
    }

    fn report(&mut self, severity: Severity, code: Code, place: Place<'_>, message: String) {
        let Place { meta, line, field } = place;
        let file = Arc::clone(&meta.origin.file);
        self.problems.push(Problem { severity, code, file, line, field, value: None, message });
    }

    /// Names that point nowhere.
    fn references(&mut self, resource: &Resource) {
        let meta = resource.meta();
        for reference in references(resource) {
            if self.catalog.get(&reference.key).is_some() {
                continue;
            }
            let ResourceKey { kind, name, .. } = &reference.key;
            let others = self.catalog.of_kind(*kind).map(|other| other.meta().name.as_str());
            let hint = match self.known.nearest(name.as_str(), others) {
                Some(near) => format!("did you mean {near}?"),
                None if self.changed.contains(&reference.key) => {
                    "this change removes it; change what refers to it first".to_owned()
                }
                None => format!("apply the {kind} first, or with it"),
            };
            let line = reference.line.unwrap_or_else(|| meta.origin.line_of(&reference.field));
            let place = Place { meta, line, field: reference.field };
            self.report(
                Severity::Error,
                Code::UnknownReference,
                place,
                format!("there is no {kind} {:?}; {hint}", name.as_str()),
            );
        }
    }

    fn object(&mut self, resource: &Resource, now: u64) {
        match resource {
            Resource::MeshConfig(config) => self.mesh_config(config, now),
            Resource::AccessPolicy(policy) => self.access_policy(policy),
            Resource::RoleBinding(binding) => self.role_binding(binding),
            Resource::Segment(segment) => self.segment(segment),
            Resource::RateLimit(limit) => self.rate_limit(limit),
            Resource::Role(role) => self.role(role),
            Resource::Service(_)
            | Resource::Workload(_)
            | Resource::AlertRule(_)
            | Resource::AlertSink(_) => {}
        }
    }

    fn mesh_config(&mut self, config: &mesh_config::MeshConfig, now: u64) {
        if let MtlsMode::Permissive { until } = config.mtls
            && until <= now
        {
            let message = "the time is over, so strict holds; write a later time, or mode: strict".to_owned();
            self.report(
                Severity::Warning,
                Code::NoEffect,
                Place::of(&config.meta, "spec.mtls.until"),
                message,
            );
        }
        if config.default_allow {
            let message = "whatever no rule speaks of is allowed; write deny once your policies are complete"
                .to_owned();
            self.report(
                Severity::Warning,
                Code::OpenDoor,
                Place::of(&config.meta, "spec.defaultAccess"),
                message,
            );
        }
    }

    fn access_policy(&mut self, policy: &AccessPolicy) {
        self.target(&policy.meta, &policy.target);
        let service = self.service_of(&policy.target);
        let services = self.services_of(&policy.target);
        for (index, rule) in policy.rules.iter().enumerate() {
            let place = |field: &str| Place {
                meta: &policy.meta,
                line: rule.line,
                field: format!("spec.rules[{index}].{field}"),
            };
            self.roles_of_rule(rule, &place);
            self.foreign_domains(rule, &place);
            let mut doubts = self.known.misspelt("from", rule.from.iter());
            doubts.extend(self.known.misspelt("except", rule.except.iter()));
            self.doubts(Code::NoMatch, doubts, &place);
            let mut doubts = doubts::of_operations("to", &rule.to);
            if matches!(policy.target, Selector::Workload(_)) {
                doubts.extend(doubts::of_ports(&services, &rule.to));
            }
            // A deny of gRPC methods holds for every request to their paths.
            if rule.action == Action::Allow {
                doubts.extend(doubts::of_calls(&services, &rule.to));
            }
            self.doubts(Code::NoEffect, doubts, &place);
            for (at, operation) in rule.to.iter().enumerate() {
                if let Some(service) = &service {
                    self.operation(operation, service, || place(&format!("to[{at}]")));
                }
            }
        }
    }

    fn doubts<'p>(&mut self, code: Code, doubts: Vec<Doubt>, place: &impl Fn(&str) -> Place<'p>) {
        for (field, message) in doubts {
            self.report(Severity::Warning, code, place(&field), message);
        }
    }

    /// Its operations must be possible, and some rule must name it.
    fn role(&mut self, role: &Role) {
        let Grants::Operations(operations) = &role.grants else { return };
        self.impossible(&role.meta, "spec.operations", operations);
        let place = |field: &str| Place::of(&role.meta, format!("spec.{field}"));
        self.doubts(Code::NoEffect, doubts::of_operations("operations", operations), &place);
        if !self.lookup.is_in_rules(&role.meta.name) {
            let message = format!(
                "no rule of an AccessPolicy names the role, so its holders may do nothing by it; write from: [{{role: {}}}] in a \
                 policy of the workloads they call",
                role.meta.name
            );
            self.report(Severity::Warning, Code::NoEffect, Place::of(&role.meta, "spec"), message);
        }
    }

    /// A role in a rule must have operations, and they must fit those of the rule.
    fn roles_of_rule<'p>(&mut self, rule: &AccessRule, place: &impl Fn(&str) -> Place<'p>) {
        for (at, subject) in rule.from.iter().enumerate() {
            let Subject::Role(name) = subject else { continue };
            let Some(role) = self.catalog.role(name) else { continue };
            let field = format!("from[{at}].role");
            match &role.grants {
                Grants::Admin(admin) => {
                    let message = format!(
                        "Role {name} is a permission on the mesh ({}), not a set of operations",
                        admin.as_str()
                    );
                    self.report(Severity::Error, Code::Conflict, place(&field), message);
                }
                Grants::Operations(operations) => {
                    if let Err(list) = narrowed(operations, &rule.to) {
                        let message = format!(
                            "Role {name} and the rule's own `to` both restrict {list}; say it in one of the two"
                        );
                        self.report(Severity::Error, Code::Conflict, place(&field), message);
                    }
                }
            }
        }
    }

    /// Nobody can prove an identity of a trust domain without a bundle.
    fn foreign_domains<'p>(&mut self, rule: &AccessRule, place: &impl Fn(&str) -> Place<'p>) {
        let Some(domain) = self.lookup.domain.clone() else { return };
        let own = format!("{}/", domain.uri());
        for (at, subject) in rule.from.iter().enumerate() {
            if let Subject::Identity(pattern) = subject
                && !pattern.to_string().starts_with(&own)
            {
                let message = format!(
                    "nobody can prove an identity of another trust domain than {domain}: no other bundle is known"
                );
                let place = place(&format!("from[{at}].identity"));
                self.report(Severity::Warning, Code::NoEffect, place, message);
            }
        }
    }

    /// Conditions that the declared protocol of a service's ports leaves nothing to judge by, and ports it does not have.
    fn operation<'p>(&mut self, operation: &Operation, service: &Service, place: impl Fn() -> Place<'p>) {
        let name = service.service_ref();
        let meant = |port: &&super::super::service::ServicePort| {
            operation.ports.is_empty() || operation.ports.iter().any(|range| range.contains(port.target_port))
        };
        let ports: Vec<_> = service.ports.iter().filter(meant).collect();
        if ports.is_empty() {
            let own: Vec<String> = service.ports.iter().map(|port| port.target_port.to_string()).collect();
            let message =
                format!("service {name} has none of these ports at the workload; it has {}", own.join(", "));
            self.report(Severity::Warning, Code::NoEffect, place(), message);
        } else if operation.needs_http() && ports.iter().all(|port| is_opaque(port.protocol)) {
            let message = format!(
                "service {name} does not speak HTTP there (its ports are declared tcp or tls), so that hosts, methods, \
                 paths, headers and grpc cannot be judged; remove them, or change the port's protocol"
            );
            self.report(Severity::Error, Code::NotEnforceable, place(), message);
        }
    }

    fn role_binding(&mut self, binding: &RoleBinding) {
        // A user keeps its place in the list.
        let peers = |holder: &Holder| match holder {
            Holder::Peers(subject) => subject.clone(),
            Holder::Uid(_) => Subject::Anyone,
        };
        let peers: Vec<Subject> = binding.subjects.iter().map(peers).collect();
        let doubts = self.known.misspelt("subjects", peers.iter());
        self.doubts(Code::NoMatch, doubts, &|field| Place::of(&binding.meta, format!("spec.{field}")));
        let Some(role) = self.catalog.role(&binding.role) else { return };
        let is_admin = matches!(role.grants, Grants::Admin(_));
        for (index, holder) in binding.subjects.iter().enumerate() {
            let message = match (holder, is_admin) {
                (Holder::Peers(_), true) => {
                    "this role is a permission on the mesh; its holders are users: uid: N"
                }
                (Holder::Uid(_), false) => {
                    "this role is a set of operations; its holders are identities, not users"
                }
                (Holder::Peers(_), false) | (Holder::Uid(_), true) => continue,
            };
            let place = Place::of(&binding.meta, format!("spec.subjects[{index}]"));
            self.report(Severity::Error, Code::Conflict, place, message.to_owned());
        }
    }

    /// A workload is in one segment at most, or nobody could say whom it accepts.
    fn segment(&mut self, segment: &Segment) {
        let doubts = self.known.misspelt("members", segment.members.iter());
        self.doubts(Code::NoMatch, doubts, &|field| Place::of(&segment.meta, format!("spec.{field}")));
        let segments = self.lookup.segments();
        let own = segments.members(&segment.meta.name);
        let overlaps = own.iter().enumerate().flat_map(|(index, patterns)| {
            let others = segments.sharing(patterns).into_iter().filter(|other| **other != segment.meta.name);
            others.map(move |other| (index, other.clone()))
        });
        let overlaps: Vec<_> = overlaps.collect();
        let is_member =
            |target: &Target<'_>| own.iter().flatten().any(|member| member.matches(target.identity));
        let is_empty = !self.fleet.iter().any(is_member);
        for (index, other) in overlaps {
            let message = format!(
                "shares workloads with Segment {other}, but a workload is in one segment at most; name the accounts of \
                 each one by one"
            );
            let place = Place::of(&segment.meta, format!("spec.members[{index}]"));
            self.report(Severity::Error, Code::Conflict, place, message);
        }
        if is_empty {
            let message =
                "no running workload is a member; the segment takes effect when one starts".to_owned();
            self.report(Severity::Warning, Code::NoMatch, Place::of(&segment.meta, "spec.members"), message);
        }
    }

    fn rate_limit(&mut self, limit: &RateLimit) {
        self.target(&limit.meta, &limit.target);
        self.impossible(&limit.meta, "spec.to", &limit.limit.to);
        let doubts = doubts::of_operations("to", &limit.limit.to);
        self.doubts(Code::NoEffect, doubts, &|field| Place::of(&limit.meta, format!("spec.{field}")));
        let Some(service) = self.service_of(&limit.target) else { return };
        for (at, operation) in limit.limit.to.iter().enumerate() {
            self.operation(operation, &service, || Place::of(&limit.meta, format!("spec.to[{at}]")));
        }
        if !service.ports.iter().all(|port| is_opaque(port.protocol)) {
            return;
        }
        let by_header = matches!(limit.limit.key, LimitKey::Header(_)).then_some("key");
        let requests = limit.limit.rate.filter(|rate| rate.unit == Unit::Requests).map(|_| "requests");
        let bodies = limit.limit.body_bytes_max.map(|_| "bodyBytesMax");
        for field in [by_header, requests, bodies].into_iter().flatten() {
            let message = format!(
                "service {} does not speak HTTP (its ports are declared tcp or tls); limit connections or bytes, by \
                 identity or address",
                service.service_ref()
            );
            let place = Place::of(&limit.meta, format!("spec.{field}"));
            self.report(Severity::Error, Code::NotEnforceable, place, message);
        }
    }

    /// Operations whose conditions exclude each other.
    fn impossible(&mut self, meta: &Meta, list: &str, operations: &[Operation]) {
        for (at, operation) in operations.iter().enumerate() {
            if let Some(why) = lint::impossible(meta, operation) {
                let place = Place::of(meta, format!("{list}[{at}]"));
                self.report(Severity::Error, Code::NotEnforceable, place, why);
            }
        }
    }

    /// Warns of a target that is nobody at present.
    fn target(&mut self, meta: &Meta, selector: &Selector) {
        let is_mesh = *selector == Selector::Mesh;
        if is_mesh || self.fleet.iter().any(|target| selector.selects(target)) {
            return;
        }
        let near = match selector {
            Selector::Mesh => None,
            Selector::Namespace(namespace) => self.known.nearest_namespace(namespace),
            Selector::Service(name) => self.nearest_of(&name.to_string(), || self.known_services()),
            Selector::Workload(name) => {
                let running =
                    self.fleet.iter().map(|target| format!("{}/{}", target.namespace, target.workload));
                self.nearest_of(&name.to_string(), || running.collect())
            }
            Selector::Labels { namespace, labels } => {
                let is_meant =
                    |target: &&Target<'_>| namespace.as_ref().is_none_or(|of| of == target.namespace);
                let carried: BTreeSet<String> =
                    self.fleet.iter().filter(is_meant).flat_map(|target| written(target.labels)).collect();
                let missing = written(labels).find(|label| !carried.contains(label));
                missing.and_then(|label| self.nearest_of(&label, || carried.into_iter().collect()))
            }
        };
        let hint = near.map_or_else(
            || "it takes effect when one starts".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        let message = format!("no running workload is meant by {}; {hint}", selector.describe());
        self.report(Severity::Warning, Code::NoMatch, Place::of(meta, "spec.target"), message);
    }

    fn known_services(&self) -> Vec<String> {
        let declared = self.catalog.services().map(|service| service.service_ref().to_string());
        let running = self.fleet.iter().flat_map(|target| target.services).map(ToString::to_string);
        declared.chain(running).collect()
    }

    /// The services whose callers reach the workloads, as far as a target names them.
    fn services_of(&self, selector: &Selector) -> Vec<Service> {
        let Selector::Workload(workload) = selector else {
            return self.service_of(selector).into_iter().collect();
        };
        let is_it = |target: &&Target<'_>| {
            *target.namespace == workload.namespace && *target.workload == workload.name
        };
        let labels = self.fleet.iter().find(is_it).map(|target| target.labels.clone()).unwrap_or_default();
        self.lookup.services_of(&workload.namespace, &workload.name, &labels)
    }

    /// The known word that a mistyped one may mean.
    fn nearest_of(&self, wanted: &str, known: impl FnOnce() -> Vec<String>) -> Option<String> {
        let known = if self.known.may_compare() { known() } else { Vec::new() };
        let near = self.known.nearest(wanted, known.iter().map(String::as_str));
        near.filter(|near| *near != wanted).map(str::to_owned)
    }

    fn service_of(&self, selector: &Selector) -> Option<Service> {
        let Selector::Service(name) = selector else { return None };
        match &**self.catalog.get(&service_key(name))? {
            Resource::Service(service) => Some(service.clone()),
            _ => None,
        }
    }
}

fn written(labels: &Labels) -> impl Iterator<Item = String> {
    labels.iter().map(|(key, value)| format!("{key}={value}"))
}

fn service_key(service: &ServiceRef) -> ResourceKey {
    ResourceKey {
        kind: Kind::Service,
        namespace: Some(service.namespace.clone()),
        name: service.name.clone(),
    }
}

/// Whether a declared protocol hides everything that HTTP conditions ask for.
fn is_opaque(protocol: Option<Protocol>) -> bool {
    matches!(protocol, Some(Protocol::Tcp | Protocol::Tls))
}
