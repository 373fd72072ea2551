//! A proxy's first message, read once: what it claims, checked against what its certificate proves.

use crate::local::registry::{Claims, InboundPort, Registered, WorkloadKey};
use crate::snapshot::Understood;
use mesh_ca::verify::PeerIdentity;
use mesh_proto::config::Subscriptions;
use mesh_proto::name::ServiceRef;
use mesh_proto::wire::discovery::{UNDERSTANDS_WORKLOAD, address, optional_protocol, port};
use mesh_proto::wire::v1;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use tonic::Status;

/// Services a proxy may subscribe to. A workload calls some tens; subscribing to a whole big mesh is not what it is for.
const SUBSCRIPTIONS_MAX: usize = 2_000;
/// Ports a workload may be called on.
const PORTS_MAX: usize = 256;
/// Labels of a workload, as for resources.
const LABELS_MAX: usize = 64;
/// Bytes of a label's key or value: a prefix of 253, a slash and a name of 63, as in Kubernetes.
const LABEL_BYTES_MAX: usize = 317;
/// Bytes of a version that are kept.
const VERSION_BYTES_MAX: usize = 64;

/// A `Hello` that makes sense.
#[derive(Debug)]
pub(crate) struct Greeting {
    /// The workload to register.
    pub(crate) workload: Registered,
    /// What it calls.
    pub(crate) subscriptions: Subscriptions,
    /// What it holds from before a reconnect; empty: nothing.
    pub(crate) digest: Vec<u8>,
    /// Which newer items it can read.
    pub(crate) understood: Understood,
}

/// Reads a `Hello` of a peer whose certificate has been verified.
///
/// # Errors
/// Says which claim cannot be true or has no meaning; nothing is registered then.
pub(crate) fn read(
    hello: v1::Hello,
    peer: &PeerIdentity,
    from: IpAddr,
    claims: Claims,
) -> Result<Greeting, Status> {
    let v1::Hello {
        instance,
        workload,
        version,
        address,
        ports,
        labels,
        subscriptions,
        revision: _,
        digest,
        understands,
        addresses,
    } = hello;
    let proven = peer.instance.as_ref().ok_or_else(|| {
        Status::permission_denied(format!(
            "the certificate of {} names no instance; ask for a new one",
            peer.id
        ))
    })?;
    if proven.as_str() != instance {
        return Err(Status::permission_denied(format!(
            "the certificate is for the instance {proven}, not for {:?}",
            cut(&instance)
        )));
    }
    let Some((namespace, _)) = peer.id.workload() else {
        return Err(Status::permission_denied(format!("{} is not the identity of a workload", peer.id)));
    };
    let address = read_address(&address)?;
    let ports = read_ports(ports)?;
    if !ports.is_empty() && is_for_its_own_machine(address.ip()) && !is_same_machine(from, address.ip()) {
        return Err(Status::invalid_argument(format!(
            "{proven} comes from {} and wants to be called at {address}, which other machines cannot reach: start it with \
             --listen and an address that they can, for instance --listen {}, or without ports",
            from.to_canonical(),
            SocketAddr::new(from.to_canonical(), address.port()),
        )));
    }
    if digest.len() > 64 {
        return Err(Status::invalid_argument("the digest is longer than any"));
    }
    let version = version.chars().filter(|c| c.is_ascii_graphic()).take(VERSION_BYTES_MAX).collect();
    let workload = Registered {
        key: WorkloadKey { id: peer.id.clone(), instance: proven.clone() },
        namespace,
        workload: workload.parse().map_err(|error| Status::invalid_argument(format!("workload: {error}")))?,
        address,
        ports,
        labels: read_labels(labels)?,
        version,
        claims,
        draining: false,
    };
    let understood = Understood { workload: understands.iter().any(|kind| kind == UNDERSTANDS_WORKLOAD) };
    let subscriptions = read_subscriptions(subscriptions, addresses)?;
    Ok(Greeting { workload, subscriptions, digest, understood })
}

/// Reads what a proxy asks to be told of.
///
/// # Errors
/// A name or an address is malformed, or there are too many.
pub(crate) fn read_subscriptions(
    names: Vec<v1::ServiceName>,
    addresses: Vec<String>,
) -> Result<Subscriptions, Status> {
    let asked = names.len().saturating_add(addresses.len());
    if asked > SUBSCRIPTIONS_MAX {
        return Err(Status::invalid_argument(format!(
            "{asked} subscriptions; at most {SUBSCRIPTIONS_MAX} are taken"
        )));
    }
    let services = names.into_iter().map(ServiceRef::try_from).collect::<Result<_, _>>();
    let addresses = addresses.iter().map(|spelled| address("addresses", spelled)).collect::<Result<_, _>>();
    let read = services.and_then(|services| Ok(Subscriptions { services, addresses: addresses? }));
    read.map_err(|error| Status::invalid_argument(format!("subscriptions: {error}")))
}

fn read_address(text: &str) -> Result<SocketAddr, Status> {
    let address: SocketAddr = text.parse().map_err(|_| {
        Status::invalid_argument(format!(
            "address {:?} is not IP:PORT; give what other proxies can reach",
            cut(text)
        ))
    })?;
    let ip = address.ip().to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() || is_broadcast {
        return Err(Status::invalid_argument(format!("nobody can connect to the address {address}")));
    }
    Ok(address)
}

/// Whether an address means something else on each machine or link: callers elsewhere would reach a neighbour of theirs, or
/// themselves.
fn is_for_its_own_machine(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// Whether a peer is where we are, or speaks from the very address that it names.
fn is_same_machine(from: IpAddr, named: IpAddr) -> bool {
    from.to_canonical().is_loopback() || from.to_canonical() == named.to_canonical()
}

fn read_ports(ports: Vec<v1::InboundPort>) -> Result<Vec<InboundPort>, Status> {
    if ports.len() > PORTS_MAX {
        return Err(Status::invalid_argument(format!(
            "{} ports; at most {PORTS_MAX} are taken",
            ports.len()
        )));
    }
    let mut read: Vec<InboundPort> = Vec::new();
    for v1::InboundPort { port: number, protocol, name } in ports {
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(format!("ports: {error}"));
        let port = port("port", number).map_err(|error| invalid(&error))?;
        if read.iter().any(|known| known.port == port) {
            return Err(invalid(&format_args!("{port} is there twice")));
        }
        let protocol = optional_protocol("protocol", &protocol).map_err(|error| invalid(&error))?;
        let name = if name.is_empty() { None } else { Some(name.parse().map_err(|error| invalid(&error))?) };
        read.push(InboundPort { port, protocol, name });
    }
    Ok(read)
}

fn read_labels(
    labels: std::collections::HashMap<String, String>,
) -> Result<BTreeMap<String, String>, Status> {
    if labels.len() > LABELS_MAX {
        return Err(Status::invalid_argument(format!(
            "{} labels; at most {LABELS_MAX} are taken",
            labels.len()
        )));
    }
    let fits = |text: &str| text.len() <= LABEL_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
    match labels.iter().find(|(key, value)| key.is_empty() || !fits(key) || !fits(value)) {
        Some((key, _)) => Err(Status::invalid_argument(format!(
            "the label {:?} is not one: at most {LABEL_BYTES_MAX} visible ASCII characters are taken",
            cut(key)
        ))),
        None => Ok(labels.into_iter().collect()),
    }
}

/// A text as it is shown in an error.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
