//! What every command shares: where the mesh's state is, how to print, the connection to the control plane.

use crate::admin_client::{AdminClient, probe};
use crate::cluster::access::{Choice, Cluster};
use crate::cluster::ready;
use crate::config;
use crate::failure::Failure;
use crate::output::{self, ColorWhen, Format, Tone, Typed};
use clap::Args;
use std::path::PathBuf;

/// The name of the control plane's socket within the state directory.
pub(crate) const SOCKET_NAME: &str = "control.sock";

/// Options of every command.
#[derive(Args, Debug, Clone)]
pub(crate) struct Global {
    /// Where the mesh's state and the control plane's socket live [default: ~/.local/state/meshctl]
    #[arg(
        long,
        global = true,
        env = "MESHCTL_STATE_DIR",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) state_dir: Option<PathBuf>,
    /// Reaches a Kubernetes cluster with this file [default: KUBECONFIG, else ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The cluster of this context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub(crate) context: Option<String>,
    /// The mesh on the cluster, even if a local control plane answers
    #[arg(long, global = true, conflicts_with = "local", help_heading = "Global options")]
    pub(crate) kubernetes: bool,
    /// The local mesh, even if the kubeconfig leads to a cluster with one
    #[arg(long, global = true, conflicts_with_all = ["kubeconfig", "context"], help_heading = "Global options")]
    pub(crate) local: bool,
    /// How results are printed; JSON and YAML have stable fields
    #[arg(short, long, global = true, value_enum, default_value_t = Typed::Table, hide_possible_values = true, value_name = "table|json|yaml", help_heading = "Global options")]
    pub(crate) output: Typed,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = ColorWhen::Auto, hide_possible_values = true, value_name = "auto|always|never", help_heading = "Global options")]
    pub(crate) color: ColorWhen,
}

/// Which mesh is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// The one of this machine, or else that of the cluster.
    Either,
    /// The one of this machine.
    Local,
    /// The one of the cluster.
    Cluster,
}

/// What was asked of every command alike.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Where the mesh's state lives.
    pub(crate) state_dir: PathBuf,
    /// Which cluster is meant where one is.
    pub(crate) cluster: Choice,
    /// Which mesh is meant.
    pub(crate) mode: Mode,
    /// How results are printed.
    pub(crate) format: Format,
}

impl Session {
    /// Resolves the state directory.
    ///
    /// # Errors
    /// When no directory is named and there is no home.
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let state_dir = match &global.state_dir {
            Some(dir) => std::path::absolute(dir)
                .map_err(|error| Failure::usage(format!("--state-dir {}: {error}", dir.display())))?,
            None => config::default_state_dir()?,
        };
        let cluster = Choice { kubeconfig: global.kubeconfig.clone(), context: global.context.clone() };
        let is_cluster = global.kubernetes || global.kubeconfig.is_some() || global.context.is_some();
        let mode = match (is_cluster, global.local || global.state_dir.is_some()) {
            (true, _) => Mode::Cluster,
            (false, true) => Mode::Local,
            (false, false) => Mode::Either,
        };
        Ok(Self { state_dir, cluster, mode, format: global.output.format()? })
    }

    /// The control plane's Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.state_dir.join(SOCKET_NAME)
    }

    /// Connects to the control plane: the local one, or the cluster's; a table begins with the cluster's name.
    ///
    /// # Errors
    /// When none answers; the message names where it was looked for and the command that starts one.
    pub(crate) async fn admin(&self) -> Result<AdminClient, Failure> {
        let (client, cluster) = self.connect().await?;
        if let Some(name) = cluster.filter(|_| self.format == Format::Table) {
            output::print(&output::paint(Tone::Dim, &format!("cluster {}", output::clean(&name))))?;
        }
        Ok(client)
    }

    /// The same, in silence; with the cluster's name if it is one.
    ///
    /// # Errors
    /// See [`Self::admin`].
    pub(crate) async fn connect(&self) -> Result<(AdminClient, Option<String>), Failure> {
        let Some(cluster) = self.meant().await? else {
            return AdminClient::connect(&self.socket()).await.map(|client| (client, None));
        };
        let client = AdminClient::connect_to_cluster(&cluster).await?;
        Ok((client, Some(cluster.name)))
    }

    /// The cluster, if its mesh is meant rather than the local one.
    ///
    /// # Errors
    /// A cluster was asked for and does not answer.
    pub(crate) async fn meant(&self) -> Result<Option<Cluster>, Failure> {
        match self.mode {
            Mode::Local => Ok(None),
            Mode::Cluster => self.cluster.connect().await.map(Some),
            Mode::Either if probe(&self.socket()).await.is_ok() => Ok(None),
            // Nobody asked for a cluster: one that does not answer, or has no mesh, is not worth a word.
            Mode::Either => match self.cluster.connect().await {
                Ok(cluster) if ready::is_installed(&cluster).await => Ok(Some(cluster)),
                _ => Ok(None),
            },
        }
    }
}
