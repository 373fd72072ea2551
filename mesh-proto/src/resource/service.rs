//! `Service` and `Workload`: names, ports and endpoints in local mode and on machines.

use super::catalog::Target;
use super::meta::{Labels, Meta, labels_match, read_labels, write_labels};
use super::problem::{Code, Problem};
use super::reader::{At, Fields, Reader};
use super::subject::only_one;
use super::yaml::{Map, Yaml};
use crate::identity::SpiffeId;
use crate::name::{Namespace, ObjectName, Port, ServiceAccount, ServiceRef};
use crate::policy::model::Protocol;
use std::net::SocketAddr;

/// A name that callers use, and who answers for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Name and origin.
    pub meta: Meta,
    /// At least one.
    pub ports: Vec<ServicePort>,
    /// Who answers.
    pub backing: Backing,
}

/// One port of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Its name, if it has one.
    pub name: Option<ObjectName>,
    /// As callers know it.
    pub port: Port,
    /// At the workload; the same unless given.
    pub target_port: Port,
    /// What it speaks; `None`: detect.
    pub protocol: Option<Protocol>,
}

/// Who answers for a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backing {
    /// The workloads of this name in the service's namespace.
    Workload(ObjectName),
    /// The workloads of the service's namespace with all of these labels; never empty.
    Labels(Labels),
    /// Fixed addresses.
    Endpoints(Vec<StaticEndpoint>),
}

/// A fixed address that answers for a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticEndpoint {
    /// A mesh listener when there is an identity, else the application itself.
    pub address: SocketAddr,
    /// The identity it must prove; `None`: it is outside the mesh and speaks plaintext.
    pub identity: Option<SpiffeId>,
}

impl Service {
    /// The service's name as callers use it.
    pub fn service_ref(&self) -> ServiceRef {
        ServiceRef { namespace: namespace_of(&self.meta), name: self.meta.name.clone() }
    }

    /// Whether the workload answers for it.
    pub fn is_backed_by(&self, namespace: &Namespace, workload: &ObjectName, labels: &Labels) -> bool {
        if self.meta.namespace.as_ref() != Some(namespace) {
            return false;
        }
        match &self.backing {
            Backing::Workload(name) => name == workload,
            Backing::Labels(wanted) => labels_match(wanted, labels),
            Backing::Endpoints(_) => false,
        }
    }

    /// Whether the workload answers for it.
    pub fn is_backed_by_target(&self, target: &Target<'_>) -> bool {
        self.is_backed_by(target.namespace, target.workload, target.labels)
    }
}

/// A workload that is known beforehand, and what attests it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    /// Name and origin.
    pub meta: Meta,
    /// The account it runs under; its own name unless given.
    pub account: ServiceAccount,
    /// Labels of the running workload.
    pub labels: Labels,
    /// The Unix user that alone may ask for its identity; `None`: the control plane's own user and root.
    pub uid: Option<u32>,
}

impl Workload {
    /// Where it lives.
    pub fn namespace(&self) -> Namespace {
        namespace_of(&self.meta)
    }
}

/// The most ports of one service.
const PORTS_MAX: usize = 64;
/// The most fixed endpoints of one service.
const ENDPOINTS_MAX: usize = 1000;

/// Protocols by their words.
const PROTOCOLS: [(&str, Protocol); 5] = [
    ("http1", Protocol::Http1),
    ("http2", Protocol::Http2),
    ("grpc", Protocol::Grpc),
    ("tls", Protocol::Tls),
    ("tcp", Protocol::Tcp),
];

impl Service {
    pub(super) fn read(reader: &mut Reader, meta: Meta, spec: At<'_>) -> Option<Self> {
        const BACKINGS: [&str; 2] = ["selector", "endpoints"];
        let fields = reader.fields(spec, &["ports", "selector", "endpoints"])?;
        let ports_at = fields.required(reader, "ports", "write at least one");
        let ports = ports_at.as_ref().and_then(|at| {
            let ports = reader.each(at, PORTS_MAX, ServicePort::read)?;
            refuse_same_ports(reader, at, &ports);
            Some(ports)
        });
        let backing = match fields.present(&BACKINGS)[..] {
            [] => {
                let message = "nobody answers for it; write selector: {workload: NAME}, or endpoints";
                reader.error(fields.whole(), Code::MissingField, message);
                None
            }
            _ => only_one(reader, &fields, &BACKINGS, "make two services")
                .and_then(|word| read_backing(reader, &fields, word)),
        };
        Some(Self { meta, ports: ports?, backing: backing? })
    }

    pub(super) fn write(&self) -> Map {
        let Self { meta: _, ports, backing } = self;
        let map = Map::new().with_list("ports", ports.iter().map(ServicePort::write));
        match backing {
            Backing::Workload(name) => map.with("selector", Map::new().with("workload", name.as_str())),
            Backing::Labels(labels) => {
                map.with("selector", Map::new().with_some("labels", write_labels(labels)))
            }
            Backing::Endpoints(endpoints) => {
                map.with_list("endpoints", endpoints.iter().map(StaticEndpoint::write))
            }
        }
    }
}

fn read_backing(reader: &mut Reader, fields: &Fields<'_>, word: &str) -> Option<Backing> {
    const SELECTORS: [&str; 2] = ["workload", "labels"];
    let value = fields.optional(word)?;
    if word == "endpoints" {
        return reader.each(&value, ENDPOINTS_MAX, StaticEndpoint::read).map(Backing::Endpoints);
    }
    let selector = reader.fields(value, &SELECTORS)?;
    let word = only_one(reader, &selector, &SELECTORS, "make two services")?;
    let value = selector.optional(word)?;
    if word == "workload" {
        return reader.parse(&value).map(Backing::Workload);
    }
    let labels = read_labels(reader, &value)?;
    if labels.is_empty() {
        reader.error(&value, Code::InvalidValue, "has no label; write at least one");
        return None;
    }
    Some(Backing::Labels(labels))
}

