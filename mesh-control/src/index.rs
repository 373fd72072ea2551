//! The mesh at one moment: resources, workloads, trust, and what follows from them together.
//!
//! [`World::build`] is pure: `discovery::fanout` calls it after each change and publishes the result; streams make their
//! snapshots of it, `admin` and `advise` answer from it. A world never changes; two worlds share what is equal in both, down
//! to the encoded bytes.
//!
//! # Who may answer for a name
//! Which services a workload answers for decides where callers are sent, so it must not be a mere claim of the workload.
//! Its namespace comes from its proven identity. Its name and labels count
//! - when the owner of the mesh vouched for them (the workload got its certificate as the control plane's own user or
//!   root, who could change every policy anyway), or
//! - when a `Workload` resource of that name is for its account: then with the resource's labels, or
//! - as to the name only: when it is the name of its account.
//!
//! Everything else is reported in `meshctl status` and has no effect.

use crate::local::registry::{Claims, Registered, WorkloadKey};
use mesh_proto::config::{
    Bundle, Destination, DestinationPort, Endpoint, EndpointState, MeshSettings, Revocations,
};
use mesh_proto::identity::{SpiffeId, TrustDomain};
use mesh_proto::limit::RateLimit;
use mesh_proto::name::{InstanceName, ObjectName, Port, ServiceRef};
use mesh_proto::policy::model::{Isolation, Policy, PolicyName};
use mesh_proto::resource::service::{Backing, Service, StaticEndpoint, Workload};
use mesh_proto::resource::{Catalog, Kind, Resource, Target};
use mesh_proto::wire::item::{Item, Part};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// What the authority says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Trust {
    /// Roots, the mesh's own domain included.
    pub(crate) bundles: Vec<Bundle>,
    /// What is no longer accepted.
    pub(crate) revocations: Revocations,
    /// See `MeshSettings::reissue_epoch`.
    pub(crate) reissue_epoch: u64,
}

impl Trust {
    /// The sequence of a domain's bundle; 0 when there is none.
    pub(crate) fn sequence(&self, domain: &TrustDomain) -> u64 {
        self.bundles.iter().find(|bundle| bundle.trust_domain == *domain).map_or(0, |bundle| bundle.sequence)
    }
}

/// A workload with what is accepted of its claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    /// As it registered.
    pub(crate) registered: Arc<Registered>,
    /// Its labels, as far as they count.
    pub(crate) labels: BTreeMap<String, String>,
    /// The services it answers for, in order.
    pub(crate) services: Vec<ServiceRef>,
    /// A claim that has no effect, and what to do about it.
    pub(crate) warning: Option<String>,
}

impl Member {
    /// The workload, as policies see it.
    pub(crate) fn target(&self) -> Target<'_> {
        let Registered { key, namespace, workload, .. } = &*self.registered;
        Target {
            identity: &key.id,
            namespace,
            workload,
            services: &self.services,
            labels: &self.labels,
            instance: &key.instance,
        }
    }
}

/// What a platform (Kubernetes) says of its services and workloads. It is believed without more: whoever can write there
/// can start any workload anyway.
#[derive(Clone, Debug, Default)]
pub(crate) struct Platform {
    /// Its services with their endpoints, encoded.
    pub(crate) destinations: BTreeMap<ServiceRef, Item>,
    /// Whose each address is, encoded; all others are outside.
    pub(crate) addresses: BTreeMap<IpAddr, Item>,
    /// Its meshed workloads.
    pub(crate) workloads: BTreeMap<WorkloadKey, PlatformWorkload>,
    /// What asks for a proxy and has none, in order: `namespace/pod`.
    pub(crate) unmeshed: Vec<String>,
}

impl Platform {
    /// Whether another says the same. Cheap where that was built with this one as its predecessor.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        same(&self.destinations, &other.destinations)
            && same(&self.addresses, &other.addresses)
            && self.workloads == other.workloads
            && self.unmeshed == other.unmeshed
    }
}

fn same<K: Eq>(left: &BTreeMap<K, Item>, right: &BTreeMap<K, Item>) -> bool {
    let pairs = || left.iter().zip(right);
    left.len() == right.len() && pairs().all(|((a, one), (b, other))| a == b && one.part() == other.part())
}

/// What the platform says of one workload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PlatformWorkload {
    /// What it is called: the name of what started it.
    pub(crate) workload: ObjectName,
    /// Where its proxy listens for its peers.
    pub(crate) address: SocketAddr,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// The services that select it, in order.
    pub(crate) services: Vec<ServiceRef>,
}

