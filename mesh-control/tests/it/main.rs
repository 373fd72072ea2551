//! Stages of the control plane over real files and in-memory streams.

mod fake;
mod plane;
mod registry;
mod store;
