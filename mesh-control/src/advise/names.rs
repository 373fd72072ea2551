//! What a user's word for a caller or a target means: an instance, a workload, a service, a SPIFFE ID, an address.

use super::listed;
use crate::index::{Member, World};
use crate::local::registry::InboundPort;
use mesh_proto::config::DestinationPort;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::{InstanceName, Namespace, ObjectName, Port, ServiceRef};
use mesh_proto::policy::evaluate::SourceFacts;
use mesh_proto::policy::model::Protocol;
use mesh_proto::resource::role::Holder;
use mesh_proto::resource::subject::Subject;
use mesh_proto::resource::{Kind, Resource, Target};
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use tonic::Status;

/// Who calls.
pub(super) enum Caller {
    /// With an identity.
    Meshed {
        /// Which.
        id: SpiffeId,
        /// Which instance; policies can name one.
        instance: Option<InstanceName>,
    },
    /// Without.
    Unmeshed(IpAddr),
}

impl Caller {
    pub(super) fn source(&self) -> SourceFacts<'_> {
        match self {
            Self::Meshed { id, instance } => {
                SourceFacts::Meshed { id, instance: instance.as_ref().map(InstanceName::as_str) }
            }
            Self::Unmeshed(ip) => SourceFacts::Unmeshed { ip: *ip },
        }
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Self::Meshed { id, instance: Some(instance) } => format!("{id} ({instance})"),
            Self::Meshed { id, instance: None } => id.to_string(),
            Self::Unmeshed(ip) => format!("{ip} (outside the mesh)"),
        }
    }
}

/// A port of a callee.
#[derive(Clone, Copy)]
pub(super) struct KnownPort {
    /// As callers know it.
    pub(super) port: Port,
    /// At the workload.
    pub(super) target: Port,
    /// What it is declared to speak.
    pub(super) protocol: Option<Protocol>,
}

/// Who is called.
pub(super) struct Callee<'a> {
    workload: Workload<'a>,
    /// The service by which it was named, if it was.
    pub(super) service: Option<ServiceRef>,
    service_ports: Vec<KnownPort>,
    /// What the user should know about the choice.
    pub(super) note: Option<String>,
}

enum Workload<'a> {
    /// One that runs.
    Running(&'a Arc<Member>),
    /// One that only resources or a past decision speak of.
    Described(Box<Described>),
}

struct Described {
    id: SpiffeId,
    namespace: Namespace,
    workload: ObjectName,
    services: Vec<ServiceRef>,
    labels: BTreeMap<String, String>,
    instance: InstanceName,
}

impl Callee<'_> {
    pub(super) fn target(&self) -> Target<'_> {
        match &self.workload {
            Workload::Running(member) => member.target(),
            Workload::Described(described) => Target {
                identity: &described.id,
                namespace: &described.namespace,
                workload: &described.workload,
                services: &described.services,
                labels: &described.labels,
                instance: &described.instance,
            },
        }
    }

    /// The ports it can be called on: those of the service by which it was named, else its own.
    pub(super) fn ports(&self) -> Vec<KnownPort> {
        if !self.service_ports.is_empty() {
            return self.service_ports.clone();
        }
        match &self.workload {
            Workload::Running(member) => {
                let own = |port: &InboundPort| KnownPort {
                    port: port.port,
                    target: port.port,
                    protocol: port.protocol,
                };
                member.registered.ports.iter().map(own).collect()
            }
            Workload::Described(_) => Vec::new(),
        }
    }

    pub(super) fn shown(&self) -> String {
        match &self.service {
            Some(service) => format!("{service}, which is {}", self.target().identity),
            None => self.target().identity.to_string(),
        }
    }
}

/// Who is meant by `--from`.
pub(super) fn caller(world: &World, word: &str) -> Result<Caller, Status> {
    if word.is_empty() {
        return Err(Status::invalid_argument("who calls? `meshctl explain FROM TO METHOD PATH`"));
    }
    if let Ok(ip) = word.parse::<IpAddr>() {
        return Ok(Caller::Unmeshed(ip));
    }
    if word.starts_with("spiffe://") {
        let id = word.parse().map_err(|error| Status::invalid_argument(format!("from: {error}")))?;
        return Ok(Caller::Meshed { id, instance: None });
    }
    let members: Vec<_> = world.members.values().filter(|member| is_called(member, word)).collect();
    match members.as_slice() {
        [] => {}
        [member, ..] => {
            let key = &member.registered.key;
            // Policies that name an instance only match when the user named that instance.
            let instance = (key.instance.as_str() == word).then(|| key.instance.clone());
            let ids: BTreeSet<_> = members.iter().map(|member| &member.registered.key.id).collect();
            if ids.len() > 1 && instance.is_none() {
                return Err(ambiguous("from", word, ids.into_iter().map(ToString::to_string)));
            }
            return Ok(Caller::Meshed { id: key.id.clone(), instance });
        }
    }
    let id = described(world, word).map(|described| described.id).or_else(|| mentioned(world, word));
    match id {
        Some(id) => Ok(Caller::Meshed { id, instance: None }),
        None => Err(unknown(world, "from", word)),
    }
}

