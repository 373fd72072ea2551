//! What was typed, and what it means. The only reader of arguments and environment; every mistake is said at once.

mod pod;

pub use pod::{PodArgs, RedirectArgs};

use crate::{AccessLogTarget, Config, ExplicitListener, InboundPort, IssuerConfig, Multiplexing};
use mesh_proto::name::{InstanceName, Namespace, ObjectName, Port, ServiceAccount, ServiceRef};
use mesh_proto::ops::log::{LogConfig, LogFormat};
use mesh_proto::policy::model::Protocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A proxy beside one workload: mutual TLS, access decisions, rate limits, balancing.
#[derive(Clone, clap::Parser)]
#[command(name = "mesh-proxy", version, args_conflicts_with_subcommands = true)]
pub struct Program {
    /// What to do instead of running beside a process
    #[command(subcommand)]
    pub part: Option<Part>,
    /// How to run beside a process.
    #[command(flatten)]
    pub beside: Option<Args>,
}

/// What the program does in a pod.
#[derive(Clone, clap::Subcommand)]
pub enum Part {
    /// Runs the proxy of a pod
    Pod(Box<PodArgs>),
    /// Leads the connections of this pod into its proxy
    Redirect(RedirectArgs),
}

/// What a proxy beside a process is told.
#[derive(Clone, clap::Args)]
pub struct Args {
    /// The service this workload answers for.
    #[arg(long, value_name = "NAME")]
    name: ObjectName,
    /// Its namespace.
    #[arg(long, default_value = "default")]
    namespace: Namespace,
    /// The account it runs under; its name unless given.
    #[arg(long)]
    account: Option<ServiceAccount>,
    /// What this running instance is called; its name unless given.
    #[arg(long)]
    instance: Option<InstanceName>,
    /// A port that peers may call, as `[NAME:]PORT[/PROTOCOL][=APP-ADDRESS]`; the application is expected on
    /// 127.0.0.1:PORT unless said otherwise.
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<PortArg>,
    /// A service to call through a local port, as `NAME[:PORT][/PROTOCOL]=ADDRESS`.
    #[arg(long = "to", value_name = "SERVICE")]
    outbound: Vec<ToArg>,
    /// A label, as KEY=VALUE.
    #[arg(long = "label", value_name = "LABEL", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// The control plane's Unix socket.
    #[arg(long, value_name = "PATH", conflicts_with = "control")]
    control_socket: Option<PathBuf>,
    /// The control plane's address, to join it from another machine.
    #[arg(long, value_name = "HOST:PORT", requires = "root_sha256")]
    control: Option<String>,
    /// SHA-256 of the mesh's root certificate, hex.
    #[arg(long, value_name = "HEX", value_parser = parse_sha256)]
    root_sha256: Option<[u8; 32]>,
    /// The one-time join token.
    #[arg(long, env = "MESH_JOIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Asked-for life of the certificate, in seconds.
    #[arg(long, value_name = "SECONDS")]
    svid_seconds: Option<u64>,
    /// Where other proxies reach this one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where health and metrics are served; "off" for nowhere.
    #[arg(long, default_value = "127.0.0.1:0", value_parser = parse_admin)]
    admin: AdminArg,
    /// The access log: stderr, off, or a file.
    #[arg(long, default_value = "stderr", value_parser = parse_access_log)]
    access_log: AccessLogTarget,
    /// Data threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Whether connections to and from another proxy may share TLS sessions: on or off.
    #[arg(long, value_name = "on|off", default_value = "on")]
    multiplexing: Multiplexing,
    /// How long requests may take to finish at shutdown, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_seconds: u64,
    /// How log lines look: text or json.
    #[arg(long, default_value = "text")]
    log_format: LogFormat,
    /// Which log lines, for instance info or mesh_proxy=debug.
    #[arg(long, env = "MESH_LOG", default_value = "info")]
    log: String,
}

impl Args {
    /// How to log.
    pub fn log(&self) -> LogConfig {
        LogConfig { format: self.log_format, filter: self.log.clone() }
    }

