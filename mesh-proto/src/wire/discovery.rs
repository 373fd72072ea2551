//! Mesh settings, bundles, revocations, destinations: messages of `discovery.proto` and `identity.proto`.

use super::{WireError, each, optional_text, required, text, v1};
use crate::config::{
    AddressOwner, Bundle, Destination, DestinationPort, Endpoint, EndpointState, MeshSettings, MtlsMode,
    OwnWorkload, Owner, Revocations, Tracing,
};
use crate::name::{Port, ServiceRef};
use crate::policy::model::Protocol;
use std::sync::Arc;

/// The longest X.509 serial in bytes (RFC 5280, 4.1.2.2).
const SERIAL_BYTES_MAX: usize = 20;

/// The whole of `access_log_sample` and `sampling`: every request.
const SAMPLE_WHOLE: u32 = 10_000;

impl From<&MeshSettings> for v1::MeshSettings {
    fn from(settings: &MeshSettings) -> Self {
        let MeshSettings { trust_domain, mtls, default_allow, access_log_sample, tracing, reissue_epoch } =
            settings;
        let (mtls, permissive_until) = match *mtls {
            MtlsMode::Strict => (v1::MtlsMode::Strict, 0),
            MtlsMode::Permissive { until } => (v1::MtlsMode::Permissive, until),
        };
        Self {
            trust_domain: trust_domain.to_string(),
            mtls: mtls.into(),
            permissive_until,
            default_allow: *default_allow,
            access_log_sample: *access_log_sample,
            reissue_epoch: *reissue_epoch,
            tracing: tracing.as_deref().map(|tracing| {
                let Tracing { endpoint, ca, sampling } = tracing;
                let ca = ca.clone().unwrap_or_default();
                v1::Tracing { endpoint: endpoint.clone(), sampling: *sampling, ca }
            }),
        }
    }
}

impl TryFrom<v1::MeshSettings> for MeshSettings {
    type Error = WireError;

    fn try_from(message: v1::MeshSettings) -> Result<Self, WireError> {
        let v1::MeshSettings {
            trust_domain,
            mtls,
            permissive_until,
            default_allow,
            access_log_sample,
            reissue_epoch,
            tracing,
        } = message;
        let mtls = match (v1::MtlsMode::try_from(mtls), permissive_until) {
            (Ok(v1::MtlsMode::Strict), 0) => MtlsMode::Strict,
            (Ok(v1::MtlsMode::Strict), _) => {
                return Err(WireError::new("permissive_until", "has no meaning with strict"));
            }
            (Ok(v1::MtlsMode::Permissive), 0) => {
                return Err(WireError::new("permissive_until", "permissive mode needs an end"));
            }
            (Ok(v1::MtlsMode::Permissive), until) => MtlsMode::Permissive { until },
            (Err(error), _) => return Err(WireError::new("mtls", error)),
        };
        if access_log_sample > SAMPLE_WHOLE {
            return Err(WireError::new("access_log_sample", "is more than 10,000"));
        }
        let tracing = match tracing {
            Some(v1::Tracing { sampling, .. }) if sampling > SAMPLE_WHOLE => {
                return Err(WireError::new("tracing.sampling", "is more than 10,000"));
            }
            Some(v1::Tracing { endpoint, sampling, ca }) => {
                let ca = Some(ca).filter(|ca| !ca.is_empty());
                Some(Arc::new(Tracing { endpoint, ca, sampling }))
            }
            None => None,
        };
        let trust_domain = text("trust_domain", &trust_domain)?;
        Ok(Self { trust_domain, mtls, default_allow, access_log_sample, tracing, reissue_epoch })
    }
}

impl From<&Bundle> for v1::Bundle {
    fn from(bundle: &Bundle) -> Self {
        let Bundle { trust_domain, roots, sequence } = bundle;
        Self { trust_domain: trust_domain.to_string(), roots_der: roots.clone(), sequence: *sequence }
    }
}

impl TryFrom<v1::Bundle> for Bundle {
    type Error = WireError;

    fn try_from(message: v1::Bundle) -> Result<Self, WireError> {
        let v1::Bundle { trust_domain, roots_der, sequence } = message;
        if roots_der.is_empty() {
            return Err(WireError::new("roots_der", "is empty"));
        }
        Ok(Self { trust_domain: text("trust_domain", &trust_domain)?, roots: roots_der, sequence })
    }
}