/// The identity of an account that does not run but that a policy, a role binding or a segment speaks of.
fn mentioned(world: &World, word: &str) -> Option<SpiffeId> {
    let subjects = world.catalog.iter().flat_map(|(_, resource)| match &**resource {
        Resource::AccessPolicy(policy) => {
            policy.rules.iter().flat_map(|rule| rule.from.iter().chain(&rule.except)).collect()
        }
        Resource::RoleBinding(binding) => {
            let peers = binding.subjects.iter().filter_map(|holder| match holder {
                Holder::Peers(subject) => Some(subject),
                Holder::Uid(_) => None,
            });
            peers.collect()
        }
        Resource::Segment(segment) => segment.members.iter().collect(),
        _ => Vec::<&Subject>::new(),
    });
    let is_it = |subject: &Subject| match subject {
        Subject::ServiceAccount { namespace, account } => {
            let is_meant = match word.split_once('/') {
                Some((wanted, rest)) => wanted == namespace.as_str() && rest == account.as_str(),
                None => word == account.as_str(),
            };
            is_meant.then(|| SpiffeId::for_workload(&world.trust_domain, namespace, account))
        }
        _ => None,
    };
    subjects.into_iter().find_map(is_it)
}

/// Who is meant by `--to`.
pub(super) fn callee<'a>(world: &'a World, word: &str) -> Result<Callee<'a>, Status> {
    if word.is_empty() {
        return Err(Status::invalid_argument("who is called? `meshctl explain FROM TO METHOD PATH`"));
    }
    let service = service(world, word)?;
    let service_ports = service.as_ref().and_then(|service| world.destination(service)).map(|destination| {
        let known = |port: &DestinationPort| KnownPort {
            port: port.port,
            target: port.target_port,
            protocol: port.protocol,
        };
        destination.ports.iter().map(known).collect()
    });
    let service_ports: Vec<KnownPort> = service_ports.unwrap_or_default();
    let is_meant = |member: &&Arc<Member>| match &service {
        Some(service) => member.services.contains(service),
        None => is_called(member, word) || member.registered.key.id.as_str() == word,
    };
    let members: Vec<_> = world.members.values().filter(is_meant).collect();
    if let [member, others @ ..] = members.as_slice() {
        let is_same = |other: &&Arc<Member>| {
            (&other.registered.key.id, &other.labels, &other.services)
                == (&member.registered.key.id, &member.labels, &member.services)
        };
        let note = (!others.iter().all(is_same)).then(|| {
            let names = members.iter().map(|member| member.registered.key.instance.to_string());
            format!(
                "{word} is answered by workloads that may have different policies ({}); this is the view of the first",
                listed(names)
            )
        });
        return Ok(Callee { workload: Workload::Running(member), service, service_ports, note });
    }
    match described(world, word) {
        Some(found) => {
            let note =
                Some(format!("{word} does not run at the moment; this is what its proxy would decide"));
            Ok(Callee { workload: Workload::Described(Box::new(found)), service, service_ports, note })
        }
        None => Err(unknown(world, "to", word)),
    }
}

/// The service that a word names: exactly, or by its name alone when only one namespace has it.
fn service(world: &World, word: &str) -> Result<Option<ServiceRef>, Status> {
    let exact = word.parse::<ServiceRef>().ok().filter(|service| world.destinations.contains_key(service));
    if exact.is_some() {
        return Ok(exact);
    }
    let named: Vec<&ServiceRef> =
        world.destinations.keys().filter(|service| service.name.as_str() == word).collect();
    match named.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some((*only).clone())),
        several => Err(ambiguous("to", word, several.iter().map(ToString::to_string))),
    }
}

/// Who made the call of a past decision.
pub(super) fn caller_of(decision: &v1::Decision) -> Result<Caller, Status> {
    if let Ok(id) = decision.source.parse::<SpiffeId>() {
        return Ok(Caller::Meshed { id, instance: decision.source_instance.parse().ok() });
    }
    let ip = decision.source.strip_prefix("unmeshed:").unwrap_or(&decision.source_ip);
    let unread =
        |_| Status::internal(format!("the caller {:?} of the decision cannot be read", decision.source));
    ip.parse().map(Caller::Unmeshed).map_err(unread)
}

