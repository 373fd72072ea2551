//! `meshctl run`: a program and its sidecar, in one command that behaves like the program.
//!
//! The sidecar runs in this process, the program as its child. The arguments become the proxy's configuration here;
//! `supervise` does the rest, for `join` too.

pub(crate) mod ports;
pub(crate) mod supervise;

use crate::duration;
use crate::failure::{Exit, Failure, Kind, chain};
use crate::output;
use crate::session::Session;
use clap::Args;
use mesh_proto::name::{InstanceName, Namespace, ObjectName, ServiceAccount};
use mesh_proto::ops::log::LogFormat;
use mesh_proxy::capture::namespace::Namespace as NetworkNamespace;
use mesh_proxy::{AccessLogTarget, Config, IssuerConfig};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  # A web server that peers call on port 8080, and that calls payments on 127.0.0.1:9001:
  meshctl run --name web --port 8080 --to payments=127.0.0.1:9001 -- python3 -m http.server 8080

  # A database, known to speak plain TCP; no program: only the sidecar:
  meshctl run --name db --port 5432=tcp

  # As root on Linux: a program that calls services by their names and can reach nothing else:
  meshctl run --name client --transparent -- curl -s http://web:8080/

  # A client; the port is chosen, and the program finds it in MESHCTL_TO_WEB:
  meshctl run --name client --to web=0 -- sh -c 'curl -s http://$MESHCTL_TO_WEB/'

The program is started when the sidecar has its certificate and knows the mesh's policy. SIGTERM,
SIGINT, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to it; its exit code becomes this
command's. When the sidecar fails, the program is ended.";

/// What `run` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) sidecar: SidecarArgs,
    /// Give the program a network namespace of its own, from which every connection leads into its sidecar: it calls
    /// services by name (http://payments:8081), needs no --to, and reaches nothing else. Linux, as root
    #[arg(long, conflicts_with = "to", requires = "command")]
    pub(crate) transparent: bool,
}

/// What `run` and `join` are told alike.
#[derive(Args, Debug)]
pub(crate) struct SidecarArgs {
    /// The workload's name: the service it answers for, and its account unless --service-account is given
    #[arg(long, value_name = "NAME")]
    pub(crate) name: ObjectName,
    /// A port that peers may call: its number, what it speaks (http1, http2, grpc, tls, tcp; else it is detected), and
    /// where the program listens if not on 127.0.0.1:PORT. May be given several times
    #[arg(long = "port", value_name = "[NAME:]PORT[=PROTOCOL][@ADDRESS]", value_parser = ports::inbound)]
    pub(crate) ports: Vec<mesh_proxy::InboundPort>,
    /// A service the program calls (NAME, or NAMESPACE/NAME of another namespace), and the local address where it does so; port 0 takes a free one, and the program
    /// finds the address in MESHCTL_TO_{SERVICE}. May be given several times
    #[arg(long = "to", value_name = "SERVICE[:PORT]=ADDRESS[/PROTOCOL]", value_parser = ports::outbound)]
    pub(crate) to: Vec<ports::Outbound>,
    /// The namespace
    #[arg(long, default_value = "default")]
    pub(crate) namespace: Namespace,
    /// The account: with the namespace, the workload's identity [default: the name]
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) service_account: Option<ServiceAccount>,
    /// A label that policies and services select by. May be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = ports::label)]
    pub(crate) labels: Vec<(String, String)>,
    /// The name of this instance [default: the workload's name and a random ending]
    #[arg(long)]
    pub(crate) instance: Option<InstanceName>,
    /// Where other sidecars reach this one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Where health, metrics and the configuration are served; "off" for nowhere
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS|off", value_parser = ports::admin)]
    pub(crate) admin: ports::Admin,
    /// Where the access log goes: off, stderr, or a file
    #[arg(long, default_value = "off", value_name = "off|stderr|FILE", value_parser = ports::access_log)]
    pub(crate) access_log: AccessLogTarget,
    /// How long requests may take to finish at the end
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration::parse)]
    pub(crate) drain: Duration,
    /// The certificate's lifetime, if shorter than the mesh's
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(crate) svid_lifetime: Option<Duration>,
    /// How long to wait for a certificate and the mesh's policy before giving up; 0s waits for ever
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration::parse)]
    pub(crate) ready_timeout: Duration,
    /// Data threads of the sidecar
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers: u16,
    /// Whether connections to and from another sidecar may share TLS sessions
    #[arg(long, default_value = "on", value_name = "on|off")]
    pub(crate) multiplexing: mesh_proxy::Multiplexing,
    /// What the sidecar logs, for instance warn or mesh_proxy=debug
    #[arg(long, default_value = "info", env = "MESHCTL_LOG", value_name = "FILTER")]
    pub(crate) log: String,
    /// How the sidecar's log lines look; JSON has one object on each line
    #[arg(long, default_value_t, value_name = "text|json")]
    pub(crate) log_format: LogFormat,
    /// The program and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

