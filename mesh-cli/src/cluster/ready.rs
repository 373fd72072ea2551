//! Whether the control plane runs, and when it does not, which pod is at fault and why.

use super::access::{Cluster, words};
use super::manifest::{CONTROL, NAMESPACE};
use crate::failure::Failure;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec};
use kube::Api;
use kube::api::{ListParams, LogParams};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);
/// Lines of a crashed container's log that are shown.
const LOG_LINES: i64 = 8;

/// How a Deployment is at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Every replica is of this generation and answers.
    Ready,
    /// It may still become so; how far it is.
    Waiting(String),
    /// It will not become so by itself; why.
    Hopeless(String),
}

/// Waits until every replica of the control plane is ready. `tell` hears of each step once.
///
/// # Errors
/// After the deadline, or earlier when waiting is in vain: which pod and why.
#[expect(clippy::disallowed_methods, reason = "the deadline of a command that waits for a cluster")]
pub(crate) async fn wait(
    cluster: &Cluster,
    deadline: Duration,
    mut tell: impl FnMut(&str),
) -> Result<(), Failure> {
    let until = Instant::now() + deadline;
    let mut told = String::new();
    loop {
        let (deployment, pods) = look(cluster).await?;
        let why = match standing(deployment.as_ref(), &pods) {
            Standing::Ready => return Ok(()),
            Standing::Hopeless(why) => Some(why),
            Standing::Waiting(state) => {
                if state != told {
                    tell(&state);
                    told = state;
                }
                (Instant::now() >= until).then(|| format!("it was not ready within {} s", deadline.as_secs()))
            }
        };
        if let Some(why) = why {
            return Err(not_ready(cluster, &why, deployment.as_ref(), &pods).await);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The control plane's Deployment and its pods.
///
/// # Errors
/// The API server's refusal.
pub(crate) async fn look(cluster: &Cluster) -> Result<(Option<Deployment>, Vec<Pod>), Failure> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let deployment = deployments.get_opt(CONTROL).await;
    let deployment =
        deployment.map_err(|error| cluster.failure("read the control plane's Deployment", &error))?;
    Ok((deployment, pods(cluster).await?))
}

/// The control plane's pods.
///
/// # Errors
/// The API server's refusal.
pub(crate) async fn pods(cluster: &Cluster) -> Result<Vec<Pod>, Failure> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let ours = ListParams::default().labels(&format!("app.kubernetes.io/name={CONTROL}"));
    let found = pods.list(&ours).await;
    Ok(found.map_err(|error| cluster.failure("list the control plane's pods", &error))?.items)
}

/// Whether there is a control plane, as far as this user may see.
pub(crate) async fn is_installed(cluster: &Cluster) -> bool {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    matches!(deployments.get_opt(CONTROL).await, Ok(Some(_)))
}

/// Whether a pod answers, by its own word.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// How the Deployment stands, judged by it and its pods.
pub(crate) fn standing(deployment: Option<&Deployment>, pods: &[Pod]) -> Standing {
    let Some(deployment) = deployment else { return Standing::Hopeless("there is no Deployment".to_owned()) };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let is_seen = status.observed_generation >= deployment.metadata.generation;
    let count = |number: Option<i32>| if is_seen { number.unwrap_or_default() } else { 0 };
    let (updated, available) = (count(status.updated_replicas), count(status.available_replicas));
    if is_seen && updated == wanted && available == wanted && status.replicas.unwrap_or_default() == wanted {
        return Standing::Ready;
    }
    let failed =
        status.conditions.iter().flatten().find(|c| c.type_ == "ReplicaFailure" && c.status == "True");
    if let Some(failed) = failed {
        return Standing::Hopeless(
            failed.message.clone().unwrap_or_else(|| "its pods are refused".to_owned()),
        );
    }
    match pods.iter().filter(|pod| is_current(deployment, pod)).find_map(hopeless) {
        Some(why) => Standing::Hopeless(why),
        None => {
            Standing::Waiting(format!("{available} of {wanted} replicas ready, {updated} of this version"))
        }
    }
}

/// Whether a pod is of the Deployment's present generation: those before it are about to be replaced.
fn is_current(deployment: &Deployment, pod: &Pod) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let started = |spec: Option<&PodSpec>| {
        spec.and_then(|spec| spec.containers.first()).map(|c| (c.image.clone(), c.args.clone()))
    };
    started(wanted) == started(pod.spec.as_ref())
}

/// What no waiting mends: an image that is not there, a container that cannot be made.
fn hopeless(pod: &Pod) -> Option<String> {
    const VAIN: [&str; 4] =
        ["ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "ImagePullBackOff"];
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    containers(pod).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let crashes = reason == "CrashLoopBackOff" && container.restart_count >= 3;
        (VAIN.contains(&reason) || crashes).then(|| format!("pod {name}: {reason}"))
    })
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let first = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    first.chain(status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten())
}

