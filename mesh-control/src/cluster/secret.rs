//! Where the authority's sealed state is kept in a cluster: a Secret, shared by all replicas.
//!
//! What is written names the version it replaces, so that no replica undoes what another has done; who is refused reads
//! first (`Authority::tick` does) and then goes on. The content is sealed: whoever can read Secrets of the namespace but not
//! the sealing key learns nothing.

use super::Cluster;
use super::watch::Task;
use crate::authority::CertificateAuthority;
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use mesh_ca::authority::AuthorityStore;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

/// The Secret's name.
const NAME: &str = "mesh-authority";
/// The key in it.
const KEY: &str = "state";
/// Kubernetes takes a mebibyte of data in a Secret; some is left for its names.
const BYTES_MAX: usize = 1_000_000;
/// How long the API server may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// The authority's state in a Secret. Its methods wait for the API server, so they belong on threads that may block.
pub(crate) struct SecretStore {
    secrets: Api<Secret>,
    runtime: Handle,
    versions: Mutex<Versions>,
}

/// Versions of the Secret, as the API server names them.
#[derive(Default)]
struct Versions {
    /// What was last loaded or saved; `None`: there is no Secret.
    held: Option<String>,
    /// What the watch has seen last.
    seen: Option<String>,
    /// A save was refused.
    is_refused: bool,
}

impl SecretStore {
    /// The store; `runtime` does the waiting for the API server.
    pub(crate) fn new(cluster: &Cluster, runtime: Handle) -> Self {
        let secrets = Api::namespaced(cluster.client.clone(), cluster.namespace.as_str());
        Self { secrets, runtime, versions: Mutex::default() }
    }

    /// Keeps an eye on what other replicas save, so that the authority reads it at once.
    pub(super) fn watch(self: Arc<Self>, authority: Arc<CertificateAuthority>) -> Task {
        let task = async move {
            let only = Config::default().fields(&format!("metadata.name={NAME}"));
            let events = watcher(self.secrets.clone(), only).default_backoff();
            pin_mut!(events);
            while let Some(event) = events.next().await {
                // Errors come with the other watches as well, which tell them.
                if let Ok(Event::Apply(secret) | Event::InitApply(secret)) = event {
                    self.versions().seen = secret.metadata.resource_version;
                    if self.is_behind() {
                        authority.nudge();
                    }
                }
            }
        };
        ("the watch over the authority's state", Box::pin(task))
    }

    fn versions(&self) -> std::sync::MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<T>(&self, answer: impl Future<Output = kube::Result<T>>) -> Result<T, kube::Error> {
        self.runtime.block_on(async {
            let late =
                || kube::Error::Service(format!("the API server gave no answer within {DEADLINE:?}").into());
            tokio::time::timeout(DEADLINE, answer).await.unwrap_or_else(|_| Err(late()))
        })
    }
}

impl AuthorityStore for SecretStore {
    fn load(&self) -> Result<Option<Vec<u8>>, String> {
        let found = self.wait(self.secrets.get_opt(NAME)).map_err(|error| error.to_string())?;
        let state = match &found {
            None => None,
            Some(secret) => {
                let state = secret.data.as_ref().and_then(|data| data.get(KEY)).map(|bytes| bytes.0.clone());
                Some(state.ok_or_else(|| format!("the Secret {NAME} has no key {KEY}"))?)
            }
        };
        let mut versions = self.versions();
        versions.held = found.and_then(|secret| secret.metadata.resource_version);
        versions.is_refused = false;
        Ok(state)
    }

    fn save(&self, state: &[u8]) -> Result<(), String> {
        let held = self.versions().held.clone();
        let mut secret = Secret {
            data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(state.to_vec()))])),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        secret.metadata.name = Some(NAME.to_owned());
        secret.metadata.labels = Some(super::labels());
        secret.metadata.resource_version.clone_from(&held);
        let how = PostParams::default();
        let saved = match held {
            None => self.wait(self.secrets.create(&how, &secret)),
            Some(_) => self.wait(self.secrets.replace(NAME, &how, &secret)),
        };
        match saved {
            Ok(secret) => {
                self.versions().held = secret.metadata.resource_version;
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.versions().is_refused = true;
                Err("another replica of the control plane has changed it in this moment; ask again"
                    .to_owned())
            }
            Err(error) => {
                // It may have been saved all the same, or the Secret is gone: what is there says which.
                self.versions().is_refused = true;
                Err(error.to_string())
            }
        }
    }

    fn is_behind(&self) -> bool {
        let versions = self.versions();
        versions.is_refused || (versions.seen.is_some() && versions.seen != versions.held)
    }

    fn bytes_max(&self) -> usize {
        BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::{self, Answer};
    use serde_json::{Value, json};

    /// An API server with one Secret, that counts its versions.
    fn cluster(kept: Arc<Mutex<Option<Value>>>) -> Cluster {
        testing::cluster(move |call| {
            let mut kept = kept.lock().unwrap();
            let version = |kept: &Option<Value>| {
                kept.as_ref().map(|secret| secret["metadata"]["resourceVersion"].clone())
            };
            match call.method.as_str() {
                "GET" => kept.clone().map_or(Answer::NotFound, Answer::Ok),
                "POST" if kept.is_some() => Answer::Conflict,
                "PUT" if kept.is_none() => Answer::NotFound,
                "PUT" if version(&kept) != Some(call.body["metadata"]["resourceVersion"].clone()) => {
                    Answer::Conflict
                }
                _ => {
                    let next = version(&kept).and_then(|v| v.as_str()?.parse::<u32>().ok()).unwrap_or(0) + 1;
                    let mut secret = call.body.clone();
                    secret["metadata"]["resourceVersion"] = json!(next.to_string());
                    *kept = Some(secret.clone());
                    Answer::Ok(secret)
                }
            }
        })
    }

    #[test]
    fn replicas_never_undo_each_others_changes() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let kept = Arc::default();
        let cluster = cluster(Arc::clone(&kept));
        let open = || SecretStore::new(&cluster, runtime.handle().clone());
        let (one, two) = (open(), open());
        assert_eq!((one.load().unwrap(), two.load().unwrap()), (None, None));
        one.save(b"first").unwrap();
        assert!(two.save(b"second").unwrap_err().contains("ask again"), "both started at once");
        assert!(two.is_behind() && !one.is_behind());
        assert_eq!(two.load().unwrap().unwrap(), b"first");
        two.save(b"second").unwrap();
        assert!(one.save(b"third").is_err());
        assert_eq!(one.load().unwrap().unwrap(), b"second");
        one.save(b"third").unwrap();
        // Somebody has deleted it: nothing is lost, the next save makes it anew.
        *kept.lock().unwrap() = None;
        assert!(one.save(b"fourth").is_err() && one.is_behind());
        assert_eq!(one.load().unwrap(), None);
        one.save(b"fourth").unwrap();
        assert_eq!(one.load().unwrap().unwrap(), b"fourth");
    }
}
