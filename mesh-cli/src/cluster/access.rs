//! The way to a cluster: which one, whether it answers, what it said.
//!
//! Every command that asks a cluster something goes through here, so that a missing kubeconfig, an unreachable API server, a
//! refusal and a foreign version read the same everywhere.

use crate::failure::{Failure, Kind, chain};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, Config};
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

/// An API server that has not taken a connection by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same of its first answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The oldest minor version with native sidecars that are on by default (Kubernetes 1.29).
pub(crate) const MINOR_MIN: u32 = 29;

/// Which cluster is meant, as it was typed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// The kubeconfig; `None`: `KUBECONFIG`, `~/.kube/config`, or the pod's own account.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context in it; `None`: the current one.
    pub(crate) context: Option<String>,
}

/// A cluster that has answered.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// Speaks to its API server.
    pub(crate) client: Client,
    /// What people call it: the context's name, or the server's address.
    pub(crate) name: String,
    /// The API server's version, for instance `v1.34.4`.
    pub(crate) version: String,
    /// Its minor number.
    pub(crate) minor: u32,
}

impl Choice {
    /// Finds the API server, and asks it for its version.
    ///
    /// # Errors
    /// No kubeconfig, no such context, nobody answers, or not to this user.
    pub(crate) async fn connect(&self) -> Result<Cluster, Failure> {
        let (mut config, name) = self.config().await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .map_err(|error| Failure::failed(format!("cannot use the kubeconfig: {}", chain(&error))))?;
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, client.apiserver_version()).await;
        let version = match asked {
            Ok(Ok(version)) => version,
            Ok(Err(error)) => return Err(unreachable(&name, &server, &error)),
            Err(_) => return Err(no_answer(&name, &server, &format!("no answer within {ANSWER_TIMEOUT:?}"))),
        };
        let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
        // A version that cannot be read counts as one that is too old.
        let minor = digits.parse().unwrap_or_default();
        Ok(Cluster { client, name, version: version.git_version, minor })
    }

    async fn config(&self) -> Result<(Config, String), Failure> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let read = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                // Within a pod there is an account instead of a file.
                if self.kubeconfig.is_none()
                    && self.context.is_none()
                    && let Ok(config) = Config::incluster()
                {
                    let name = config.cluster_url.to_string();
                    return Ok((config, name));
                }
                return Err(no_kubeconfig(self.kubeconfig.as_ref(), &chain(&error)));
            }
        };
        let current = self.context.clone().or_else(|| read.current_context.clone());
        let known: Vec<String> = read.contexts.iter().map(|context| context.name.clone()).collect();
        if let Some(wanted) = &self.context
            && !known.contains(wanted)
        {
            return Err(Failure::usage(format!(
                "the kubeconfig has no context {wanted:?}; it has {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            ))
            .next("kubectl config get-contexts"));
        }
        let config = Config::from_custom_kubeconfig(read, &options)
            .await
            .map_err(|error| no_kubeconfig(self.kubeconfig.as_ref(), &chain(&error)))?;
        let name = current.unwrap_or_else(|| config.cluster_url.to_string());
        Ok((config, name))
    }
}

impl Cluster {
    /// Refuses a cluster without native sidecars.
    ///
    /// # Errors
    /// It is older than Kubernetes 1.29.
    pub(crate) fn require_version(&self) -> Result<(), Failure> {
        if self.minor >= MINOR_MIN {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "cluster {} runs Kubernetes {}; the mesh needs 1.{MINOR_MIN} or later: its proxies are native sidecars. \
             Nothing was changed",
            self.name, self.version
        ))
        .next("kubectl version   # then upgrade the cluster, or choose another: meshctl --context NAME install"))
    }

    /// A refusal or an accident in words; `doing` completes "cannot …".
    pub(crate) fn failure(&self, doing: &str, error: &kube::Error) -> Failure {
        let failure = Failure::failed(format!("cannot {doing} on cluster {}: {}", self.name, words(error)));
        match status(error) {
            Some(status) if status.code == 403 || status.code == 401 => {
                failure.next("kubectl auth can-i --list   # what this user may do")
            }
            Some(_) => failure.next("meshctl check"),
            None => failure.next("kubectl cluster-info   # whether the API server answers"),
        }
    }
}

/// What the API server said, if it was it.
pub(crate) fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// Whether the API server said that there is no such object (or no such kind).
pub(crate) fn is_absent(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| status.code == 404)
}

/// An error's words without the client's own dressing.
pub(crate) fn words(error: &kube::Error) -> String {
    match status(error) {
        Some(status) if !status.message.is_empty() => status.message.clone(),
        Some(status) => format!("{} {}", status.code, status.reason),
        None => chain(error),
    }
}

fn unreachable(name: &str, server: &str, error: &kube::Error) -> Failure {
    if let Some(status) = status(error) {
        return Failure::failed(format!(
            "the API server of cluster {name} ({server}) refuses this user: {}",
            if status.message.is_empty() { status.reason.as_str() } else { status.message.as_str() }
        ))
        .next("kubectl config view --minify   # whose credentials these are");
    }
    no_answer(name, server, &chain(error))
}

fn no_answer(name: &str, server: &str, why: &dyn Display) -> Failure {
    Failure::new(
        Kind::Unreachable,
        format!("the API server of cluster {name} does not answer at {server}: {why}"),
    )
    .next("kubectl cluster-info   # whether it answers at all")
    .next("kubectl config get-contexts   # then meshctl --context NAME …")
}

fn no_kubeconfig(path: Option<&PathBuf>, why: &str) -> Failure {
    let failure = match path {
        Some(path) => Failure::usage(format!("--kubeconfig {}: cannot be used: {why}", path.display())),
        None => Failure::new(Kind::Unreachable, format!("no kubeconfig leads to a cluster: {why}")),
    };
    failure.next("meshctl --kubeconfig FILE …").next("kubectl config current-context")
}
