//! What one proxy must know, taken from the world: its own inbound policy and limits, and the services it calls.
//!
//! Pure. Nothing of other workloads' policies is ever in it: the workload is the one whose identity the stream proved.

use crate::index::{Member, World};
use crate::local::registry::WorkloadKey;
use mesh_proto::config::{AddressOwner, OwnWorkload, Owner, Subscriptions};
use mesh_proto::wire::item::{Item, Items, Part};
use std::net::IpAddr;
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
    subscriptions: &Subscriptions,
    inbound: &mut Inbound,
) -> Option<Wanted> {
    let member = world.members.get(workload)?;
    inbound.update(world, member);
    let destinations = subscriptions.services.iter().filter_map(|service| world.destinations.get(service));
    let own = world.common.iter().chain(&inbound.items).chain(destinations).cloned();
    let dialled = subscriptions.addresses.iter().flat_map(|address| addressed(world, *address));
    let items: Items = own.chain(dialled).collect();
    let bundle_sequence = world.trust.sequence(&world.trust_domain);
    let (revision, trust_generation) = (world.revision, world.trust_generation);
    Some(Wanted { items, revision, bundle_sequence, trust_generation })
}

/// The owner of an address, and the service that it is the address of. Nothing where no platform knows addresses: then
/// silence is the honest answer.
fn addressed(world: &World, address: IpAddr) -> impl Iterator<Item = Item> {
    let owner = world.platform.as_ref().map(|platform| {
        platform.addresses.get(&address).cloned().unwrap_or_else(|| {
            Item::new(Part::Address(Arc::new(AddressOwner { address, owner: Owner::Outside })))
        })
    });
    let destination = owner.as_ref().and_then(|item| match item.part() {
        Part::Address(owner) => match &owner.owner {
            Owner::Service(service) => world.destinations.get(service).cloned(),
            Owner::Workload { .. } | Owner::Outside => None,
        },
        _ => None,
    });
    owner.into_iter().chain(destination)
}

#[cfg(test)]
mod tests;