/// Why one pod is not ready, in a sentence; `None` when it is.
pub(crate) fn trouble(pod: &Pod) -> Option<String> {
    if is_ready(pod) {
        return None;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("is ending".to_owned());
    }
    for container in containers(pod) {
        let Some(state) = &container.state else { continue };
        let image = &container.image;
        if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.as_deref().unwrap_or("waits");
            let message = waiting.message.as_deref().unwrap_or_default();
            let what = if reason.contains("Image") { format!(" (image {image})") } else { String::new() };
            return Some(format!("{reason}{what}: {message}").trim_end_matches([':', ' ']).to_owned());
        }
        if let Some(ended) = &state.terminated {
            return Some(format!("its container ended with code {}", ended.exit_code));
        }
    }
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let unplaced = conditions.into_iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    match unplaced {
        Some(condition) => {
            Some(format!("no node takes it: {}", condition.message.as_deref().unwrap_or_default()))
        }
        None => Some("runs, but does not answer as ready".to_owned()),
    }
}

async fn not_ready(cluster: &Cluster, why: &str, deployment: Option<&Deployment>, pods: &[Pod]) -> Failure {
    let mut text = format!("the control plane on cluster {} is not ready: {why}", cluster.name);
    let mut ill = None;
    let is_old = |pod: &&Pod| !deployment.is_some_and(|deployment| is_current(deployment, pod));
    let (old, current): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(is_old);
    for pod in current.into_iter().chain(old) {
        let Some(trouble) = trouble(pod) else { continue };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        text.push_str(&format!("\n  pod {name}: {trouble}"));
        for line in last_lines(cluster, pod).await {
            text.push_str(&format!("\n    | {line}"));
        }
        ill = ill.or(Some(name));
    }
    if pods.is_empty() && deployment.is_some() {
        text.push_str("\n  it has no pods");
    }
    let look = match ill {
        Some(name) => format!("kubectl --namespace {NAMESPACE} describe pod {name}"),
        None => format!("kubectl --namespace {NAMESPACE} describe deployment {CONTROL}"),
    };
    Failure::failed(text).next(look).next("meshctl install   # again: it goes on where it stopped")
}

/// The last log lines of a pod that ran and ended, or runs and does not answer.
async fn last_lines(cluster: &Cluster, pod: &Pod) -> Vec<String> {
    let Some(name) = pod.metadata.name.as_deref() else { return Vec::new() };
    let has_crashed = containers(pod).any(|container| container.restart_count > 0);
    let has_run =
        has_crashed || containers(pod).any(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
    if !has_run {
        return Vec::new();
    }
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let params = |previous| LogParams { tail_lines: Some(LOG_LINES), previous, ..LogParams::default() };
    let log = match api.logs(name, &params(has_crashed)).await {
        Err(_) if has_crashed => api.logs(name, &params(false)).await,
        log => log,
    };
    match log {
        Ok(log) => log.lines().map(str::to_owned).collect(),
        Err(error) => vec![format!("(its log cannot be read: {})", words(&error))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn deployment(spec: i32, status: &Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": { "generation": 2 }, "spec": { "replicas": spec, "selector": {}, "template": {} }, "status": status,
        }))
        .unwrap()
    }

    fn pod(status: &Value) -> Pod {
        let pod = json!({ "metadata": { "name": "c-1" }, "spec": { "containers": [] }, "status": status });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn it_is_ready_when_all_replicas_are_new_and_answer() {
        let ready =
            json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 });
        assert_eq!(standing(Some(&deployment(2, &ready)), &[]), Standing::Ready);
        for (key, value) in
            [("observedGeneration", 1), ("replicas", 3), ("updatedReplicas", 1), ("availableReplicas", 1)]
        {
            let mut status = ready.clone();
            status[key] = value.into();
            let found = standing(Some(&deployment(2, &status)), &[]);
            assert!(matches!(found, Standing::Waiting(_)), "{key}: {found:?}");
        }
    }

    #[test]
    fn what_no_waiting_mends_is_told_at_once() {
        let waiting = |reason: &str, restarts: i32| {
            pod(&json!({ "containerStatuses": [{
                "name": "c", "image": "i:1", "imageID": "", "ready": false, "restartCount": restarts,
                "state": { "waiting": { "reason": reason, "message": "m" } },
            }] }))
        };
        let none = deployment(2, &json!({}));
        for (reason, restarts, is_hopeless) in [
            ("ErrImageNeverPull", 0, true),
            ("ImagePullBackOff", 0, true),
            ("CrashLoopBackOff", 1, false),
            ("CrashLoopBackOff", 3, true),
            ("ContainerCreating", 0, false),
        ] {
            let found = standing(Some(&none), &[waiting(reason, restarts)]);
            assert_eq!(matches!(found, Standing::Hopeless(_)), is_hopeless, "{reason}: {found:?}");
            let mut before = waiting(reason, restarts);
            before.spec.as_mut().unwrap().containers.push(Default::default());
            let found = standing(Some(&none), &[before]);
            assert!(matches!(found, Standing::Waiting(_)), "an earlier pod's {reason}: {found:?}");
        }
        assert!(trouble(&waiting("ErrImageNeverPull", 0)).unwrap().contains("image i:1"));
        let unplaced =
            json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/1 nodes" }] });
        assert_eq!(trouble(&pod(&unplaced)).unwrap(), "no node takes it: 0/1 nodes");
        assert_eq!(trouble(&pod(&json!({ "conditions": [{ "type": "Ready", "status": "True" }] }))), None);
    }
}
