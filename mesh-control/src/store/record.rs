//! The stored forms of audit records, change sets, resources and values, and the hash chain over the records. Pure.
//!
//! # Why
//! Protobuf, because fields can be added later and no schema compiler is needed for messages that nobody else reads.
//! A record's hash is taken over the bytes as stored, so that no re-encoding can ever break the chain.

use super::view::{AuditChange, AuditRecord, Change, Hash, MetaValue, StoredResource};
use super::write::Verb;
use aws_lc_rs::digest::{Context, SHA256};
use mesh_proto::resource::{Kind, ResourceKey};
use prost::Message;

/// What stands before the hashed bytes, so that a record's hash is never the hash of anything else.
const CHAIN_DOMAIN: &[u8] = b"meshctl audit record 1\n";

/// Bytes that are no stored form of what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot be decoded: {0}")]
pub(super) struct Undecodable(String);

#[derive(Clone, PartialEq, Message)]
struct KeyForm {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, optional, tag = "2")]
    namespace: Option<String>,
    #[prost(string, tag = "3")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct AuditForm {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(uint64, tag = "3")]
    time_ms: u64,
    #[prost(string, tag = "4")]
    actor: String,
    #[prost(string, tag = "5")]
    verb: String,
    #[prost(string, tag = "6")]
    detail: String,
    #[prost(bytes = "vec", tag = "7")]
    previous: Vec<u8>,
    #[prost(message, repeated, tag = "8")]
    changes: Vec<AuditChangeForm>,
    /// SHA-256 of the change set's stored form; empty when nothing changed.
    #[prost(bytes = "vec", tag = "9")]
    change_set: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct AuditChangeForm {
    #[prost(message, optional, tag = "1")]
    key: Option<KeyForm>,
    #[prost(bytes = "vec", optional, tag = "2")]
    before: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    after: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct ChangeSetForm {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<ResourceForm>,
}

/// A resource, or its deletion when it has no document.
#[derive(Clone, PartialEq, Message)]
struct ResourceForm {
    #[prost(message, optional, tag = "1")]
    key: Option<KeyForm>,
    #[prost(string, tag = "2")]
    file: String,
    #[prost(uint32, tag = "3")]
    line: u32,
    #[prost(string, optional, tag = "4")]
    yaml: Option<String>,
    #[prost(uint64, tag = "5")]
    revision: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MetaForm {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// SHA-256 of some bytes.
pub(super) fn sha256(bytes: &[u8]) -> Hash {
    sha256_of(&[bytes])
}

/// SHA-256 of bytes that stand in several places.
pub(super) fn sha256_of(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = Hash::default();
    // The digest and the array are both 32 bytes; zip cannot panic if they ever were not.
    hash.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// The hash of an audit record's stored form: the next record's `previous`.
pub(super) fn record_hash(stored: &[u8]) -> Hash {
    sha256_of(&[CHAIN_DOMAIN, stored])
}

impl AuditRecord {
    /// The form that is stored and hashed.
    pub fn stored(&self) -> Vec<u8> {
        form(self).encode_to_vec()
    }

    /// The record of a stored form, with the hash of that.
    ///
    /// # Errors
    /// The bytes are no record.
    pub fn from_stored(stored: &[u8]) -> Result<Self, String> {
        decode_record(stored).map(|(record, _)| record).map_err(|error| error.to_string())
    }
}

/// The stored form of a record, and the record with its hash filled in.
pub(super) fn encode_record(mut record: AuditRecord) -> (AuditRecord, Vec<u8>) {
    let stored = record.stored();
    record.hash = record_hash(&stored);
    (record, stored)
}

fn form(record: &AuditRecord) -> AuditForm {
    let changes = record.changes.iter().map(|change| AuditChangeForm {
        key: Some(key_form(&change.key)),
        before: change.before.map(|hash| hash.to_vec()),
        after: change.after.map(|hash| hash.to_vec()),
    });
    AuditForm {
        sequence: record.sequence,
        revision: record.revision,
        time_ms: record.time_ms,
        actor: record.actor.clone(),
        verb: record.verb.as_str().to_owned(),
        detail: record.detail.clone(),
        previous: record.previous.to_vec(),
        changes: changes.collect(),
        change_set: record.change_set.map(|hash| hash.to_vec()).unwrap_or_default(),
    }
}

/// The record of a stored form, and the hash of its change set if it has one.
pub(super) fn decode_record(stored: &[u8]) -> Result<(AuditRecord, Option<Hash>), Undecodable> {
    let form = AuditForm::decode(stored).map_err(|e| Undecodable(e.to_string()))?;
    let mut changes = Vec::with_capacity(form.changes.len());
    for change in form.changes {
        changes.push(AuditChange {
            key: key(change.key)?,
            before: change.before.as_deref().map(hash).transpose()?,
            after: change.after.as_deref().map(hash).transpose()?,
        });
    }
    let change_set = if form.change_set.is_empty() { None } else { Some(hash(&form.change_set)?) };
    let record = AuditRecord {
        change_set,
        sequence: form.sequence,
        revision: form.revision,
        time_ms: form.time_ms,
        actor: form.actor,
        verb: form.verb.parse::<Verb>().map_err(|e| Undecodable(e.to_string()))?,
        detail: form.detail,
        changes,
        previous: hash(&form.previous)?,
        hash: record_hash(stored),
    };
    Ok((record, change_set))
}

/// The stored form of a revision's change set.
pub(super) fn encode_changes(revision: u64, changes: &[Change]) -> Vec<u8> {
    let form = |change: &Change| match &change.after {
        Some(after) => resource_form(after),
        None => ResourceForm { key: Some(key_form(&change.key)), revision, ..ResourceForm::default() },
    };
    ChangeSetForm { revision, changes: changes.iter().map(form).collect() }.encode_to_vec()
}

/// A resource's key with what it became.
pub(super) type Outcome = (ResourceKey, Option<StoredResource>);

/// The revision and the outcomes of a stored change set.
pub(super) fn decode_changes(stored: &[u8]) -> Result<(u64, Vec<Outcome>), Undecodable> {
    let form = ChangeSetForm::decode(stored).map_err(|e| Undecodable(e.to_string()))?;
    let changes = form.changes.into_iter().map(outcome).collect::<Result<_, _>>()?;
    Ok((form.revision, changes))
}

/// The stored form of a resource in force.
pub(super) fn encode_resource(resource: &StoredResource) -> Vec<u8> {
    resource_form(resource).encode_to_vec()
}

/// The resource of a stored form.
pub(super) fn decode_resource(stored: &[u8]) -> Result<StoredResource, Undecodable> {
    let form = ResourceForm::decode(stored).map_err(|e| Undecodable(e.to_string()))?;
    outcome(form)?.1.ok_or_else(|| Undecodable("a resource without a document".to_owned()))
}

/// The stored form of another part's value, and the value with its hash.
pub(super) fn encode_meta(sequence: u64, value: Vec<u8>) -> (MetaValue, Vec<u8>) {
    let form = MetaForm { sequence, value };
    let stored = form.encode_to_vec();
    (MetaValue { sequence, hash: sha256(&stored), value: form.value }, stored)
}

/// The value of a stored form.
pub(super) fn decode_meta(stored: &[u8]) -> Result<MetaValue, Undecodable> {
    let form = MetaForm::decode(stored).map_err(|e| Undecodable(e.to_string()))?;
    Ok(MetaValue { sequence: form.sequence, hash: sha256(stored), value: form.value })
}

/// How a resource is called in the database: names are no secret, documents are.
pub(super) fn key_text(key: &ResourceKey) -> String {
    let namespace = key.namespace.as_ref().map_or("", |namespace| namespace.as_str());
    format!("{}/{namespace}/{}", key.kind.as_str(), key.name)
}

fn key_form(key: &ResourceKey) -> KeyForm {
    KeyForm {
        kind: key.kind.as_str().to_owned(),
        namespace: key.namespace.as_ref().map(|namespace| namespace.as_str().to_owned()),
        name: key.name.as_str().to_owned(),
    }
}

fn key(form: Option<KeyForm>) -> Result<ResourceKey, Undecodable> {
    let form = form.ok_or_else(|| Undecodable("a resource without a name".to_owned()))?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == form.kind);
    Ok(ResourceKey {
        kind: kind.ok_or_else(|| Undecodable(format!("unknown kind {:?}", form.kind)))?,
        namespace: form.namespace.map(|n| n.parse()).transpose().map_err(|e| Undecodable(format!("{e}")))?,
        name: form.name.parse().map_err(|e| Undecodable(format!("{e}")))?,
    })
}

fn resource_form(resource: &StoredResource) -> ResourceForm {
    ResourceForm {
        key: Some(key_form(&resource.key)),
        file: resource.file.clone(),
        line: resource.line,
        yaml: Some(resource.yaml.clone()),
        revision: resource.revision,
    }
}

fn outcome(form: ResourceForm) -> Result<Outcome, Undecodable> {
    let key = key(form.key)?;
    let resource = form.yaml.map(|yaml| StoredResource {
        key: key.clone(),
        file: form.file,
        line: form.line,
        yaml,
        revision: form.revision,
    });
    Ok((key, resource))
}

fn hash(bytes: &[u8]) -> Result<Hash, Undecodable> {
    bytes.try_into().map_err(|_| Undecodable(format!("a hash of {} bytes", bytes.len())))
}
