//! What the replicas of a control plane tell each other: which proxies each serves, and how far these are.
//!
//! Any replica serves any proxy, so none sees all of them; but a rotation of the root must wait for all, and so must the word
//! that a policy is in force everywhere. Each replica writes its own proxies into a ConfigMap of its name when something has
//! changed, at most once a second, and reads those of the others. A replica that has not written for [`FRESH`] is
//! gone, and its proxies with it: they are at another by then.
//!
//! Revisions are each replica's own count; what two of them have in common is the content, so a proxy's progress is told
//! as the digest of the resources that it enforces.

use super::watch::Task;
use super::{Cluster, FIELD_MANAGER};
use crate::clock;
use crate::discovery::fanout::{Mesh, ProxyState};
use crate::local::registry::WorkloadKey;
use crate::store::Store;
use crate::store::view::ReadView;
use aws_lc_rs::digest;
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use mesh_ca::authority::ProxyTrust;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The label of these ConfigMaps.
const LABEL: &str = "meshctl.io/replica";
/// The key in them.
const KEY: &str = "proxies";
/// How often a replica writes at most, and how often at least.
const PAUSE: Duration = Duration::from_secs(1);
const ALIVE: Duration = Duration::from_secs(10);
/// How long what a replica has written counts.
const FRESH: Duration = Duration::from_secs(30);
/// Revisions whose digest is remembered.
const REMEMBERED_MAX: usize = 256;

/// One proxy, as its replica tells of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    id: String,
    instance: String,
    /// The digest of the resources that it enforces; empty when its replica has forgotten.
    #[serde(default)]
    catalog: String,
    /// The newest bundle that it has acknowledged.
    #[serde(default)]
    bundle: u64,
    /// Its certificate's serial.
    #[serde(default)]
    serial: Vec<u8>,
}

/// What one replica has told.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Replica {
    at_ms: u64,
    proxies: Vec<Told>,
}

/// What is known of the proxies of other replicas.
#[derive(Default)]
pub(crate) struct Peers {
    replicas: Mutex<BTreeMap<String, Replica>>,
    digests: Mutex<Digests>,
}

/// The digests of the last revisions here.
#[derive(Default)]
struct Digests {
    by_revision: BTreeMap<u64, String>,
}

impl Digests {
    fn note(&mut self, view: &ReadView) {
        if self.by_revision.contains_key(&view.revision()) {
            return;
        }
        let mut context = digest::Context::new(&digest::SHA256);
        for (key, stored) in view.resources().iter() {
            context.update(key.to_string().as_bytes());
            context.update(&[0]);
            context.update(stored.yaml.as_bytes());
            context.update(&[0]);
        }
        let hash = context.finish();
        let short = hash.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        self.by_revision.insert(view.revision(), short);
        while self.by_revision.len() > REMEMBERED_MAX {
            self.by_revision.pop_first();
        }
    }
}

impl Peers {
    /// The proxies of other replicas, as a rotation looks at them.
    pub(crate) fn trust(&self) -> Vec<ProxyTrust> {
        let trust = |told: Told| {
            Some(ProxyTrust {
                id: told.id.parse().ok()?,
                instance: told.instance.parse().ok()?,
                bundle_sequence: told.bundle,
                svid_root: None,
                serial: told.serial,
            })
        };
        self.fresh().into_iter().filter_map(trust).collect()
    }

    /// The newest revision of this replica that each proxy elsewhere enforces, by instance.
    pub(super) fn revisions(&self) -> BTreeMap<String, u64> {
        let digests = self.digests();
        let by_digest: BTreeMap<&str, u64> =
            digests.by_revision.iter().map(|(revision, digest)| (digest.as_str(), *revision)).collect();
        let revision = |told: &Told| by_digest.get(told.catalog.as_str()).copied().unwrap_or(0);
        self.fresh().into_iter().map(|told| (told.instance.clone(), revision(&told))).collect()
    }

    fn fresh(&self) -> Vec<Told> {
        let now = clock::unix_ms(clock::wall());
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |replica: &&Replica| now.saturating_sub(replica.at_ms) <= clock::millis(FRESH);
        replicas.values().filter(is_fresh).flat_map(|replica| replica.proxies.clone()).collect()
    }

    fn digests(&self) -> MutexGuard<'_, Digests> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This replica's proxies.
    fn own(&self, fleet: &BTreeMap<WorkloadKey, ProxyState>, view: &ReadView) -> Vec<Told> {
        let mut digests = self.digests();
        digests.note(view);
        let told = |(key, state): (&WorkloadKey, &ProxyState)| Told {
            id: key.id.to_string(),
            instance: key.instance.to_string(),
            catalog: digests.by_revision.get(&state.confirmed.revision).cloned().unwrap_or_default(),
            bundle: state.confirmed.bundle_sequence,
            serial: state.serial.clone().or_else(|| state.peer.serials.first().cloned()).unwrap_or_default(),
        };
        fleet.iter().map(told).collect()
    }

