//! From the cluster's Services, EndpointSlices and Pods to what the mesh calls them. Pure.
//!
//! `watch` calls [`platform`] with all objects after each change of any; what is equal to before keeps its encoding.
//!
//! # Which pods are meshed
//! Those that the injection has labelled [`MESHED`]. A label that lies harms its own pod alone: callers ask for the
//! identity of its service account, which it cannot prove.
//!
//! # What happens to those that are not
//! A service without any meshed pod is nobody of the mesh: callers reach it as they did before. Of a service with both kinds
//! the others are called in plaintext, at their own ports.

use super::names::{instance, protocol, workload};
use crate::index::{Platform, PlatformWorkload};
use crate::local::registry::WorkloadKey;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_proto::config::{AddressOwner, Destination, DestinationPort, Endpoint, EndpointState, Owner};
use mesh_proto::identity::{SpiffeId, TrustDomain};
use mesh_proto::name::{Namespace, Port, ServiceAccount, ServiceRef};
use mesh_proto::wire::item::{Item, Part};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The label of a pod that has a proxy, set by the injection.
pub(crate) const MESHED: &str = "meshctl.io/meshed";
/// The label by which namespaces and pods ask for a proxy.
pub(crate) const INJECT: &str = "meshctl.io/inject";
/// Where the proxies of pods listen for their peers.
pub(crate) const MESH_PORT: u16 = 15008;
/// The label that leads from a slice to its service (Kubernetes, well-known labels).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The cluster's objects that say who is where.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    /// All services.
    pub(crate) services: Vec<Arc<Service>>,
    /// All endpoint slices.
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    /// All pods.
    pub(crate) pods: Vec<Arc<Pod>>,
    /// All namespaces.
    pub(crate) namespaces: Vec<Arc<k8s_openapi::api::core::v1::Namespace>>,
}

/// What the objects mean; `previous` is only used to share what is equal.
pub(crate) fn platform(objects: &Objects, domain: &TrustDomain, previous: Option<&Platform>) -> Platform {
    let pods = Pods::of(objects, domain);
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in &objects.slices {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if let (Some(namespace), Some(service)) = (&slice.metadata.namespace, service) {
            slices.entry((namespace, service)).or_default().push(slice);
        }
    }
    let mut built = Platform::default();
    let mut services_of: BTreeMap<WorkloadKey, BTreeSet<ServiceRef>> = BTreeMap::new();
    for service in &objects.services {
        let Some(name) = service_ref(service) else { continue };
        let none = Vec::new();
        let own = slices.get(&(name.namespace.as_str(), name.name.as_str())).unwrap_or(&none);
        let ports = ports(service, own);
        if ports.is_empty() {
            continue;
        }
        let Found { endpoints, members, is_meshed } = endpoints(own, &ports, &pods);
        for member in members {
            services_of.entry(member).or_default().insert(name.clone());
        }
        // Nobody is there now: who selects pods may have meshed ones in a moment, and must not be called in plaintext.
        let selects = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some();
        let is_ours = is_meshed || (own.iter().all(|slice| slice.endpoints.is_empty()) && selects);
        if !is_ours {
            continue;
        }
        for address in cluster_ips(service) {
            let owner = Owner::Service(name.clone());
            let old = previous.and_then(|platform| platform.addresses.get(&address));
            built
                .addresses
                .insert(address, item(old, Part::Address(Arc::new(AddressOwner { address, owner }))));
        }
        let ports = ports.into_iter().map(|port| port.destination).collect();
        let destination = Destination { service: name.clone(), ports, endpoints };
        let old = previous.and_then(|platform| platform.destinations.get(&name));
        built.destinations.insert(name, item(old, Part::Destination(Arc::new(destination))));
    }
    for pod in pods.meshed.values() {
        for address in &pod.ips {
            let endpoint = pod.endpoint(*address, EndpointState::Ready);
            let owner = Owner::Workload { workload: pod.workload.clone(), endpoint };
            let owner = AddressOwner { address: *address, owner };
            let old = previous.and_then(|platform| platform.addresses.get(address));
            built.addresses.insert(*address, item(old, Part::Address(Arc::new(owner))));
        }
        let services = services_of.remove(&pod.key).unwrap_or_default();
        let workload = PlatformWorkload {
            workload: pod.workload.name.clone(),
            address: SocketAddr::new(pod.first, MESH_PORT),
            labels: pod.labels.clone(),
            services: services.into_iter().collect(),
        };
        built.workloads.insert(pod.key.clone(), workload);
    }
    built.unmeshed = unmeshed_pods(objects);
    built
}

