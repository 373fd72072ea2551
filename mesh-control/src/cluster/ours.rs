//! The mesh's own kinds as objects of the cluster: read into the same resources, with the same words about what is wrong.
//!
//! Pure. `follow` reads what the API server has, the webhook what it is about to take. A document is the object without what
//! the cluster adds to it, in canonical form, so that lines mean the same wherever it was written.
//!
//! # Two kinds for one
//! Whoever may write into a namespace must not be able to write rules for the whole mesh, and Kubernetes' own access rules
//! tell only kinds apart. So an `AccessPolicy` of no namespace is a `MeshAccessPolicy` there, a `RateLimit` a
//! `MeshRateLimit`; what stands in them is the same.

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use mesh_proto::resource::problem::Code;
use mesh_proto::resource::{self, Kind, Problem, Resource, ResourceKey, Severity, SourceDocument};
use serde_json::{Value, json};

/// The API group of the mesh's kinds.
pub(crate) const GROUP: &str = "meshctl.io";
/// Its version.
pub(crate) const VERSION: &str = "v1alpha1";

/// One kind of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OurKind {
    /// What the cluster calls it.
    pub(crate) kind: &'static str,
    /// In paths.
    pub(crate) plural: &'static str,
    /// What it is to the mesh.
    pub(crate) means: Kind,
    /// Where its objects live.
    pub(crate) scope: Scope,
}

/// Where objects live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// In a namespace.
    Namespace,
    /// In the cluster as a whole.
    Cluster,
}

/// All of them.
pub(crate) const KINDS: [OurKind; 8] = [
    kind("MeshConfig", "meshconfigs", Kind::MeshConfig, Scope::Cluster),
    kind("AccessPolicy", "accesspolicies", Kind::AccessPolicy, Scope::Namespace),
    kind("MeshAccessPolicy", "meshaccesspolicies", Kind::AccessPolicy, Scope::Cluster),
    kind("Role", "roles", Kind::Role, Scope::Cluster),
    kind("RoleBinding", "rolebindings", Kind::RoleBinding, Scope::Cluster),
    kind("Segment", "segments", Kind::Segment, Scope::Cluster),
    kind("RateLimit", "ratelimits", Kind::RateLimit, Scope::Namespace),
    kind("MeshRateLimit", "meshratelimits", Kind::RateLimit, Scope::Cluster),
];

const fn kind(kind: &'static str, plural: &'static str, means: Kind, scope: Scope) -> OurKind {
    OurKind { kind, plural, means, scope }
}

impl OurKind {
    /// The kind with this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.kind == name)
    }

    /// How the client finds it.
    pub(crate) fn resource(&self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, self.kind), self.plural)
    }

    /// What an object of this kind is to the mesh; `None` when its name is none there.
    pub(crate) fn key(&self, namespace: Option<&str>, name: &str) -> Option<ResourceKey> {
        let namespace = match self.scope {
            Scope::Cluster => None,
            Scope::Namespace => Some(namespace?.parse().ok()?),
        };
        Some(ResourceKey { kind: self.means, namespace, name: name.parse().ok()? })
    }
}

/// An object as the mesh reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Document {
    /// Its canonical text.
    pub(crate) source: SourceDocument,
    /// What it says.
    pub(crate) resource: Resource,
}

/// Reads an object of one of the mesh's kinds.
///
/// # Errors
/// Everything that is wrong with it; never empty.
pub(crate) fn read(kind: &OurKind, object: &DynamicObject) -> Result<Document, Vec<Problem>> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let namespace = object.metadata.namespace.clone().filter(|_| kind.scope == Scope::Namespace);
    let mut metadata = json!({ "name": name });
    if let Some(namespace) = &namespace {
        metadata["namespace"] = json!(namespace);
    }
    if let Some(labels) = object.metadata.labels.as_ref().filter(|labels| !labels.is_empty()) {
        metadata["labels"] = json!(labels);
    }
    let mut document = json!({
        "apiVersion": resource::API_VERSION, "kind": kind.means.as_str(), "metadata": metadata,
    });
    if let Some(spec) = object.data.get("spec") {
        document["spec"] = spec.clone();
    }
    let file = match &namespace {
        Some(namespace) => format!("{}/{namespace}/{name}", kind.kind.to_ascii_lowercase()),
        None => format!("{}/{name}", kind.kind.to_ascii_lowercase()),
    };
    read_json(kind, file, &document)
}

