//! Stages of the control plane over real files and in-memory streams.

mod authority;
mod fake;
mod plane;
mod policy;
mod registry;
mod store;
