//! Local mode's source of events: workloads that register by their stream.
//!
//! Their certificates come from `mesh_ca::authority::server`, which `app` serves on both ports.

pub(crate) mod registry;
