//! The state of a store, and the one place where a write becomes a record. Pure; both stores stand on it.
//!
//! A writer makes a [`Batch`], plans each write in it (later writes see earlier ones), makes the batch durable, and only
//! then publishes what was planned. [`replay`] is the way back: from stored records to the state.

use super::record::{self, Outcome};
use super::view::{
    AuditChange, AuditRecord, AuditReport, BrokenLink, Change, Hash, Log, Meta, MetaValue, ReadView,
    Resources, Revision, StoredResource,
};
use super::write::{META_KEYS_MAX, Write, WriteProblem, check_meta};
use mesh_proto::resource::ResourceKey;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Everything a store knows.
pub(super) struct Ledger {
    resources: Arc<Resources>,
    meta: Arc<Meta>,
    log: Arc<RwLock<Log>>,
    tip: Tip,
}

/// Where the counters stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tip {
    /// Revision in force.
    pub(super) revision: u64,
    /// Number of the last audit record.
    pub(super) sequence: u64,
    /// Its hash.
    pub(super) head: Hash,
    /// Number of the last write of another part's value.
    pub(super) meta_sequence: u64,
}

/// Writes that are planned and not yet in force.
pub(super) struct Batch {
    tip: Tip,
    resources: BTreeMap<ResourceKey, Option<Arc<StoredResource>>>,
    meta: BTreeMap<String, ()>,
}

/// A write, ready to be stored and published.
pub(super) struct Planned {
    pub(super) record: Arc<AuditRecord>,
    /// The record's stored form.
    pub(super) record_stored: Vec<u8>,
    /// The revision it makes, with its change set's stored form.
    pub(super) revision: Option<(Arc<Revision>, Vec<u8>)>,
}

/// A value of another part, ready to be stored and published.
pub(super) struct PlannedMeta {
    pub(super) key: String,
    pub(super) value: Arc<MetaValue>,
    pub(super) stored: Vec<u8>,
}

/// What a batch does, in order.
pub(super) enum Step {
    Write(Planned),
    Meta(PlannedMeta),
}

impl Ledger {
    /// A store in which nothing happened yet.
    pub(super) fn empty() -> Self {
        Self::new(Resources::new(), Meta::new(), Log::default(), Tip::default())
    }

    fn new(resources: Resources, meta: Meta, log: Log, tip: Tip) -> Self {
        Self { resources: Arc::new(resources), meta: Arc::new(meta), log: Arc::new(RwLock::new(log)), tip }
    }

    /// What is known now.
    pub(super) fn view(&self) -> ReadView {
        ReadView {
            resources: Arc::clone(&self.resources),
            meta: Arc::clone(&self.meta),
            log: Arc::clone(&self.log),
            revision: self.tip.revision,
            sequence: self.tip.sequence,
            head: self.tip.head,
        }
    }

    /// Where the counters stand.
    pub(super) fn tip(&self) -> Tip {
        self.tip
    }

    /// Values of other parts.
    pub(super) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The number of resources in force.
    pub(super) fn resource_count(&self) -> u64 {
        u64::try_from(self.resources.len()).unwrap_or(u64::MAX)
    }

    /// Puts what was planned into force, in the order of planning.
    pub(super) fn publish(&mut self, step: Step) {
        match step {
            Step::Write(planned) => {
                let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
                self.tip.sequence = planned.record.sequence;
                self.tip.head = planned.record.hash;
                log.records.push(planned.record);
                let Some((revision, _)) = planned.revision else { return };
                self.tip.revision = revision.revision;
                let resources = Arc::make_mut(&mut self.resources);
                for change in &revision.changes {
                    match &change.after {
                        Some(after) => resources.insert(change.key.clone(), Arc::clone(after)),
                        None => resources.remove(&change.key),
                    };
                }
                log.revisions.push(revision);
            }
            Step::Meta(planned) => {
                self.tip.meta_sequence = planned.value.sequence;
                Arc::make_mut(&mut self.meta).insert(planned.key, planned.value);
            }
        }
    }
}

impl Batch {
    /// An empty batch after `tip`.
    pub(super) fn after(tip: Tip) -> Self {
        Self { tip, resources: BTreeMap::new(), meta: BTreeMap::new() }
    }

    /// Where the counters will stand.
    pub(super) fn tip(&self) -> Tip {
        self.tip
    }

