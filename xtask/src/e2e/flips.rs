//! When answers change, as a program in a pod sees it.

use super::stage::Area;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long a change may take until it counts as never seen.
const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// A program that looks at some addresses all the time, and tells of each other answer.
pub(super) struct Flips {
    child: Child,
    lines: Receiver<String>,
    /// By URL: since when, in ms since 1970, and what it answers.
    now: BTreeMap<String, (u64, String)>,
    urls: usize,
}

impl Flips {
    /// Starts to look from a pod.
    pub(super) fn watch(area: &Area<'_>, pod: &str, urls: &[String]) -> Result<Self> {
        let mut child = area
            .cluster
            .kubectl()
            .args(["exec", "-i", "-n", &area.namespace, pod, "-c", "app", "--", "python3", "/pods/flips.py"])
            .args(urls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("kubectl could not be started")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let (send, lines) = channel();
        // Ends with the program, or with whoever reads.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines, now: BTreeMap::new(), urls: urls.len() })
    }

    /// Waits until every address answers with this status; gives when the last one began to, in ms since 1970.
    pub(super) fn until(&mut self, status: &str) -> Result<u64> {
        loop {
            let is_all = self.now.len() == self.urls && self.now.values().all(|(_, now)| now == status);
            if is_all {
                return Ok(self.now.values().map(|(at, _)| *at).max().unwrap_or_default());
            }
            let Ok(line) = self.lines.recv_timeout(SEEN_WITHIN) else {
                bail!("waited {SEEN_WITHIN:?} for all to answer {status}: {:?}", self.now)
            };
            let words: Vec<&str> = line.split_whitespace().collect();
            let [at, url, status] = words[..] else { bail!("flips.py said {line:?}") };
            self.now.insert(url.to_owned(), (at.parse()?, status.to_owned()));
        }
    }
}

impl Drop for Flips {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Its standard input has ended, and so does it.
        let _ = self.child.wait();
    }
}
