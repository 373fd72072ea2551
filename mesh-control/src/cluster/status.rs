//! What became of each of the mesh's objects, written into its status by whoever holds the Lease.
//!
//! A status says what `meshctl get` says: whether the object was accepted, what it does, how many of the workloads that it is
//! about enforce it. It is written by server-side apply and only when it says something else than before. [`judge`] is pure.

use super::follow::Invalid;
use super::ours::OurKind;
use super::peers::Peers;
use super::watch::Seen;
use super::{Cluster, FIELD_MANAGER, ours};
use crate::clock;
use crate::discovery::fanout::{Mesh, ProxyState};
use crate::local::registry::WorkloadKey;
use crate::store::Store;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use mesh_proto::name::InstanceName;
use mesh_proto::resource::ResourceKey;
use mesh_proto::resource::catalog::Status;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// How long changes are gathered before statuses are written: people look at them, programs wait on them.
const GATHER: Duration = Duration::from_millis(250);
/// How often everything is looked at without a change: time ends rules, and other replicas' word has no bell.
const AGAIN: Duration = Duration::from_secs(2);
/// Characters of a message: what fits a screen.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// What the writing works with.
pub(super) struct Writer {
    pub(super) cluster: Cluster,
    pub(super) seen: Arc<Seen>,
    pub(super) mesh: Arc<Mesh>,
    pub(super) store: Arc<dyn Store>,
    pub(super) peers: Arc<Peers>,
    pub(super) invalid: watch::Receiver<Arc<Invalid>>,
    pub(super) leads: watch::Receiver<bool>,
}

