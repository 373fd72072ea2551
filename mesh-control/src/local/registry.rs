//! Who is in the mesh: one entry for each workload whose discovery stream is open.
//!
//! The stream's life *is* the membership: it enters with its `Hello` and leaves when the stream ends, however it ends.
//! There is no lease, no health check and nothing to expire. The one exception: after a restart of the control plane the
//! entries of before are kept until their workloads reconnect or the settle window ends, so that a restart never empties
//! anyone's endpoints.
//!
//! Pure: the discovery server calls it under the mesh's lock, `app` stores what [`Registry::to_json`] says.

use mesh_proto::identity::SpiffeId;
use mesh_proto::name::{InstanceName, Namespace, ObjectName, Port};
use mesh_proto::policy::model::Protocol;
use mesh_proto::wire::discovery::optional_protocol;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// What tells one running workload from all others: both parts are proven by its certificate.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct WorkloadKey {
    /// Its identity.
    pub(crate) id: SpiffeId,
    /// Which instance of it.
    pub(crate) instance: InstanceName,
}

/// A port on which a workload is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct InboundPort {
    /// The port.
    pub(crate) port: Port,
    /// What it speaks; `None`: detect.
    pub(crate) protocol: Option<Protocol>,
    /// Its name.
    pub(crate) name: Option<ObjectName>,
}

/// What a workload's name and labels are worth; see `index`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claims {
    /// The owner of the mesh stands for them.
    Vouched,
    /// Only the workload itself says so.
    Unproven,
}

/// A workload as it registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Registered {
    /// Who it is.
    pub(crate) key: WorkloadKey,
    /// The namespace of its identity.
    pub(crate) namespace: Namespace,
    /// What it calls itself.
    pub(crate) workload: ObjectName,
    /// Where other proxies reach its proxy.
    pub(crate) address: SocketAddr,
    /// The ports it is called on.
    pub(crate) ports: Vec<InboundPort>,
    /// Its labels, as it says.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its proxy's version.
    pub(crate) version: String,
    /// What its name and labels are worth.
    pub(crate) claims: Claims,
    /// It takes no new requests.
    pub(crate) draining: bool,
}

/// Which registration of a workload is meant: a newer stream of the same workload replaces the older one, whose end then
/// means nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Generation(u64);

#[derive(Debug)]
struct Entry {
    workload: Arc<Registered>,
    /// `None`: known from before the restart, not back yet.
    stream: Option<Generation>,
}

/// All registered workloads.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    entries: BTreeMap<WorkloadKey, Entry>,
    last_generation: u64,
}

impl Registry {
    /// Enters a workload, replacing an older registration of the same.
    pub(crate) fn register(&mut self, workload: Registered) -> Generation {
        self.last_generation = self.last_generation.wrapping_add(1);
        let generation = Generation(self.last_generation);
        let key = workload.key.clone();
        self.entries.insert(key, Entry { workload: Arc::new(workload), stream: Some(generation) });
        generation
    }

    /// Takes a workload out, unless a newer stream has taken its place. Says whether anything changed.
    pub(crate) fn leave(&mut self, key: &WorkloadKey, generation: Generation) -> bool {
        if self.holds(key, generation) { self.entries.remove(key).is_some() } else { false }
    }

    /// Notes that a workload takes no new requests. Says whether anything changed.
    pub(crate) fn drain(&mut self, key: &WorkloadKey, generation: Generation) -> bool {
        match self.entries.get_mut(key) {
            Some(entry) if entry.stream == Some(generation) && !entry.workload.draining => {
                entry.workload = Arc::new(Registered { draining: true, ..(*entry.workload).clone() });
                true
            }
            _ => false,
        }
    }

    /// Whether this registration is still the workload's present one.
    pub(crate) fn holds(&self, key: &WorkloadKey, generation: Generation) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.stream == Some(generation))
    }

    /// Ends the settle window: those who have not come back are gone. Returns them.
    pub(crate) fn settle(&mut self) -> Vec<Arc<Registered>> {
        let gone: Vec<_> = self.entries.extract_if(.., |_, entry| entry.stream.is_none()).collect();
        gone.into_iter().map(|(_, entry)| entry.workload).collect()
    }

    /// Everybody, those who are expected back included.
    pub(crate) fn workloads(&self) -> BTreeMap<WorkloadKey, Arc<Registered>> {
        self.entries.iter().map(|(key, entry)| (key.clone(), entry.workload.clone())).collect()
    }

    /// How many have an open stream.
    pub(crate) fn connected(&self) -> usize {
        self.entries.values().filter(|entry| entry.stream.is_some()).count()
    }

    /// How many are expected back after a restart.
    pub(crate) fn awaited(&self) -> usize {
        self.entries.values().filter(|entry| entry.stream.is_none()).count()
    }

    /// The registry for the next start.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let stored: Vec<Stored> = self.entries.values().map(|entry| Stored::from(&*entry.workload)).collect();
        // A list of plain structs always serialises; an empty registry is the harmless reading of the impossible.
        serde_json::to_vec(&stored).unwrap_or_else(|_| b"[]".to_vec())
    }

    /// The registry of before a restart: nobody is connected, everybody is expected. What does not parse (a newer version
    /// wrote it) is left out and counted in the second value.
    pub(crate) fn from_json(json: &[u8]) -> (Self, usize) {
        let Ok(stored) = serde_json::from_slice::<Vec<serde_json::Value>>(json) else {
            return (Self::default(), 1);
        };
        let mut entries = BTreeMap::new();
        let mut unread = 0_usize;
        for value in stored {
            match serde_json::from_value::<Stored>(value).ok().and_then(Stored::parse) {
                Some(workload) => {
                    entries
                        .insert(workload.key.clone(), Entry { workload: Arc::new(workload), stream: None });
                }
                None => unread = unread.saturating_add(1),
            }
        }
        (Self { entries, last_generation: 0 }, unread)
    }
}