/// Who was called in a past decision: the workload if it still runs, else what its identity says.
pub(super) fn callee_of<'a>(world: &'a World, decision: &v1::Decision) -> Result<Callee<'a>, Status> {
    let of_identity =
        || world.members.values().filter(|member| member.registered.key.id.as_str() == decision.destination);
    let same =
        of_identity().find(|member| member.registered.key.instance.as_str() == decision.destination_instance);
    if let Some(member) = same.or_else(|| of_identity().next()) {
        return Ok(Callee {
            workload: Workload::Running(member),
            service: None,
            service_ports: Vec::new(),
            note: None,
        });
    }
    let described = described(world, &decision.destination);
    let unread =
        || Status::internal(format!("the callee {:?} of the decision cannot be read", decision.destination));
    let described = Box::new(described.ok_or_else(unread)?);
    Ok(Callee {
        workload: Workload::Described(described),
        service: None,
        service_ports: Vec::new(),
        note: None,
    })
}

/// Whether a word names the workload: its instance, `name` or `namespace/name` of the workload or of its account.
fn is_called(member: &Member, word: &str) -> bool {
    let registered = &member.registered;
    let namespace = &registered.namespace;
    if registered.key.instance.as_str() == word {
        return true;
    }
    let account = registered.key.id.workload().map(|(_, account)| account);
    let names = [Some(registered.workload.as_str()), account.as_ref().map(|account| account.as_str())];
    names.into_iter().flatten().any(|name| match word.split_once('/') {
        Some((wanted, rest)) => wanted == namespace.as_str() && rest == name,
        None => word == name,
    })
}

/// A workload that does not run but that resources speak of: a `Workload`, a `Service` of that name, or any identity of
/// this mesh.
fn described(world: &World, word: &str) -> Option<Described> {
    let id = word.parse::<SpiffeId>().ok();
    let wanted = match &id {
        Some(id) => {
            let (namespace, account) = id.workload()?;
            ServiceRef { namespace, name: account.as_str().parse().ok()? }
        }
        None => named(world, word)?,
    };
    let known = world.catalog.of_kind(Kind::Workload).find_map(|resource| match &**resource {
        Resource::Workload(known) if known.namespace() == wanted.namespace => {
            let is_it = match &id {
                Some(id) => id.workload().is_some_and(|(_, account)| account == known.account),
                None => known.meta.name == wanted.name,
            };
            is_it.then_some(known)
        }
        _ => None,
    });
    let account = match known {
        Some(known) => known.account.clone(),
        None => wanted.name.as_str().parse().ok()?,
    };
    let workload = known.map_or_else(|| wanted.name.clone(), |known| known.meta.name.clone());
    let labels = known.map(|known| known.labels.clone()).unwrap_or_default();
    let backed = world.catalog.of_kind(Kind::Service).filter_map(|resource| match &**resource {
        Resource::Service(service) if service.is_backed_by(&wanted.namespace, &workload, &labels) => {
            Some(service.service_ref())
        }
        _ => None,
    });
    let mut services: Vec<_> = backed.collect();
    if services.is_empty() {
        services.push(ServiceRef { namespace: wanted.namespace.clone(), name: workload.clone() });
    }
    Some(Described {
        id: SpiffeId::for_workload(&world.trust_domain, &wanted.namespace, &account),
        instance: workload.as_str().parse().ok()?,
        namespace: wanted.namespace,
        workload,
        services,
        labels,
    })
}

/// `name` or `namespace/name`, if a `Workload` or `Service` is called so.
fn named(world: &World, word: &str) -> Option<ServiceRef> {
    let names = world.catalog.iter().filter_map(|(key, _)| match key.kind {
        Kind::Workload | Kind::Service => {
            Some(ServiceRef { namespace: key.namespace.clone()?, name: key.name.clone() })
        }
        _ => None,
    });
    let is_it = |name: &ServiceRef| match word.split_once('/') {
        Some((namespace, rest)) => name.namespace.as_str() == namespace && name.name.as_str() == rest,
        None => name.name.as_str() == word,
    };
    names.into_iter().find(is_it)
}

fn ambiguous(field: &str, word: &str, all: impl Iterator<Item = String>) -> Status {
    Status::invalid_argument(format!("{field}: {word:?} means several: {}; name one of them", listed(all)))
}

fn unknown(world: &World, field: &str, word: &str) -> Status {
    let word: String = word.chars().take(120).collect();
    let running = world
        .members
        .values()
        .map(|member| format!("{}/{}", member.registered.namespace, member.registered.workload));
    let all: BTreeSet<String> = running.chain(world.destinations.keys().map(ToString::to_string)).collect();
    Status::not_found(format!(
        "{field}: nothing is called {word:?}; there are {}. An instance, NAME, NAMESPACE/NAME, a SPIFFE ID{} will do",
        listed(all.into_iter()),
        if field == "from" { " or an IP address" } else { "" }
    ))
}
