//! What every object has: where it lives, what it is called, and where it was read from.

use super::key::{Home, Kind};
use super::problem::{Code, Problem};
use super::reader::{At, Reader};
use super::tree::{Entry, Node};
use super::yaml::{Map, Yaml};
use crate::name::{Namespace, ObjectName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most labels of one object.
const LABELS_MAX: usize = 64;
/// The longest label key (a DNS prefix, `/`, a name), in bytes, as in Kubernetes.
const LABEL_KEY_BYTES_MAX: usize = 317;
/// The longest label value, in bytes, as in Kubernetes.
const LABEL_VALUE_BYTES_MAX: usize = 63;

/// Labels of an object: at most 64, keys and values as in Kubernetes.
pub type Labels = BTreeMap<String, String>;

/// An object's name and origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Where it lives; `None`: mesh-wide.
    pub namespace: Option<Namespace>,
    /// What it is called there.
    pub name: ObjectName,
    /// The user's labels.
    pub labels: Labels,
    /// Where it was read from.
    pub origin: Origin,
}

/// The place in a file where an object begins. Two objects that differ only in this are the same object.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file as the user named it; empty when there is none.
    pub file: Arc<str>,
    /// The object's first line there, from 1; 0 when unknown.
    pub line: u32,
    /// Lines of the fields of `spec` and of their entries, for problems that are found after reading.
    fields: Arc<[(String, u32)]>,
}

impl Origin {
    /// A place in a file.
    pub fn new(file: &str, line: u32) -> Self {
        Self { file: file.into(), line, fields: [].into() }
    }

    /// The same place, with the lines of what is in the document.
    pub(super) fn with_fields_of(self, root: &Node) -> Self {
        let mut fields = Vec::new();
        for Entry { key, node, .. } in root.peek("spec").map(Node::entries).unwrap_or_default() {
            let path = format!("spec.{key}");
            for (index, entry) in node.list().iter().enumerate() {
                fields.push((format!("{path}[{index}]"), entry.line));
            }
            for below in node.entries() {
                fields.push((format!("{path}.{}", below.key), below.node.line));
            }
            fields.push((path, node.line));
        }
        Self { fields: fields.into(), ..self }
    }

    /// The line of a field: its own, or that of what holds it.
    pub(super) fn line_of(&self, field: &str) -> u32 {
        let holds = |path: &str| {
            field.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let holders = self.fields.iter().filter(|(path, _)| holds(path));
        holders.max_by_key(|(path, _)| path.len()).map_or(self.line, |(_, line)| *line)
    }
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

/// Whether an object that may live in a namespace is about the whole mesh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    Namespace,
    Mesh,
}

/// Reads `metadata` of the document `root`.
pub(super) fn read(
    reader: &mut Reader,
    at: At<'_>,
    root: &Node,
    (kind, reach): (Kind, Reach),
) -> Option<Meta> {
    let fields = reader.fields(at, &["name", "namespace", "labels"])?;
    let name = fields.required(reader, "name", "every object has a name").and_then(|at| reader.parse(&at));
    let labels = match fields.optional("labels") {
        Some(at) => read_labels(reader, &at),
        None => Some(Labels::new()),
    };
    let given = fields.optional("namespace");
    let namespace = match (kind.home(), given, reach) {
        (Home::Mesh, None, _) | (Home::Either, None, Reach::Mesh) => Some(None),
        (Home::Mesh, Some(at), _) => {
            let message = format!("a {kind} belongs to the whole mesh; remove the namespace");
            reader.error(&at, Code::Conflict, message);
            None
        }
        (Home::Either, Some(at), Reach::Mesh) => {
            let message =
                "an object about the whole mesh (guardrail, or target.mesh) lives in no namespace; remove it";
            reader.error(&at, Code::Conflict, message);
            None
        }
        (Home::Namespace | Home::Either, Some(at), _) => reader.parse(&at).map(Some),
        (Home::Namespace | Home::Either, None, _) => Some(Some(Namespace::default_local())),
    };
    let origin = Origin::new(&reader.file(), root.line).with_fields_of(root);
    Some(Meta { namespace: namespace?, name: name?, labels: labels?, origin })
}

/// Stands for a `metadata` that could not be read, so that the rest of the document is still looked at.
pub(super) fn placeholder(kind: Kind, reach: Reach) -> Option<Meta> {
    let is_mesh_wide = kind.home() == Home::Mesh || reach == Reach::Mesh;
    Some(Meta {
        namespace: (!is_mesh_wide).then(Namespace::default_local),
        name: "mesh".parse().ok()?,
        labels: Labels::new(),
        origin: Origin::new("", 0),
    })
}

/// Reads a map of labels.
pub(super) fn read_labels(reader: &mut Reader, at: &At<'_>) -> Option<Labels> {
    let pairs = reader.text_map(at)?;
    if pairs.len() > LABELS_MAX {
        let message = format!("has {} entries; at most {LABELS_MAX} are allowed", pairs.len());
        reader.error(at, Code::TooLarge, message);
        return None;
    }
    let mut labels = Labels::new();
    for (field, key, value) in &pairs {
        if !is_label_key(key) {
            let shown = Problem::shown(key);
            let message =
                format!("{shown:?} is not a label's key; allowed are [dns.prefix/]name of a-z A-Z 0-9 - _ .");
            reader.error(field, Code::InvalidValue, message);
        } else if !is_label_value(value) {
            let shown = Problem::shown(value);
            let message =
                format!("{shown:?} is not a label's value; allowed are up to 63 of a-z A-Z 0-9 - _ .");
            reader.error(field, Code::InvalidValue, message);
        } else {
            labels.insert((*key).to_owned(), (*value).to_owned());
        }
    }
    (labels.len() == pairs.len()).then_some(labels)
}

fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').unwrap_or(("", key));
    let prefix_good = prefix
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.');
    key.len() <= LABEL_KEY_BYTES_MAX
        && prefix_good
        && !key.starts_with('/')
        && !name.is_empty()
        && is_label_value(name)
}

fn is_label_value(value: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    value.len() <= LABEL_VALUE_BYTES_MAX
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && edge(value.bytes().next())
        && edge(value.bytes().next_back())
}

/// Whether all of `wanted` are among `present`.
pub fn labels_match(wanted: &Labels, present: &Labels) -> bool {
    wanted.iter().all(|(key, value)| present.get(key) == Some(value))
}

/// `metadata` as canonical YAML.
pub(super) fn write(meta: &Meta) -> Map {
    let Meta { namespace, name, labels, origin: _ } = meta;
    let map = Map::new().with("name", name.as_str());
    let map = map.with_some("namespace", namespace.as_ref().map(Namespace::as_str));
    map.with_some("labels", write_labels(labels))
}

/// Labels as canonical YAML; none when there are none.
pub(super) fn write_labels(labels: &Labels) -> Option<Map> {
    let map = labels.iter().fold(Map::new(), |map, (key, value)| map.with(key, Yaml::text(value)));
    (!labels.is_empty()).then_some(map)
}