impl From<&Revocations> for v1::Revocations {
    fn from(revocations: &Revocations) -> Self {
        let Revocations { serials, identities } = revocations;
        Self { serials: serials.clone(), identities: super::rendered(identities) }
    }
}

impl TryFrom<v1::Revocations> for Revocations {
    type Error = WireError;

    fn try_from(message: v1::Revocations) -> Result<Self, WireError> {
        let v1::Revocations { mut serials, identities } = message;
        if let Some(index) = serials.iter().position(|s| s.is_empty() || s.len() > SERIAL_BYTES_MAX) {
            return Err(WireError::new(format!("serials[{index}]"), "is not 1 to 20 bytes"));
        }
        // Consumers search by bisection: the order is established here, not trusted.
        serials.sort();
        serials.dedup();
        let mut identities: Vec<crate::identity::SpiffeId> = super::texts("identities", &identities)?;
        identities.sort();
        identities.dedup();
        Ok(Self { serials, identities })
    }
}

impl From<&ServiceRef> for v1::ServiceName {
    fn from(service: &ServiceRef) -> Self {
        let ServiceRef { namespace, name } = service;
        Self { namespace: namespace.to_string(), name: name.to_string() }
    }
}

impl TryFrom<v1::ServiceName> for ServiceRef {
    type Error = WireError;

    fn try_from(message: v1::ServiceName) -> Result<Self, WireError> {
        let v1::ServiceName { namespace, name } = message;
        Ok(Self { namespace: text("namespace", &namespace)?, name: text("name", &name)? })
    }
}

/// What a proxy says in `Hello.understands` to be told of the workload itself.
pub const UNDERSTANDS_WORKLOAD: &str = "workload";

impl From<&OwnWorkload> for v1::OwnWorkload {
    fn from(workload: &OwnWorkload) -> Self {
        let OwnWorkload { services } = workload;
        Self { services: services.iter().map(Into::into).collect() }
    }
}

impl TryFrom<v1::OwnWorkload> for OwnWorkload {
    type Error = WireError;

    fn try_from(message: v1::OwnWorkload) -> Result<Self, WireError> {
        let v1::OwnWorkload { services } = message;
        let mut services: Vec<ServiceRef> = each("services", services, TryInto::try_into)?;
        services.sort();
        services.dedup();
        Ok(Self { services })
    }
}

