//! What a proxy in a pod is told: by the environment that the injection wrote, since that is where the downward API speaks.

use crate::capture::pod::Exempt;
use crate::ports::{ADMIN_PORT, HEALTH_PORT, INBOUND_PORT, MESH_PORT, OUTBOUND_PORT};
use crate::probe::Probes;
use crate::{AccessLogTarget, Config, IssuerConfig, Multiplexing, PodConfig};
use ipnet::IpNet;
use mesh_proto::identity::TrustDomain;
use mesh_proto::name::{InstanceName, Namespace, ObjectName, ServiceAccount};
use mesh_proto::ops::log::{LogConfig, LogFormat};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// More name servers than three nobody asks (resolv.conf(5), MAXNS), in two families.
const FORESEEN_MAX: usize = 7;

/// Runs the proxy of a pod: the pod's connections are redirected to it by `mesh-proxy redirect`
#[derive(Clone, clap::Args)]
pub struct PodArgs {
    /// The pod's name
    #[arg(long, env = "MESH_POD_NAME")]
    pod: InstanceName,
    /// Its namespace
    #[arg(long, env = "MESH_POD_NAMESPACE")]
    namespace: Namespace,
    /// Its service account
    #[arg(long, env = "MESH_POD_ACCOUNT")]
    account: ServiceAccount,
    /// Its address
    #[arg(long, env = "MESH_POD_IP")]
    ip: IpAddr,
    /// The workload it belongs to: the name of its Deployment, StatefulSet, DaemonSet or Job
    #[arg(long, env = "MESH_WORKLOAD")]
    workload: ObjectName,
    /// The control plane's address
    #[arg(long, env = "MESH_CONTROL", value_name = "HOST:PORT")]
    control: String,
    /// The mesh's trust domain
    #[arg(long, env = "MESH_TRUST_DOMAIN")]
    trust_domain: TrustDomain,
    /// The roots to believe, PEM
    #[arg(long, env = "MESH_TRUST_ROOTS", value_name = "FILE")]
    trust_roots: PathBuf,
    /// The pod's token
    #[arg(long, env = "MESH_TOKEN_FILE", value_name = "FILE")]
    token_file: PathBuf,
    /// The application's probes, JSON
    #[arg(long, env = "MESH_PROBES", value_parser = Probes::parse, default_value = "{}")]
    probes: Probes,
    /// The API server's address, which every container is told
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide_env_values = true)]
    api_server: Option<String>,
    /// Where the name servers stand
    #[arg(long, default_value = "/etc/resolv.conf", value_name = "FILE", hide = true)]
    resolver: PathBuf,
    /// Asked-for life of the certificate, in seconds
    #[arg(long, env = "MESH_SVID_SECONDS", value_name = "SECONDS")]
    svid_seconds: Option<u64>,
    /// Data threads
    #[arg(long, env = "MESH_WORKERS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// How long requests may take to finish at shutdown, in seconds
    #[arg(long, env = "MESH_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 25)]
    drain_seconds: u64,
    /// How log lines look: text or json
    #[arg(long, env = "MESH_LOG_FORMAT", default_value = "json")]
    log_format: LogFormat,
    /// Which log lines, for instance info or mesh_proxy=debug
    #[arg(long, env = "MESH_LOG", default_value = "info")]
    log: String,
}

impl PodArgs {
    /// How to log.
    pub fn log(&self) -> LogConfig {
        LogConfig { format: self.log_format, filter: self.log.clone() }
    }

    /// What is meant.
    pub fn into_config(self) -> Config {
        let any: IpAddr = match self.ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            // Both families: a pod of a dual-stack cluster is called by either.
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let on = |port| SocketAddr::new(any, port);
        let resolver = std::fs::read_to_string(&self.resolver).unwrap_or_default();
        let foreseen = foreseen(self.api_server.as_deref(), &resolver);
        Config {
            instance: self.pod,
            namespace: self.namespace,
            account: self.account,
            workload: self.workload,
            issuer: IssuerConfig::Pod {
                address: self.control,
                trust_domain: self.trust_domain,
                roots_file: self.trust_roots,
                token_file: self.token_file,
            },
            svid_lifetime: self.svid_seconds.map(Duration::from_secs),
            certificate_grace: crate::CERTIFICATE_GRACE,
            // The control plane takes the pod's labels from the platform.
            labels: BTreeMap::new(),
            ports: Vec::new(),
            outbound: Vec::new(),
            listen: on(MESH_PORT),
            admin: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT))),
            access_log: AccessLogTarget::Stderr,
            workers: usize::from(self.workers),
            multiplexing: Multiplexing::default(),
            drain: Duration::from_secs(self.drain_seconds),
            transparent: None,
            pod: Some(PodConfig {
                ip: self.ip,
                outbound: on(OUTBOUND_PORT),
                inbound: on(INBOUND_PORT),
                health: on(HEALTH_PORT),
                probes: self.probes,
                foreseen,
            }),
        }
    }
}

/// The API server's address and the name servers' (resolv.conf(5)). What is no address is resolved by whoever dials it.
fn foreseen(api_server: Option<&str>, resolver: &str) -> Vec<IpAddr> {
    let servers = resolver.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver").and(words.next())
    });
    let addresses = api_server.into_iter().chain(servers).filter_map(|text| text.parse::<IpAddr>().ok());
    addresses.map(|ip| ip.to_canonical()).filter(|ip| !ip.is_loopback()).take(FORESEEN_MAX).collect()
}

/// Leads the connections of this pod into its proxy, once, as root with NET_ADMIN
#[derive(Clone, clap::Args)]
pub struct RedirectArgs {
    /// Ports of the pod that callers reach without the proxy
    #[arg(long, env = "MESH_SKIP_INBOUND_PORTS", value_delimiter = ',', value_name = "PORT")]
    skip_inbound_ports: Vec<u16>,
    /// Ports that the pod calls without the proxy
    #[arg(long, env = "MESH_SKIP_OUTBOUND_PORTS", value_delimiter = ',', value_name = "PORT")]
    skip_outbound_ports: Vec<u16>,
    /// Networks that the pod calls without the proxy
    #[arg(long, env = "MESH_SKIP_OUTBOUND_CIDRS", value_delimiter = ',', value_name = "CIDR")]
    skip_outbound_cidrs: Vec<IpNet>,
    /// Print the rules instead of putting them in force
    #[arg(long)]
    pub dry_run: bool,
}

impl RedirectArgs {
    /// What is meant.
    pub fn into_exempt(self) -> Exempt {
        Exempt {
            inbound_ports: self.skip_inbound_ports,
            outbound_ports: self.skip_outbound_ports,
            outbound_cidrs: self.skip_outbound_cidrs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_and_the_name_servers_are_foreseen() {
        let resolver = "search shop.svc.cluster.local\n# nameserver 9.9.9.9\nnameserver 10.96.0.10\nnameserver ::1\n  nameserver fd00::a\nnameserver\nnameserver oops\n";
        let found = |api| foreseen(api, resolver).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found(Some("10.96.0.1")), ["10.96.0.1", "10.96.0.10", "fd00::a"]);
        assert_eq!(found(Some("kubernetes.example")), ["10.96.0.10", "fd00::a"]);
        assert_eq!(foreseen(None, ""), Vec::<IpAddr>::new());
    }
}