impl PlatformWorkload {
    /// As it would register; it may be connected to another replica, or not yet. `None` for an identity of no workload.
    fn registered(&self, key: &WorkloadKey) -> Option<Registered> {
        Some(Registered {
            namespace: key.id.workload()?.0,
            key: key.clone(),
            workload: self.workload.clone(),
            address: self.address,
            ports: Vec::new(),
            labels: self.labels.clone(),
            version: String::new(),
            claims: Claims::Unproven,
            draining: false,
        })
    }
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// The mesh's own trust domain.
    pub(crate) trust_domain: TrustDomain,
    /// Of the newest change in the catalog.
    pub(crate) revision: u64,
    /// The resources.
    pub(crate) catalog: Arc<Catalog>,
    /// The workloads.
    pub(crate) workloads: BTreeMap<WorkloadKey, Arc<Registered>>,
    /// The authority's word.
    pub(crate) trust: Arc<Trust>,
    /// Grows with every change of the authority's word since the control plane started.
    pub(crate) trust_generation: u64,
    /// The platform's word; `None` in local mode.
    pub(crate) platform: Option<Arc<Platform>>,
}

/// The mesh at one moment.
#[derive(Debug)]
pub(crate) struct World {
    /// The mesh's own trust domain.
    pub(crate) trust_domain: TrustDomain,
    /// Of the newest change in the catalog.
    pub(crate) revision: u64,
    /// The resources.
    pub(crate) catalog: Arc<Catalog>,
    /// The authority's word.
    pub(crate) trust: Arc<Trust>,
    /// Grows with every change of it since the control plane started.
    pub(crate) trust_generation: u64,
    /// The workloads.
    pub(crate) members: BTreeMap<WorkloadKey, Arc<Member>>,
    /// Every service that exists, with who answers for it.
    pub(crate) destinations: BTreeMap<ServiceRef, Item>,
    /// What every proxy gets: settings, bundles, revocations.
    pub(crate) common: Arc<[Item]>,
    /// The platform's word; `None` in local mode.
    pub(crate) platform: Option<Arc<Platform>>,
    encoded: Mutex<Encoded>,
}

impl World {
    /// Puts the parts together; `previous` is only used to share what is equal.
    pub(crate) fn build(parts: Parts, previous: Option<&Self>) -> Self {
        let Parts { trust_domain, revision, catalog, workloads, trust, trust_generation, platform } = parts;
        let names = Names::of(&catalog, platform.as_deref());
        let member = |(key, registered): (WorkloadKey, Arc<Registered>)| {
            let member = names.member(registered);
            let old = previous.and_then(|world| world.members.get(&key)).filter(|old| ***old == member);
            let member = old.cloned().unwrap_or_else(|| Arc::new(member));
            (key, member)
        };
        let elsewhere = platform.iter().flat_map(|platform| &platform.workloads);
        let elsewhere = elsewhere.filter_map(|(key, known)| Some((key.clone(), known.registered(key)?)));
        // Connected ones take the place of what the platform says of them.
        let all: BTreeMap<_, _> =
            elsewhere.map(|(key, known)| (key, Arc::new(known))).chain(workloads).collect();
        let members: BTreeMap<_, _> = all.into_iter().map(member).collect();
        let item = |destination: Destination| {
            let old = previous.and_then(|world| world.destinations.get(&destination.service));
            let same = |item: &&Item| matches!(item.part(), Part::Destination(old) if **old == destination);
            old.filter(same).cloned().unwrap_or_else(|| Item::new(Part::Destination(Arc::new(destination))))
        };
        let destinations = destinations(&names, &members, &trust.revocations);
        let mut destinations: BTreeMap<ServiceRef, Item> =
            destinations.into_iter().map(|(service, found)| (service, item(found))).collect();
        if let Some(platform) = &platform {
            // The platform's own service of a name is the one that its users mean.
            destinations
                .extend(platform.destinations.iter().map(|(name, item)| (name.clone(), item.clone())));
        }
        let common = common_items(&trust_domain, &catalog, &trust, previous);
        let encoded = previous.filter(|world| Arc::ptr_eq(&world.catalog, &catalog)).map(Self::encoded_clone);
        let encoded = Mutex::new(encoded.unwrap_or_default());
        Self {
            trust_domain,
            revision,
            catalog,
            trust,
            trust_generation,
            members,
            destinations,
            common,
            platform,
            encoded,
        }
    }

