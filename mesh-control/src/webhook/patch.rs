//! A pod as its user wrote it becomes a pod with a proxy. Pure: `serve` calls it for the API server, `meshctl inject` for
//! manifests.
//!
//! What is added: the init containers [`INIT`] (leads the pod's connections into its proxy, once) and [`PROXY`] (a native
//! sidecar, which the kubelet starts before and ends after the application), two volumes, a label and an annotation. What is
//! changed: network probes and lifecycle calls of the application's containers, which the kubelet could not make in strict
//! mode. Everything else stays as it is, known to us or not.
//!
//! A pod that was injected before is injected anew, by the present options; with the same options it stays the same.
//!
//! # Why
//! The pod is edited as JSON and only read as types, so that fields that are newer than our types survive.
//! The trust bundle's ConfigMap is not optional: a pod that comes before it waits for the kubelet's next attempt, half a second
//! later, and says in an event what is missing. An optional one would be empty until the kubelet's next round of a minute.

mod containers;
mod guard;
mod manifest;
mod probes;
mod settings;

pub use manifest::{Manifest, manifest};

use crate::cluster::names;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use mesh_proto::identity::TrustDomain;
use mesh_proto::name::{InstanceName, ObjectName, ServiceAccount};
use serde_json::{Map, Value, json};
use settings::Settings;
use std::fmt;

/// The init container that writes the packet rules.
pub const INIT: &str = "mesh-init";
/// The proxy's container.
pub const PROXY: &str = "mesh-proxy";
/// The label with which namespaces and pods opt in and out: `enabled` or `disabled`.
pub const OPT: &str = "meshctl.io/inject";
/// The annotation that says by which version a pod was injected.
pub const INJECTED: &str = "meshctl.io/injected";
/// The label of pods with a proxy.
pub const MESHED: &str = "meshctl.io/meshed";
/// The ConfigMap with the roots, kept by the control plane in each namespace with meshed pods.
pub const TRUST: &str = "meshctl-trust";
/// Volumes of ours.
const VOLUMES: [&str; 2] = ["mesh-token", "mesh-trust"];
/// Ports that are the proxy's in every pod (`mesh_proxy::ports`).
const RESERVED: [u16; 5] = [15000, 15001, 15006, 15008, HEALTH_PORT];
/// Where the platform asks for health.
const HEALTH_PORT: u16 = 15020;
/// The user that the proxy runs as; its connections are not redirected.
const PROXY_UID: i64 = 1774;

/// What the injected containers are told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The proxy's image.
    pub proxy_image: String,
    /// The image that writes the packet rules.
    pub init_image: String,
    /// `Always`, `IfNotPresent` or `Never`; `None`: as Kubernetes decides by the tag.
    pub pull_policy: Option<String>,
    /// `host:port` of the control plane.
    pub control: String,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// What the annotation says.
    pub version: String,
}

/// Where a pod comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin<'a> {
    /// It stands for itself: its owner is in its own metadata.
    Pod,
    /// It is the template of the workload with this name.
    Template(&'a str),
}

/// What became of a pod.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It has a proxy now.
    Injected {
        /// The pod.
        pod: Value,
        /// What its user should know.
        warnings: Vec<String>,
    },
    /// It stays as it is.
    Skipped {
        /// Why.
        reason: String,
        /// Whether its user did not ask for it.
        is_surprising: bool,
    },
}

/// What is wrong with a pod, and what is allowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The path of the field.
    pub field: String,
    /// What stands there.
    pub value: String,
    /// What is allowed instead.
    pub allowed: String,
}

impl Problem {
    fn new(field: impl Into<String>, value: impl ToString, allowed: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.to_string(), allowed: allowed.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value: String = self.value.chars().take(120).collect();
        write!(f, "{}: {value:?} cannot be injected; {}", self.field, self.allowed)
    }
}

