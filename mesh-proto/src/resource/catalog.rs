//! An immutable set of objects, and what they mean together for one workload.
//!
//! The control plane keeps one for each revision and asks it for a workload's policies and limits; apply asks it what is
//! wrong between objects. A change is a new catalog that shares the unchanged objects.

mod check;
mod doubts;
mod lint;
mod lookup;
mod references;
mod resolve;
mod status;

pub use status::Status;

use super::key::{Kind, ResourceKey};
use super::mesh_config::MeshConfig;
use super::problem::Problem;
use super::role::{AdminAction, AdminRole, Grants, Holder, Role};
use super::segment::Segment;
use super::{Resource, access_policy, alert_rule, alert_sink, mesh_config, rate_limit, role, service};
use crate::identity::{SpiffeId, TrustDomain};
use crate::limit::RateLimit;
use crate::name::{InstanceName, Namespace, ObjectName, ServiceRef};
use crate::policy::model::{Policy, PolicyInputs};
use resolve::Resolved;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

/// A set of objects, one for each key.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// By kind, so that a question about one kind costs nothing for the others.
    resources: BTreeMap<Kind, BTreeMap<ResourceKey, Arc<Resource>>>,
    /// Policies with roles and segments expanded, made at the first question. A mesh has one trust domain; a question
    /// for another is answered without keeping the answer.
    resolved: OnceLock<Arc<Resolved>>,
}

/// A running workload, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The identity it proved.
    pub identity: &'a SpiffeId,
    /// Where it lives.
    pub namespace: &'a Namespace,
    /// What it is called there.
    pub workload: &'a ObjectName,
    /// The services it answers for.
    pub services: &'a [ServiceRef],
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Which of its instances.
    pub instance: &'a InstanceName,
}

impl Catalog {
    /// The set of these objects; of two with one key, the later stays.
    pub fn from_resources(resources: impl IntoIterator<Item = Resource>) -> Self {
        let changes = resources.into_iter().map(|resource| (resource.key(), Some(resource)));
        Self::default().with_changes(changes)
    }

    /// The same set with some objects replaced, added or (`None`) removed.
    pub fn with_changes(&self, changes: impl IntoIterator<Item = (ResourceKey, Option<Resource>)>) -> Self {
        let mut resources = self.resources.clone();
        for (key, resource) in changes {
            let of_kind = resources.entry(key.kind).or_default();
            match resource {
                Some(resource) => of_kind.insert(key, Arc::new(resource)),
                None => of_kind.remove(&key),
            };
        }
        Self { resources, resolved: OnceLock::new() }
    }

    /// One object.
    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Resource>> {
        self.resources.get(&key.kind)?.get(key)
    }

