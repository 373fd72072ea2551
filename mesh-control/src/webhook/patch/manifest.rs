//! Pods in manifests: in a Deployment, a CronJob, a List.

use super::{Options, Origin, Outcome, Problem, inject};
use crate::cluster::names;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

/// Lists in lists: Kubernetes knows one level.
const DEPTH_MAX: usize = 4;

/// What became of one object of a manifest.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    /// The object, with proxies where it makes pods.
    pub object: Value,
    /// `Kind/name` of each object that makes pods and got a proxy.
    pub injected: Vec<String>,
    /// What the user should know, each with `Kind/name`.
    pub warnings: Vec<String>,
}

/// Gives the pods of an object their proxies; objects that make no pods stay as they are.
///
/// # Errors
/// Everything for which a pod is refused, with `Kind/name` before the field.
pub fn manifest(object: &Value, options: &Options) -> Result<Manifest, Vec<Problem>> {
    let mut done = Manifest { object: object.clone(), injected: Vec::new(), warnings: Vec::new() };
    let mut problems = Vec::new();
    let mut edited = object.clone();
    walk(&mut edited, options, &mut done, (&mut problems, DEPTH_MAX));
    done.object = edited;
    if problems.is_empty() { Ok(done) } else { Err(problems) }
}

fn walk(
    object: &mut Value,
    options: &Options,
    done: &mut Manifest,
    (problems, depth): (&mut Vec<Problem>, usize),
) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, version, name) = (text("/kind"), text("/apiVersion"), text("/metadata/name"));
    if kind == "List" && depth > 0 {
        let items = object.get_mut("items").and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            walk(item, options, done, (problems, depth.saturating_sub(1)));
        }
        return;
    }
    let Some(place) = place(&version, &kind) else { return };
    let title = format!("{kind}/{name}");
    let Some(pod) = object.pointer_mut(place) else {
        let field = format!("{title}: {}", path(place));
        problems.push(Problem::new(field, "", "it has no template of a pod; write one"));
        return;
    };
    let workload = workload(&kind, &name);
    let origin = if place.is_empty() { Origin::Pod } else { Origin::Template(&workload) };
    match inject(pod, origin, options) {
        Ok(Outcome::Injected { pod: injected, warnings }) => {
            *pod = injected;
            done.injected.push(title.clone());
            done.warnings.extend(warnings.into_iter().map(|warning| format!("{title}: {warning}")));
        }
        Ok(Outcome::Skipped { reason, .. }) => done.warnings.push(format!("{title} gets no proxy: {reason}")),
        Err(found) => problems.extend(found.into_iter().map(|problem| {
            let inside = path(place);
            let dot = if inside.is_empty() { "" } else { "." };
            Problem { field: format!("{title}: {inside}{dot}{}", problem.field), ..problem }
        })),
    }
}

/// Where an object holds the pod that it makes, as a JSON pointer.
fn place(version: &str, kind: &str) -> Option<&'static str> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    Some(match (group, kind) {
        ("", "Pod") => "",
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => "/spec/template",
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
        _ => return None,
    })
}

fn path(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}

/// What the pods of this object will say is their workload, by the very rule that reads it from them.
fn workload(kind: &str, name: &str) -> String {
    let owner = OwnerReference {
        kind: kind.to_owned(),
        name: name.to_owned(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    let pod = ObjectMeta { owner_references: Some(vec![owner]), ..ObjectMeta::default() };
    names::workload(&pod).map_or_else(|| name.to_owned(), |name| name.to_string())
}