impl SidecarArgs {
    /// The proxy's configuration with the given source of certificates.
    ///
    /// # Errors
    /// When a name cannot be an account or instance, or two options contradict each other.
    pub(crate) fn to_config(&self, issuer: IssuerConfig) -> Result<Config, Failure> {
        let usage = |error: mesh_proto::name::NameError| Failure::usage(error.to_string());
        let account = match &self.service_account {
            Some(account) => account.clone(),
            None => self.name.as_str().parse().map_err(usage)?,
        };
        let instance = match &self.instance {
            Some(instance) => instance.clone(),
            None => random_instance(&self.name).map_err(usage)?,
        };
        ports::check_distinct(&self.ports, &self.to)?;
        Ok(Config {
            instance,
            namespace: self.namespace.clone(),
            account,
            workload: self.name.clone(),
            issuer,
            svid_lifetime: self.svid_lifetime,
            certificate_grace: mesh_proxy::CERTIFICATE_GRACE,
            labels: self.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            ports: self.ports.clone(),
            outbound: self.to.iter().map(|to| to.listener_in(&self.namespace)).collect(),
            listen: self.listen,
            admin: self.admin.0,
            access_log: self.access_log.clone(),
            workers: usize::from(self.workers),
            multiplexing: self.multiplexing,
            drain: self.drain,
            transparent: None,
            pod: None,
        })
    }
}

/// The name, cut so that the ending fits into a DNS label, and five random letters or digits.
fn random_instance(name: &ObjectName) -> Result<InstanceName, mesh_proto::name::NameError> {
    const ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let ending: String = std::iter::repeat_with(|| {
        let index = usize::from(rand::random::<u8>()) % ALPHABET.len();
        ALPHABET.get(index).copied().map_or('x', char::from)
    })
    .take(5)
    .collect();
    let stem = name.as_str().get(..57).unwrap_or(name.as_str()).trim_end_matches('-');
    format!("{stem}-{ending}").parse()
}

fn namespace(instance: &InstanceName) -> Result<NetworkNamespace, Failure> {
    NetworkNamespace::create(instance, std::process::id()).map_err(|error| {
        Failure::new(Kind::Sidecar, chain(&error))
            .next("sudo meshctl run --transparent …   # if you are not root")
            .next("meshctl run --to SERVICE=127.0.0.1:0 …   # needs no root")
    })
}

/// Runs the program with its sidecar.
///
/// # Errors
/// When the sidecar cannot start, or fails.
pub(crate) async fn run(args: RunArgs, session: &Session) -> Result<Exit, Failure> {
    let socket: PathBuf = session.socket();
    if let Err(error) = crate::admin_client::probe(&socket).await {
        output::note(&format!(
            "no control plane answers at {} yet ({error}); waiting for it. Start one with: meshctl up --state-dir {}",
            socket.display(),
            session.state_dir.display()
        ));
    }
    let mut config = args.sidecar.to_config(IssuerConfig::Unix { socket })?;
    if args.transparent {
        config.transparent = Some(namespace(&config.instance)?);
    }
    supervise::run(config, &args.sidecar).await
}