/// Gives a pod its proxy.
///
/// # Errors
/// Everything for which the pod is refused; never empty.
pub fn inject(pod: &Value, origin: Origin<'_>, options: &Options) -> Result<Outcome, Vec<Problem>> {
    let typed = read(pod).map_err(|problem| vec![problem])?;
    let Some(spec) = &typed.spec else {
        return Err(vec![Problem::new("spec", "", "a pod has a spec with containers")]);
    };
    if let Some(outcome) = skipped(&typed, spec)? {
        return Ok(outcome);
    }
    let was = Before::of(pod, spec);
    let mut problems = guard::check(&typed, spec, &was);
    let named = Named::of(&typed, spec, origin, &mut problems);
    let settings = Settings::read(&typed.metadata, &mut problems);
    let mut after = pod.clone();
    let Some(metadata) = object(&mut after, "metadata") else {
        return Err(vec![Problem::new("metadata", "", "it is a map")]);
    };
    mark(metadata, &options.version);
    let Some(edited) = object(&mut after, "spec") else {
        return Err(vec![Problem::new("spec", "", "it is a map")]);
    };
    was.remove(edited);
    let mut warnings = guard::warnings(spec, &settings);
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    let moved = probes::rewrite(edited, (&was.probes, grace), &mut problems, &mut warnings);
    if !problems.is_empty() {
        return Err(problems);
    }
    let proxy = containers::Proxy { options, settings: &settings, workload: &named, probes: moved, grace };
    prepend(edited, "initContainers", vec![containers::init(options, &settings), proxy.container()]);
    append(edited, "volumes", containers::volumes());
    Ok(Outcome::Injected { pod: after, warnings })
}

/// What turns `before` into `after`, as JSON Patch (RFC 6902); empty when they are equal.
///
/// Only what an injection touches is looked at. Each operation writes a whole field, so that the order does not matter.
pub fn operations(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    for (place, part) in [("metadata", Some(["labels", "annotations"])), ("spec", None)] {
        let (Some(old), Some(new)) = (before.get(place), after.get(place).and_then(Value::as_object)) else {
            continue;
        };
        for (field, value) in new {
            let is_ours = part.is_none_or(|fields| fields.contains(&field.as_str()));
            if is_ours && old.get(field) != Some(value) {
                operations.push(json!({"op": "add", "path": format!("/{place}/{field}"), "value": value}));
            }
        }
    }
    operations
}

fn read(pod: &Value) -> Result<Pod, Problem> {
    // A template has neither `apiVersion` nor `kind`, which a `Pod` must have.
    let mut whole = Map::new();
    whole.insert("apiVersion".to_owned(), json!("v1"));
    whole.insert("kind".to_owned(), json!("Pod"));
    for part in ["metadata", "spec"] {
        if let Some(value) = pod.get(part).filter(|value| !value.is_null()) {
            whole.insert(part.to_owned(), value.clone());
        }
    }
    serde_json::from_value(Value::Object(whole)).map_err(|error| {
        Problem::new("pod", error, "write it as the Kubernetes API has it (kubectl explain pod)")
    })
}

/// Whether the pod is none of ours.
fn skipped(pod: &Pod, spec: &PodSpec) -> Result<Option<Outcome>, Vec<Problem>> {
    let skip =
        |reason: &str, is_surprising| Ok(Some(Outcome::Skipped { reason: reason.to_owned(), is_surprising }));
    let opted = pod.metadata.labels.as_ref().and_then(|labels| labels.get(OPT));
    match opted.map(String::as_str) {
        Some("disabled") => return skip("its label meshctl.io/inject says disabled", false),
        None | Some("enabled") => {}
        Some(other) => {
            let field = format!("metadata.labels[{OPT}]");
            return Err(vec![Problem::new(field, other, "allowed are enabled and disabled")]);
        }
    }
    if spec.host_network == Some(true) {
        let reason = "it uses the node's network (hostNetwork: true), where its traffic cannot be told from others'; \
                      it stays outside of the mesh, and strict workloads refuse its calls";
        return skip(reason, true);
    }
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror")) {
        return skip("it mirrors a static pod of a node, which no webhook can change", true);
    }
    let windows = |text: Option<&String>| text.is_some_and(|os| os == "windows");
    let selected = spec.node_selector.as_ref().and_then(|nodes| nodes.get("kubernetes.io/os"));
    if windows(selected) || windows(spec.os.as_ref().map(|os| &os.name)) {
        return skip("it runs on Windows, for which there is no proxy", true);
    }
    Ok(None)
}

/// What an injection of before has left in a pod.
struct Before {
    is_injected: bool,
    /// `MESH_PROBES` of its proxy.
    probes: Map<String, Value>,
}

