//! What a control plane is told at its start.
//!
//! `main` makes a [`Config`] from arguments and environment, `meshctl up` makes one itself. Nothing behind it reads either.

use crate::cluster::KubernetesConfig;
use mesh_proto::identity::TrustDomain;
use mesh_proto::ops::log::{LogConfig, LogFormat};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The trust domain of a cluster's mesh that was not told another.
const CLUSTER_TRUST_DOMAIN: &str = "cluster.local";
/// Where the Secret with the sealing key is mounted.
const CLUSTER_SEAL_KEY: &str = "/var/run/mesh-control/seal/seal.key";

/// A private root that the mesh shall use instead of making its own. Not `Debug`: it holds a key.
#[derive(Clone)]
pub struct BroughtRoot {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PKCS#8 PEM. Sealed at the first start and never written in the clear.
    pub key_pem: String,
}

/// Everything one control plane is told.
#[derive(Clone)]
pub struct Config {
    /// Where its state lives: store, sealed keys, socket, lock. Created with mode 0711 if missing.
    pub state_dir: PathBuf,
    /// The mutual-TLS port for proxies; port 0 takes any free one.
    pub listen: SocketAddr,
    /// `host:port` under which workloads reach that port; `None`: the address that was bound, loopback for `0.0.0.0`.
    pub advertise: Option<String>,
    /// Needed at the first start only; afterwards it must be absent or equal to the stored one.
    pub trust_domain: Option<TrustDomain>,
    /// How long an SVID lives unless its request asks for less.
    pub svid_lifetime: Duration,
    /// How long an issuing intermediate lives.
    pub intermediate_lifetime: Duration,
    /// How long a root made here lives.
    pub root_lifetime: Duration,
    /// A root to use instead of making one; first start only.
    pub brought_root: Option<BroughtRoot>,
    /// The sealing key's file; `None` is `<state_dir>/seal.key`. Created with mode 0600 at the first start.
    pub seal_key_file: Option<PathBuf>,
    /// Where Prometheus metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// How long after a start the endpoints of workloads that have not come back yet are kept.
    pub settle: Duration,
    /// How long a rotation of the root waits for a workload that has a certificate but is not connected.
    pub absent_grace: Duration,
    /// The cluster whose workload this control plane is; `None` in local mode.
    pub kubernetes: Option<KubernetesConfig>,
}

impl Config {
    /// The defaults for a state directory: loopback, port 15012, SVIDs of a day, intermediates of a week, a root of a year.
    pub fn new(state_dir: PathBuf) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            state_dir,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 15012)),
            advertise: None,
            trust_domain: None,
            svid_lifetime: DAY,
            intermediate_lifetime: DAY.saturating_mul(7),
            root_lifetime: DAY.saturating_mul(365),
            brought_root: None,
            seal_key_file: None,
            metrics: None,
            settle: Duration::from_secs(10),
            absent_grace: Duration::from_secs(30),
            kubernetes: None,
        }
    }
}

/// What was typed.
#[derive(clap::Parser, Debug)]
#[command(name = "mesh-control", version, about = "The control plane of a mesh, in the foreground")]
pub struct Args {
    /// Where its state lives: store, sealed keys, socket, lock
    #[arg(long, env = "MESH_CONTROL_STATE_DIR", value_name = "DIR")]
    state_dir: PathBuf,
    /// The mutual-TLS port for proxies; port 0 takes any free one [default: 127.0.0.1:15012, with --kubernetes 0.0.0.0:15012]
    #[arg(long, env = "MESH_CONTROL_LISTEN", value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// HOST:PORT under which workloads reach that port, if it is not the one above
    #[arg(long, env = "MESH_CONTROL_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The mesh's trust domain; at the first start only
    #[arg(long, env = "MESH_CONTROL_TRUST_DOMAIN", value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// How long a certificate of a workload lives, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(6..=2_592_000))]
    svid_lifetime: u64,
    /// How long an issuing intermediate lives, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 604_800, value_parser = clap::value_parser!(u64).range(30..=31_536_000))]
    intermediate_lifetime: u64,
    /// How long a root made here lives, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 31_536_000, value_parser = clap::value_parser!(u64).range(120..=946_080_000))]
    root_lifetime: u64,
    /// A root certificate (PEM) to use instead of making one; at the first start, or for the next rotation
    #[arg(long, value_name = "FILE", requires = "root_key")]
    root_certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "root_certificate")]
    root_key: Option<PathBuf>,
    /// The file of the sealing key [default: seal.key in the state directory, with --kubernetes the mounted Secret]
    #[arg(long, alias = "seal-key-file", env = "MESH_CONTROL_SEAL_KEY", value_name = "FILE")]
    seal_key: Option<PathBuf>,
    /// Where Prometheus metrics are served [default: not at all, with --kubernetes 0.0.0.0:15014]
    #[arg(long, env = "MESH_CONTROL_METRICS", value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    /// text or json
    #[arg(long, env = "MESH_CONTROL_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Which log lines: a level, or target=level pairs joined by commas
    #[arg(long, env = "MESH_CONTROL_LOG", default_value = "info")]
    log: String,
}