impl Writer {
    /// Writes for ever, while this replica has the Lease.
    pub(super) async fn run(mut self) {
        self.seen.complete().await;
        let (mut world, mut fleet) = (self.mesh.watch(), self.mesh.fleet.watch());
        loop {
            // An error means that the election is gone, which ends the control plane.
            let _ = self.leads.wait_for(|leads| *leads).await;
            world.mark_unchanged();
            fleet.mark_unchanged();
            self.invalid.mark_unchanged();
            self.write_all().await;
            // Cancel safe, all: `changed` loses no version.
            tokio::select! {
                _ = world.changed() => {}
                _ = fleet.changed() => {}
                _ = self.invalid.changed() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    async fn write_all(&self) {
        let now = clock::wall();
        let (mesh, store, peers) = (self.mesh.clone(), self.store.clone(), self.peers.clone());
        // Thousands of policies take their time: not on a thread that others wait for.
        let judged = tokio::task::spawn_blocking(move || judgements(&mesh, &*store, &peers, now)).await;
        let Ok(judged) = judged else { return };
        let invalid = self.invalid.borrow().clone();
        for (kind, objects) in &self.seen.ours {
            for object in objects.state() {
                let Some(wanted) = self.wanted(kind, &object, (&judged, &invalid)) else { continue };
                let old = object.data.get("status").cloned().unwrap_or_default();
                if let Some(status) = news(&wanted, &old, object.metadata.generation, now)
                    && let Err(error) = self.write(kind, &object, &status).await
                {
                    let name = object.metadata.name.as_deref().unwrap_or_default();
                    tracing::debug!(kind = kind.kind, name, %error, "a status could not be written; it is tried again");
                    return;
                }
            }
        }
    }

    fn wanted(
        &self,
        kind: &OurKind,
        object: &DynamicObject,
        (judged, invalid): (&BTreeMap<ResourceKey, Judgement>, &Invalid),
    ) -> Option<Judgement> {
        let name = object.metadata.name.clone()?;
        let place = (kind.kind, object.metadata.namespace.clone(), name.clone());
        match invalid.get(&place) {
            Some(problems) => Some(Judgement::invalid(problems.iter().map(ToString::to_string).collect())),
            // Not in force yet: its turn comes in a moment.
            None => judged.get(&kind.key(place.1.as_deref(), &name)?).cloned(),
        }
    }

    async fn write(&self, kind: &OurKind, object: &DynamicObject, status: &Value) -> kube::Result<()> {
        let resource = kind.resource();
        let client = self.cluster.client.clone();
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let name = object.metadata.name.clone().unwrap_or_default();
        let patch = json!({
            "apiVersion": format!("{}/{}", ours::GROUP, ours::VERSION), "kind": kind.kind,
            "metadata": { "name": name }, "status": status,
        });
        let how = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(&name, &how, &Patch::Apply(&patch)).await {
            // Deleted meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            done => done.map(drop),
        }
    }
}

/// What is to be said of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Judgement {
    state: &'static str,
    is_accepted: bool,
    /// Who enforces it, of how many; `None` where that is no question.
    enforced: Option<(usize, usize)>,
    message: String,
}

impl Judgement {
    fn invalid(problems: Vec<String>) -> Self {
        let message = problems.join("; ");
        Self { state: "Invalid", is_accepted: false, enforced: None, message }
    }

    fn of(state: &'static str, message: &str) -> Self {
        Self { state, is_accepted: true, enforced: None, message: message.to_owned() }
    }
}

/// What is to be said of all objects in force.
fn judgements(
    mesh: &Mesh,
    store: &dyn Store,
    peers: &Peers,
    now: SystemTime,
) -> BTreeMap<ResourceKey, Judgement> {
    let world = mesh.world();
    let mut revisions: BTreeMap<String, (u64, String)> = peers
        .revisions()
        .into_iter()
        .map(|(instance, revision)| (instance, (revision, String::new())))
        .collect();
    for (key, state) in mesh.fleet.all() {
        revisions.insert(key.instance.to_string(), progress(&key, &state));
    }
    let view = store.read();
    let statuses = world.catalog.statuses(&world.targets(), clock::unix_s(now));
    let judged = |(key, status): (ResourceKey, Status)| {
        let revision = view.resource(&key).map_or(0, |stored| stored.revision);
        let judgement = judge(&status, revision, &revisions);
        (key, judgement)
    };
    statuses.into_iter().map(judged).collect()
}

/// How far a proxy is, and why not farther.
fn progress(key: &WorkloadKey, state: &ProxyState) -> (u64, String) {
    let refused = state.refusal.as_ref().map(|refusal| format!("{}: {}", key.instance, refusal.reason));
    (state.confirmed.revision, refused.unwrap_or_default())
}

/// What is to be said of one object that is in force since `revision`.
fn judge(status: &Status, revision: u64, proxies: &BTreeMap<String, (u64, String)>) -> Judgement {
    match status {
        Status::Accepted => Judgement::of("Accepted", ""),
        Status::NoMatch => Judgement::of(
            "NoMatch",
            "no meshed pod is meant by its target; see: kubectl get pods --show-labels",
        ),
        Status::Shadowed { by } => Judgement::of("Shadowed", &format!("decided elsewhere, by {by}")),
        Status::Expired => {
            Judgement::of("Expired", "all of its rules have ended; delete it or renew validUntil")
        }
        Status::Effective { instances } => {
            let is_done = |instance: &&InstanceName| {
                proxies.get(instance.as_str()).is_some_and(|(confirmed, _)| *confirmed >= revision)
            };
            let done = instances.iter().filter(is_done).count();
            let late: Vec<&InstanceName> = instances.iter().filter(|instance| !is_done(instance)).collect();
            let refused = late.iter().filter_map(|instance| proxies.get(instance.as_str()));
            let refused = refused.map(|(_, why)| why.as_str()).find(|why| !why.is_empty());
            let (state, message) = match (late.first(), refused) {
                (None, _) => ("Enforced", String::new()),
                (Some(_), Some(why)) => ("Pending", format!("refused by {why}")),
                (Some(first), None) => ("Pending", format!("not enforced yet by {first}")),
            };
            Judgement { enforced: Some((done, instances.len())), ..Judgement::of(state, &message) }
        }
    }
}

/// The status as it is to be written; `None` when the object says the same already.
fn news(wanted: &Judgement, old: &Value, generation: Option<i64>, now: SystemTime) -> Option<Value> {
    let Judgement { state, is_accepted, enforced, message } = wanted;
    let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
    let truth = |is: bool| if is { "True" } else { "False" };
    let is_enforced = enforced.is_some_and(|(done, all)| done == all) || *state == "Accepted";
    let time = Timestamp::try_from(now).ok().and_then(|at| Timestamp::from_second(at.as_second()).ok());
    let time = time.unwrap_or(Timestamp::UNIX_EPOCH).to_string();
    let condition = |kind: &str, is: bool, reason: &str| {
        let old = old.get("conditions").and_then(Value::as_array).into_iter().flatten();
        let before = old.into_iter().find(|condition| condition["type"] == kind);
        let since = before.filter(|condition| condition["status"] == truth(is));
        let since = since.and_then(|condition| condition["lastTransitionTime"].as_str()).unwrap_or(&time);
        json!({
            "type": kind, "status": truth(is), "reason": reason, "message": message,
            "lastTransitionTime": since, "observedGeneration": generation,
        })
    };
    let accepted = condition("Accepted", *is_accepted, if *is_accepted { "Accepted" } else { "Invalid" });
    let mut status = json!({
        "observedGeneration": generation,
        "state": state,
        "message": message,
        "conditions": [accepted, condition("Enforced", is_enforced, state)],
    });
    if let (Some((done, all)), Some(status)) = (enforced, status.as_object_mut()) {
        status.insert("enforced".to_owned(), json!(format!("{done}/{all}")));
    }
    (status != *old).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective() -> Status {
        Status::Effective { instances: vec!["web-1".parse().unwrap(), "web-2".parse().unwrap()] }
    }

    fn proxies(all: &[(&str, u64, &str)]) -> BTreeMap<String, (u64, String)> {
        all.iter().map(|(name, revision, why)| ((*name).to_owned(), (*revision, (*why).to_owned()))).collect()
    }

    #[test]
    fn an_object_is_enforced_when_all_that_it_is_about_say_so() {
        for (proxies, expected) in [
            (proxies(&[("web-1", 7, ""), ("web-2", 8, "")]), "Enforced Some((2, 2)) "),
            (
                proxies(&[("web-1", 7, ""), ("web-2", 6, "")]),
                "Pending Some((1, 2)) not enforced yet by web-2",
            ),
            (
                proxies(&[("web-1", 6, "web-1: too large")]),
                "Pending Some((0, 2)) refused by web-1: too large",
            ),
        ] {
            let Judgement { state, enforced, message, .. } = judge(&effective(), 7, &proxies);
            assert_eq!(format!("{state} {enforced:?} {message}"), expected);
        }
    }

    #[test]
    fn a_status_is_written_once_and_keeps_since_when_it_holds() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let pending = judge(&effective(), 7, &proxies(&[]));
        let first = news(&pending, &Value::Null, Some(1), at(10)).unwrap();
        assert_eq!((&first["state"], &first["enforced"]), (&json!("Pending"), &json!("0/2")));
        assert_eq!(news(&pending, &first, Some(1), at(20)), None);
        let half = judge(&effective(), 7, &proxies(&[("web-1", 7, "")]));
        let second = news(&half, &first, Some(1), at(30)).unwrap();
        assert_eq!(second["conditions"][1]["lastTransitionTime"], "1970-01-01T00:00:10Z");
        let done = judge(&effective(), 7, &proxies(&[("web-1", 7, ""), ("web-2", 7, "")]));
        let third = news(&done, &second, Some(1), at(40)).unwrap();
        assert_eq!(third["conditions"][1]["status"], "True");
        assert_eq!(third["conditions"][1]["lastTransitionTime"], "1970-01-01T00:00:40Z");
        let invalid = Judgement::invalid(vec!["spec.rulez: unknown field".to_owned()]);
        let fourth = news(&invalid, &third, Some(2), at(50)).unwrap();
        assert_eq!(fourth["conditions"][0]["reason"], "Invalid");
        assert_eq!(fourth.get("enforced"), None);
    }
}
