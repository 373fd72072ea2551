//! What operators see of every program: logs, metric names, admin paths, the end of a process, latency histograms.
//!
//! Names live here so that control plane, proxy and CLI cannot disagree; counting and serving is theirs.

pub mod admin;
pub mod histogram;
pub mod log;
pub mod metrics;
pub mod shutdown;
