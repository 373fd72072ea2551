//! What does not change while the proxy runs.

use crate::{Config, InboundPort, Multiplexing};
use mesh_proto::name::{InstanceName, Port, ServiceRef};
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
        })
    }

    /// The declared port, if it is one.
    pub(crate) fn port(&self, port: Port) -> Option<&InboundPort> {
        self.ports.iter().find(|declared| declared.port == port)
    }
}
