//! Which workloads an object is about.

use super::catalog::Target;
use super::meta::Labels;
use crate::name::{Namespace, ServiceRef};

/// The `target` of an access policy or a rate limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selector {
    /// Every workload of the mesh.
    Mesh,
    /// Every workload of a namespace.
    Namespace(Namespace),
    /// The workloads that answer for a service.
    Service(ServiceRef),
    /// The workloads of a name.
    Workload(ServiceRef),
    /// The workloads that carry all of these labels.
    Labels {
        /// Only in this namespace; `None`: in all.
        namespace: Option<Namespace>,
        /// All must be there; never empty.
        labels: Labels,
    },
}

impl Selector {
    /// Whether the workload is meant.
    pub fn selects(&self, target: &Target<'_>) -> bool {
        match self {
            Self::Mesh => true,
            Self::Namespace(namespace) => namespace == target.namespace,
            Self::Service(service) => target.services.contains(service),
            Self::Workload(workload) => {
                workload.namespace == *target.namespace && workload.name == *target.workload
            }
            Self::Labels { namespace, labels } => {
                namespace.as_ref().is_none_or(|namespace| namespace == target.namespace)
                    && labels_match(labels, target.labels)
            }
        }
    }
}

/// Whether all of `wanted` are among `present`.
pub fn labels_match(wanted: &Labels, present: &Labels) -> bool {
    wanted.iter().all(|(key, value)| present.get(key) == Some(value))
}
