//! The audit log as JSON lines that prove themselves: a head, records with their documents, checkpoints, an end.

use super::{AuditKey, Checkpoint, checkpoints, hex};
use crate::store::Store;
use crate::store::view::{AuditRecord, Hash, ReadView, StoredResource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

/// What the first line says that this is.
pub(super) const FORMAT: &str = "meshctl audit 1";

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) audit: String,
    pub(super) trust_domain: String,
    /// Of the key that signed: to compare with what the auditor holds, not to trust.
    pub(super) key: String,
    /// The first record's number.
    pub(super) from: u64,
    /// Of trust domain and first record.
    pub(super) signature: String,
}

/// A record.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordLine {
    pub(super) sequence: u64,
    pub(super) revision: u64,
    pub(super) time_ms: u64,
    pub(super) actor: String,
    pub(super) verb: String,
    pub(super) detail: String,
    pub(super) changes: Vec<ChangeLine>,
    pub(super) previous: String,
    pub(super) hash: String,
    /// The record as it is stored and hashed.
    pub(super) record: String,
}

/// One object that a record changes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeLine {
    pub(super) object: String,
    /// SHA-256 of the document before; `None`: there was none.
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) before_yaml: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) after_yaml: Option<String>,
}

/// A signed statement about the record before it; as the last line also that nothing follows.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointLine {
    /// `checkpoint`, or `end`.
    pub(super) signed: String,
    pub(super) sequence: u64,
    pub(super) time_ms: u64,
    pub(super) head: String,
    pub(super) signature: String,
}

impl CheckpointLine {
    fn new(signed: &str, checkpoint: &Checkpoint) -> Self {
        Self {
            signed: signed.to_owned(),
            sequence: checkpoint.sequence,
            time_ms: checkpoint.time_ms,
            head: hex(&checkpoint.head),
            signature: hex(&checkpoint.signature),
        }
    }
}

/// What makes an export.
pub(crate) struct Exporter {
    view: ReadView,
    checkpoints: BTreeMap<u64, Checkpoint>,
    key: Arc<AuditKey>,
    trust_domain: String,
    end: Checkpoint,
}

impl Exporter {
    /// Of everything up to now.
    pub(crate) fn new(store: &dyn Store, key: &Arc<AuditKey>, trust_domain: String, now: SystemTime) -> Self {
        let checkpoints = checkpoints(store).into_iter().map(|kept| (kept.sequence, kept)).collect();
        let view = store.read();
        let end = key.sign(view.audit_sequence(), view.audit_head(), now);
        Self { view, checkpoints, key: Arc::clone(key), trust_domain, end }
    }

    /// The lines from a record on.
    pub(crate) fn lines(&self, from: u64) -> impl Iterator<Item = String> {
        let from = from.max(1);
        let head = Head {
            audit: FORMAT.to_owned(),
            trust_domain: self.trust_domain.clone(),
            key: hex(self.key.public()),
            from,
            signature: hex(&self.key.sign_head(&self.trust_domain, from)),
        };
        let records = (from..=self.end.sequence).flat_map(|sequence| {
            let record = self.view.audit(sequence..=sequence).first().map(|record| self.record(record));
            let signed = self.checkpoints.get(&sequence);
            let signed = signed.map(|signed| text(&CheckpointLine::new("checkpoint", signed)));
            record.into_iter().chain(signed)
        });
        std::iter::once(text(&head)).chain(records).chain([text(&CheckpointLine::new("end", &self.end))])
    }

    fn record(&self, record: &AuditRecord) -> String {
        let made = if record.changes.is_empty() { None } else { self.view.change_set(record.revision).ok() };
        let mut documents = Documents::new();
        for change in made.iter().flat_map(|made| &made.changes) {
            let yaml =
                |stored: &Option<Arc<StoredResource>>| stored.as_ref().map(|stored| stored.yaml.clone());
            documents.insert(change.key.to_string(), (yaml(&change.before), yaml(&change.after)));
        }
        line(record, &documents)
    }
}

/// The documents of a record by the objects' names, before and after.
pub(super) type Documents = BTreeMap<String, (Option<String>, Option<String>)>;

/// A record's line.
pub(super) fn line(record: &AuditRecord, documents: &Documents) -> String {
    let hash = |hash: &Option<Hash>| hash.as_ref().map(|hash| hex(hash));
    let changes = record.changes.iter().map(|change| {
        let object = change.key.to_string();
        let (before_yaml, after_yaml) = documents.get(&object).cloned().unwrap_or_default();
        ChangeLine {
            object,
            before: hash(&change.before),
            after: hash(&change.after),
            before_yaml,
            after_yaml,
        }
    });
    text(&RecordLine {
        sequence: record.sequence,
        revision: record.revision,
        time_ms: record.time_ms,
        actor: record.actor.clone(),
        verb: record.verb.to_string(),
        detail: record.detail.clone(),
        changes: changes.collect(),
        previous: hex(&record.previous),
        hash: hex(&record.hash),
        record: hex(&record.stored()),
    })
}

pub(super) fn text(line: &impl Serialize) -> String {
    // Structs of texts and numbers: they have a JSON form.
    serde_json::to_string(line).unwrap_or_default()
}
