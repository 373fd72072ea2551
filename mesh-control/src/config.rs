//! What a control plane is told at its start.
//!
//! `main` makes a [`Config`] from arguments and environment, `meshctl up` makes one itself. Nothing behind it reads either.

use mesh_proto::identity::TrustDomain;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A private root that the mesh shall use instead of making its own.
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
}

impl Config {
    /// The defaults for a state directory: loopback, port 15012, SVIDs of a day, intermediates of a week, a root of a year.
    pub fn new(state_dir: PathBuf) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            state_dir,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 15012)),
            trust_domain: None,
            svid_lifetime: DAY,
            intermediate_lifetime: DAY.saturating_mul(7),
            root_lifetime: DAY.saturating_mul(365),
            brought_root: None,
            seal_key_file: None,
            metrics: None,
            settle: Duration::from_secs(10),
        }
    }
}
