//! Stages of the control plane over real files and in-memory streams.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the line")]

mod authority;
mod fake;
mod plane;
mod policy;
mod registry;
mod store;
