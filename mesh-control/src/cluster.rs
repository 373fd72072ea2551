//! The control plane as a workload of a Kubernetes cluster: what the cluster's objects mean to the mesh.
//!
//! Called by `app` alone, and only where it runs in a cluster. Nothing outside of this module and the webhook knows the
//! Kubernetes API; what they are told is an [`index::Platform`](crate::index::Platform).

mod names;
#[expect(dead_code, reason = "fed by the watch over the cluster's objects")]
mod translate;