    /// All objects, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceKey, &Arc<Resource>)> {
        self.resources.values().flatten()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.resources.values().map(BTreeMap::len).fold(0, usize::saturating_add)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.resources.values().all(BTreeMap::is_empty)
    }

    /// The objects of a kind, in the order of their names.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// The mesh-wide settings; the defaults when nobody applied any.
    pub fn mesh_config(&self) -> MeshConfig {
        let found = self.of_kind(Kind::MeshConfig).find_map(|resource| match &**resource {
            Resource::MeshConfig(config) => Some(config.clone()),
            _ => None,
        });
        found.unwrap_or_else(mesh_config::MeshConfig::defaults)
    }

    /// Everything that decides who may call the workload, with roles and segments expanded.
    pub fn policy_inputs(&self, target: &Target<'_>, revoked: &[SpiffeId]) -> PolicyInputs {
        let resolved = self.resolved(&target.identity.trust_domain());
        PolicyInputs {
            policies: resolved.policies_for(target),
            isolation: resolved.isolation_of(target.identity),
            quarantined: revoked.to_vec(),
            default_allow: self.mesh_config().default_allow,
        }
    }

    /// All access policies with roles and segments expanded, whomever they are about, in the order of their names.
    pub fn policies(&self, domain: &TrustDomain) -> Vec<Arc<Policy>> {
        self.resolved(domain).policies().iter().map(|(_, policy)| Arc::clone(policy)).collect()
    }

    /// The limits that protect the workload, in the order of their names.
    pub fn limits(&self, target: &Target<'_>) -> Vec<Arc<RateLimit>> {
        let limits = self.rate_limits().filter(|limit| limit.target.selects(target));
        limits.map(|limit| Arc::clone(&limit.limit)).collect()
    }

    /// What is wrong, or worth knowing, about the changed objects among the others, at a time (Unix seconds).
    ///
    /// `changed` names what was replaced, added or removed to make this catalog. Also looked at is what refers to those.
    /// Errors are what would be without effect for certain, or point nowhere; the rest are warnings.
    pub fn check(&self, changed: &[ResourceKey], fleet: &[Target<'_>], now: u64) -> Vec<Problem> {
        check::check(self, changed, fleet, now)
    }

    /// What every object does at present, given the workloads that run and the time (Unix seconds).
    pub fn statuses(&self, fleet: &[Target<'_>], now: u64) -> BTreeMap<ResourceKey, Status> {
        status::statuses(self, fleet, now)
    }

    /// The admin roles that a Unix user holds by bindings.
    pub fn admin_roles(&self, uid: u32) -> BTreeSet<AdminRole> {
        let held = self.role_bindings().filter(|binding| binding.subjects.contains(&Holder::Uid(uid)));
        let roles = held.filter_map(|binding| match self.role(&binding.role)?.grants {
            Grants::Admin(role) => Some(role),
            Grants::Operations(_) => None,
        });
        roles.collect()
    }

    /// Whether a Unix user may do something by a role it holds. The control plane's own user and root need none.
    pub fn uid_may(&self, uid: u32, action: AdminAction) -> bool {
        self.admin_roles(uid).into_iter().any(|role| role.permits(action))
    }

    fn resolved(&self, domain: &TrustDomain) -> Arc<Resolved> {
        let kept = self.resolved.get_or_init(|| Arc::new(Resolved::new(self, domain)));
        if kept.domain() == domain { Arc::clone(kept) } else { Arc::new(Resolved::new(self, domain)) }
    }

    /// The trust domain that accounts belong to: that of the running workloads, or the configured one.
    fn trust_domain(&self, fleet: &[Target<'_>]) -> Option<TrustDomain> {
        let running = fleet.first().map(|target| target.identity.trust_domain());
        running.or_else(|| self.mesh_config().trust_domain)
    }

    fn role(&self, name: &ObjectName) -> Option<&Role> {
        match &**self.get(&mesh_wide(Kind::Role, name))? {
            Resource::Role(role) => Some(role),
            _ => None,
        }
    }

    fn segment(&self, name: &ObjectName) -> Option<&Segment> {
        match &**self.get(&mesh_wide(Kind::Segment, name))? {
            Resource::Segment(segment) => Some(segment),
            _ => None,
        }
    }

    fn access_policies(&self) -> impl Iterator<Item = &access_policy::AccessPolicy> {
        self.of_kind(Kind::AccessPolicy).filter_map(|resource| match &**resource {
            Resource::AccessPolicy(object) => Some(object),
            _ => None,
        })
    }

    fn role_bindings(&self) -> impl Iterator<Item = &role::RoleBinding> {
        self.of_kind(Kind::RoleBinding).filter_map(|resource| match &**resource {
            Resource::RoleBinding(object) => Some(object),
            _ => None,
        })
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.of_kind(Kind::Segment).filter_map(|resource| match &**resource {
            Resource::Segment(object) => Some(object),
            _ => None,
        })
    }

    fn rate_limits(&self) -> impl Iterator<Item = &rate_limit::RateLimit> {
        self.of_kind(Kind::RateLimit).filter_map(|resource| match &**resource {
            Resource::RateLimit(object) => Some(object),
            _ => None,
        })
    }

    /// Which alarms go where, in the order of the rules' names.
    pub fn alert_rules(&self) -> impl Iterator<Item = &alert_rule::AlertRule> {
        self.of_kind(Kind::AlertRule).filter_map(|resource| match &**resource {
            Resource::AlertRule(object) => Some(object),
            _ => None,
        })
    }

    /// The places that alarms are sent to, in the order of their names.
    pub fn alert_sinks(&self) -> impl Iterator<Item = &alert_sink::AlertSink> {
        self.of_kind(Kind::AlertSink).filter_map(|resource| match &**resource {
            Resource::AlertSink(object) => Some(object),
            _ => None,
        })
    }

    fn services(&self) -> impl Iterator<Item = &service::Service> {
        self.of_kind(Kind::Service).filter_map(|resource| match &**resource {
            Resource::Service(object) => Some(object),
            _ => None,
        })
    }
}

/// The key of a mesh-wide object.
fn mesh_wide(kind: Kind, name: &ObjectName) -> ResourceKey {
    ResourceKey { kind, namespace: None, name: name.clone() }
}
