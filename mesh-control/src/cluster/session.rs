//! Who calls the admin API of a cluster's control plane: users of the cluster, known by a token that the API server has
//! vouched for.
//!
//! The admin port is on the pod's loopback alone, where a port-forward ends; that says nothing of who is at its other end.

use super::Cluster;
use mesh_proto::name::Namespace;
use tonic::{Request, Status};

/// The sessions of the cluster's users.
#[derive(Clone)]
pub(crate) struct Sessions {
    /// The control plane's namespace.
    namespace: Namespace,
}

impl Sessions {
    /// The sessions of a control plane that has just started.
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self { namespace: cluster.namespace.clone() }
    }

    /// Finds out who makes a call, and notes it in the call's extensions.
    ///
    /// # Errors
    /// Nobody that is known.
    pub(crate) fn admit(&self, _call: Request<()>) -> Result<Request<()>, Status> {
        Err(Status::unauthenticated("this control plane does not know the cluster's users yet"))
    }
}
