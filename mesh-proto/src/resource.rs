//! The YAML kinds of `meshctl.io/v1alpha1`: parsed once, checked wholly, written back canonically.
//!
//! The control plane and `meshctl` read documents with [`parse`], keep them in a [`catalog::Catalog`], and ask that for
//! what one workload needs. Nothing here reads files or clocks, and nothing decides on requests.

pub mod access_policy;
pub mod alert;
pub mod alert_rule;
pub mod alert_sink;
pub mod catalog;
pub mod document;
pub mod key;
pub mod mesh_config;
pub mod meta;
pub mod outside;
pub mod problem;
pub mod rate_limit;
pub mod role;
pub mod segment;
pub mod selector;
pub mod service;
pub mod subject;

mod operation;
mod quantity;
mod reader;
mod suggest;
mod tree;
mod yaml;

pub use catalog::{Catalog, Target};
pub use document::{SourceDocument, split_documents};
pub use key::{Kind, ResourceKey};
pub use meta::Meta;
pub use problem::{Problem, Severity};

use document::DOCUMENT_BYTES_MAX;
use problem::Code;
use reader::{At, Reader};
use yaml::Map;

/// The `apiVersion` of every document.
pub const API_VERSION: &str = "meshctl.io/v1alpha1";

/// One object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resource {
    /// Mesh-wide settings.
    MeshConfig(mesh_config::MeshConfig),
    /// Who may call whom.
    AccessPolicy(access_policy::AccessPolicy),
    /// A reusable set of operations.
    Role(role::Role),
    /// Who holds a role.
    RoleBinding(role::RoleBinding),
    /// An isolated part of the network.
    Segment(segment::Segment),
    /// How much callers may ask.
    RateLimit(rate_limit::RateLimit),
    /// A name that callers use.
    Service(service::Service),
    /// A known workload.
    Workload(service::Workload),
    /// Which alarms go where.
    AlertRule(alert_rule::AlertRule),
    /// A place that alarms are sent to.
    AlertSink(alert_sink::AlertSink),
}

/// Canonical YAML is at most eight times as long as what was read (a list `[a, a, …]` becomes one line for each entry), so
/// that below this size it is always a document again.
const GROWTH_UNCHECKED_BYTES: usize = DOCUMENT_BYTES_MAX / 16;

/// Reads one document.
///
/// # Errors
/// Everything that is wrong with it, in the order of its lines; never empty.
pub fn parse(document: &SourceDocument) -> Result<Resource, Vec<Problem>> {
    let root = tree::read(document).map_err(|problem| vec![problem])?;
    let mut reader = Reader::new(document.file.as_str().into());
    let root = At { node: &root, path: String::new() };
    let resource = read(&mut reader, root.clone());
    if let Some(resource) = resource.as_ref().filter(|_| document.yaml.len() > GROWTH_UNCHECKED_BYTES) {
        refuse_growth(&mut reader, &root, resource);
    }
    let mut problems = reader.into_problems();
    match resource {
        Some(resource) if problems.is_empty() => Ok(resource),
        _ => {
            if problems.is_empty() {
                // Every step that gives nothing reports why; should one forget, the document is refused all the same.
                problems.push(Problem {
                    severity: Severity::Error,
                    code: Code::Syntax,
                    file: document.file.as_str().into(),
                    line: document.line,
                    field: String::new(),
                    value: None,
                    message: "the document cannot be read".to_owned(),
                });
            }
            Err(problems)
        }
    }
}

/// What is accepted must be readable again from its canonical text.
fn refuse_growth(reader: &mut Reader, root: &At<'_>, resource: &Resource) {
    let bytes = resource.to_yaml().len();
    if bytes > DOCUMENT_BYTES_MAX {
        let message = format!(
            "the object has {bytes} bytes when written out; at most {DOCUMENT_BYTES_MAX} are allowed, split it"
        );
        reader.error(root, Code::TooLarge, message);
    }
}

