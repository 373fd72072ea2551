//! What one proxy is told at its start. Typed already: the command line and the environment are read in `main`, or by
//! whoever embeds this crate.

use mesh_proto::identity::TrustDomain;
use mesh_proto::name::{InstanceName, Namespace, ObjectName, Port, ServiceAccount, ServiceRef};
use mesh_proto::policy::model::Protocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What one proxy is told at its start. No `Debug`: it may hold a join token.
#[derive(Clone)]
pub struct Config {
    /// The running instance; becomes the certificate's DNS SAN.
    pub instance: InstanceName,
    /// The workload's namespace.
    pub namespace: Namespace,
    /// The workload's account: with the namespace its identity.
    pub account: ServiceAccount,
    /// The service name that the workload answers for unless a `Service` selects it.
    pub workload: ObjectName,
    /// From whom the certificate comes, on which evidence.
    pub issuer: IssuerConfig,
    /// Asked-for life of the certificate; `None`: the mesh's default.
    pub svid_lifetime: Option<Duration>,
    /// What open connections have beyond the end of a certificate, the peer's or our own; see [`crate::CERTIFICATE_GRACE`].
    pub certificate_grace: Duration,
    /// Labels that policies and services select by.
    pub labels: BTreeMap<String, String>,
    /// The ports of the workload that peers may call; empty for a workload that only calls.
    pub ports: Vec<InboundPort>,
    /// Local ports through which the workload calls services.
    pub outbound: Vec<ExplicitListener>,
    /// Where other proxies reach this one; port 0: any.
    pub listen: SocketAddr,
    /// Where health and metrics are served; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// Where the access log goes.
    pub access_log: AccessLogTarget,
    /// Data threads; 0 counts as 1.
    pub workers: usize,
    /// Whether connections between two proxies may share sessions, opaque ones and those of HTTP/1 exchanges.
    pub multiplexing: Multiplexing,
    /// How long requests and tunnels may take to finish at shutdown.
    pub drain: Duration,
    /// The workload's own network namespace, from which all its connections are caught; `None`: explicit ports only.
    pub transparent: Option<crate::capture::namespace::Namespace>,
    /// The pod whose connections are redirected to this proxy; `None`: it is not in a pod.
    pub pod: Option<PodConfig>,
}

/// What a proxy in a pod is told.
#[derive(Clone, Debug)]
pub struct PodConfig {
    /// The pod's address: where the application is reached, whatever port is called.
    pub ip: IpAddr,
    /// Where the pod's own connections are redirected to.
    pub outbound: SocketAddr,
    /// Where connections to the pod's ports are redirected to.
    pub inbound: SocketAddr,
    /// Where the platform asks for health, and Prometheus for metrics.
    pub health: SocketAddr,
    /// The application's probes, which the platform asks here in its place.
    pub probes: crate::probe::Probes,
    /// Addresses whose owner is asked for at the start and never given up, so that they can be dialled for the first time
    /// while the control plane is away: the API server's, the name servers'.
    pub foreseen: Vec<IpAddr>,
}

/// Whether connections between two proxies may share mutual TLS sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Multiplexing {
    /// Where the other proxy can do it too.
    #[default]
    On,
    /// Never: each connection has a TLS session of its own, in both directions.
    Off,
}

impl std::str::FromStr for Multiplexing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("{text:?} is neither on nor off")),
        }
    }
}

/// From whom the certificate comes.
#[derive(Clone)]
pub enum IssuerConfig {
    /// The control plane's Unix socket; the kernel's word on this process is the evidence.
    Unix {
        /// Path of the socket.
        socket: PathBuf,
    },
    /// A control plane on another machine; a one-time token is the evidence.
    Join {
        /// `host:port` of its mutual-TLS port.
        address: String,
        /// SHA-256 of its root certificate: what is trusted before there is a bundle.
        root_sha256: [u8; 32],
        /// The token.
        token: String,
    },
    /// The control plane of the Kubernetes cluster this pod runs in; the pod's own token is the evidence.
    Pod {
        /// `host:port` of its mutual-TLS port.
        address: String,
        /// The mesh's trust domain.
        trust_domain: TrustDomain,
        /// The roots to believe, PEM; read anew at each attempt.
        roots_file: PathBuf,
        /// The token; read anew at each attempt.
        token_file: PathBuf,
    },
}

/// A port of the workload that peers may call.
#[derive(Clone, Debug)]
pub struct InboundPort {
    /// As peers and policies know it.
    pub port: Port,
    /// What it speaks; `None`: the caller's proxy detects it.
    pub protocol: Option<Protocol>,
    /// Its name, if it has one.
    pub name: Option<ObjectName>,
    /// Where the application listens.
    pub app: SocketAddr,
}

/// A local port through which the workload calls a service.
#[derive(Clone, Debug)]
pub struct ExplicitListener {
    /// The service called.
    pub service: ServiceRef,
    /// Which of its ports; `None`: its first.
    pub port: Option<Port>,
    /// Where the workload connects to; port 0: any.
    pub listen: SocketAddr,
    /// What is spoken; `None`: as the service declares, else detected.
    pub protocol: Option<Protocol>,
}

/// Where the access log goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AccessLogTarget {
    /// Standard error, one JSON object a line.
    Stderr,
    /// A file, appended to, created with mode 0640.
    File(PathBuf),
    /// Nowhere. Denials and errors still reach the control plane.
    Off,
}