    /// Turns a write into a record and, if it changes a resource, a revision.
    pub(super) fn plan(&mut self, ledger: &Ledger, write: Write) -> Result<Planned, WriteProblem> {
        write.check()?;
        let revision = self.tip.revision.saturating_add(1);
        let sequence = self.tip.sequence.saturating_add(1);
        // Of several changes to one resource the last one counts.
        let wanted: BTreeMap<_, _> = write.changes.into_iter().map(|c| (c.key.clone(), c)).collect();
        let mut changes = Vec::with_capacity(wanted.len());
        for (key, change) in wanted {
            let before = match self.resources.get(&key) {
                Some(pending) => pending.clone(),
                None => ledger.resources.get(&key).cloned(),
            };
            let (file, line) = (change.file, change.line);
            let after =
                change.yaml.map(|yaml| StoredResource { key: key.clone(), file, line, yaml, revision });
            let same = match (&before, &after) {
                (Some(b), Some(a)) => (&b.yaml, &b.file, b.line) == (&a.yaml, &a.file, a.line),
                (before, after) => before.is_none() && after.is_none(),
            };
            if !same {
                changes.push(Change { key, before, after: after.map(Arc::new) });
            }
        }
        let document =
            |r: &Option<Arc<StoredResource>>| r.as_ref().map(|r| record::sha256(r.yaml.as_bytes()));
        let audit = |c: &Change| AuditChange {
            key: c.key.clone(),
            before: document(&c.before),
            after: document(&c.after),
        };
        let change_set = (!changes.is_empty()).then(|| record::encode_changes(revision, &changes));
        let unsealed = AuditRecord {
            sequence,
            revision: if changes.is_empty() { self.tip.revision } else { revision },
            time_ms: write.time_ms,
            actor: write.actor.clone(),
            verb: write.verb,
            detail: write.detail.clone(),
            changes: changes.iter().map(audit).collect(),
            previous: self.tip.head,
            change_set: change_set.as_deref().map(record::sha256),
            hash: Hash::default(),
        };
        let (record, record_stored) = record::encode_record(unsealed);
        for change in &changes {
            self.resources.insert(change.key.clone(), change.after.clone());
        }
        self.tip = Tip { revision: record.revision, sequence, head: record.hash, ..self.tip };
        let (time_ms, actor, verb, detail) = (write.time_ms, write.actor, write.verb, write.detail);
        let made = Revision { revision, sequence, time_ms, actor, verb, detail, changes };
        let revision = change_set.map(|stored| (Arc::new(made), stored));
        Ok(Planned { record: Arc::new(record), record_stored, revision })
    }

    /// Turns a value of another part into its stored form.
    pub(super) fn plan_meta(
        &mut self,
        ledger: &Ledger,
        key: String,
        value: Vec<u8>,
    ) -> Result<PlannedMeta, WriteProblem> {
        check_meta(&key, &value)?;
        if !ledger.meta.contains_key(&key) {
            self.meta.insert(key.clone(), ());
            let new = self.meta.keys().filter(|key| !ledger.meta.contains_key(*key)).count();
            if ledger.meta.len().saturating_add(new) > META_KEYS_MAX {
                self.meta.remove(&key);
                return Err(WriteProblem::TooManyMeta { key });
            }
        }
        self.tip.meta_sequence = self.tip.meta_sequence.saturating_add(1);
        let (value, stored) = record::encode_meta(self.tip.meta_sequence, value);
        Ok(PlannedMeta { key, value: Arc::new(value), stored })
    }
}

/// Stored records as they were found: audit records by sequence, change sets by revision, values by name.
#[derive(Default)]
pub(super) struct Found {
    pub(super) audit: BTreeMap<u64, Vec<u8>>,
    pub(super) changes: BTreeMap<u64, Vec<u8>>,
    pub(super) meta: BTreeMap<String, Vec<u8>>,
}

/// Why stored records do not add up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Inconsistent {
    /// A record is missing, unreadable, or not the successor of the one before.
    #[error("audit record {sequence} {problem}")]
    Audit { sequence: u64, problem: String },
    /// The same for a change set.
    #[error("the change set of revision {revision} {problem}")]
    Changes { revision: u64, problem: String },
    /// The same for a value of another part.
    #[error("the value {key:?} {problem}")]
    Meta { key: String, problem: String },
}

/// Rebuilds the state from stored records; every link and hash is checked, and nothing may be left over.
pub(super) fn replay(found: &Found) -> Result<Ledger, Inconsistent> {
    let mut chain = Chain::default();
    for (&sequence, stored) in &found.audit {
        chain.add(sequence, stored, |revision| found.changes.get(&revision).map(Vec::as_slice))?;
    }
    let extra = found.changes.keys().find(|revision| **revision > chain.tip.revision || **revision == 0);
    if let Some(&revision) = extra {
        let problem = "belongs to no audit record".to_owned();
        return Err(Inconsistent::Changes { revision, problem });
    }
    let mut meta = Meta::new();
    for (key, stored) in &found.meta {
        let value = record::decode_meta(stored)
            .map_err(|e| Inconsistent::Meta { key: key.clone(), problem: e.to_string() })?;
        chain.tip.meta_sequence = chain.tip.meta_sequence.max(value.sequence);
        meta.insert(key.clone(), Arc::new(value));
    }
    Ok(Ledger::new(chain.resources, meta, chain.log, chain.tip))
}

