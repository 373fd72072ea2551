//! Where `docker`, `kind` and `kubectl` come from: PATH, or the project's neighbour that builds them.
//!
//! Called by `images` and `e2e`. Never starts or stops a cluster itself.

use crate::programs::is_there;
use crate::step::root;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// Prepares docker and kind on a machine that has neither, and prints what to put into the environment.
const UP: &str = "../shared/kind/up";

/// Why there is no cluster to be had on this machine; `main` ends with a code of its own.
#[derive(Debug)]
pub(crate) struct Absent(String);

impl Absent {
    /// For this reason.
    pub(crate) fn because(why: String) -> Self {
        Self(why)
    }
}

impl std::fmt::Display for Absent {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Absent {}

/// The programs of a cluster, ready to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools {
    /// What the programs need in their environment, PATH among it.
    environment: BTreeMap<String, String>,
}

impl Tools {
    /// Finds these programs and a docker that answers.
    ///
    /// # Errors
    /// [`Absent`] when they are not there and cannot be brought.
    pub(crate) fn find(programs: &[&str]) -> Result<Self> {
        let own = Self::default();
        let missing: Vec<&str> = programs.iter().copied().filter(|program| !is_there(program)).collect();
        let docker_answers = !programs.contains(&"docker") || own.succeeds("docker", &["info"]);
        if missing.is_empty() && docker_answers {
            return Ok(own);
        }
        let up = root().join(UP);
        if !up.is_file() {
            let why = if missing.is_empty() {
                "docker does not answer; start it".to_owned()
            } else {
                format!("not on PATH: {}; install them", missing.join(", "))
            };
            return Err(Absent(format!("{why}, or give the cluster with --kubeconfig FILE")).into());
        }
        let said = Command::new(&up).stderr(Stdio::inherit()).output();
        let said = said.with_context(|| format!("{} could not be started", up.display()))?;
        if !said.status.success() {
            return Err(Absent(format!("{} failed ({})", up.display(), said.status)).into());
        }
        Self::from_shell(&String::from_utf8_lossy(&said.stdout))
    }

    /// What the shell has in its environment after it was told this.
    fn from_shell(text: &str) -> Result<Self> {
        let script = format!("{text}\nenv -0");
        let told =
            Command::new("bash").args(["-c", &script]).output().context("bash could not be started")?;
        let environment = String::from_utf8_lossy(&told.stdout)
            .split('\0')
            .filter_map(|pair| pair.split_once('='))
            .filter(|(key, _)| *key == "PATH" || key.starts_with("MESH_KIND_"))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Ok(Self { environment })
    }

    /// The image that kind's nodes are made of, where it is not kind's own.
    pub(crate) fn node_image(&self) -> Option<String> {
        #[expect(clippy::disallowed_methods, reason = "set where the programs were put on PATH by hand")]
        let own = || std::env::var("MESH_KIND_NODE_IMAGE").ok();
        self.environment.get("MESH_KIND_NODE_IMAGE").cloned().or_else(own)
    }

    /// A command that finds the programs.
    pub(crate) fn command(&self, program: &str) -> Command {
        // Found here and not by the child: its PATH counts for what it starts only.
        let path = self.environment.get("PATH");
        let found = path.and_then(|path| {
            std::env::split_paths(path).map(|folder| folder.join(program)).find(|path| path.is_file())
        });
        let mut command = found.map_or_else(|| Command::new(program), Command::new);
        command.envs(&self.environment).current_dir(root());
        command
    }

    /// What a program prints.
    ///
    /// # Errors
    /// With what it complains of, when it fails.
    pub(crate) fn told(&self, program: &str, args: &[&str]) -> Result<String> {
        let line = format!("{program} {}", args.join(" "));
        let output = self.command(program).args(args).output();
        let output = output.with_context(|| format!("{line} could not be started"))?;
        if !output.status.success() {
            bail!("{line} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn succeeds(&self, program: &str, args: &[&str]) -> bool {
        self.command(program).args(args).output().is_ok_and(|output| output.status.success())
    }
}
