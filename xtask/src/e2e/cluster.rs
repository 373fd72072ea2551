//! The cluster as scenarios see it: `kubectl` and `meshctl`, as a user types them.

use super::programs;
use crate::tools::Tools;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The namespace of the control plane.
pub(super) const SYSTEM: &str = "mesh-system";

/// How the tag of the release before ends.
pub(super) const PREVIOUS: &str = "before";

/// A cluster that answers.
pub(super) struct Cluster {
    tools: Tools,
    kubeconfig: PathBuf,
    meshctl: PathBuf,
    /// Tag of all images of this run.
    pub(super) tag: String,
}

/// What a program said, whatever its end.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// The exit code; -1 when a signal ended it.
    pub(super) code: i32,
    /// Standard output.
    pub(super) out: String,
    /// Standard error.
    pub(super) err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Standard output of a program that must have succeeded.
    pub(super) fn ok(self, what: &str) -> Result<String> {
        if self.code != 0 {
            bail!("{what} ended with {}: {} {}", self.code, self.out, self.err);
        }
        Ok(self.out)
    }
}

impl Cluster {
    /// The cluster of a kubeconfig.
    pub(super) fn new(tools: Tools, kubeconfig: &Path, meshctl: PathBuf, tag: &str) -> Self {
        Self { tools, kubeconfig: kubeconfig.to_path_buf(), meshctl, tag: tag.to_owned() }
    }

    /// The image of the programs that scenarios run.
    pub(super) fn programs(&self) -> String {
        format!("{}:{}", programs::NAME, self.tag)
    }

    /// Tag of the images that stand for the release before.
    pub(super) fn previous_tag(&self) -> String {
        format!("{}-{PREVIOUS}", self.tag)
    }

    /// A `kubectl`, ready for its arguments.
    pub(super) fn kubectl(&self) -> Command {
        let mut command = self.tools.command("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        command
    }

    /// What `kubectl` prints; it must succeed.
    pub(super) fn told(&self, args: &[&str]) -> Result<String> {
        self.tried(args)?.ok(&format!("kubectl {}", args.join(" ")))
    }

    /// What `kubectl` says, also when it fails.
    pub(super) fn tried(&self, args: &[&str]) -> Result<Said> {
        let output = self.kubectl().args(args).output().context("kubectl could not be started")?;
        Ok(Said::of(&output))
    }

    /// An object, or a list of them.
    pub(super) fn json(&self, args: &[&str]) -> Result<Value> {
        let args = [args, &["-o", "json"]].concat();
        serde_json::from_str(&self.told(&args)?)
            .with_context(|| format!("kubectl {} gave no JSON", args.join(" ")))
    }

    /// Applies a manifest, YAML or JSON.
    pub(super) fn apply(&self, manifest: &str) -> Result<()> {
        let said = self.fed(self.kubectl().args(["apply", "-f", "-"]), manifest)?;
        said.ok("kubectl apply").map(drop)
    }

    /// What a command says that is fed with a text.
    pub(super) fn fed(&self, command: &mut Command, text: &str) -> Result<Said> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?} could not be started"))?;
        let mut input = child.stdin.take().context("no standard input")?;
        input.write_all(text.as_bytes())?;
        drop(input);
        Ok(Said::of(&child.wait_with_output()?))
    }

    /// What `meshctl` says, also when it fails.
    pub(super) fn meshctl(&self, args: &[&str]) -> Result<Said> {
        let output = self.meshctl_command().args(args).output();
        Ok(Said::of(&output.with_context(|| format!("{} could not be started", self.meshctl.display()))?))
    }

    /// A `meshctl`, ready for its arguments.
    pub(super) fn meshctl_command(&self) -> Command {
        let mut command = self.tools.command(&self.meshctl.to_string_lossy());
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        command
    }

    /// Waits until a Deployment, StatefulSet or DaemonSet has all its pods ready in their newest form.
    pub(super) fn rolled_out(&self, namespace: &str, what: &str, seconds: u32) -> Result<()> {
        let within = format!("--timeout={seconds}s");
        self.told(&["rollout", "status", "-n", namespace, what, &within]).map(drop)
    }
}