impl From<&Destination> for v1::Destination {
    fn from(destination: &Destination) -> Self {
        let Destination { service, ports, endpoints } = destination;
        Self {
            service: Some(service.into()),
            ports: ports.iter().map(Into::into).collect(),
            endpoints: endpoints.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Destination> for Destination {
    type Error = WireError;

    fn try_from(message: v1::Destination) -> Result<Self, WireError> {
        let v1::Destination { service, ports, endpoints } = message;
        let service =
            required("service", service)?.try_into().map_err(|error: WireError| error.within("service"))?;
        if ports.is_empty() {
            return Err(WireError::new("ports", "is empty"));
        }
        let ports = each("ports", ports, TryInto::try_into)?;
        Ok(Self { service, ports, endpoints: each("endpoints", endpoints, TryInto::try_into)? })
    }
}

impl From<&DestinationPort> for v1::DestinationPort {
    fn from(port: &DestinationPort) -> Self {
        let DestinationPort { port, name, protocol, target_port } = port;
        Self {
            port: port.number().into(),
            name: name.as_ref().map(ToString::to_string).unwrap_or_default(),
            protocol: protocol.map(Protocol::as_str).unwrap_or_default().to_owned(),
            target_port: target_port.number().into(),
        }
    }
}

impl TryFrom<v1::DestinationPort> for DestinationPort {
    type Error = WireError;

    fn try_from(message: v1::DestinationPort) -> Result<Self, WireError> {
        let v1::DestinationPort { port: number, name, protocol, target_port } = message;
        Ok(Self {
            port: port("port", number)?,
            name: optional_text("name", &name)?,
            protocol: optional_protocol("protocol", &protocol)?,
            target_port: port("target_port", target_port)?,
        })
    }
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let Endpoint { address, identity, instance, state, ports } = endpoint;
        let state = match state {
            EndpointState::Ready => v1::EndpointState::Ready,
            EndpointState::Draining => v1::EndpointState::Draining,
        };
        Self {
            address: address.to_string(),
            identity: identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            instance: instance.to_string(),
            state: state.into(),
            ports: ports
                .iter()
                .map(|(port, target)| v1::EndpointPort {
                    port: port.number().into(),
                    target_port: target.number().into(),
                })
                .collect(),
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = WireError;

    fn try_from(message: v1::Endpoint) -> Result<Self, WireError> {
        let v1::Endpoint { address, identity, instance, state, ports } = message;
        let state = match v1::EndpointState::try_from(state) {
            Ok(v1::EndpointState::Ready) => EndpointState::Ready,
            Ok(v1::EndpointState::Draining) => EndpointState::Draining,
            Err(error) => return Err(WireError::new("state", error)),
        };
        let address: std::net::SocketAddr = text("address", &address)?;
        if address.port() == 0 {
            return Err(WireError::new("address", "has port 0"));
        }
        Ok(Self {
            address,
            identity: optional_text("identity", &identity)?,
            instance: text("instance", &instance)?,
            state,
            ports: each("ports", ports, |ports| {
                Ok::<_, WireError>((port("port", ports.port)?, port("target_port", ports.target_port)?))
            })?
            .into_iter()
            .collect(),
        })
    }
}

impl From<&AddressOwner> for v1::AddressOwner {
    fn from(owner: &AddressOwner) -> Self {
        use v1::address_owner::Owner as Wire;
        let AddressOwner { address, owner } = owner;
        let owner = match owner {
            Owner::Service(service) => Wire::Service(service.into()),
            Owner::Workload { workload, endpoint } => Wire::Workload(v1::MeshedWorkload {
                workload: Some(workload.into()),
                endpoint: Some(endpoint.into()),
            }),
            Owner::Outside => Wire::Outside(v1::Outside {}),
        };
        Self { address: address.to_string(), owner: Some(owner) }
    }
}

impl TryFrom<v1::AddressOwner> for AddressOwner {
    type Error = WireError;

    fn try_from(message: v1::AddressOwner) -> Result<Self, WireError> {
        use v1::address_owner::Owner as Wire;
        let v1::AddressOwner { address: ip, owner } = message;
        let owner = match required("owner", owner)? {
            Wire::Service(service) => Owner::Service(service.try_into()?),
            Wire::Workload(v1::MeshedWorkload { workload, endpoint }) => Owner::Workload {
                workload: required("workload", workload)?.try_into()?,
                endpoint: meshed(required("endpoint", endpoint)?.try_into()?)?,
            },
            Wire::Outside(v1::Outside {}) => Owner::Outside,
        };
        Ok(Self { address: address("address", &ip)?, owner })
    }
}

/// An endpoint that must prove an identity: without one the peer would be believed unseen.
fn meshed(endpoint: Endpoint) -> Result<Endpoint, WireError> {
    match endpoint.identity {
        Some(_) => Ok(endpoint),
        None => Err(WireError::new("endpoint.identity", "is missing")),
    }
}

/// An IP address in canonical form: one address has one spelling.
///
/// # Errors
/// When it is none, or is spelled in another way.
pub fn address(field: &str, spelled: &str) -> Result<std::net::IpAddr, WireError> {
    let read: std::net::IpAddr = text(field, spelled)?;
    if read.to_canonical() != read || read.to_string() != spelled {
        return Err(WireError::new(field, format_args!("should be written {}", read.to_canonical())));
    }
    Ok(read)
}

/// A port number as protobuf carries it.
///
/// # Errors
/// When it is not 1 to 65535.
pub fn port(field: &str, number: u32) -> Result<Port, WireError> {
    let port = u16::try_from(number).ok().and_then(Port::new);
    port.ok_or_else(|| WireError::new(field, format_args!("{number} is not a port from 1 to 65535")))
}

/// A protocol by its word; empty: detect.
///
/// # Errors
/// When there is no such protocol.
pub fn optional_protocol(field: &str, word: &str) -> Result<Option<Protocol>, WireError> {
    const ALL: [Protocol; 5] =
        [Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tls, Protocol::Tcp];
    if word.is_empty() {
        return Ok(None);
    }
    let found = ALL.into_iter().find(|protocol| protocol.as_str() == word);
    let shown = || word.chars().take(40).collect::<String>();
    found.map(Some).ok_or_else(|| WireError::new(field, format_args!("{:?} is not a protocol", shown())))
}
