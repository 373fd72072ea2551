//! Stages of the control plane over real files and in-memory streams.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod access;
mod authority;
mod fake;
mod plane;
mod policy;
mod registry;
mod store;
mod telemetry;