    /// All workloads, as policies see them.
    pub(crate) fn targets(&self) -> Vec<Target<'_>> {
        self.members.values().map(|member| member.target()).collect()
    }

    /// The Unix user that a `Workload` names for an identity, if one does. Of two the first in name order counts.
    pub(crate) fn named_owner(&self, id: &SpiffeId) -> Option<u32> {
        let (namespace, account) = id.workload()?;
        self.catalog.of_kind(Kind::Workload).find_map(|resource| match &**resource {
            Resource::Workload(known) if known.namespace() == namespace && known.account == account => {
                known.uid
            }
            _ => None,
        })
    }

    /// A service, if it exists.
    pub(crate) fn destination(&self, service: &ServiceRef) -> Option<&Arc<Destination>> {
        match self.destinations.get(service)?.part() {
            Part::Destination(destination) => Some(destination),
            _ => None,
        }
    }

    /// The item of a policy, encoded once for all proxies that get it.
    pub(crate) fn policy_item(&self, policy: &Arc<Policy>) -> Item {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        match encoded.policies.get(&policy.name) {
            Some((known, item)) if Arc::ptr_eq(known, policy) || known == policy => item.clone(),
            _ => {
                let item = Item::new(Part::Policy(policy.clone()));
                encoded.policies.insert(policy.name.clone(), (policy.clone(), item.clone()));
                item
            }
        }
    }

    /// The item of a limit, encoded once for all proxies that get it.
    pub(crate) fn limit_item(&self, limit: &Arc<RateLimit>) -> Item {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        match encoded.limits.get(&limit.name) {
            Some((known, item)) if Arc::ptr_eq(known, limit) || known == limit => item.clone(),
            _ => {
                let item = Item::new(Part::Limit(limit.clone()));
                encoded.limits.insert(limit.name.clone(), (limit.clone(), item.clone()));
                item
            }
        }
    }

    /// The item of a segment's isolation, encoded once for all proxies that get it.
    pub(crate) fn isolation_item(&self, isolation: &Arc<Isolation>) -> Item {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        match encoded.isolations.get(&isolation.segment) {
            Some((known, item)) if Arc::ptr_eq(known, isolation) || known == isolation => item.clone(),
            _ => {
                let item = Item::new(Part::Isolation(isolation.clone()));
                encoded.isolations.insert(isolation.segment.clone(), (isolation.clone(), item.clone()));
                item
            }
        }
    }

    fn encoded_clone(&self) -> Encoded {
        self.encoded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Items that were encoded already, with what they were encoded from. Lives as long as its catalog.
#[derive(Clone, Debug, Default)]
struct Encoded {
    policies: BTreeMap<PolicyName, (Arc<Policy>, Item)>,
    limits: BTreeMap<PolicyName, (Arc<RateLimit>, Item)>,
    isolations: BTreeMap<Arc<str>, (Arc<Isolation>, Item)>,
}

fn common_items(
    domain: &TrustDomain,
    catalog: &Catalog,
    trust: &Trust,
    previous: Option<&World>,
) -> Arc<[Item]> {
    let config = catalog.mesh_config();
    let settings = MeshSettings {
        trust_domain: domain.clone(),
        mtls: config.mtls,
        default_allow: config.default_allow,
        access_log_sample: config.access_log_sample,
        tracing: config.tracing.clone(),
        reissue_epoch: trust.reissue_epoch,
    };
    let mut parts =
        vec![Part::Mesh(Arc::new(settings)), Part::Revocations(Arc::new(trust.revocations.clone()))];
    parts.extend(trust.bundles.iter().map(|bundle| Part::Bundle(Arc::new(bundle.clone()))));
    if let Some(world) = previous
        && world.common.len() == parts.len()
        && world.common.iter().zip(&parts).all(|(item, part)| item.part() == part)
    {
        return world.common.clone();
    }
    parts.into_iter().map(Item::new).collect()
}

/// The services and workloads that resources name.
struct Names<'a> {
    services: BTreeMap<ServiceRef, &'a Service>,
    workloads: BTreeMap<ServiceRef, &'a Workload>,
    platform: Option<&'a Platform>,
}

impl<'a> Names<'a> {
    fn of(catalog: &'a Catalog, platform: Option<&'a Platform>) -> Self {
        let services = catalog.of_kind(Kind::Service).filter_map(|resource| match &**resource {
            Resource::Service(service) => Some((service.service_ref(), service)),
            _ => None,
        });
        let workloads = catalog.of_kind(Kind::Workload).filter_map(|resource| match &**resource {
            Resource::Workload(workload) => {
                let name = ServiceRef { namespace: workload.namespace(), name: workload.meta.name.clone() };
                Some((name, workload))
            }
            _ => None,
        });
        Self { services: services.collect(), workloads: workloads.collect(), platform }
    }

