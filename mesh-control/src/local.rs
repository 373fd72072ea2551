//! Local mode's source of events: workloads that register by their stream, and how they get their certificates.

pub(crate) mod api;
pub(crate) mod registry;
