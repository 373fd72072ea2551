//! Showing what is and what was: objects with their status, history, differences, the audit log.

use super::change::{change, key, unified};
use super::{Control, store_status};
use crate::clock;
use crate::discovery::fanout::ProxyState;
use crate::local::registry::WorkloadKey;
use crate::store::view::{self, StoredResource};
use mesh_proto::name::InstanceName;
use mesh_proto::resource::catalog::Status as ObjectStatus;
use mesh_proto::resource::{self, Kind, Problem, ResourceKey, SourceDocument};
use mesh_proto::wire::v1;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use tonic::Status;

/// Entries of history, audit records or decisions in one answer.
pub(super) const ENTRIES_MAX: usize = 10_000;
/// Entries when the caller does not say.
pub(super) const ENTRIES_DEFAULT: usize = 50;

/// How many entries a caller wants.
pub(super) fn limit(asked: u32) -> usize {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => ENTRIES_DEFAULT,
        asked => asked.min(ENTRIES_MAX),
    }
}

impl Control {
    /// Objects, now or at a past revision.
    pub(super) fn objects(&self, request: &v1::GetRequest) -> Result<v1::GetResponse, Status> {
        let v1::GetRequest { kind, namespace, name, revision } = request;
        let wanted = match kind.as_str() {
            "" => None,
            word => Some(Kind::from_word(word).ok_or_else(|| {
                let word: String = word.chars().take(80).collect();
                Status::invalid_argument(format!(
                    "unknown kind {word:?}; there are {}",
                    Kind::ALL.map(Kind::as_str).join(", ")
                ))
            })?),
        };
        let view = self.store.read();
        let is_now = *revision == 0 || *revision == view.revision();
        let at = if *revision == 0 { view.revision() } else { *revision };
        let resources = view.resources_at(at).map_err(|error| store_status(&error))?;
        let statuses = if is_now { self.statuses() } else { BTreeMap::new() };
        let is_asked = |key: &ResourceKey| {
            wanted.is_none_or(|kind| kind == key.kind)
                && (namespace.is_empty() || key.namespace.as_ref().is_some_and(|n| n.as_str() == namespace))
                && (name.is_empty() || key.name.as_str() == name)
        };
        let object = |(key, stored): (&ResourceKey, &std::sync::Arc<StoredResource>)| v1::Object {
            r#ref: Some(reference(key)),
            yaml: canonical(stored),
            revision: stored.revision,
            status: match parse(stored) {
                Err(problems) => {
                    let first = problems.first().map(ToString::to_string).unwrap_or_default();
                    format!("Invalid: {first}")
                }
                Ok(_) => statuses.get(key).cloned().unwrap_or_default(),
            },
        };
        let objects: Vec<v1::Object> =
            resources.iter().filter(|(key, _)| is_asked(key)).map(object).collect();
        if objects.is_empty() && !name.is_empty() {
            let what = wanted.map_or("object", Kind::as_str);
            return Err(Status::not_found(format!(
                "there is no {what} called {:?} at revision {at}; `meshctl get` lists what there is, `meshctl history` what was",
                name.chars().take(80).collect::<String>()
            )));
        }
        Ok(v1::GetResponse { objects, revision: at })
    }

    /// What each object does at present, in words.
    fn statuses(&self) -> BTreeMap<ResourceKey, String> {
        let world = self.mesh.world();
        let proxies = self.mesh.fleet.all();
        let view = self.store.read();
        let statuses = world.catalog.statuses(&world.targets(), clock::unix_s(clock::wall()));
        let text = |(key, status): (ResourceKey, ObjectStatus)| {
            let revision = view.resource(&key).map_or(0, |stored| stored.revision);
            let text = match status {
                ObjectStatus::Effective { instances } => enforced(&instances, &proxies, revision),
                ObjectStatus::Accepted => "Accepted".to_owned(),
                ObjectStatus::NoMatch => "NoMatch".to_owned(),
                ObjectStatus::Shadowed { by } => format!("Shadowed by {by}"),
                ObjectStatus::Expired => "Expired".to_owned(),
            };
            (key, text)
        };
        statuses.into_iter().map(text).collect()
    }

    /// Past revisions, newest first.
    pub(super) fn history(&self, request: &v1::HistoryRequest) -> Result<v1::HistoryResponse, Status> {
        let object = request.object.as_ref().map(key).transpose()?;
        let found = self.store.read().history(limit(request.limit), object.as_ref());
        let entry = |revision: &view::Revision| v1::HistoryEntry {
            revision: revision.revision,
            time_ms: revision.time_ms,
            actor: revision.actor.clone(),
            verb: revision.verb.to_string(),
            changes: revision.changes.iter().map(shown).collect(),
        };
        Ok(v1::HistoryResponse { entries: found.iter().map(|revision| entry(revision)).collect() })
    }

    /// What a revision changed, or the difference of two.
    pub(super) fn difference(&self, request: &v1::DiffRequest) -> Result<v1::DiffResponse, Status> {
        let view = self.store.read();
        let to = if request.to == 0 { view.revision() } else { request.to };
        let from = if request.from == 0 { to.saturating_sub(1) } else { request.from };
        let changes = view.diff(from, to).map_err(|error| store_status(&error))?;
        Ok(v1::DiffResponse { changes: changes.iter().map(shown).collect() })
    }
}

/// `Enforced 3/3`, or who is missing.
fn enforced(
    instances: &[InstanceName],
    proxies: &BTreeMap<WorkloadKey, ProxyState>,
    revision: u64,
) -> String {
    let mut done = 0_usize;
    let mut refused = Vec::new();
    for instance in instances {
        let state = proxies.iter().find(|(key, _)| key.instance == *instance).map(|(_, state)| state);
        match state {
            Some(state) if state.confirmed.revision >= revision => done = done.saturating_add(1),
            Some(ProxyState { refusal: Some(refusal), .. }) => {
                refused.push(format!("{instance}: {}", refusal.reason));
            }
            _ => {}
        }
    }
    match refused.first() {
        Some(first) => format!("Enforced {done}/{}, refused by {first}", instances.len()),
        None => format!("Enforced {done}/{}", instances.len()),
    }
}

/// A change as it is shown, with the difference of the canonical documents.
fn shown(found: &view::Change) -> v1::Change {
    let old = found.before.as_ref().map(|stored| canonical(stored));
    let new = found.after.as_ref().map(|stored| canonical(stored));
    let verb = match (&old, &new) {
        (None, Some(_)) => "created",
        (_, None) => "deleted",
        (Some(old), Some(new)) if old == new => "unchanged",
        (Some(_), Some(_)) => "configured",
    };
    change(&found.key, verb, unified(old.as_deref().unwrap_or_default(), new.as_deref().unwrap_or_default()))
}

fn parse(stored: &StoredResource) -> Result<resource::Resource, Vec<Problem>> {
    let StoredResource { key: _, file, line, yaml, revision: _ } = stored;
    resource::parse(&SourceDocument { file: file.clone(), line: *line, yaml: yaml.clone() })
}

/// The canonical text of a stored document, or the document itself when this version cannot read it.
fn canonical(stored: &StoredResource) -> String {
    parse(stored).map_or_else(|_| stored.yaml.clone(), |resource| resource.to_yaml())
}

fn reference(key: &ResourceKey) -> v1::ObjectRef {
    v1::ObjectRef {
        kind: key.kind.as_str().to_owned(),
        namespace: key.namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
        name: key.name.to_string(),
    }
}

/// Bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
