//! The cluster a run works on: one of kind that it makes, or one that it is given.

use crate::step::Step;
use crate::tools::{Absent, Tools};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// How long kind may take until its nodes are ready; on two loaded cores it was half a minute.
const READY_WITHIN: &str = "300s";

/// A cluster.
pub(super) struct Kind {
    /// Its name to kind; `None`: it is none of kind's, and images are expected to be there.
    name: Option<String>,
    kubeconfig: PathBuf,
    is_ours: bool,
}

impl Kind {
    /// Makes one.
    ///
    /// # Errors
    /// [`Absent`] when kind cannot.
    pub(super) fn create(tools: &Tools, name: &str, nodes: u8, folder: &Path) -> Result<Self> {
        let kubeconfig = folder.join(format!("{name}.kubeconfig"));
        let mut layout = String::from(
            "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n",
        );
        for _ in 1..nodes {
            writeln!(layout, "- role: worker")?;
        }
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, layout)?;
        let mut command = tools.command("kind");
        command.args(["create", "cluster", "--name", name, "--wait", READY_WITHIN, "--config"]).arg(&file);
        command.arg("--kubeconfig").arg(&kubeconfig);
        if let Some(image) = tools.node_image() {
            command.args(["--image", &image]);
        }
        let made = Self { name: Some(name.to_owned()), kubeconfig, is_ours: true };
        if let Err(error) = Step::of("cluster", command).run() {
            made.delete(tools);
            return Err(Absent::because(format!("kind could not make a cluster: {error:#}")).into());
        }
        Ok(made)
    }

    /// One that is there already.
    ///
    /// # Errors
    /// [`Absent`] when it does not answer.
    pub(super) fn given(tools: &Tools, file: &Path) -> Result<Self> {
        let kubeconfig = file.canonicalize().with_context(|| format!("{} cannot be read", file.display()))?;
        let told = |args: &[&str]| {
            let output = tools.command("kubectl").env("KUBECONFIG", &kubeconfig).args(args).output();
            output.ok().filter(|output| output.status.success())
        };
        if told(&["get", "--raw", "/readyz"]).is_none() {
            return Err(Absent::because(format!("the cluster of {} does not answer", file.display())).into());
        }
        let context = told(&["config", "current-context"]).map(|output| output.stdout).unwrap_or_default();
        let name = String::from_utf8_lossy(&context).trim().strip_prefix("kind-").map(str::to_owned);
        Ok(Self { name, kubeconfig, is_ours: false })
    }

    /// Its name to kind, if it is one of kind's.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// How it is reached.
    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Deletes it if this run has made it.
    pub(super) fn delete(self, tools: &Tools) {
        let (true, Some(name)) = (self.is_ours, &self.name) else { return };
        let mut command = tools.command("kind");
        command.args(["delete", "cluster", "--name", name]);
        if let Err(error) = Step::of("delete the cluster", command).run() {
            eprintln!("==> {error:#}");
        }
    }
}
