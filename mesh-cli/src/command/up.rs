//! `meshctl up`: a control plane in the foreground.
//!
//! Checks what a person can mend before starting (the directory, the port, a control plane that already runs), so that the
//! message names the flag; `mesh_control` does everything else.

use crate::admin_client;
use crate::config;
use crate::duration;
use crate::failure::{Exit, Failure, chain};
use crate::output;
use crate::processes::{self, Signals};
use crate::session::Session;
use clap::Args;
use mesh_control::BroughtRoot;
use mesh_proto::identity::TrustDomain;
use mesh_proto::ops::log::{self, LogConfig, LogFormat};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The first control plane on a machine has this trust domain unless told otherwise.
const DEFAULT_TRUST_DOMAIN: &str = "mesh.local";

const EXAMPLES: &str = "\
Examples:
  meshctl up                                   # for the workloads of this machine
  meshctl up --listen 10.0.0.5:15012           # other machines may join, see: meshctl ca token
  meshctl up --trust-domain prod.example.org   # at the first start; it is kept
  meshctl up --root-cert root.pem --root-key root.key   # with a root of your own

Ctrl-C or SIGTERM ends it. Workloads go on with what they have until it is back.";

/// What `up` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UpArgs {
    /// Where sidecars reach the control plane, over mutual TLS; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:15012", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The mesh's name, at the first start only; kept afterwards [default: mesh.local]
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// How long a workload's certificate lives
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = duration::parse)]
    svid_lifetime: Duration,
    /// How long an issuing certificate lives; it rotates by itself
    #[arg(long, default_value = "7d", value_name = "TIME", value_parser = duration::parse)]
    intermediate_lifetime: Duration,
    /// How long a root made here lives; see: meshctl ca rotate
    #[arg(long, default_value = "365d", value_name = "TIME", value_parser = duration::parse)]
    root_lifetime: Duration,
    /// How long a rotation of the root waits for a workload that holds a certificate but is not connected
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration::parse)]
    absent_grace: Duration,
    /// A root certificate of your own (PEM), at the first start only
    #[arg(long, value_name = "FILE", requires = "root_key")]
    root_cert: Option<PathBuf>,
    /// Its private key (PKCS#8, PEM); kept sealed in the state directory
    #[arg(long, value_name = "FILE", requires = "root_cert")]
    root_key: Option<PathBuf>,
    /// The file of the key that seals the state [default: seal.key in the state directory]
    #[arg(long, value_name = "FILE")]
    seal_key: Option<PathBuf>,
    /// Where Prometheus metrics are served, for instance 127.0.0.1:15014
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// What is logged, for instance debug or mesh_control=debug
    #[arg(long, default_value = "info", env = "MESHCTL_LOG", value_name = "FILTER")]
    log: String,
    /// How log lines look; JSON has one object on each line
    #[arg(long, default_value_t, value_name = "text|json")]
    log_format: LogFormat,
}

/// Runs the control plane until a signal.
///
/// # Errors
/// When it cannot start or fails.
pub(crate) async fn run(args: UpArgs, session: &Session) -> Result<Exit, Failure> {
    check_lifetimes(&args)?;
    check_not_running(session).await?;
    check_state_dir(&session.state_dir)?;
    check_port(args.listen, "--listen")?;
    if let Some(metrics) = args.metrics {
        check_port(metrics, "--metrics")?;
    }
    start_log(&args.log, args.log_format)?;
    let config = to_config(&args, session)?;
    let mut signals = Signals::take()?;
    let shutdown = CancellationToken::new();
    let (ready_sender, ready) = oneshot::channel();
    let mut control = std::pin::pin!(mesh_control::run(config, ready_sender, shutdown.clone()));
    // Only told once: a control plane that fails instead drops the sender, and its result says why.
    let announcing = async {
        if let Ok(running) = ready.await {
            announce(&running, session);
        }
        std::future::pending::<()>().await
    };
    let mut announcing = std::pin::pin!(announcing);
    loop {
        // Cancel safe: the futures are only borrowed.
        tokio::select! {
            ended = &mut control => return ended.map(|()| Exit::Done).map_err(|error| failed(&error, session)),
            () = &mut announcing => {}
            signal = signals.next() => if processes::asks_to_end(signal) {
                shutdown.cancel();
                break;
            },
        }
    }
    control.await.map(|()| Exit::Done).map_err(|error| failed(&error, session))
}

fn failed(error: &mesh_control::ControlError, session: &Session) -> Failure {
    Failure::failed(chain(error)).next(format!("meshctl check --state-dir {}", session.state_dir.display()))
}

