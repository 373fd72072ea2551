//! Expands roles, segments and accounts, so that what reaches a proxy needs no other object to be understood.

use super::super::access_policy::{AccessPolicy, AccessRule};
use super::super::role::{Grants, Holder};
use super::super::selector::Selector;
use super::super::subject::Subject;
use super::{Catalog, Target};
use crate::identity::pattern::IdentityPattern;
use crate::identity::{SpiffeId, TrustDomain};
use crate::name::ObjectName;
use crate::policy::model::{Action, GroupKind, Isolation, Operation, Policy, PolicyName, Rule, Source};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All policies and segments of a catalog, expanded for one trust domain.
#[derive(Debug)]
pub(super) struct Resolved {
    domain: TrustDomain,
    policies: Vec<(Selector, Arc<Policy>)>,
    isolations: Vec<(Vec<IdentityPattern>, Arc<Isolation>)>,
}

impl Resolved {
    pub(super) fn new(catalog: &Catalog, domain: &TrustDomain) -> Self {
        let resolver = Resolver::new(catalog, domain);
        let policies = catalog.access_policies();
        let policies = policies.map(|policy| (policy.target.clone(), Arc::new(resolver.policy(policy))));
        let isolations = catalog.segments().map(|segment| {
            let members = resolver.segment_members(&segment.meta.name);
            let accepts = std::iter::once(&segment.meta.name).chain(&segment.accepts);
            let accepts = accepts.map(|name| (name.as_str().into(), resolver.segment_members(name)));
            let isolation = Isolation {
                segment: segment.meta.name.as_str().into(),
                accepts: accepts.collect(),
                file: Arc::clone(&segment.meta.origin.file),
                line: segment.meta.origin.line,
            };
            (members, Arc::new(isolation))
        });
        Self { domain: domain.clone(), policies: policies.collect(), isolations: isolations.collect() }
    }

    pub(super) fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The policies about a workload, in the order of their names.
    pub(super) fn policies_for(&self, target: &Target<'_>) -> Vec<Arc<Policy>> {
        let chosen = self.policies.iter().filter(|(selector, _)| selector.selects(target));
        chosen.map(|(_, policy)| Arc::clone(policy)).collect()
    }

    /// All policies with what they are about.
    pub(super) fn policies(&self) -> &[(Selector, Arc<Policy>)] {
        &self.policies
    }

    /// The segment of an identity. Overlapping segments are refused by `check`; should two hold an identity all the
    /// same, the first by name counts.
    pub(super) fn isolation_of(&self, id: &SpiffeId) -> Option<Arc<Isolation>> {
        let found =
            self.isolations.iter().find(|(members, _)| members.iter().any(|member| member.matches(id)));
        found.map(|(_, isolation)| Arc::clone(isolation))
    }
}

