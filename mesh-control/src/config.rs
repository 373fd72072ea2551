//! What a control plane is told at its start.
//!
//! `main` makes a [`Config`] from arguments and environment, `meshctl up` makes one itself. Nothing behind it reads either.

use mesh_proto::identity::TrustDomain;
use mesh_proto::ops::log::{LogConfig, LogFormat};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

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
    /// The mutual-TLS port for proxies; port 0 takes any free one
    #[arg(long, env = "MESH_CONTROL_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:15012")]
    listen: SocketAddr,
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
    /// The file of the sealing key, if it is not seal.key in the state directory
    #[arg(long, env = "MESH_CONTROL_SEAL_KEY", value_name = "FILE")]
    seal_key: Option<PathBuf>,
    /// Where Prometheus metrics are served; not at all unless given
    #[arg(long, env = "MESH_CONTROL_METRICS", value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// text or json
    #[arg(long, env = "MESH_CONTROL_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Which log lines: a level, or target=level pairs joined by commas
    #[arg(long, env = "MESH_CONTROL_LOG", default_value = "info")]
    log: String,
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
        let trust_domain = self.trust_domain.and_then(|text| match text.parse::<TrustDomain>() {
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
        let config = Config {
            listen: self.listen,
            advertise: self.advertise,
            trust_domain,
            svid_lifetime: Duration::from_secs(self.svid_lifetime),
            intermediate_lifetime: Duration::from_secs(self.intermediate_lifetime),
            root_lifetime: Duration::from_secs(self.root_lifetime),
            brought_root,
            seal_key_file: self.seal_key,
            metrics: self.metrics,
            ..Config::new(self.state_dir)
        };
        Ok((LogConfig { format: self.log_format, filter: self.log }, config))
    }
}
