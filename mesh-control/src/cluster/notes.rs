//! Alarms, and pods that should have a proxy and have none, as Events of the cluster: where its people look first.
//!
//! An Event belongs to the namespace of whom it is about: of the caller that an alarm names, else of the callee. What is about
//! nobody in the cluster is an Event of the mesh's own namespace. Each alarm is one Event, whatever it goes through; the
//! name of an Event follows from its cause, so that neither a restart nor another replica says it twice.
//!
//! # Why not an `AlertSink`
//! There is nothing to configure, no secret and no address, and an Event that could not be written is of no use later: it is
//! tried again while its cause lasts. The alarm itself is kept in any case.

use super::Cluster;
use crate::alarm::Alarms;
use crate::clock;
use crate::discovery::fanout::Mesh;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use mesh_proto::identity::SpiffeId;
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often all is looked at; Events are for people.
const EVERY: Duration = Duration::from_secs(2);
/// Events in [`WINDOW`]; what is beyond comes in the next, if it is still so.
const WINDOW_MAX: usize = 20;
/// See [`WINDOW_MAX`]: twenty a minute fill an hour, the life of an Event, with 1,200.
const WINDOW: Duration = Duration::from_secs(60);
/// Bytes of an Event's text (Kubernetes, validation of events).
const TEXT_BYTES_MAX: usize = 1_024;
/// Bytes of a name (RFC 1123 subdomain).
const NAME_BYTES_MAX: usize = 253;

/// Namespace and name of an Event: what it is said once by.
type Key = (String, String);

/// What is to be said.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Note {
    /// `None`: the namespace itself.
    pod: Option<String>,
    reason: String,
    text: String,
}

/// What was said, and how fast.
#[derive(Debug, Default)]
struct Pace {
    said: BTreeSet<Key>,
    window: Option<(Instant, usize)>,
}

impl Pace {
    /// What to say now of what is to be said.
    fn due(&mut self, wanted: &BTreeMap<Key, Note>, now: Instant) -> Vec<Key> {
        // What is over may be said again when it comes again.
        self.said.retain(|key| wanted.contains_key(key));
        let (since, count) = match self.window {
            Some((since, count)) if now.saturating_duration_since(since) < WINDOW => (since, count),
            _ => (now, 0),
        };
        let room = WINDOW_MAX.saturating_sub(count);
        let news = wanted.keys().filter(|key| !self.said.contains(*key));
        let due: Vec<Key> = news.take(room).cloned().collect();
        self.window = Some((since, count.saturating_add(due.len())));
        due
    }
}

/// Who writes Events.
pub(super) struct Writer {
    pub(super) cluster: Cluster,
    pub(super) alarms: Arc<Alarms>,
    pub(super) mesh: Arc<Mesh>,
    /// Whether this replica has the Lease: what all replicas see is said by one.
    pub(super) leads: watch::Receiver<bool>,
}