/// Pods that ask for a proxy, themselves or by their namespace, and have none: they came before the label did, or when the
/// webhook could not be asked.
fn unmeshed_pods(objects: &Objects) -> Vec<String> {
    let label =
        |meta: &ObjectMeta, key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    let asking =
        objects.namespaces.iter().filter(|ns| label(&ns.metadata, INJECT).as_deref() == Some("enabled"));
    let asking: BTreeSet<&str> = asking.filter_map(|ns| ns.metadata.name.as_deref()).collect();
    let lacks = |pod: &&Arc<Pod>| {
        let is_asked = match label(&pod.metadata, INJECT).as_deref() {
            Some("enabled") => true,
            Some(_) => false,
            None => pod.metadata.namespace.as_deref().is_some_and(|namespace| asking.contains(namespace)),
        };
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let is_over =
            matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some();
        is_asked && !is_over && label(&pod.metadata, MESHED).as_deref() != Some("true")
    };
    let name = |pod: &Arc<Pod>| {
        Some(format!("{}/{}", pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?))
    };
    let mut found: Vec<String> = objects.pods.iter().filter(lacks).filter_map(name).collect();
    found.sort();
    found
}

fn item(old: Option<&Item>, part: Part) -> Item {
    old.filter(|old| *old.part() == part).cloned().unwrap_or_else(|| Item::new(part))
}

/// A pod with a proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
struct MeshedPod {
    key: WorkloadKey,
    workload: ServiceRef,
    first: IpAddr,
    ips: Vec<IpAddr>,
    labels: BTreeMap<String, String>,
}

impl MeshedPod {
    fn endpoint(&self, ip: IpAddr, state: EndpointState) -> Endpoint {
        Endpoint {
            address: SocketAddr::new(ip, MESH_PORT),
            identity: Some(self.key.id.clone()),
            instance: self.key.instance.clone(),
            state,
            ports: BTreeMap::new(),
        }
    }
}

/// The meshed pods, by namespace and name and by address.
struct Pods {
    meshed: BTreeMap<(String, String), MeshedPod>,
    by_ip: BTreeMap<IpAddr, (String, String)>,
}

impl Pods {
    fn of(objects: &Objects, domain: &TrustDomain) -> Self {
        let mut pods = Self { meshed: BTreeMap::new(), by_ip: BTreeMap::new() };
        for pod in &objects.pods {
            let (Some(namespace), Some(name)) = (&pod.metadata.namespace, &pod.metadata.name) else {
                continue;
            };
            let Some(read) = meshed_pod(pod, domain) else { continue };
            let key = (namespace.clone(), name.clone());
            pods.by_ip.extend(read.ips.iter().map(|ip| (*ip, key.clone())));
            pods.meshed.insert(key, read);
        }
        pods
    }

    fn find(&self, namespace: &str, endpoint: &SliceEndpoint, ip: IpAddr) -> Option<&MeshedPod> {
        let named = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        let key = match named.and_then(|target| target.name.as_ref()) {
            Some(name) => &(namespace.to_owned(), name.clone()),
            None => self.by_ip.get(&ip)?,
        };
        self.meshed.get(key).filter(|pod| pod.ips.contains(&ip))
    }
}

/// A pod that has a proxy and an address, and is not over.
fn meshed_pod(pod: &Pod, domain: &TrustDomain) -> Option<MeshedPod> {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    if labels.get(MESHED).map(String::as_str) != Some("true") {
        return None;
    }
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    // Its address is its node's, and what is there is not the pod's alone.
    if spec.host_network == Some(true) {
        return None;
    }
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let namespace: Namespace = pod.metadata.namespace.as_deref()?.parse().ok()?;
    let account: ServiceAccount = spec.service_account_name.as_deref().unwrap_or("default").parse().ok()?;
    let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let ips: BTreeSet<IpAddr> =
        several.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
    let first = *ips.first()?;
    let name = pod.metadata.name.as_deref()?;
    let id = SpiffeId::for_workload(domain, &namespace, &account);
    Some(MeshedPod {
        key: WorkloadKey { id, instance: name.parse().ok()? },
        workload: ServiceRef { namespace, name: workload(&pod.metadata)? },
        first,
        ips: ips.into_iter().collect(),
        labels,
    })
}

fn service_ref(service: &Service) -> Option<ServiceRef> {
    // An alias of a name outside: resolved by the pod itself, dialled as what it is.
    if service.spec.as_ref()?.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let namespace = service.metadata.namespace.as_deref()?.parse().ok()?;
    Some(ServiceRef { namespace, name: service.metadata.name.as_deref()?.parse().ok()? })
}

