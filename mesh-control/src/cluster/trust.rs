//! The roots that pods start with: a ConfigMap in every namespace that has, or asks for, meshed pods.
//!
//! A pod that starts has no certificate yet and must know whom to believe; its ConfigMap is mounted by the kubelet. Every
//! replica keeps it, with the same content and under the same field manager, so that it does not matter who is first: what
//! is right already is not written. Namespaces that have no reason for it any more lose it; only what the mesh has made.

use super::translate::{self, INJECT};
use super::watch::Seen;
use super::{Cluster, FIELD_MANAGER};
use crate::discovery::fanout::Mesh;
use crate::index::World;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use mesh_ca::bundle::roots_pem;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The ConfigMap's name.
pub(crate) const NAME: &str = "meshctl-trust";
/// The key in it.
const KEY: &str = "roots.pem";
/// How long to wait after the API server has refused something.
const RETRY: Duration = Duration::from_secs(2);
/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(50);
/// How often everything is looked at anew, in case somebody has changed or deleted one.
const RESYNC: Duration = Duration::from_secs(60);

/// Keeps the ConfigMaps.
pub(super) async fn keep(cluster: Cluster, seen: Arc<Seen>, mesh: Arc<Mesh>) {
    seen.complete().await;
    let mut world = mesh.watch();
    // What each namespace was last seen to have.
    let mut written: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let roots = roots(&world.borrow_and_update());
        let wanted = namespaces(&seen);
        let mut is_done = true;
        for namespace in &wanted {
            if written.get(namespace) != Some(&roots) {
                match write(&cluster, namespace, &roots).await {
                    Ok(()) => drop(written.insert(namespace.clone(), roots.clone())),
                    Err(error) => {
                        tracing::warn!(namespace, %error, "the mesh's roots could not be written; pods that start there wait for them");
                        is_done = false;
                    }
                }
            }
        }
        let gone: Vec<String> = written.keys().filter(|known| !wanted.contains(*known)).cloned().collect();
        for namespace in gone {
            match remove(&cluster, &namespace).await {
                Ok(()) => drop(written.remove(&namespace)),
                Err(error) => {
                    tracing::info!(namespace, %error, "the mesh's roots could not be removed");
                    is_done = false;
                }
            }
        }
        // Cancel safe, all: nothing is lost but a wait.
        tokio::select! {
            _ = world.changed() => {}
            () = seen.namespaces_changed.notified() => {}
            () = tokio::time::sleep(if is_done { RESYNC } else { RETRY }) => if is_done { written.clear() },
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// The roots of the mesh's own trust domain.
fn roots(world: &World) -> String {
    let bundles = world.trust.bundles.iter().filter(|bundle| bundle.trust_domain == world.trust_domain);
    bundles.map(roots_pem).collect()
}

/// The namespaces that ask for proxies or have pods with one.
fn namespaces(seen: &Seen) -> BTreeSet<String> {
    let mut wanted = BTreeSet::new();
    let mut there = BTreeSet::new();
    for namespace in seen.namespaces.state() {
        let Some(name) = namespace.metadata.name.clone() else { continue };
        if namespace.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let label = namespace.metadata.labels.as_ref().and_then(|labels| labels.get(INJECT));
        if label.is_some_and(|label| label == "enabled") {
            wanted.insert(name.clone());
        }
        there.insert(name);
    }
    for pod in seen.pods.state() {
        let label = |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let is_asking = label(INJECT).is_some_and(|label| label == "enabled")
            || label(translate::MESHED).is_some_and(|label| label == "true");
        if let Some(namespace) =
            pod.metadata.namespace.as_ref().filter(|name| is_asking && there.contains(*name))
        {
            wanted.insert(namespace.clone());
        }
    }
    wanted
}

async fn write(cluster: &Cluster, namespace: &str, roots: &str) -> kube::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
    let found = maps.get_opt(NAME).await?;
    let data = found.as_ref().and_then(|map| map.data.as_ref()?.get(KEY));
    if data.is_some_and(|data| data == roots) {
        return Ok(());
    }
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": NAME, "namespace": namespace, "labels": super::labels() },
        "data": { KEY: roots },
    });
    // By force: pods of this namespace believe what stands here.
    let how = PatchParams::apply(FIELD_MANAGER).force();
    maps.patch(NAME, &how, &Patch::Apply(&map)).await.map(drop)
}

async fn remove(cluster: &Cluster, namespace: &str) -> kube::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
    match maps.delete(NAME, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