/// One workload as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    id: String,
    instance: String,
    workload: String,
    address: SocketAddr,
    ports: Vec<StoredPort>,
    labels: BTreeMap<String, String>,
    version: String,
    vouched: bool,
    draining: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredPort {
    port: u16,
    protocol: String,
    name: String,
}

impl From<&Registered> for Stored {
    fn from(workload: &Registered) -> Self {
        let Registered { key, namespace: _, workload, address, ports, labels, version, claims, draining } =
            workload;
        let port = |port: &InboundPort| StoredPort {
            port: port.port.number(),
            protocol: port.protocol.map_or("", Protocol::as_str).to_owned(),
            name: port.name.as_ref().map_or("", ObjectName::as_str).to_owned(),
        };
        Self {
            id: key.id.as_str().to_owned(),
            instance: key.instance.as_str().to_owned(),
            workload: workload.as_str().to_owned(),
            address: *address,
            ports: ports.iter().map(port).collect(),
            labels: labels.clone(),
            version: version.clone(),
            vouched: *claims == Claims::Vouched,
            draining: *draining,
        }
    }
}

impl Stored {
    fn parse(self) -> Option<Registered> {
        let id: SpiffeId = self.id.parse().ok()?;
        let (namespace, _) = id.workload()?;
        let ports = self.ports.into_iter().map(|stored| {
            let name = if stored.name.is_empty() { None } else { Some(stored.name.parse().ok()?) };
            Some(InboundPort {
                port: Port::new(stored.port)?,
                protocol: optional_protocol("protocol", &stored.protocol).ok()?,
                name,
            })
        });
        Some(Registered {
            key: WorkloadKey { id, instance: self.instance.parse().ok()? },
            namespace,
            workload: self.workload.parse().ok()?,
            address: self.address,
            ports: ports.collect::<Option<_>>()?,
            labels: self.labels,
            version: self.version,
            claims: if self.vouched { Claims::Vouched } else { Claims::Unproven },
            draining: self.draining,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str) -> Registered {
        let id: SpiffeId = format!("spiffe://mesh.local/ns/shop/sa/{name}").parse().unwrap();
        Registered {
            namespace: id.workload().unwrap().0,
            key: WorkloadKey { id, instance: format!("{name}-1").parse().unwrap() },
            workload: name.parse().unwrap(),
            address: "127.0.0.1:4000".parse().unwrap(),
            ports: vec![InboundPort {
                port: Port::new(8080).unwrap(),
                protocol: Some(Protocol::Grpc),
                name: Some("api".parse().unwrap()),
            }],
            labels: [("tier".to_owned(), "front".to_owned())].into(),
            version: "0.1.0".to_owned(),
            claims: Claims::Vouched,
            draining: false,
        }
    }

    #[test]
    fn the_end_of_a_replaced_stream_means_nothing() {
        let mut registry = Registry::default();
        let old = registry.register(workload("web"));
        let new = registry.register(workload("web"));
        let key = workload("web").key;
        assert!(!registry.leave(&key, old));
        assert!(registry.holds(&key, new));
        assert!(registry.leave(&key, new));
        assert!(registry.workloads().is_empty());
    }

    #[test]
    fn after_a_restart_everybody_is_kept_until_the_window_ends() {
        let mut before = Registry::default();
        before.register(workload("web"));
        before.register(workload("payments"));
        let (mut after, unread) = Registry::from_json(&before.to_json());
        assert_eq!(unread, 0);
        assert_eq!(after.workloads(), before.workloads());
        assert_eq!((after.connected(), after.awaited()), (0, 2));
        after.register(workload("web"));
        let gone = after.settle();
        assert_eq!(gone.iter().map(|w| w.workload.as_str()).collect::<Vec<_>>(), ["payments"]);
        assert_eq!(after.workloads().len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_counted() {
        let mut registry = Registry::default();
        registry.register(workload("web"));
        let mut json: serde_json::Value = serde_json::from_slice(&registry.to_json()).unwrap();
        json.as_array_mut().unwrap().push(serde_json::json!({"id": "spiffe://mesh.local/ns/a/sa/b"}));
        let (read, unread) = Registry::from_json(json.to_string().as_bytes());
        assert_eq!((read.workloads().len(), unread), (1, 1));
        assert_eq!(Registry::from_json(b"nonsense").1, 1);
    }
}