fn cluster_ips(service: &Service) -> BTreeSet<IpAddr> {
    let Some(spec) = &service.spec else { return BTreeSet::new() };
    // "None" and "" are no addresses, and do not parse.
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    all.filter_map(|ip| ip.parse().ok()).collect()
}

/// A port of a service, with what the slices call it.
struct NamedPort {
    destination: DestinationPort,
    name: String,
}

fn ports(service: &Service, slices: &[&EndpointSlice]) -> Vec<NamedPort> {
    let all = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    all.filter_map(|port| named_port(port, slices)).collect()
}

fn named_port(port: &ServicePort, slices: &[&EndpointSlice]) -> Option<NamedPort> {
    // The mesh carries TCP; all else goes where it went.
    if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
        return None;
    }
    let number = port_number(port.port)?;
    let name = port.name.clone().unwrap_or_default();
    let found = slices.iter().find_map(|slice| port_of(slice, &name));
    let target = found.or_else(|| match &port.target_port {
        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(target)) => port_number(*target),
        // A name means what the pods say, and there are none.
        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(_)) | None => Some(number),
    })?;
    let destination = DestinationPort {
        port: number,
        name: name.parse().ok(),
        protocol: protocol(port.app_protocol.as_deref(), &name),
        target_port: target,
    };
    Some(NamedPort { destination, name })
}

fn port_number(number: i32) -> Option<Port> {
    u16::try_from(number).ok().and_then(Port::new)
}

/// Where a service's port lies at the endpoints of a slice.
fn port_of(slice: &EndpointSlice, name: &str) -> Option<Port> {
    let ports = slice.ports.iter().flatten();
    let port = ports.into_iter().find(|port| port.name.as_deref().unwrap_or_default() == name)?;
    port_number(port.port?)
}

/// Who answers for a service.
struct Found {
    endpoints: Vec<Endpoint>,
    /// The meshed pods among them, ready or not.
    members: Vec<WorkloadKey>,
    is_meshed: bool,
}

fn endpoints(slices: &[&EndpointSlice], ports: &[NamedPort], pods: &Pods) -> Found {
    let mut found = Found { endpoints: Vec::new(), members: Vec::new(), is_meshed: false };
    // A dual-stack pod is in two slices, by each of its addresses: one of them is enough.
    let mut seen: BTreeSet<mesh_proto::name::InstanceName> = BTreeSet::new();
    for slice in slices {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let here = ports.iter().filter_map(|port| {
            Some((port.destination.port, port.destination.target_port, port_of(slice, &port.name)?))
        });
        let here: Vec<_> = here.collect();
        for endpoint in &slice.endpoints {
            let Some(ip) = endpoint.addresses.first().and_then(|ip| ip.parse::<IpAddr>().ok()) else {
                continue;
            };
            let pod = pods.find(namespace, endpoint, ip);
            if let Some(pod) = pod {
                found.is_meshed = true;
                found.members.push(pod.key.clone());
            }
            let Some(state) = state(endpoint) else { continue };
            let built = match pod {
                Some(pod) => {
                    let elsewhere = here.iter().filter(|(_, usual, here)| usual != here);
                    let ports = elsewhere.map(|(port, _, here)| (*port, *here)).collect();
                    Some(Endpoint { ports, ..pod.endpoint(ip, state) })
                }
                None => unmeshed(endpoint, ip, &here, state),
            };
            found.endpoints.extend(built.filter(|endpoint| seen.insert(endpoint.instance.clone())));
        }
    }
    found
}

/// Whether an endpoint takes requests; `None`: it does not, or not yet (EndpointSlice, `conditions`).
fn state(endpoint: &SliceEndpoint) -> Option<EndpointState> {
    let conditions = endpoint.conditions.as_ref();
    let is = |field: Option<bool>, otherwise: bool| field.unwrap_or(otherwise);
    let ready = is(conditions.and_then(|c| c.ready), true);
    let serving = is(conditions.and_then(|c| c.serving), ready);
    let terminating = is(conditions.and_then(|c| c.terminating), false);
    match (ready, serving, terminating) {
        (true, _, false) => Some(EndpointState::Ready),
        (_, true, true) => Some(EndpointState::Draining),
        _ => None,
    }
}

fn unmeshed(
    endpoint: &SliceEndpoint,
    ip: IpAddr,
    here: &[(Port, Port, Port)],
    state: EndpointState,
) -> Option<Endpoint> {
    let (_, _, first) = here.first()?;
    let name = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
    Some(Endpoint {
        address: SocketAddr::new(ip, first.number()),
        identity: None,
        instance: instance(name, ip)?,
        state,
        ports: here.iter().map(|(port, _, here)| (*port, *here)).collect(),
    })
}

#[cfg(test)]
mod tests;
