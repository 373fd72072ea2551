//! What does not change while the proxy runs.

use crate::ports::RESERVED;
use crate::{Config, InboundPort, Multiplexing};
use mesh_proto::name::{InstanceName, Port, ServiceRef};
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What does not change while the proxy runs.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The running instance.
    pub(crate) instance: InstanceName,
    /// The service the workload answers for.
    pub(crate) service: ServiceRef,
    /// `namespace/name`, for records.
    pub(crate) service_text: Arc<str>,
    /// The ports peers may call.
    pub(crate) ports: Vec<InboundPort>,
    /// Whether connections between proxies may share sessions.
    pub(crate) multiplexing: Multiplexing,
    /// The pod's address, where every port may be called: which of them are open is known to the application alone.
    pub(crate) pod: Option<IpAddr>,
}

impl Facts {
    /// From what the proxy was told at its start.
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        let service = ServiceRef { namespace: config.namespace.clone(), name: config.workload.clone() };
        Arc::new(Self {
            instance: config.instance.clone(),
            service_text: service.to_string().into(),
            service,
            ports: config.ports.clone(),
            multiplexing: config.multiplexing,
            pod: config.pod.as_ref().map(|pod| pod.ip),
        })
    }

    /// The declared port, if it is one; in a pod any port that is not the proxy's own.
    pub(crate) fn port(&self, port: Port) -> Option<Cow<'_, InboundPort>> {
        let declared = self.ports.iter().find(|declared| declared.port == port);
        let undeclared = || {
            let ip = self.pod.filter(|_| !RESERVED.contains(&port.number()))?;
            let app = SocketAddr::new(ip, port.number());
            Some(Cow::Owned(InboundPort { port, protocol: None, name: None, app }))
        };
        declared.map(Cow::Borrowed).or_else(undeclared)
    }
}
