//! From what was seen to the mesh: the platform, and the resources with their history.
//!
//! Two loops, each woken by the watch and each looking at everything anew: one makes the [`Platform`] of services, endpoints
//! and pods, the other the resources of the mesh's own objects. Both wait a moment after a change, since changes come in
//! crowds.

use super::ours::{self, Document, OurKind};
use super::translate::{self, Objects};
use super::watch::Seen;
use crate::discovery::fanout::Mesh;
use crate::index::Platform;
use crate::store::write::Verb;
use crate::store::{Store, view::ReadView};
use futures_util::future::BoxFuture;
use kube::core::DynamicObject;
use mesh_proto::identity::TrustDomain;
use mesh_proto::resource::{Problem, Resource, ResourceKey, SourceDocument};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long changes are gathered: nobody notices it, and a rollout of a hundred pods is some tens of looks.
const GATHER: Duration = Duration::from_millis(15);
/// How long to wait after history could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// Makes the mesh's platform of what was seen, from the first complete list on.
pub(super) async fn places(
    seen: Arc<Seen>,
    mesh: Arc<Mesh>,
    domain: TrustDomain,
    listed: watch::Sender<bool>,
) {
    seen.complete().await;
    let mut last: Option<Arc<Platform>> = None;
    loop {
        let objects = Objects {
            services: seen.services.state(),
            slices: seen.slices.state(),
            pods: seen.pods.state(),
            namespaces: seen.namespaces.state(),
        };
        let platform = translate::platform(&objects, &domain, last.as_deref());
        if !last.as_ref().is_some_and(|last| last.is_same(&platform)) {
            let platform = Arc::new(platform);
            mesh.set_platform(platform.clone());
            last = Some(platform);
        }
        listed.send_replace(true);
        seen.places_changed.notified().await;
        tokio::time::sleep(GATHER).await;
    }
}

/// A change of resources that the cluster has made.
pub(crate) struct Followed {
    /// Who made it, as far as that is known.
    pub(crate) actor: String,
    /// What it was.
    pub(crate) verb: Verb,
    /// What became of each object; `None`: it is gone.
    pub(crate) changes: Changes,
}

/// What became of objects; `None`: it is gone.
pub(crate) type Changes = BTreeMap<ResourceKey, Option<(SourceDocument, Resource)>>;

/// Writes a change into the history and brings it into force.
pub(crate) type Publish = Arc<dyn Fn(Followed) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What is wrong with the cluster's objects that are not in force as they stand, by their place in the cluster.
pub(super) type Invalid = BTreeMap<(&'static str, Option<String>, String), Vec<Problem>>;

/// Follows the mesh's own objects, from the first complete list on.
pub(super) async fn resources(
    seen: Arc<Seen>,
    store: Arc<dyn Store>,
    publish: Publish,
    invalid: watch::Sender<Arc<Invalid>>,
    listed: watch::Sender<bool>,
) {
    seen.complete().await;
    let mut reader = Reader::default();
    loop {
        let objects = seen
            .ours
            .iter()
            .flat_map(|(kind, store)| store.state().into_iter().map(move |object| (*kind, object)));
        let wanted = reader.read(objects.collect());
        invalid.send_replace(Arc::new(wanted.invalid.clone()));
        let mut is_done = true;
        for followed in differences(&wanted, &store.read()) {
            let count = followed.changes.len();
            if let Err(error) = publish(followed).await {
                tracing::warn!(
                    error,
                    count,
                    "changes of the cluster's objects are not in force yet; they are tried again"
                );
                is_done = false;
            }
        }
        if is_done {
            listed.send_replace(true);
            seen.ours_changed.notified().await;
            tokio::time::sleep(GATHER).await;
        } else {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// What the cluster's objects say.
#[derive(Default)]
struct WantedResources {
    valid: BTreeMap<ResourceKey, (Arc<Document>, String)>,
    invalid: Invalid,
    /// The keys of invalid ones: what was in force of them stays.
    kept: Vec<ResourceKey>,
}

/// Reads objects, each version once.
#[derive(Default)]
struct Reader {
    known: BTreeMap<(&'static str, Option<String>, String), Known>,
}

#[derive(Clone)]
struct Known {
    version: Option<String>,
    read: Result<Arc<Document>, Vec<Problem>>,
}

impl Reader {
    fn read(&mut self, objects: Vec<(&'static OurKind, Arc<DynamicObject>)>) -> WantedResources {
        let mut wanted = WantedResources::default();
        let mut known = BTreeMap::new();
        for (kind, object) in objects {
            let name = object.metadata.name.clone().unwrap_or_default();
            let place = (kind.kind, object.metadata.namespace.clone(), name);
            let version = object.metadata.resource_version.clone();
            let old = self.known.remove(&place).filter(|old| old.version == version);
            let now = old.unwrap_or_else(|| Known { version, read: ours::read(kind, &object).map(Arc::new) });
            match &now.read {
                Ok(document) => {
                    wanted.valid.insert(document.resource.key(), (document.clone(), ours::author(&object)));
                }
                Err(problems) => {
                    wanted.invalid.insert(place.clone(), problems.clone());
                    wanted.kept.extend(kind.key(place.1.as_deref(), &place.2));
                }
            }
            known.insert(place, now);
        }
        self.known = known;
        wanted
    }
}

/// What must change, one change for each author.
fn differences(wanted: &WantedResources, kept: &ReadView) -> Vec<Followed> {
    let mut by_author: BTreeMap<(&str, &str), Changes> = BTreeMap::new();
    for (key, (document, author)) in &wanted.valid {
        let Document { source, resource } = &**document;
        let stored = kept.resource(key);
        if stored.is_none_or(|stored| (&stored.yaml, &stored.file) != (&source.yaml, &source.file)) {
            let change = Some((source.clone(), resource.clone()));
            by_author.entry(("apply", author)).or_default().insert(key.clone(), change);
        }
    }
    for key in kept.resources().keys() {
        if !wanted.valid.contains_key(key) && !wanted.kept.contains(key) {
            by_author.entry(("delete", "kubernetes")).or_default().insert(key.clone(), None);
        }
    }
    let followed = |((verb, actor), changes): ((&str, &str), _)| Followed {
        actor: actor.to_owned(),
        verb: if verb == "delete" { Verb::Delete } else { Verb::Apply },
        changes,
    };
    by_author.into_iter().map(followed).collect()
}
