//! `Service` and `Workload`: names, ports and endpoints in local mode and on machines.

use super::catalog::Target;
use super::meta::{Labels, Meta};
use super::selector::labels_match;
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

/// Services and workloads always have a namespace once parsed.
fn namespace_of(meta: &Meta) -> Namespace {
    meta.namespace.clone().unwrap_or_else(Namespace::default_local)
}