    /// Reads what the others write.
    pub(super) fn listen(self: Arc<Self>, cluster: Cluster) -> Task {
        let task = async move {
            let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), cluster.namespace.as_str());
            let events = watcher(maps, Config::default().labels(LABEL)).default_backoff();
            pin_mut!(events);
            while let Some(event) = events.next().await {
                // Errors come with the other watches as well, which tell them.
                let (map, is_there) = match event {
                    Ok(Event::Apply(map) | Event::InitApply(map)) => (map, true),
                    Ok(Event::Delete(map)) => (map, false),
                    _ => continue,
                };
                let replica = map.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).cloned();
                let Some(replica) = replica.filter(|replica| replica != cluster.pod.as_str()) else {
                    continue;
                };
                let read = map.data.as_ref().and_then(|data| serde_json::from_str(data.get(KEY)?).ok());
                let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
                match read.filter(|_| is_there) {
                    Some(read) => drop(replicas.insert(replica, read)),
                    None => drop(replicas.remove(&replica)),
                }
            }
        };
        ("the word of other replicas", Box::pin(task))
    }

    /// Tells the others.
    pub(super) fn tell(self: Arc<Self>, cluster: Cluster, mesh: Arc<Mesh>, store: Arc<dyn Store>) -> Task {
        let task = async move {
            let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), cluster.namespace.as_str());
            let name = format!("mesh-replica-{}", cluster.pod);
            let owner = owner(&cluster).await;
            let mut changes = mesh.fleet.watch();
            let mut written = None;
            loop {
                changes.mark_unchanged();
                let own = self.own(&mesh.fleet.all(), &store.read());
                let now = clock::wall();
                let is_due = written.as_ref().is_none_or(|(before, at): &(Vec<Told>, _)| {
                    *before != own || now.duration_since(*at).is_ok_and(|past| past >= ALIVE)
                });
                if is_due {
                    let replica = Replica { at_ms: clock::unix_ms(now), proxies: own.clone() };
                    let mut labels = super::labels();
                    labels.insert(LABEL.to_owned(), cluster.pod.to_string());
                    let map = json!({
                        "apiVersion": "v1", "kind": "ConfigMap",
                        "metadata": { "name": name, "labels": labels, "ownerReferences": owner },
                        "data": { KEY: json!(replica).to_string() },
                    });
                    let how = PatchParams::apply(FIELD_MANAGER).force();
                    match maps.patch(&name, &how, &Patch::Apply(&map)).await {
                        Ok(_) => written = Some((own, now)),
                        Err(error) => tracing::debug!(%error, "other replicas are not told of these proxies"),
                    }
                }
                tokio::time::sleep(PAUSE).await;
                // Cancel safe: a change that is not received is seen in the next round.
                tokio::select! {
                    _ = changes.changed() => {}
                    () = tokio::time::sleep(ALIVE) => {}
                }
            }
        };
        ("the word to other replicas", Box::pin(task))
    }
}

/// The pod of this replica as the owner of what it writes, so that this goes with it; nobody outside of a pod.
async fn owner(cluster: &Cluster) -> Value {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), cluster.namespace.as_str());
    let uid = pods.get_opt(cluster.pod.as_str()).await.ok().flatten().and_then(|pod| pod.metadata.uid);
    match uid {
        Some(uid) => json!([{ "apiVersion": "v1", "kind": "Pod", "name": cluster.pod.as_str(), "uid": uid }]),
        None => json!([]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::{self, Answer};

    #[tokio::test]
    async fn what_a_replica_writes_goes_with_its_pod() {
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mesh-control-0", "uid": "u-1"}});
        let inside = testing::cluster(move |call| {
            assert_eq!(call.path, "/api/v1/namespaces/mesh-system/pods/mesh-control-0");
            Answer::Ok(pod.clone())
        });
        assert_eq!(owner(&inside).await[0]["uid"], "u-1");
        assert_eq!(owner(&testing::cluster(|_| Answer::NotFound)).await, json!([]));
    }

    #[test]
    fn what_others_tell_counts_while_they_live_and_by_content_not_by_number() {
        let peers = Peers::default();
        peers.digests().by_revision.extend([(4, "aa".to_owned()), (5, "bb".to_owned())]);
        let told = |instance: &str, catalog: &str| Told {
            id: "spiffe://cluster.local/ns/shop/sa/web".to_owned(),
            instance: instance.to_owned(),
            catalog: catalog.to_owned(),
            bundle: 3,
            serial: vec![7],
        };
        let now = clock::unix_ms(clock::wall());
        let proxies = vec![told("web-1", "bb"), told("web-2", "aa"), told("web-3", "cc")];
        let gone = Replica { at_ms: now.saturating_sub(60_000), proxies: vec![told("web-9", "bb")] };
        let replicas = [("b".to_owned(), Replica { at_ms: now, proxies }), ("c".to_owned(), gone)];
        *peers.replicas.lock().unwrap() = replicas.into();
        let expected = [("web-1", 5), ("web-2", 4), ("web-3", 0)];
        assert_eq!(peers.revisions(), expected.map(|(name, revision)| (name.to_owned(), revision)).into());
        assert_eq!(peers.trust().len(), 3);
        assert_eq!(peers.trust()[0].bundle_sequence, 3);
    }
}
