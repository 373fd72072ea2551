//! Paths of the admin endpoint that every program serves on loopback.

/// 200 while the process runs.
pub const HEALTHZ: &str = "/healthz";
/// 200 when it does its work: a proxy with certificate and full snapshot, a control plane with its store open; else 503.
pub const READYZ: &str = "/readyz";
/// Prometheus text.
pub const METRICS: &str = "/metrics";
/// What it is working with, as JSON, without secrets.
pub const CONFIG: &str = "/config";
/// Open connections, as JSON.
pub const CONNECTIONS: &str = "/connections";
/// All of them, for an index page and for tests.
pub const ALL: [&str; 5] = [HEALTHZ, READYZ, METRICS, CONFIG, CONNECTIONS];
