//! Counted load from within a pod: every request counts, none is tried again by the client.

use super::stage::Area;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};

/// A load that runs.
pub(super) struct Load {
    child: Child,
    output: BufReader<ChildStdout>,
}

/// What a load came to.
#[derive(Clone, Debug, serde::Deserialize)]
pub(super) struct Counted {
    /// Answers with status 200.
    pub(super) ok: u64,
    /// Everything else.
    pub(super) failed: u64,
    /// The first failures, with the time of day.
    pub(super) failures: Vec<String>,
    /// The slowest answer.
    pub(super) slowest_ms: u64,
    /// Answers by pod.
    pub(super) served_by: std::collections::BTreeMap<String, u64>,
}

impl Load {
    /// Starts `GET url` so many times a second from a pod.
    pub(super) fn start(area: &Area<'_>, pod: &str, url: &str, per_second: u32) -> Result<Self> {
        let rate = per_second.to_string();
        let mut child = area
            .cluster
            .kubectl()
            .args(["exec", "-i", "-n", &area.namespace, pod, "-c", "app", "--"])
            .args(["python3", "/pods/load.py", url, &rate, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("kubectl could not be started")?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line.trim() == "loading", "the load of {url} did not start: {line:?}");
        Ok(Self { child, output })
    }

    /// Ends it, and gives what it came to.
    pub(super) fn end(mut self) -> Result<Counted> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        self.child.wait()?;
        serde_json::from_str(text.trim()).with_context(|| format!("the load did not end well: {text:?}"))
    }

    /// Ends it; not one request may have failed.
    pub(super) fn none_failed(self, while_what: &str) -> Result<Counted> {
        let counted = self.end()?;
        eprintln!(
            "    {while_what}: {} ok, {} failed, slowest {} ms, {} pods",
            counted.ok,
            counted.failed,
            counted.slowest_ms,
            counted.served_by.len()
        );
        ensure!(
            counted.failed == 0 && counted.ok > 0,
            "while {while_what}: {} of {} failed: {}",
            counted.failed,
            counted.failed + counted.ok,
            counted.failures.join("; ")
        );
        Ok(counted)
    }
}