/// A certificate must outlive its issue, and its issuer must outlive it.
fn check_lifetimes(args: &UpArgs) -> Result<(), Failure> {
    for (flag, lifetime, least) in [
        ("--svid-lifetime", args.svid_lifetime, Duration::from_secs(3)),
        ("--intermediate-lifetime", args.intermediate_lifetime, Duration::from_secs(10)),
        ("--root-lifetime", args.root_lifetime, Duration::from_secs(60)),
    ] {
        if lifetime < least {
            return Err(Failure::usage(format!(
                "{flag} {} is too short; at least {}",
                duration::show(lifetime),
                duration::show(least)
            )));
        }
    }
    if args.svid_lifetime > args.intermediate_lifetime || args.intermediate_lifetime > args.root_lifetime {
        return Err(Failure::usage(
            "a certificate cannot outlive its issuer: --svid-lifetime ≤ --intermediate-lifetime ≤ --root-lifetime",
        ));
    }
    Ok(())
}

fn to_config(args: &UpArgs, session: &Session) -> Result<mesh_control::Config, Failure> {
    let mut config = mesh_control::Config::new(session.state_dir.clone());
    config.listen = args.listen;
    config.trust_domain = args.trust_domain.clone();
    if config.trust_domain.is_none() && is_first_start(&session.state_dir) {
        config.trust_domain = DEFAULT_TRUST_DOMAIN.parse().ok();
    }
    config.svid_lifetime = args.svid_lifetime;
    config.intermediate_lifetime = args.intermediate_lifetime;
    config.root_lifetime = args.root_lifetime;
    config.absent_grace = args.absent_grace;
    config.seal_key_file = args.seal_key.clone();
    config.metrics = args.metrics;
    if let (Some(certificate), Some(key)) = (&args.root_cert, &args.root_key) {
        config.brought_root = Some(BroughtRoot {
            certificate_pem: read(certificate, "--root-cert")?,
            key_pem: read(key, "--root-key")?,
        });
    }
    Ok(config)
}

/// Whether no control plane has ever used the directory. The sealing key is the first thing made.
fn is_first_start(state_dir: &Path) -> bool {
    !state_dir.join("seal.key").exists() && !state_dir.join("store").exists()
}

fn read(path: &Path, flag: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::failed(format!("{flag} {}: {error}", path.display())))
}

fn announce(running: &mesh_control::Running, session: &Session) {
    let dir = session.state_dir.display();
    let mut text = format!(
        "{}\n  trust domain  {}\n  sidecars      {}\n  admin socket  {}\n  state         {dir}",
        output::bold("the control plane is up"),
        running.trust_domain,
        running.address,
        running.socket.display(),
    );
    if let Some(metrics) = running.metrics {
        text.push_str(&format!("\n  metrics       http://{metrics}/metrics"));
    }
    let option = match config::default_state_dir() {
        Ok(default) if default == session.state_dir => String::new(),
        _ => format!(" --state-dir {dir}"),
    };
    text.push_str(&format!(
        "\n\nnext, in another terminal:\n  meshctl run{option} --name web --port 8080 -- CMD…\n  meshctl status{option}"
    ));
    output::note(&text);
}

async fn check_not_running(session: &Session) -> Result<(), Failure> {
    let socket = session.socket();
    match admin_client::probe(&socket).await {
        Ok(()) => Err(Failure::failed(format!(
            "a control plane already runs with the state directory {}",
            session.state_dir.display()
        ))
        .next("meshctl status")
        .next("meshctl up --state-dir DIR --listen 127.0.0.1:0   # a second mesh beside it")),
        Err(_) => Ok(()),
    }
}

/// Makes the directory and proves that it can be written to.
///
/// # Errors
/// Names the directory, the system's reason and what to type.
pub(crate) fn check_state_dir(dir: &Path) -> Result<(), Failure> {
    let cannot = |what: &str, error: &io::Error| {
        let message = format!("the state directory {} cannot be {what}: {error}", dir.display());
        Failure::failed(message).next("meshctl up --state-dir DIR   # a directory this user may write to")
    };
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .map_err(|error| cannot("made", &error))?;
    tempfile::Builder::new()
        .prefix(".write-test-")
        .tempfile_in(dir)
        .map(drop)
        .map_err(|error| cannot("written to", &error))
}

/// Proves that a port is free, so that the message can name the flag.
fn check_port(address: SocketAddr, flag: &str) -> Result<(), Failure> {
    match TcpListener::bind(address) {
        Ok(listener) => {
            drop(listener);
            Ok(())
        }
        Err(error) => {
            let failure = Failure::failed(format!("cannot listen on {address} ({flag}): {error}"));
            Err(match error.kind() {
                io::ErrorKind::AddrInUse => {
                    let mut free = address;
                    free.set_port(0);
                    failure
                        .next(format!("meshctl up {flag} {free}   # any free port"))
                        .next(format!("ss -ltnp 'sport = :{}'   # who has it", address.port()))
                }
                _ => failure.next(format!("meshctl up {flag} ADDRESS:PORT")),
            })
        }
    }
}

/// Starts logging to standard error.
///
/// # Errors
/// When the filter makes no sense.
pub(crate) fn start_log(filter: &str, format: LogFormat) -> Result<(), Failure> {
    let config = LogConfig { format, filter: filter.to_owned() };
    log::init(&config).map_err(|error| Failure::usage(error.to_string()))
}
