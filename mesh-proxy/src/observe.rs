//! What is told of the traffic: counters, edges, the access log, and reports to the control plane.
//!
//! The data path counts into a [`metrics::Shard`] of its worker and hands [`Record`]s of what is worth a line to a bounded
//! queue; everything that formats or waits is done by [`report`] on the control thread. Loss loses statistics, never
//! enforcement, and is itself counted.

pub(crate) mod access_log;
pub(crate) mod edges;
pub(crate) mod metrics;
pub(crate) mod record;
pub(crate) mod report;
pub(crate) mod telemetry;
pub(crate) mod text;
pub(crate) mod trace;

pub(crate) use edges::{Edge, EdgeKey};
pub(crate) use metrics::Shard;
pub(crate) use record::{Outcome, Record, Recorder};