/// What was typed about the cluster.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "In a Kubernetes cluster")]
struct KubernetesArgs {
    /// Runs as a workload of a Kubernetes cluster: services, endpoints and policies come from its API server
    #[arg(long)]
    kubernetes: bool,
    /// The namespace of the control plane
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE", default_value = "mesh-system")]
    namespace: String,
    /// The name of this pod
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value = "mesh-control")]
    pod_name: String,
    /// Reaches the cluster with this file instead of the pod's own account
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where `meshctl` arrives, through a port-forward
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15010")]
    admin_listen: SocketAddr,
    /// Where the API server asks for injection and validation
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:15017")]
    webhook_listen: SocketAddr,
    /// The image of the proxies that are injected
    #[arg(long, value_name = "IMAGE", default_value = concat!("mesh-proxy:", env!("CARGO_PKG_VERSION")))]
    proxy_image: String,
    /// The image that redirects a pod's traffic to its proxy
    #[arg(long, value_name = "IMAGE", default_value = concat!("mesh-init:", env!("CARGO_PKG_VERSION")))]
    init_image: String,
    /// When nodes fetch these two images [default: as Kubernetes decides by the tag]
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pull_policy: Option<String>,
}

impl KubernetesArgs {
    fn into_config(self, wrong: &mut Vec<String>) -> Option<KubernetesConfig> {
        if !self.kubernetes {
            return None;
        }
        let namespace = self.namespace.parse().map_err(|error| wrong.push(format!("--namespace: {error}")));
        let pod = self.pod_name.parse().map_err(|error| wrong.push(format!("--pod-name: {error}")));
        Some(KubernetesConfig {
            namespace: namespace.ok()?,
            pod: pod.ok()?,
            kubeconfig: self.kubeconfig,
            admin: self.admin_listen,
            webhook: self.webhook_listen,
            proxy_image: self.proxy_image,
            init_image: self.init_image,
            pull_policy: self.pull_policy,
        })
    }
}

/// What is wrong with what was typed: everything at once.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ArgsError(Vec<String>);

impl Args {
    /// What is meant by what was typed.
    ///
    /// # Errors
    /// Everything that is wrong, one line for each mistake.
    pub fn into_config(self) -> Result<(LogConfig, Config), ArgsError> {
        let mut wrong = Vec::new();
        let kubernetes = self.kubernetes.into_config(&mut wrong);
        let is_pod = kubernetes.is_some();
        let typed = self.trust_domain.or_else(|| is_pod.then(|| CLUSTER_TRUST_DOMAIN.to_owned()));
        let trust_domain = typed.and_then(|text| match text.parse::<TrustDomain>() {
            Ok(domain) => Some(domain),
            Err(error) => {
                wrong.push(format!("--trust-domain: {error}"));
                None
            }
        });
        let mut read = |flag: &str, path: &PathBuf| match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                wrong.push(format!("{flag}: cannot read {}: {error}", path.display()));
                None
            }
        };
        let certificate = self.root_certificate.as_ref().and_then(|path| read("--root-certificate", path));
        let key = self.root_key.as_ref().and_then(|path| read("--root-key", path));
        if self.intermediate_lifetime >= self.root_lifetime {
            wrong.push("--intermediate-lifetime must be shorter than --root-lifetime".to_owned());
        }
        if self.svid_lifetime >= self.intermediate_lifetime {
            wrong.push("--svid-lifetime must be shorter than --intermediate-lifetime".to_owned());
        }
        if !wrong.is_empty() {
            return Err(ArgsError(wrong));
        }
        let brought_root =
            certificate.zip(key).map(|(certificate_pem, key_pem)| BroughtRoot { certificate_pem, key_pem });
        let everywhere = |port| is_pod.then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        // A cluster's volume is everybody's to write to, and what is kept here must not be.
        let state_dir = if is_pod { self.state_dir.join("state") } else { self.state_dir };
        let usual = Config::new(state_dir);
        let service = kubernetes.as_ref().map(KubernetesConfig::service);
        let config = Config {
            listen: self.listen.or_else(|| everywhere(15012)).unwrap_or(usual.listen),
            advertise: self.advertise.or(service),
            trust_domain,
            svid_lifetime: Duration::from_secs(self.svid_lifetime),
            intermediate_lifetime: Duration::from_secs(self.intermediate_lifetime),
            root_lifetime: Duration::from_secs(self.root_lifetime),
            brought_root,
            seal_key_file: self.seal_key.or_else(|| is_pod.then(|| PathBuf::from(CLUSTER_SEAL_KEY))),
            metrics: self.metrics.or_else(|| everywhere(15014)),
            kubernetes,
            ..usual
        };
        Ok((LogConfig { format: self.log_format, filter: self.log }, config))
    }
}
