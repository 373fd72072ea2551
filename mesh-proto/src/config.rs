//! Everything one proxy must know: its snapshot, and the parts of it.
//!
//! The control plane builds snapshots, `wire` carries them as keyed items, the proxy keeps the last good one. Immutable:
//! a change is a new snapshot that shares the unchanged parts.

use crate::identity::{SpiffeId, TrustDomain};
use crate::limit::RateLimit;
use crate::name::{InstanceName, ObjectName, Port, ServiceRef};
use crate::policy::model::{PolicyInputs, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A number that grows with every accepted change of the mesh's resources or registry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Revision(pub u64);

/// All that one proxy must know.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Of the last change in it.
    pub revision: Revision,
    /// SHA-256 over its items, compared with the control plane's to find divergence.
    pub digest: [u8; 32],
    /// Mesh-wide settings.
    pub mesh: MeshSettings,
    /// Roots by trust domain.
    pub bundles: BTreeMap<TrustDomain, Bundle>,
    /// What is no longer accepted.
    pub revocations: Arc<Revocations>,
    /// Who may call this workload.
    pub policy: PolicyInputs,
    /// How much callers may ask of this workload, in the order of their names.
    pub limits: Vec<Arc<RateLimit>>,
    /// Services this workload calls, for which it subscribed.
    pub destinations: BTreeMap<ServiceRef, Arc<Destination>>,
    /// The workload itself; `None` from a control plane that does not tell.
    pub workload: Option<Arc<OwnWorkload>>,
    /// Addresses this workload has dialled, for which it subscribed.
    pub addresses: BTreeMap<IpAddr, Arc<AddressOwner>>,
}

/// What the control plane knows of the workload itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OwnWorkload {
    /// The services it answers for, in order; empty for one that answers for none.
    pub services: Vec<ServiceRef>,
}

/// One thing that a proxy asks the control plane to tell of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Subject {
    /// A service by name.
    Service(ServiceRef),
    /// Whoever owns an IP address.
    Address(IpAddr),
}

/// All that a proxy asks the control plane to tell of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subscriptions {
    /// Services by name.
    pub services: BTreeSet<ServiceRef>,
    /// IP addresses, in canonical form (no IPv4 in IPv6).
    pub addresses: BTreeSet<IpAddr>,
}

impl Subscriptions {
    /// Adds a subject; says whether it is new.
    pub fn add(&mut self, subject: Subject) -> bool {
        match subject {
            Subject::Service(service) => self.services.insert(service),
            Subject::Address(address) => self.addresses.insert(address.to_canonical()),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.services.len().saturating_add(self.addresses.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.addresses.is_empty()
    }
}

/// Whose an IP address is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressOwner {
    /// The address, in canonical form.
    pub address: IpAddr,
    /// Its owner.
    pub owner: Owner,
}

/// Who owns an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A service whose virtual address it is; the port dialled is the service's.
    Service(ServiceRef),
    /// One meshed workload; the port dialled is the workload's.
    Workload {
        /// What it is called, for the SNI and for records.
        workload: ServiceRef,
        /// Its proxy, with the identity it must prove.
        endpoint: Endpoint,
    },
    /// Nobody of the mesh: a connection goes where it was going, as it is.
    Outside,
}

/// Mesh-wide settings that a proxy needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshSettings {
    /// The mesh's own trust domain.
    pub trust_domain: TrustDomain,
    /// Whether plaintext from unmeshed peers is accepted.
    pub mtls: MtlsMode,
    /// What happens when no rule matches; `false` denies.
    pub default_allow: bool,
    /// Share of allowed requests that are written to the access log, in 1/10,000.
    pub access_log_sample: u32,
    /// Where traces go; `None`: nowhere, and none are made.
    pub tracing: Option<Arc<Tracing>>,
    /// Grows when SVIDs in use should be replaced soon; a proxy whose SVID came with a smaller one renews at once.
    pub reissue_epoch: u64,
}

/// Where traces go, and how many begin in the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracing {
    /// The collector's OTLP/gRPC address, for instance `http://127.0.0.1:4317`; with `https://` by TLS.
    pub endpoint: String,
    /// The roots that vouch for the collector, in PEM; `None`: those of the system.
    pub ca: Option<String>,
    /// Share of requests without a trace that begin one, in 1/10,000. Traces that come with a request are continued if
    /// they were sampled.
    pub sampling: u32,
}

/// Whether plaintext is accepted inbound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MtlsMode {
    /// Never.
    Strict,
    /// Until the given time (Unix seconds), counted and warned of.
    Permissive {
        /// The end; strict from then on.
        until: u64,
    },
}

/// The roots that vouch for one trust domain and no other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    /// The domain.
    pub trust_domain: TrustDomain,
    /// Root certificates, DER.
    pub roots: Vec<Vec<u8>>,
    /// Grows with every change.
    pub sequence: u64,
}

/// Certificates and identities that are refused although they are otherwise valid.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Revocations {
    /// Serials of leaves or intermediates, big-endian, sorted.
    pub serials: Vec<Vec<u8>>,
    /// Whole identities, sorted.
    pub identities: Vec<SpiffeId>,
}

/// A service that this workload calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    /// Its name.
    pub service: ServiceRef,
    /// Its ports, in the order of the resource; never empty.
    pub ports: Vec<DestinationPort>,
    /// Who answers for it; empty when nobody does at the moment.
    pub endpoints: Vec<Endpoint>,
}

/// One port of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DestinationPort {
    /// As callers know it.
    pub port: Port,
    /// Its name, if it has one.
    pub name: Option<ObjectName>,
    /// Declared protocol; `None`: detect.
    pub protocol: Option<Protocol>,
    /// The port at the workload, which goes into the SNI.
    pub target_port: Port,
}

/// One place that answers for a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The proxy's mesh listener, or the application itself when unmeshed.
    pub address: SocketAddr,
    /// The identity it must prove; `None` only for a static endpoint outside the mesh.
    pub identity: Option<SpiffeId>,
    /// Which instance it is.
    pub instance: InstanceName,
    /// Whether it takes new requests.
    pub state: EndpointState,
    /// Where the service's ports lie at this endpoint, for those that lie elsewhere than [`DestinationPort::target_port`]
    /// says, and for all ports of an unmeshed endpoint that has several.
    pub ports: BTreeMap<Port, Port>,
}

/// Whether an endpoint takes new requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndpointState {
    /// Yes.
    Ready,
    /// It finishes what it has; pick it only when nothing else is there.
    Draining,
}