    /// What is meant.
    ///
    /// # Errors
    /// All mistakes that lie between arguments, one a line.
    pub fn into_config(self) -> anyhow::Result<Config> {
        let mut problems = Vec::new();
        let name = self.name.to_string();
        // A name of an object is a label, and so are accounts and instances.
        let account = self.account.map_or_else(|| name.parse(), Ok);
        let instance = self.instance.map_or_else(|| name.parse(), Ok);
        let mut seen = std::collections::BTreeSet::new();
        for port in &self.ports {
            if !seen.insert(port.0.port) {
                problems.push(format!("--port {} is given twice", port.0.port));
            }
        }
        let issuer = match (self.control_socket, self.control, self.root_sha256, self.token) {
            (Some(socket), None, _, _) => Some(IssuerConfig::Unix { socket }),
            (None, Some(address), Some(root_sha256), Some(token)) => {
                Some(IssuerConfig::Join { address, root_sha256, token })
            }
            (None, Some(_), ..) => {
                problems.push("--control needs --root-sha256 and a token in MESH_JOIN_TOKEN; make one with: meshctl identity token".to_owned());
                None
            }
            _ => {
                problems.push(
                    "where is the control plane? give --control-socket PATH, or --control HOST:PORT"
                        .to_owned(),
                );
                None
            }
        };
        match (issuer, account, instance) {
            (Some(issuer), Ok(account), Ok(instance)) if problems.is_empty() => Ok(Config {
                instance,
                namespace: self.namespace,
                account,
                workload: self.name,
                issuer,
                svid_lifetime: self.svid_seconds.map(Duration::from_secs),
                certificate_grace: crate::CERTIFICATE_GRACE,
                labels: self.labels.into_iter().collect::<BTreeMap<_, _>>(),
                ports: self.ports.into_iter().map(|port| port.0).collect(),
                outbound: self.outbound.into_iter().map(|to| to.0).collect(),
                listen: self.listen,
                admin: self.admin.0,
                access_log: self.access_log,
                workers: usize::from(self.workers),
                multiplexing: self.multiplexing,
                drain: Duration::from_secs(self.drain_seconds),
                transparent: None,
                pod: None,
            }),
            (_, account, instance) => {
                problems.extend(account.err().map(|error| error.to_string()));
                problems.extend(instance.err().map(|error| error.to_string()));
                anyhow::bail!("{}", problems.join("\n"))
            }
        }
    }
}

/// `[NAME:]PORT[/PROTOCOL][=ADDRESS]`.
#[derive(Clone, Debug)]
struct PortArg(InboundPort);

impl std::str::FromStr for PortArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (left, app) = text.split_once('=').map_or((text, None), |(left, app)| (left, Some(app)));
        let (left, protocol) = split_protocol(left)?;
        let (name, port) = left.split_once(':').map_or((None, left), |(name, port)| (Some(name), port));
        let port: Port = port.parse().map_err(|error: mesh_proto::name::PortError| error.to_string())?;
        let name = name.map(str::parse::<ObjectName>).transpose().map_err(|error| error.to_string())?;
        let app = match app {
            Some(app) => app.parse().map_err(|_| format!("{app:?} is not ADDRESS:PORT"))?,
            None => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.number()),
        };
        Ok(Self(InboundPort { port, protocol, name, app }))
    }
}

/// `SERVICE[:PORT][/PROTOCOL]=ADDRESS`; the service may be `namespace/name`.
#[derive(Clone, Debug)]
struct ToArg(ExplicitListener);

impl std::str::FromStr for ToArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (left, listen) = text
            .split_once('=')
            .ok_or("write SERVICE[:PORT]=ADDRESS:PORT, for instance payments=127.0.0.1:9001")?;
        let listen = listen.parse().map_err(|_| format!("{listen:?} is not ADDRESS:PORT"))?;
        let (service, port) =
            left.split_once(':').map_or((left, None), |(service, port)| (service, Some(port)));
        let (port, protocol) = match port {
            None => (None, None),
            Some(port) => {
                let (port, protocol) = split_protocol(port)?;
                (
                    Some(port.parse().map_err(|error: mesh_proto::name::PortError| error.to_string())?),
                    protocol,
                )
            }
        };
        let service: ServiceRef =
            service.parse().map_err(|error: mesh_proto::name::NameError| error.to_string())?;
        Ok(Self(ExplicitListener { service, port, listen, protocol }))
    }
}

/// Splits `rest/protocol`.
fn split_protocol(text: &str) -> Result<(&str, Option<Protocol>), String> {
    let Some((rest, word)) = text.split_once('/') else { return Ok((text, None)) };
    let known = [Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tls, Protocol::Tcp];
    let protocol = known.into_iter().find(|protocol| protocol.as_str() == word);
    let words = known.map(Protocol::as_str).join(", ");
    protocol.map(|protocol| (rest, Some(protocol))).ok_or_else(|| format!("{word:?} is none of {words}"))
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_sha256(text: &str) -> Result<[u8; 32], String> {
    let bytes = text.as_bytes();
    let mut out = [0u8; 32];
    if bytes.len() != 64 {
        return Err("a SHA-256 is 64 hexadecimal digits".to_owned());
    }
    for (to, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|error| error.to_string())?;
        *to = u8::from_str_radix(pair, 16).map_err(|_| format!("{pair:?} is not hexadecimal"))?;
    }
    Ok(out)
}

#[derive(Clone, Debug)]
struct AdminArg(Option<SocketAddr>);

fn parse_admin(text: &str) -> Result<AdminArg, String> {
    if text == "off" {
        return Ok(AdminArg(None));
    }
    let address: SocketAddr = text.parse().map_err(|_| format!("{text:?} is not ADDRESS:PORT or off"))?;
    if !address.ip().is_loopback() {
        return Err(format!("{text:?} is not a loopback address: this endpoint has no authentication"));
    }
    Ok(AdminArg(Some(address)))
}

fn parse_access_log(text: &str) -> Result<AccessLogTarget, String> {
    Ok(match text {
        "stderr" => AccessLogTarget::Stderr,
        "off" => AccessLogTarget::Off,
        path => AccessLogTarget::File(PathBuf::from(path)),
    })
}