    /// What counts of a workload's claims; see the head of the module.
    fn member(&self, registered: Arc<Registered>) -> Member {
        if let Some(known) = self.platform.and_then(|platform| platform.workloads.get(&registered.key)) {
            let registered = Registered { workload: known.workload.clone(), ..(*registered).clone() };
            return Member {
                registered: Arc::new(registered),
                labels: known.labels.clone(),
                services: known.services.clone(),
                warning: None,
            };
        }
        let name = ServiceRef { namespace: registered.namespace.clone(), name: registered.workload.clone() };
        let account = registered.key.id.workload().map(|(_, account)| account);
        let known = self.workloads.get(&name).filter(|known| Some(&known.account) == account.as_ref());
        let own_name =
            account.as_ref().is_some_and(|account| account.as_str() == registered.workload.as_str());
        let is_vouched = registered.claims == Claims::Vouched;
        let mut labels = if is_vouched { registered.labels.clone() } else { BTreeMap::new() };
        if let Some(known) = known {
            labels.extend(known.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        if !(is_vouched || known.is_some() || own_name) {
            let Registered { key, workload, namespace, .. } = &*registered;
            let account = account.as_ref().map_or("", |account| account.as_str());
            let warning = format!(
                "{} calls itself {workload}, but its identity is {}: it answers for no service. If that is meant, apply a \
                 Workload {namespace}/{workload} with `serviceAccount: {account}`",
                key.instance, key.id,
            );
            return Member { registered, labels, services: Vec::new(), warning: Some(warning) };
        }
        let backed = self.services.iter().filter(|(_, service)| {
            service.is_backed_by(&registered.namespace, &registered.workload, &labels)
        });
        let mut services: Vec<_> = backed.map(|(name, _)| name.clone()).collect();
        if services.is_empty() && !self.services.contains_key(&name) {
            services.push(name);
        }
        let unused =
            !is_vouched && registered.labels.iter().any(|(key, value)| labels.get(key) != Some(value));
        let warning = unused.then(|| {
            let Registered { key, workload, namespace, .. } = &*registered;
            format!(
                "the labels that {} gives itself have no effect; if they are meant, apply a Workload {namespace}/{workload} \
                 with these labels",
                key.instance
            )
        });
        Member { registered, labels, services, warning }
    }
}

/// Every service with its ports and endpoints.
fn destinations(
    names: &Names<'_>,
    members: &BTreeMap<WorkloadKey, Arc<Member>>,
    revocations: &Revocations,
) -> BTreeMap<ServiceRef, Destination> {
    let mut found: BTreeMap<ServiceRef, Destination> = BTreeMap::new();
    for (name, service) in &names.services {
        let ports = service.ports.iter().map(|port| DestinationPort {
            port: port.port,
            name: port.name.clone(),
            protocol: port.protocol,
            target_port: port.target_port,
        });
        let endpoints = match &service.backing {
            Backing::Endpoints(fixed) => fixed.iter().enumerate().filter_map(static_endpoint).collect(),
            Backing::Workload(_) | Backing::Labels(_) => Vec::new(),
        };
        found.insert(name.clone(), Destination { service: name.clone(), ports: ports.collect(), endpoints });
    }
    let is_platforms = |member: &&Arc<Member>| {
        names.platform.is_some_and(|platform| platform.workloads.contains_key(&member.registered.key))
    };
    // The platform says itself who answers for its services.
    for member in members.values().filter(|member| !is_platforms(member)) {
        // Its stream is ended as well, but one that reads nothing takes its time with that, and nobody may call it now.
        if revocations.identities.binary_search(&member.registered.key.id).is_ok() {
            continue;
        }
        for name in &member.services {
            let implicit = !names.services.contains_key(name);
            let destination = found.entry(name.clone()).or_insert_with(|| Destination {
                service: name.clone(),
                ports: Vec::new(),
                endpoints: Vec::new(),
            });
            if implicit {
                add_ports(&mut destination.ports, member);
            }
            destination.endpoints.push(endpoint(&member.registered));
        }
    }
    // A workload without ports is a mere caller: as a service it does not exist.
    found.retain(|_, destination| !destination.ports.is_empty());
    found
}

/// A service that no resource describes has the ports of its workloads; of two descriptions of a port the first stays.
fn add_ports(ports: &mut Vec<DestinationPort>, member: &Member) {
    for port in &member.registered.ports {
        if !ports.iter().any(|known| known.port == port.port) {
            ports.push(DestinationPort {
                port: port.port,
                name: port.name.clone(),
                protocol: port.protocol,
                target_port: port.port,
            });
        }
    }
    ports.sort_by_key(|port: &DestinationPort| -> Port { port.port });
}

fn endpoint(registered: &Registered) -> Endpoint {
    let WorkloadKey { id, instance } = &registered.key;
    let state = if registered.draining { EndpointState::Draining } else { EndpointState::Ready };
    Endpoint {
        address: registered.address,
        identity: Some(id.clone()),
        instance: instance.clone(),
        state,
        ports: BTreeMap::new(),
    }
}

fn static_endpoint((index, fixed): (usize, &StaticEndpoint)) -> Option<Endpoint> {
    // Always a DNS label: `static-` and a number.
    let instance: InstanceName = format!("static-{index}").parse().ok()?;
    let identity: Option<SpiffeId> = fixed.identity.clone();
    Some(Endpoint {
        address: fixed.address,
        identity,
        instance,
        state: EndpointState::Ready,
        ports: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests;