/// A caller names a port by its number or its name, so each must mean one.
fn refuse_same_ports(reader: &mut Reader, at: &At<'_>, ports: &[ServicePort]) {
    let entries = reader.list(at, PORTS_MAX).unwrap_or_default();
    for (index, (port, entry)) in ports.iter().zip(&entries).enumerate() {
        let before = || ports.iter().take(index);
        if before().any(|other| other.port == port.port) {
            reader.error(entry, Code::Duplicate, format!("port {} stands here twice; keep one", port.port));
        }
        if let Some(name) =
            port.name.as_ref().filter(|name| before().any(|other| other.name.as_ref() == Some(name)))
        {
            reader.error(entry, Code::Duplicate, format!("two ports are called {name}; rename one"));
        }
    }
}

impl ServicePort {
    fn read(reader: &mut Reader, at: At<'_>) -> Option<Self> {
        let fields = reader.fields(at, &["name", "port", "targetPort", "protocol"])?;
        let name = match fields.optional("name") {
            Some(at) => reader.parse(&at).map(Some),
            None => Some(None),
        };
        let port = fields.required(reader, "port", "write the port that callers use");
        let port = port.and_then(|at| reader.parse::<Port>(&at));
        let target_port = match fields.optional("targetPort") {
            Some(at) => reader.parse(&at),
            None => port,
        };
        let protocol = match fields.optional("protocol") {
            Some(at) => read_protocol(reader, &at).map(Some),
            None => Some(None),
        };
        Some(Self { name: name?, port: port?, target_port: target_port?, protocol: protocol? })
    }

    fn write(&self) -> Yaml {
        let Self { name, port, target_port, protocol } = self;
        Map::new()
            .with_some("name", name.as_ref().map(ObjectName::as_str))
            .with("port", Yaml::bare(port))
            .with_some("targetPort", (target_port != port).then(|| Yaml::bare(target_port)))
            .with_some("protocol", protocol.map(Protocol::as_str))
            .into()
    }
}

fn read_protocol(reader: &mut Reader, at: &At<'_>) -> Option<Protocol> {
    if at.node.scalar() == Some("http") {
        let message =
            "\"http\" leaves open which; write http1, http2 or grpc, or leave the field out to detect it";
        reader.error(at, Code::InvalidValue, message);
        return None;
    }
    reader.word(at, &PROTOCOLS)
}

impl StaticEndpoint {
    fn read(reader: &mut Reader, at: At<'_>) -> Option<Self> {
        let fields = reader.fields(at, &["address", "identity"])?;
        let address = fields.required(reader, "address", "write ip:port");
        let address = address.and_then(|at| read_address(reader, &at));
        let identity = match fields.optional("identity") {
            Some(at) => reader.parse(&at).map(Some),
            None => Some(None),
        };
        Some(Self { address: address?, identity: identity? })
    }

    fn write(&self) -> Yaml {
        let Self { address, identity } = self;
        Map::new()
            .with("address", address.to_string())
            .with_some("identity", identity.as_ref().map(SpiffeId::as_str))
            .into()
    }
}

fn read_address(reader: &mut Reader, at: &At<'_>) -> Option<SocketAddr> {
    let text = reader.text(at)?;
    let address = text.parse::<SocketAddr>().ok();
    let address = address.filter(|found| found.port() != 0 && !found.ip().is_unspecified());
    if address.is_none() {
        let shown = Problem::shown(text);
        let message = format!(
            "{shown:?} is not an address; write ip:port, for instance 10.0.0.7:5432 or [fd00::7]:5432"
        );
        reader.error(at, Code::InvalidValue, message);
    }
    address
}

impl Workload {
    pub(super) fn read(reader: &mut Reader, meta: Meta, spec: At<'_>) -> Option<Self> {
        let fields = reader.fields(spec, &["serviceAccount", "labels", "attestation"])?;
        let account = match fields.optional("serviceAccount") {
            Some(at) => reader.parse(&at),
            // Names of objects and of accounts have the same grammar.
            None => meta.name.as_str().parse().ok(),
        };
        let labels = match fields.optional("labels") {
            Some(at) => read_labels(reader, &at),
            None => Some(Labels::new()),
        };
        let uid = match fields.optional("attestation") {
            Some(at) => read_attestation(reader, at).map(Some),
            None => Some(None),
        };
        Some(Self { account: account?, labels: labels?, uid: uid?, meta })
    }

    pub(super) fn write(&self) -> Map {
        let Self { meta: _, account, labels, uid } = self;
        let attestation = uid.map(|uid| Map::new().with("unix", Map::new().with("uid", Yaml::bare(uid))));
        Map::new()
            .with("serviceAccount", account.as_str())
            .with_some("labels", write_labels(labels))
            .with_some("attestation", attestation)
    }
}

fn read_attestation(reader: &mut Reader, at: At<'_>) -> Option<u32> {
    let fields = reader.fields(at, &["unix"])?;
    let unix = fields.required(reader, "unix", "write unix: {uid: N}")?;
    let fields = reader.fields(unix, &["uid"])?;
    let uid = fields.required(reader, "uid", "write the number of the user that runs the workload")?;
    // The last uid means "none" to the kernel.
    let uid = reader.number(&uid, 0..=u64::from(u32::MAX) - 1)?;
    u32::try_from(uid).ok()
}

/// Services and workloads always have a namespace once parsed.
fn namespace_of(meta: &Meta) -> Namespace {
    meta.namespace.clone().unwrap_or_else(Namespace::default_local)
}