/// Looks names up for one trust domain.
pub(super) struct Resolver<'a> {
    catalog: &'a Catalog,
    domain: &'a TrustDomain,
    /// Who holds each role.
    holders: BTreeMap<&'a ObjectName, Vec<IdentityPattern>>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(catalog: &'a Catalog, domain: &'a TrustDomain) -> Self {
        let mut resolver = Self { catalog, domain, holders: BTreeMap::new() };
        let mut holders: BTreeMap<&ObjectName, Vec<IdentityPattern>> = BTreeMap::new();
        for binding in catalog.role_bindings() {
            let held = holders.entry(&binding.role).or_default();
            for holder in &binding.subjects {
                match holder {
                    Holder::Peers(subject) => held.extend(resolver.patterns(subject)),
                    Holder::Uid(_) => {}
                }
            }
        }
        resolver.holders = holders;
        resolver
    }

    /// The identities that a member, a holder or a plain source means; none for what is no set of identities.
    pub(super) fn patterns(&self, subject: &Subject) -> Vec<IdentityPattern> {
        match subject {
            Subject::Identity(pattern) => vec![pattern.clone()],
            Subject::ServiceAccount { namespace, account } => {
                vec![IdentityPattern::Exact(SpiffeId::for_workload(self.domain, namespace, account))]
            }
            Subject::Namespace(namespace) => vec![IdentityPattern::namespace(self.domain, namespace)],
            Subject::Segment(name) => self.segment_members(name),
            Subject::Role(name) => self.role_holders(name),
            Subject::Instance { .. } | Subject::Cidr(_) | Subject::AnyMeshed | Subject::Anyone => Vec::new(),
        }
    }

    pub(super) fn segment_members(&self, name: &ObjectName) -> Vec<IdentityPattern> {
        let members =
            self.catalog.segment(name).map(|segment| segment.members.as_slice()).unwrap_or_default();
        // Members are identities, accounts and namespaces only: nothing here can lead back.
        members
            .iter()
            .filter(|member| !matches!(member, Subject::Segment(_)))
            .flat_map(|member| self.patterns(member))
            .collect()
    }

    fn role_holders(&self, name: &ObjectName) -> Vec<IdentityPattern> {
        self.holders.get(name).cloned().unwrap_or_default()
    }

    fn source(&self, subject: &Subject) -> Source {
        match subject {
            Subject::Identity(pattern) => Source::Identity(pattern.clone()),
            Subject::ServiceAccount { namespace, account } => Source::Identity(IdentityPattern::Exact(
                SpiffeId::for_workload(self.domain, namespace, account),
            )),
            Subject::Namespace(namespace) => {
                Source::Identity(IdentityPattern::namespace(self.domain, namespace))
            }
            Subject::Segment(name) => Source::Group {
                kind: GroupKind::Segment,
                name: name.as_str().into(),
                members: self.segment_members(name),
            },
            Subject::Role(name) => Source::Group {
                kind: GroupKind::Role,
                name: name.as_str().into(),
                members: self.role_holders(name),
            },
            Subject::Instance { namespace, account, instance } => Source::Instance {
                id: SpiffeId::for_workload(self.domain, namespace, account),
                instance: instance.clone(),
            },
            Subject::Cidr(cidr) => Source::Unmeshed(*cidr),
            Subject::AnyMeshed => Source::AnyMeshed,
            Subject::Anyone => Source::Anyone,
        }
    }

    pub(super) fn policy(&self, policy: &AccessPolicy) -> Policy {
        let AccessPolicy { meta, scope, target: _, mode, rules } = policy;
        let rules = rules.iter().zip(1_usize..).flat_map(|(rule, number)| self.rules(rule, number));
        Policy {
            name: PolicyName { namespace: meta.namespace.clone(), name: meta.name.clone() },
            scope: *scope,
            mode: *mode,
            rules: rules.collect(),
            file: Arc::clone(&meta.origin.file),
        }
    }

    /// One rule for the sources without a role, and one for each role, since a role brings its own operations.
    fn rules(&self, rule: &AccessRule, number: usize) -> Vec<Rule> {
        let (roles, plain): (Vec<&Subject>, Vec<&Subject>) =
            rule.from.iter().partition(|source| matches!(source, Subject::Role(_)));
        let name: Arc<str> = rule.name.clone().unwrap_or_else(|| format!("rule {number}").into());
        let except: Vec<Source> = rule.except.iter().map(|source| self.source(source)).collect();
        let make = |from: Vec<Source>, to: Vec<Operation>| Rule {
            name: Arc::clone(&name),
            line: rule.line,
            action: rule.action,
            from,
            except: except.clone(),
            to,
            valid_until: rule.valid_until,
        };
        let mut rules = Vec::new();
        if !plain.is_empty() {
            rules.push(make(plain.into_iter().map(|source| self.source(source)).collect(), rule.to.clone()));
        }
        for subject in roles {
            let (source, to) = self.role_rule(subject, rule);
            rules.push(make(vec![source], to));
        }
        rules
    }

    /// What a rule says of the holders of a role: the role's operations, narrowed by the rule's own.
    ///
    /// `check` refuses a role that does not exist and operations that exclude each other. Should they be here all the
    /// same, an allow rule is there for nobody and a deny rule keeps to its own operations, which is the safe side of
    /// both. The rule never disappears: a guard-rail without its only allow rule would open.
    fn role_rule(&self, subject: &Subject, rule: &AccessRule) -> (Source, Vec<Operation>) {
        let granted = match subject {
            Subject::Role(name) => self.catalog.role(name).and_then(|role| match &role.grants {
                Grants::Operations(operations) => narrowed(operations, &rule.to).ok(),
                Grants::Admin(_) => None,
            }),
            _ => None,
        };
        match (granted, rule.action, self.source(subject)) {
            (Some(operations), _, holders) => (holders, operations),
            (None, Action::Allow, Source::Group { kind, name, .. }) => {
                (Source::Group { kind, name, members: Vec::new() }, rule.to.clone())
            }
            (None, _, holders) => (holders, rule.to.clone()),
        }
    }
}

/// Every operation of `granted`, narrowed by every one of `to`; `granted` itself when `to` says nothing.
///
/// # Errors
/// The name of a list that both restrict, for which there is no list that means both.
pub(super) fn narrowed(granted: &[Operation], to: &[Operation]) -> Result<Vec<Operation>, &'static str> {
    if to.is_empty() {
        return Ok(granted.to_vec());
    }
    let pairs = granted.iter().flat_map(|a| to.iter().map(move |b| (a, b)));
    pairs.map(|(a, b)| both(a, b)).collect()
}

/// The operation that means both; each list may be restricted by one of the two only, or by both alike.
fn both(a: &Operation, b: &Operation) -> Result<Operation, &'static str> {
    fn list<T: Clone + PartialEq>(name: &'static str, a: &[T], b: &[T]) -> Result<Vec<T>, &'static str> {
        match (a, b) {
            ([], one) | (one, []) => Ok(one.to_vec()),
            (a, b) if a == b => Ok(a.to_vec()),
            _ => Err(name),
        }
    }
    let Operation { ports, protocols, sni, hosts, methods, paths, headers, grpc } = a;
    // All header conditions must hold, so those of both together mean both.
    let headers = headers.iter().chain(b.headers.iter().filter(|other| !headers.contains(other)));
    Ok(Operation {
        ports: list("ports", ports, &b.ports)?,
        protocols: list("protocols", protocols, &b.protocols)?,
        sni: list("sni", sni, &b.sni)?,
        hosts: list("hosts", hosts, &b.hosts)?,
        methods: list("methods", methods, &b.methods)?,
        paths: list("paths", paths, &b.paths)?,
        headers: headers.cloned().collect(),
        grpc: list("grpc", grpc, &b.grpc)?,
    })
}
