//! What one proxy must know, taken from the world: its own inbound policy and limits, and the services it calls.
//!
//! Pure. Nothing of other workloads' policies is ever in it: the workload is the one whose identity the stream proved.

use crate::index::{Member, World};
use crate::local::registry::WorkloadKey;
use mesh_proto::config::OwnWorkload;
use mesh_proto::name::ServiceRef;
use mesh_proto::wire::item::{Item, Items, Part};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A state a proxy should have.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Everything.
    pub(crate) items: Items,
    /// Of the newest resource change in it.
    pub(crate) revision: u64,
    /// The sequence of the mesh's own bundle in it.
    pub(crate) bundle_sequence: u64,
    /// The generation of the authority's word in it.
    pub(crate) trust_generation: u64,
}

/// The part of a snapshot that depends on the resources and on the workload itself, kept from one world to the next while
/// neither changes, so that endpoints that come and go cost no evaluation of targets.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    made_of: Option<(Arc<mesh_proto::resource::Catalog>, Arc<Member>)>,
    items: Vec<Item>,
    understood: Understood,
}

/// Which items beyond those of the first release the proxy can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Understood {
    /// What is known of the workload itself.
    pub(crate) workload: bool,
}

impl Inbound {
    /// For a proxy that can read so much.
    pub(crate) fn new(understood: Understood) -> Self {
        Self { understood, ..Self::default() }
    }

    fn update(&mut self, world: &World, member: &Arc<Member>) {
        if let Some((catalog, known)) = &self.made_of
            && Arc::ptr_eq(catalog, &world.catalog)
            && Arc::ptr_eq(known, member)
        {
            return;
        }
        self.items = inbound_items(world, member);
        if self.understood.workload {
            let services = member.services.clone();
            self.items.push(Item::new(Part::Workload(Arc::new(OwnWorkload { services }))));
        }
        self.made_of = Some((world.catalog.clone(), member.clone()));
    }
}

/// The inbound policy and limits of a workload.
pub(crate) fn inbound_items(world: &World, member: &Member) -> Vec<Item> {
    let target = member.target();
    let policy = world.catalog.policy_inputs(&target, &world.trust.revocations.identities);
    let limits = world.catalog.limits(&target);
    let isolation = policy.isolation.iter().map(|isolation| world.isolation_item(isolation));
    let policies = policy.policies.iter().map(|policy| world.policy_item(policy));
    isolation.chain(policies).chain(limits.iter().map(|limit| world.limit_item(limit))).collect()
}

/// Everything that the proxy of `workload` should have; `None` when it is not registered.
pub(crate) fn wanted(
    world: &World,
    workload: &WorkloadKey,
    subscriptions: &BTreeSet<ServiceRef>,
    inbound: &mut Inbound,
) -> Option<Wanted> {
    let member = world.members.get(workload)?;
    inbound.update(world, member);
    let destinations = subscriptions.iter().filter_map(|service| world.destinations.get(service));
    let items: Items = world.common.iter().chain(&inbound.items).chain(destinations).cloned().collect();
    let bundle_sequence = world.trust.sequence(&world.trust_domain);
    let (revision, trust_generation) = (world.revision, world.trust_generation);
    Some(Wanted { items, revision, bundle_sequence, trust_generation })
}

#[cfg(test)]
mod tests;
