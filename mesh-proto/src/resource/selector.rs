//! Which workloads an object is about.

use super::catalog::Target;
use super::meta::{Labels, Reach, labels_match, read_labels, write_labels};
use super::problem::{Code, Problem};
use super::reader::{At, Reader};
use super::subject::only_one;
use super::tree::Node;
use super::yaml::{Map, Yaml};
use crate::name::{Namespace, ServiceRef};
use crate::policy::model::Scope;

/// The `target` of an access policy or a rate limit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Selector {
    /// Every workload of the mesh.
    Mesh,
    /// Every workload of a namespace.
    Namespace(Namespace),
    /// The workloads that answer for a service.
    Service(ServiceRef),
    /// The workloads of a name.
    Workload(ServiceRef),
    /// The workloads that carry all of these labels.
    Labels {
        /// Only in this namespace; `None`: in all.
        namespace: Option<Namespace>,
        /// All must be there; never empty.
        labels: Labels,
    },
}

const WORDS: [&str; 5] = ["service", "workload", "labels", "namespace", "mesh"];

impl Selector {
    /// Whether the workload is meant.
    pub fn selects(&self, target: &Target<'_>) -> bool {
        match self {
            Self::Mesh => true,
            Self::Namespace(namespace) => namespace == target.namespace,
            Self::Service(service) => target.services.contains(service),
            Self::Workload(workload) => {
                workload.namespace == *target.namespace && workload.name == *target.workload
            }
            Self::Labels { namespace, labels } => {
                namespace.as_ref().is_none_or(|namespace| namespace == target.namespace)
                    && labels_match(labels, target.labels)
            }
        }
    }

    /// What is meant, in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Mesh => "the whole mesh".to_owned(),
            Self::Namespace(namespace) => format!("namespace {namespace}"),
            Self::Service(service) => format!("service {service}"),
            Self::Workload(workload) => format!("workload {workload}"),
            Self::Labels { namespace, labels } => {
                let labels: Vec<String> =
                    labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let place = namespace.as_ref().map(|namespace| format!(" in namespace {namespace}"));
                format!("labels {}{}", labels.join(","), place.unwrap_or_default())
            }
        }
    }

    /// Reads `target`; without it an object means its namespace, or the whole mesh if it has none.
    pub(super) fn read(reader: &mut Reader, at: Option<At<'_>>, home: Option<&Namespace>) -> Option<Self> {
        let Some(at) = at else {
            return Some(home.map_or(Self::Mesh, |home| Self::Namespace(home.clone())));
        };
        let fields = reader.fields(at, &WORDS)?;
        let word = only_one(reader, &fields, &WORDS, "make two objects for two targets")?;
        let value = fields.optional(word)?;
        match word {
            "service" => read_name(reader, &value, home).map(Self::Service),
            "workload" => read_name(reader, &value, home).map(Self::Workload),
            "labels" => {
                let labels = read_labels(reader, &value)?;
                if labels.is_empty() {
                    reader.error(&value, Code::InvalidValue, "has no label; write at least one");
                    return None;
                }
                Some(Self::Labels { namespace: home.cloned(), labels })
            }
            "namespace" => read_namespace(reader, &value, home).map(Self::Namespace),
            // A mesh-wide target in a namespace is reported with the namespace.
            "mesh" => reader.only_true(&value).map(|()| Self::Mesh),
            _ => None,
        }
    }

    /// The target as canonical YAML; none when it is what the object means without one.
    pub(super) fn write(&self, home: Option<&Namespace>, scope: Scope) -> Option<Map> {
        let map = Map::new();
        let name = |service: &ServiceRef| match home {
            Some(_) => service.name.to_string(),
            None => service.to_string(),
        };
        Some(match self {
            // A guard-rail is mesh-wide without saying so twice.
            Self::Mesh if scope == Scope::Guardrail => return None,
            Self::Namespace(namespace) if home == Some(namespace) => return None,
            Self::Mesh => map.with("mesh", Yaml::bare(true)),
            Self::Namespace(namespace) => map.with("namespace", namespace.as_str()),
            Self::Service(service) => map.with("service", name(service)),
            Self::Workload(workload) => map.with("workload", name(workload)),
            Self::Labels { namespace: _, labels } => map.with_some("labels", write_labels(labels)),
        })
    }
}

/// Whether a document's `spec` says that it is about the whole mesh, which decides whether it has a namespace.
pub(super) fn reach(spec: Option<&Node>) -> Reach {
    let says = |node: Option<&Node>| node.and_then(Node::scalar) == Some("true");
    let guardrail = spec.and_then(|spec| spec.peek("guardrail"));
    let mesh = spec.and_then(|spec| spec.peek("target")).and_then(|target| target.peek("mesh"));
    if says(guardrail) || says(mesh) { Reach::Mesh } else { Reach::Namespace }
}

/// `name` in the object's own namespace; `namespace/name` in an object that has none.
fn read_name(reader: &mut Reader, at: &At<'_>, home: Option<&Namespace>) -> Option<ServiceRef> {
    let text = reader.text(at)?;
    let parsed = match (text.split_once('/'), home) {
        (Some((namespace, name)), home) => {
            let parsed =
                namespace.parse().and_then(|namespace| Ok(ServiceRef { namespace, name: name.parse()? }));
            let foreign = |found: &ServiceRef| home.is_some_and(|home| *home != found.namespace);
            if parsed.as_ref().is_ok_and(foreign) {
                let home = home.map(ToString::to_string).unwrap_or_default();
                let message = format!(
                    "{:?} lies in another namespace; this object can only be about {home:?}",
                    Problem::shown(text)
                );
                reader.error(at, Code::InvalidValue, message);
                return None;
            }
            parsed
        }
        (None, Some(home)) => text.parse().map(|name| ServiceRef { namespace: home.clone(), name }),
        (None, None) => {
            let shown = Problem::shown(text);
            let message =
                format!("{shown:?} has no namespace, and neither has this object; write namespace/name");
            reader.error(at, Code::InvalidValue, message);
            return None;
        }
    };
    match parsed {
        Ok(name) => Some(name),
        Err(error) => {
            reader.error(at, Code::InvalidValue, error.to_string());
            None
        }
    }
}

/// `true` or its own name in an object with a namespace; a name in one without.
fn read_namespace(reader: &mut Reader, at: &At<'_>, home: Option<&Namespace>) -> Option<Namespace> {
    let text = reader.text(at)?;
    match home {
        Some(home) if text == "true" || text == home.as_str() => Some(home.clone()),
        Some(home) => {
            let shown = Problem::shown(text);
            let message =
                format!("{shown:?} is not allowed; write true for the object's own namespace, {home}");
            reader.error(at, Code::InvalidValue, message);
            None
        }
        None if text == "true" => {
            let message = "the object has no namespace; write the name of one";
            reader.error(at, Code::InvalidValue, message);
            None
        }
        None => reader.parse(at),
    }
}