impl Writer {
    /// Writes for ever.
    pub(super) async fn run(self) {
        let mut pace = Pace::default();
        loop {
            let wanted = self.wanted();
            for key in pace.due(&wanted, clock::monotonic()) {
                let Some(note) = wanted.get(&key) else { continue };
                match write(&self.cluster, &key, note).await {
                    Ok(()) => {
                        pace.said.insert(key);
                    }
                    Err(error) => {
                        tracing::debug!(name = key.1, %error, "an Event could not be written; it is tried again");
                        break;
                    }
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    fn wanted(&self) -> BTreeMap<Key, Note> {
        let own = self.cluster.namespace.as_str();
        let alarms = self.alarms.all().alarms;
        let burning = alarms.iter().filter(|alarm| alarm.state == "firing" && !alarm.silenced);
        let mut wanted: BTreeMap<Key, Note> = burning.map(|alarm| of_alarm(alarm, own)).collect();
        if *self.leads.borrow() {
            let world = self.mesh.world();
            let pods = world.platform.as_ref().map(|platform| &platform.unmeshed[..]).unwrap_or_default();
            wanted.extend(pods.iter().filter_map(|pod| of_pod(pod)));
        }
        wanted
    }
}

async fn write(cluster: &Cluster, key: &Key, note: &Note) -> kube::Result<()> {
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), &key.0);
    match api.create(&PostParams::default(), &event(key, note, cluster)).await {
        // Said before, by us before a restart or by another replica; or there is no such namespace any more.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        done => done.map(drop),
    }
}

fn of_alarm(alarm: &v1::Alarm, own: &str) -> (Key, Note) {
    let home = |text: &str| {
        let id: SpiffeId = text.parse().ok()?;
        id.workload().map(|(namespace, _)| namespace.to_string())
    };
    let namespace = home(&alarm.source).or_else(|| home(&alarm.destination));
    let reason: String = alarm.detector.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    let key = (namespace.unwrap_or_else(|| own.to_owned()), format!("mesh-alarm-{}", alarm.id));
    // Of the sentence the words of the first look stay: with each look its numbers are others, and an alarm is one Event.
    let text = format!("{} ({}, alarm {}: {})", alarm.sentence, alarm.severity, alarm.id, alarm.command);
    (key, Note { pod: None, reason: format!("Mesh{}", capital(&reason)), text })
}

fn of_pod(pod: &str) -> Option<(Key, Note)> {
    let (namespace, name) = pod.split_once('/')?;
    let full = format!("mesh-no-proxy-{name}");
    let full = full.get(..full.floor_char_boundary(NAME_BYTES_MAX))?.trim_end_matches(['-', '.']);
    let note = Note {
        pod: Some(name.to_owned()),
        reason: "MeshNoProxy".to_owned(),
        text: "this pod asks for a proxy and has none, so that strict workloads refuse it; restart what started it, for \
               instance: kubectl rollout restart deployment"
            .to_owned(),
    };
    Some(((namespace.to_owned(), full.to_owned()), note))
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

fn event((namespace, name): &Key, note: &Note, cluster: &Cluster) -> Event {
    let Note { pod, reason, text } = note;
    let (kind, about) = match pod {
        Some(pod) => ("Pod", pod),
        None => ("Namespace", namespace),
    };
    let now =
        i64::try_from(clock::unix_s(clock::wall())).ok().and_then(|now| Timestamp::from_second(now).ok());
    let text = text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(about.clone()),
            // The API server wants it to be the Event's own, also for a Namespace.
            namespace: Some(namespace.clone()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(reason.clone()),
        message: Some(text.to_owned()),
        source: Some(EventSource {
            component: Some("mesh-control".to_owned()),
            host: Some(cluster.pod.to_string()),
        }),
        first_timestamp: now.map(Time),
        last_timestamp: now.map(Time),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, Answer};
    use super::*;
    use std::sync::Mutex;

    fn alarm(id: &str, source: &str) -> v1::Alarm {
        v1::Alarm {
            id: id.to_owned(),
            detector: "denialBurst".to_owned(),
            severity: "warning".to_owned(),
            state: "firing".to_owned(),
            source: source.to_owned(),
            destination: "spiffe://cluster.local/ns/pay/sa/pay".to_owned(),
            ..v1::Alarm::default()
        }
    }

    #[test]
    fn an_alarm_belongs_to_the_namespace_of_the_caller_then_of_the_callee_then_to_ours() {
        for (source, destination, expected) in [
            ("spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/pay/sa/pay", "shop"),
            ("unmeshed", "spiffe://cluster.local/ns/pay/sa/pay", "pay"),
            ("", "a-sink", "mesh-system"),
        ] {
            let alarm = v1::Alarm { destination: destination.to_owned(), ..alarm("abcd1234", source) };
            let ((namespace, _), note) = of_alarm(&alarm, "mesh-system");
            assert_eq!((namespace.as_str(), note.reason.as_str()), (expected, "MeshDenialBurst"), "{source}");
        }
    }

    #[test]
    fn what_lasts_is_said_once_and_a_flood_is_slowed_down() {
        let start = clock::monotonic();
        let notes = |count: usize| -> BTreeMap<Key, Note> {
            (0..count).map(|n| of_alarm(&alarm(&format!("{n:08}"), ""), "mesh-system")).collect()
        };
        let mut pace = Pace::default();
        let mut say = |wanted: &BTreeMap<Key, Note>, after: u64| {
            let due = pace.due(wanted, start + Duration::from_secs(after));
            pace.said.extend(due.iter().cloned());
            due.len()
        };
        assert_eq!(say(&notes(5), 0), 5);
        assert_eq!(say(&notes(5), 2), 0, "said once");
        assert_eq!(say(&notes(100), 4), WINDOW_MAX - 5, "no more in a window");
        assert_eq!(say(&notes(100), 59), 0);
        assert_eq!(say(&notes(100), 60), WINDOW_MAX, "the rest comes later");
        assert_eq!(say(&BTreeMap::new(), 200), 0);
        assert_eq!(say(&notes(1), 300), 1, "what was over is said again");
    }

    #[tokio::test]
    async fn the_api_server_gets_an_event_that_it_takes_and_a_second_time_is_no_failure() {
        let calls: Arc<Mutex<Vec<testing::Call>>> = Arc::default();
        let seen = calls.clone();
        let cluster = testing::cluster(move |call| {
            let mut seen = seen.lock().unwrap();
            seen.push(call.clone());
            if seen.len() > 1 { Answer::Conflict } else { Answer::Ok(call.body.clone()) }
        });
        let (key, note) = of_pod("shop/web-1").unwrap();
        write(&cluster, &key, &note).await.unwrap();
        write(&cluster, &key, &note).await.unwrap();
        let calls = calls.lock().unwrap();
        assert_eq!(calls[0].path, "/api/v1/namespaces/shop/events");
        let body = &calls[0].body;
        assert_eq!(body["metadata"]["name"], "mesh-no-proxy-web-1");
        assert_eq!(body["involvedObject"]["kind"], "Pod");
        assert_eq!(body["involvedObject"]["namespace"], "shop");
        assert_eq!((&body["type"], &body["reason"]), (&"Warning".into(), &"MeshNoProxy".into()));
    }
}