fn read_json(kind: &OurKind, file: String, document: &Value) -> Result<Document, Vec<Problem>> {
    // JSON is YAML; its lines are nobody's, so the canonical text is read again for the places of what is in it.
    let json = SourceDocument { file: file.clone(), line: 1, yaml: document.to_string() };
    let resource = resource::parse(&json).map_err(|mut problems| {
        for problem in &mut problems {
            problem.line = 0;
            mend_words(kind, problem);
        }
        problems
    })?;
    if kind.scope == Scope::Cluster && resource.key().namespace.is_some() {
        return Err(vec![Problem {
            severity: Severity::Error,
            code: Code::Conflict,
            file: file.as_str().into(),
            line: 0,
            field: "spec.target".to_owned(),
            value: None,
            message: format!(
                "a {} is about the whole mesh: write `target: {{mesh: true}}` or `guardrail: true`, or make it one of kind {} in the \
                 namespace that it is about",
                kind.kind,
                kind.means.as_str()
            ),
        }]);
    }
    let source = SourceDocument { file, line: 1, yaml: resource.to_yaml() };
    let resource = resource::parse(&source)?;
    Ok(Document { source, resource })
}

/// What is said of documents outside of a cluster leads nowhere in one: there an object for the whole mesh has its own kind.
fn mend_words(kind: &OurKind, problem: &mut Problem) {
    if kind.scope == Scope::Namespace
        && problem.field == "metadata.namespace"
        && problem.code == Code::Conflict
    {
        problem.message = format!(
            "an object about the whole mesh (guardrail, or target.mesh) lives in no namespace; make it a Mesh{}",
            kind.means.as_str()
        );
    }
}

/// Who has changed an object last, as far as the cluster says: the newest manager of its fields that is not the mesh.
pub(crate) fn author(object: &DynamicObject) -> String {
    let fields = object.metadata.managed_fields.iter().flatten();
    let newest = fields.filter(|entry| entry.subresource.is_none()).max_by_key(|entry| entry.time.clone());
    match newest.and_then(|entry| entry.manager.as_deref()) {
        Some(manager) => format!(
            "kubernetes ({})",
            manager.chars().filter(|c| !c.is_control()).take(100).collect::<String>()
        ),
        None => "kubernetes".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &OurKind, namespace: Option<&str>, spec: Value) -> DynamicObject {
        let mut object = DynamicObject::new("web", &kind.resource());
        object.metadata.namespace = namespace.map(str::to_owned);
        object.metadata.resource_version = Some("7".to_owned());
        object.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
        object.data = json!({ "spec": spec, "status": {"conditions": []} });
        object
    }

    fn named(name: &str) -> &'static OurKind {
        OurKind::named(name).unwrap()
    }

    #[test]
    fn an_object_is_the_document_that_says_the_same() {
        let rules = json!([{"from": [{"anyMeshed": true}]}]);
        for (kind, namespace, spec, key) in [
            (
                "AccessPolicy",
                Some("shop"),
                json!({"target": {"service": "web"}, "rules": rules}),
                "AccessPolicy shop/web",
            ),
            ("MeshAccessPolicy", None, json!({"target": {"mesh": true}, "rules": rules}), "AccessPolicy web"),
        ] {
            let kind = named(kind);
            let Document { source, resource } = read(kind, &object(kind, namespace, spec)).unwrap();
            assert_eq!(resource.key().to_string(), key);
            assert_eq!(kind.key(namespace, "web").unwrap(), resource.key());
            assert_eq!(source.yaml, resource.to_yaml());
            assert!(!source.yaml.contains("resourceVersion"), "{}", source.yaml);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_kinds_of_a_cluster() {
        let rules = json!([{"from": [{"anyMeshed": true}]}]);
        for (kind, namespace, spec, expected) in [
            (
                "AccessPolicy",
                Some("shop"),
                json!({"target": {"mesh": true}, "rules": rules}),
                "make it a MeshAccessPolicy",
            ),
            (
                "MeshAccessPolicy",
                None,
                json!({"target": {"service": "web"}, "rules": rules}),
                "about the whole mesh",
            ),
            ("AccessPolicy", Some("shop"), json!({"target": {"service": "web"}, "rulez": rules}), "rulez"),
        ] {
            let problems = read(named(kind), &object(named(kind), namespace, spec)).unwrap_err();
            let said = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert!(said.contains(expected), "{said}");
        }
    }
}
