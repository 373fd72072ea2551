//! The mesh's contract: names, identities, policies *and what they mean*, limits, snapshots, resources.
//!
//! Every other crate stands on this one. Without features it does no I/O, reads no clock and no environment and
//! spawns nothing: time is an argument, files are somebody else's. Layers, each may use only those to its right:
//! `flows` → `wire`, `ops` → `resource` → `config` → `policy`, `limit` → `matching` → `identity`, `name`, `net`.
//!
//! - feature `wire`: gRPC messages and their conversions to the domain types.
//! - feature `ops`: what operators see of every program: logs, metrics, admin paths, shutdown.
//! - both: `flows`, what the rows of the flow ledger mean.

pub mod config;
#[cfg(all(feature = "wire", feature = "ops"))]
pub mod flows;
pub mod identity;
pub mod limit;
pub mod matching;
pub mod name;
pub mod net;
#[cfg(feature = "ops")]
pub mod ops;
pub mod policy;
pub mod resource;
#[cfg(feature = "wire")]
pub mod wire;
