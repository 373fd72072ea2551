//! The ports and the user that are the proxy's in every pod. Whoever writes a pod's manifest and whoever writes its packet
//! rules agree by them.

/// Where the pod's own connections arrive.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where connections to the pod's ports arrive.
pub const INBOUND_PORT: u16 = 15006;
/// Where peers' proxies connect.
pub const MESH_PORT: u16 = 15008;
/// Where the platform asks for health, and Prometheus for metrics.
pub const HEALTH_PORT: u16 = 15020;
/// The proxy's own admin port, on loopback.
pub const ADMIN_PORT: u16 = 15000;
/// The user that the proxy runs as in a pod.
pub const PROXY_UID: u32 = 1774;

/// Ports that are the proxy's in every pod; no caller means the application by them.
pub const RESERVED: [u16; 5] = [OUTBOUND_PORT, INBOUND_PORT, MESH_PORT, HEALTH_PORT, ADMIN_PORT];
