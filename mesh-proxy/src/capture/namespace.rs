//! A network namespace for one workload: made, entered, and cleaned up, also after a crash.
//!
//! Uses the `ip` and `nft` programs, whose effects an operator can see with the same programs. Linux and root only.
//! Never leaves a namespace behind: the owner's drop removes it, and the next start removes those of dead owners.

use super::rules;
use mesh_proto::name::InstanceName;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Names of our namespaces start with this and end with the owner's process id.
const PREFIX: &str = "meshctl-";
/// Where `ip netns` keeps the names.
const FOLDER: &str = "/run/netns";

/// Why a namespace could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A program is missing or may not run.
    #[error(
        "cannot run {program}: {source}; transparent capture needs root and the packages iproute2 and nftables"
    )]
    Program {
        /// `ip` or `nft`.
        program: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A program refused.
    #[error(
        "{command} failed: {said}; transparent capture needs root (try: sudo, or explicit ports with --to)"
    )]
    Refused {
        /// The command line.
        command: String,
        /// Its error output.
        said: String,
    },
    /// A step inside the namespace failed.
    #[error("cannot {what} in the namespace {name}: {source}")]
    Inside {
        /// What was tried.
        what: &'static str,
        /// Which namespace.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// A namespace of ours. Removed when the last clone is dropped.
#[derive(Clone)]
pub struct Namespace(Arc<Inner>);

struct Inner {
    name: String,
    file: File,
}

impl Namespace {
    /// Makes a namespace for an instance, with addresses, routes and rules; `owner` is this process's id.
    ///
    /// First removes what dead owners left behind.
    ///
    /// # Errors
    /// Says which command failed and what it answered. Nothing is left behind then.
    pub fn create(instance: &InstanceName, owner: u32) -> Result<Self, CaptureError> {
        remove_orphans();
        let name = format!("{PREFIX}{instance}-{owner}");
        run("ip", &["netns", "add", &name], None)?;
        let path = PathBuf::from(FOLDER).join(&name);
        let opened = File::open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(source) => {
                remove(&name);
                return Err(CaptureError::Inside { what: "open", name, source });
            }
        };
        // From here on the drop cleans up.
        let namespace = Self(Arc::new(Inner { name: name.clone(), file }));
        for words in rules::links() {
            ip_inside(&name, &words)?;
        }
        if PathBuf::from("/proc/sys/net/ipv6").is_dir() {
            ip_inside(&name, &rules::route_v6())?;
        }
        run("ip", &["netns", "exec", &name, "nft", "-f", "-"], Some(&rules::ruleset()))?;
        Ok(namespace)
    }

    /// Its name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file that stands for it, which another process enters it by.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.0.name)
    }

    /// Runs a piece of work on a thread of its own that is inside. What is made there (sockets, children) stays inside.
    ///
    /// Blocks until it is done: for the start of a workload and its listeners, not for the request path.
    ///
    /// # Errors
    /// When the thread cannot enter.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, CaptureError> {
        let inside = |what, source| CaptureError::Inside { what, name: self.0.name.clone(), source };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.0.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            match thread.join() {
                Ok(done) => done.map_err(|error: rustix::io::Errno| inside("enter", error.into())),
                Err(_) => Err(inside("finish work", io::Error::other("its thread panicked"))),
            }
        })
    }

    /// A TCP listener inside, ready for tokio.
    ///
    /// # Errors
    /// When the address is taken or the thread cannot enter.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener, CaptureError> {
        let made = self.enter(|| {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        made.map_err(|source| CaptureError::Inside { what: "listen", name: self.0.name.clone(), source })
    }

    /// A UDP socket inside, ready for tokio.
    ///
    /// # Errors
    /// When the address is taken or the thread cannot enter.
    pub fn bind_udp(&self, address: SocketAddr) -> Result<UdpSocket, CaptureError> {
        let made = self.enter(|| {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        made.map_err(|source| CaptureError::Inside { what: "bind", name: self.0.name.clone(), source })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes the namespaces of owners that no longer run, and ends what still runs in them.
///
/// A workload whose proxy was killed can reach nothing (its connections lead to listeners that are gone), but it must not
/// stay for ever either.
pub fn remove_orphans() {
    let Ok(entries) = std::fs::read_dir(FOLDER) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(owner) = owner_of(&name) else { continue };
        if PathBuf::from(format!("/proc/{owner}")).is_dir() {
            continue;
        }
        tracing::info!(namespace = %name, owner, "removing the namespace of a proxy that is gone");
        end_processes(&name);
        remove(&name);
    }
}

/// The process id in the name of a namespace of ours.
fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.rsplit_once('-')?.1.parse().ok()
}

fn end_processes(name: &str) {
    let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() else { return };
    for id in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        let Some(id) = id.parse().ok().and_then(rustix::process::Pid::from_raw) else { continue };
        if let Err(error) = rustix::process::kill_process(id, rustix::process::Signal::KILL) {
            tracing::info!(namespace = %name, pid = id.as_raw_nonzero().get(), %error, "could not end a left-over process");
        }
    }
}

fn remove(name: &str) {
    if let Err(error) = run("ip", &["netns", "del", name], None) {
        tracing::warn!(namespace = %name, %error, "could not remove a namespace; remove it with: ip netns del {name}");
    }
}

fn ip_inside(name: &str, words: &[String]) -> Result<(), CaptureError> {
    let mut args = vec!["-n", name];
    args.extend(words.iter().map(String::as_str));
    run("ip", &args, None)
}

fn run(program: &'static str, args: &[&str], input: Option<&str>) -> Result<(), CaptureError> {
    use std::io::Write;
    let failed = |source| CaptureError::Program { program, source };
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CaptureError::Refused { command: format!("{program} {}", args.join(" ")), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_an_owner() {
        assert_eq!(owner_of("meshctl-web-42"), Some(42));
        assert_eq!(owner_of("meshctl-my-web-7"), Some(7));
        for other in ["web-42", "mesh-web-42", "meshctl-web", "meshctl-web-x", "meshctl-42"] {
            assert_eq!(owner_of(other), None, "{other}");
        }
    }
}