fn read(reader: &mut Reader, root: At<'_>) -> Option<Resource> {
    let node = root.node;
    let fields = reader.fields(root, &["apiVersion", "kind", "metadata", "spec"])?;
    if let Some(at) = fields.required(reader, "apiVersion", "write apiVersion: meshctl.io/v1alpha1") {
        reader.word(&at, &[(API_VERSION, ())]);
    }
    let kind = fields.required(reader, "kind", "write for instance kind: AccessPolicy");
    let kind = kind.and_then(|at| reader.word(&at, &Kind::ALL.map(|kind| (kind.as_str(), kind))));
    let spec = fields.required(reader, "spec", "it says what the object does");
    let reach = selector::reach(spec.as_ref().map(|at| at.node));
    let metadata = fields.required(reader, "metadata", "write metadata: {name: …}");
    let name = metadata.as_ref().and_then(|at| at.node.peek("name"));
    let name = name.map(|node| At { node, path: "metadata.name".to_owned() });
    let kind = kind?;
    let meta = metadata.and_then(|at| meta::read(reader, at, node, (kind, reach)));
    // With a placeholder the spec is still read, so that its problems are reported together with those of the name.
    let complete = meta.is_some();
    let meta = meta.or_else(|| meta::placeholder(kind, reach))?;
    let spec = spec?;
    let resource = match kind {
        Kind::MeshConfig => {
            mesh_config::MeshConfig::read(reader, meta, name.as_ref(), spec).map(Resource::MeshConfig)
        }
        Kind::AccessPolicy => {
            access_policy::AccessPolicy::read(reader, meta, spec).map(Resource::AccessPolicy)
        }
        Kind::Role => role::Role::read(reader, meta, spec).map(Resource::Role),
        Kind::RoleBinding => role::RoleBinding::read(reader, meta, spec).map(Resource::RoleBinding),
        Kind::Segment => segment::Segment::read(reader, meta, spec).map(Resource::Segment),
        Kind::RateLimit => rate_limit::RateLimit::read(reader, meta, spec).map(Resource::RateLimit),
        Kind::Service => service::Service::read(reader, meta, spec).map(Resource::Service),
        Kind::Workload => service::Workload::read(reader, meta, spec).map(Resource::Workload),
        Kind::AlertRule => alert_rule::AlertRule::read(reader, meta, spec).map(Resource::AlertRule),
        Kind::AlertSink => alert_sink::AlertSink::read(reader, meta, spec).map(Resource::AlertSink),
    };
    resource.filter(|_| complete)
}

impl Resource {
    /// Its name and origin.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::MeshConfig(object) => &object.meta,
            Self::AccessPolicy(object) => &object.meta,
            Self::Role(object) => &object.meta,
            Self::RoleBinding(object) => &object.meta,
            Self::Segment(object) => &object.meta,
            Self::RateLimit(object) => &object.meta,
            Self::Service(object) => &object.meta,
            Self::Workload(object) => &object.meta,
            Self::AlertRule(object) => &object.meta,
            Self::AlertSink(object) => &object.meta,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::MeshConfig(_) => Kind::MeshConfig,
            Self::AccessPolicy(_) => Kind::AccessPolicy,
            Self::Role(_) => Kind::Role,
            Self::RoleBinding(_) => Kind::RoleBinding,
            Self::Segment(_) => Kind::Segment,
            Self::RateLimit(_) => Kind::RateLimit,
            Self::Service(_) => Kind::Service,
            Self::Workload(_) => Kind::Workload,
            Self::AlertRule(_) => Kind::AlertRule,
            Self::AlertSink(_) => Kind::AlertSink,
        }
    }

    /// What names it.
    pub fn key(&self) -> ResourceKey {
        let meta = self.meta();
        ResourceKey { kind: self.kind(), namespace: meta.namespace.clone(), name: meta.name.clone() }
    }

    /// The object as canonical YAML: fields in a fixed order, defaults left out, the same text for the same object.
    pub fn to_yaml(&self) -> String {
        let spec = match self {
            Self::MeshConfig(object) => object.write(),
            Self::AccessPolicy(object) => object.write(),
            Self::Role(object) => object.write(),
            Self::RoleBinding(object) => object.write(),
            Self::Segment(object) => object.write(),
            Self::RateLimit(object) => object.write(),
            Self::Service(object) => object.write(),
            Self::Workload(object) => object.write(),
            Self::AlertRule(object) => object.write(),
            Self::AlertSink(object) => object.write(),
        };
        Map::new()
            .with("apiVersion", API_VERSION)
            .with("kind", self.kind().as_str())
            .with("metadata", meta::write(self.meta()))
            .with("spec", spec)
            .document()
    }
}