/// A chain of records as far as it is known to be good.
#[derive(Default)]
pub(super) struct Chain {
    resources: Resources,
    log: Log,
    tip: Tip,
}

impl Chain {
    /// Where it stands.
    pub(super) fn tip(&self) -> Tip {
        self.tip
    }

    /// Adds the next record, if it is the next and its change set, asked for by revision, is the one it names.
    pub(super) fn add<'a>(
        &mut self,
        sequence: u64,
        stored: &[u8],
        changes: impl FnOnce(u64) -> Option<&'a [u8]>,
    ) -> Result<(), Inconsistent> {
        let (record, change_set) = link(self.tip, sequence, stored)?;
        if let Some(expected) = change_set {
            let wrong = |problem: String| Inconsistent::Changes { revision: record.revision, problem };
            let stored = changes(record.revision).ok_or_else(|| wrong("is missing".to_owned()))?;
            if record::sha256(stored) != expected {
                return Err(wrong("is not the one its audit record names".to_owned()));
            }
            let (revision, outcomes) = record::decode_changes(stored).map_err(|e| wrong(e.to_string()))?;
            if revision != record.revision {
                return Err(wrong(format!("says that it is that of revision {revision}")));
            }
            self.apply(&record, outcomes);
        }
        self.tip.revision = record.revision;
        self.tip.sequence = sequence;
        self.tip.head = record.hash;
        self.log.records.push(Arc::new(record));
        Ok(())
    }

    fn apply(&mut self, record: &AuditRecord, outcomes: Vec<Outcome>) {
        let mut changes = Vec::with_capacity(outcomes.len());
        for (key, after) in outcomes {
            let after = after.map(Arc::new);
            let before = match &after {
                Some(after) => self.resources.insert(key.clone(), Arc::clone(after)),
                None => self.resources.remove(&key),
            };
            changes.push(Change { key, before, after });
        }
        self.log.revisions.push(Arc::new(Revision {
            revision: record.revision,
            sequence: record.sequence,
            time_ms: record.time_ms,
            actor: record.actor.clone(),
            verb: record.verb,
            detail: record.detail.clone(),
            changes,
        }));
    }
}

/// Decodes the record after `tip` and checks that it is that one.
fn link(tip: Tip, sequence: u64, stored: &[u8]) -> Result<(AuditRecord, Option<Hash>), Inconsistent> {
    let expected = tip.sequence.saturating_add(1);
    let wrong = |sequence, problem: String| Inconsistent::Audit { sequence, problem };
    if sequence != expected {
        return Err(wrong(expected, format!("is missing (the next one there is {sequence})")));
    }
    let (record, change_set) = record::decode_record(stored).map_err(|e| wrong(sequence, e.to_string()))?;
    if record.sequence != sequence {
        return Err(wrong(sequence, format!("says that it is record {}", record.sequence)));
    }
    if record.previous != tip.head {
        return Err(wrong(sequence, "does not follow from the record before it".to_owned()));
    }
    let expected = tip.revision.saturating_add(u64::from(change_set.is_some()));
    if record.revision != expected {
        let problem = format!("is of revision {}, not {expected}", record.revision);
        return Err(wrong(sequence, problem));
    }
    Ok((record, change_set))
}

/// Checks the links of a chain whose records are read one by one. An unreadable record is an `Err` with the reason.
/// The chain must reach `tip`.
pub(super) fn verify(
    records: impl IntoIterator<Item = (u64, Result<Vec<u8>, String>)>,
    expected: Tip,
) -> AuditReport {
    let mut tip = Tip::default();
    let broken = |tip: Tip, sequence, problem| {
        let broken = Some(BrokenLink { sequence, problem });
        AuditReport { records: tip.sequence, head: tip.head, broken }
    };
    for (sequence, stored) in records {
        let linked = stored
            .map_err(|problem| Inconsistent::Audit { sequence, problem })
            .and_then(|stored| link(tip, sequence, &stored));
        match linked {
            Ok((record, _)) => {
                tip = Tip { sequence, revision: record.revision, head: record.hash, ..tip };
            }
            Err(Inconsistent::Audit { sequence, problem }) => return broken(tip, sequence, problem),
            Err(other) => return broken(tip, sequence, other.to_string()),
        }
    }
    if tip.sequence < expected.sequence {
        return broken(tip, tip.sequence.saturating_add(1), "is missing".to_owned());
    }
    if tip.sequence == expected.sequence && tip.head != expected.head {
        return broken(tip, tip.sequence, "is not the record that was acknowledged".to_owned());
    }
    AuditReport { records: tip.sequence, head: tip.head, broken: None }
}

#[cfg(test)]
mod tests;