impl Before {
    fn of(pod: &Value, spec: &PodSpec) -> Self {
        let marked = pod.pointer("/metadata/annotations").is_some_and(|all| all.get(INJECTED).is_some());
        let proxy = spec.init_containers.iter().flatten().find(|container| container.name == PROXY);
        let is_injected = marked && proxy.is_some();
        let probes = proxy.filter(|_| is_injected).and_then(containers::probes_of).unwrap_or_default();
        Self { is_injected, probes }
    }

    fn is_ours(&self, container: &Container) -> bool {
        self.is_injected && [INIT, PROXY].contains(&container.name.as_str())
    }

    fn remove(&self, spec: &mut Map<String, Value>) {
        if !self.is_injected {
            return;
        }
        for (field, names) in [("initContainers", [INIT, PROXY]), ("volumes", VOLUMES)] {
            if let Some(list) = spec.get_mut(field).and_then(Value::as_array_mut) {
                list.retain(|entry| {
                    entry.get("name").and_then(Value::as_str).is_none_or(|name| !names.contains(&name))
                });
            }
        }
    }
}

/// What `MESH_WORKLOAD` says.
#[derive(PartialEq, Eq, Debug)]
enum Named {
    /// A name that is known.
    Name(ObjectName),
    /// The pod's own, which the API server has yet to make.
    AsPod,
}

impl Named {
    /// Also checks the names that the proxy must be able to read: the mesh's names are DNS labels.
    fn of(pod: &Pod, spec: &PodSpec, origin: Origin<'_>, problems: &mut Vec<Problem>) -> Self {
        const LABEL: &str = "in the mesh names are DNS labels: at most 63 of a-z, 0-9 and '-'; rename it, or keep it out \
                             with the label meshctl.io/inject: disabled";
        let mut check = |field: &str, name: &str, is_label: bool| {
            if !is_label {
                problems.push(Problem::new(field, name, LABEL));
            }
        };
        if let Some(account) = spec.service_account_name.as_deref().filter(|name| !name.is_empty()) {
            check("spec.serviceAccountName", account, account.parse::<ServiceAccount>().is_ok());
        }
        let name = pod.metadata.name.as_deref().filter(|name| !name.is_empty());
        if let (Origin::Pod, Some(name)) = (origin, name) {
            check("metadata.name", name, name.parse::<InstanceName>().is_ok());
        }
        let owners = pod.metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.controller == Some(true));
        let parsed = match (origin, owner) {
            (Origin::Template(workload), _) => workload.parse().ok(),
            (Origin::Pod, None) => return Self::AsPod,
            (Origin::Pod, Some(_)) => names::workload(&pod.metadata),
        };
        match parsed {
            Some(name) => Self::Name(name),
            None => {
                let name = owner.map(|owner| owner.name.as_str()).unwrap_or_default();
                let name = if let Origin::Template(workload) = origin { workload } else { name };
                check("the workload's name", name, false);
                Self::AsPod
            }
        }
    }
}

fn object<'v>(value: &'v mut Value, field: &str) -> Option<&'v mut Map<String, Value>> {
    let entry = value.as_object_mut()?.entry(field).or_insert_with(|| json!({}));
    if entry.is_null() {
        *entry = json!({});
    }
    entry.as_object_mut()
}

fn mark(metadata: &mut Map<String, Value>, version: &str) {
    for (field, key, value) in [("annotations", INJECTED, version), ("labels", MESHED, "true")] {
        let entry = metadata.entry(field).or_insert_with(|| json!({}));
        if !entry.is_object() {
            *entry = json!({});
        }
        if let Some(map) = entry.as_object_mut() {
            map.insert(key.to_owned(), json!(value));
        }
    }
}

fn list<'v>(spec: &'v mut Map<String, Value>, field: &str) -> Option<&'v mut Vec<Value>> {
    let entry = spec.entry(field).or_insert_with(|| json!([]));
    if entry.is_null() {
        *entry = json!([]);
    }
    entry.as_array_mut()
}

fn prepend(spec: &mut Map<String, Value>, field: &str, ours: Vec<Value>) {
    if let Some(list) = list(spec, field) {
        list.splice(0..0, ours);
    }
}

fn append(spec: &mut Map<String, Value>, field: &str, ours: Vec<Value>) {
    if let Some(list) = list(spec, field) {
        list.extend(ours);
    }
}

#[cfg(test)]
mod tests;
