//! What a store knows, as a picture of one moment that later writes do not change. Pure.

use super::StoreError;
use super::write::{ResourceChange, Verb};
use mesh_proto::resource::ResourceKey;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};

/// SHA-256.
pub type Hash = [u8; 32];

/// Resources by key, in the order in which they are shown.
pub type Resources = BTreeMap<ResourceKey, Arc<StoredResource>>;

/// A document as it was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredResource {
    /// What it is called.
    pub key: ResourceKey,
    /// The file it came from; empty when unknown.
    pub file: String,
    /// Its first line there, from 1; 0 when unknown.
    pub line: u32,
    /// The document.
    pub yaml: String,
    /// The revision of its last change.
    pub revision: u64,
}

/// What happened to one resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Which one.
    pub key: ResourceKey,
    /// What it was; `None`: it did not exist.
    pub before: Option<Arc<StoredResource>>,
    /// What it became; `None`: it was deleted.
    pub after: Option<Arc<StoredResource>>,
}

/// One accepted change of the mesh's resources.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revision {
    /// Its number, from 1, without gaps.
    pub revision: u64,
    /// The sequence number of its audit record.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Who.
    pub actor: String,
    /// What kind of act.
    pub verb: Verb,
    /// One line for people.
    pub detail: String,
    /// What changed, by key.
    pub changes: Vec<Change>,
}

/// One record of the audit chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditRecord {
    /// Its number, from 1, without gaps.
    pub sequence: u64,
    /// The revision in force after it.
    pub revision: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Who.
    pub actor: String,
    /// What kind of act.
    pub verb: Verb,
    /// One line for people.
    pub detail: String,
    /// What changed.
    pub changes: Vec<AuditChange>,
    /// SHA-256 of the record before; zeros for the first.
    pub previous: Hash,
    /// SHA-256 of the revision's stored change set; `None` when nothing changed.
    pub change_set: Option<Hash>,
    /// SHA-256 of this one, which covers `previous` and with it all before.
    pub hash: Hash,
}

/// What an audit record says of one resource: enough to prove a document, not to show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditChange {
    /// Which one.
    pub key: ResourceKey,
    /// SHA-256 of its document before, as `sha256sum` computes it; `None`: it did not exist.
    pub before: Option<Hash>,
    /// The same after; `None`: it was deleted.
    pub after: Option<Hash>,
}

/// What a check of the audit chain found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditReport {
    /// Records that are there and linked, from the first on.
    pub records: u64,
    /// The hash of the last of them.
    pub head: Hash,
    /// The first record that is missing, unreadable or not linked, and why; `None`: the chain is intact.
    pub broken: Option<BrokenLink>,
}

/// Where an audit chain breaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokenLink {
    /// The sequence number of the first record that is wrong.
    pub sequence: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// A value of another part of the control plane.
#[derive(PartialEq, Eq)]
pub(super) struct MetaValue {
    /// Counts all such writes; a value's is that of its last write.
    pub(super) sequence: u64,
    /// SHA-256 of its stored form.
    pub(super) hash: Hash,
    pub(super) value: Vec<u8>,
}

/// Values of other parts, by name.
pub(super) type Meta = BTreeMap<String, Arc<MetaValue>>;

/// All that ever happened. Only ever grows, so that a view needs no copy of it.
#[derive(Default)]
pub(super) struct Log {
    pub(super) records: Vec<Arc<AuditRecord>>,
    pub(super) revisions: Vec<Arc<Revision>>,
}

/// What a store knew at one moment. Cheap to take; keep it no longer than needed, since the first commit meanwhile
/// copies the table of resources.
#[derive(Clone)]
pub struct ReadView {
    pub(super) resources: Arc<Resources>,
    pub(super) meta: Arc<Meta>,
    pub(super) log: Arc<RwLock<Log>>,
    pub(super) revision: u64,
    pub(super) sequence: u64,
    pub(super) head: Hash,
}

impl ReadView {
    /// The revision in force; 0 before the first.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The sequence number of the last audit record; 0 before the first.
    pub fn audit_sequence(&self) -> u64 {
        self.sequence
    }

    /// The hash of the last audit record. Whoever writes it down elsewhere can later prove that nothing was rewritten.
    pub fn audit_head(&self) -> Hash {
        self.head
    }

    /// The resources in force.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// One resource in force.
    pub fn resource(&self, key: &ResourceKey) -> Option<&Arc<StoredResource>> {
        self.resources.get(key)
    }

    /// The resources that were in force at a revision; 0 is the empty beginning.
    ///
    /// # Errors
    /// There is no such revision yet.
    pub fn resources_at(&self, revision: u64) -> Result<Arc<Resources>, StoreError> {
        if revision == self.revision {
            return Ok(Arc::clone(&self.resources));
        }
        self.check_revision(revision)?;
        let mut resources = Resources::new();
        for past in &self.revisions(1..=revision) {
            for change in &past.changes {
                match &change.after {
                    Some(after) => resources.insert(change.key.clone(), Arc::clone(after)),
                    None => resources.remove(&change.key),
                };
            }
        }
        Ok(Arc::new(resources))
    }

    /// The newest revisions first, at most `limit`; with a key only those that changed it.
    pub fn history(&self, limit: usize, key: Option<&ResourceKey>) -> Vec<Arc<Revision>> {
        let touches = |r: &Revision| key.is_none_or(|key| r.changes.iter().any(|change| change.key == *key));
        let all = self.revisions(1..=self.revision);
        all.into_iter().rev().filter(|r| touches(r)).take(limit).collect()
    }

    /// What one revision changed, and who did it.
    ///
    /// # Errors
    /// There is no such revision.
    pub fn change_set(&self, revision: u64) -> Result<Arc<Revision>, StoreError> {
        self.check_revision(revision)?;
        let missing = StoreError::NoSuchRevision { asked: revision, newest: self.revision };
        self.revisions(revision..=revision).into_iter().next().ok_or(missing)
    }

    /// How the resources at `to` differ from those at `from`, by key. Either may be the older one.
    ///
    /// # Errors
    /// One of the revisions does not exist.
    pub fn diff(&self, from: u64, to: u64) -> Result<Vec<Change>, StoreError> {
        let (before, after) = (self.resources_at(from)?, self.resources_at(to)?);
        let keys: BTreeSet<&ResourceKey> = before.keys().chain(after.keys()).collect();
        let same =
            |a: &StoredResource, b: &StoredResource| (&a.yaml, &a.file, a.line) == (&b.yaml, &b.file, b.line);
        let mut changes = Vec::new();
        for key in keys {
            let (old, new) = (before.get(key), after.get(key));
            if !matches!((old, new), (Some(old), Some(new)) if same(old, new)) {
                changes.push(Change { key: key.clone(), before: old.cloned(), after: new.cloned() });
            }
        }
        Ok(changes)
    }

    /// The changes that bring the resources of a past revision back; empty when nothing differs.
    ///
    /// # Errors
    /// There is no such revision.
    pub fn changes_back_to(&self, revision: u64) -> Result<Vec<ResourceChange>, StoreError> {
        let back = |change: Change| match change.after {
            Some(then) => ResourceChange {
                key: change.key,
                file: then.file.clone(),
                line: then.line,
                yaml: Some(then.yaml.clone()),
            },
            None => ResourceChange { key: change.key, file: String::new(), line: 0, yaml: None },
        };
        Ok(self.diff(self.revision, revision)?.into_iter().map(back).collect())
    }

    /// Audit records by sequence number, oldest first; numbers that do not exist are left out.
    pub fn audit(&self, sequences: RangeInclusive<u64>) -> Vec<Arc<AuditRecord>> {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        slice(&log.records, sequences, self.sequence).to_vec()
    }

    /// A value of another part, as [`put_meta`](super::Store::put_meta) last kept it.
    pub fn meta(&self, key: &str) -> Option<Vec<u8>> {
        self.meta.get(key).map(|meta| meta.value.clone())
    }

    /// The revisions in a range, oldest first.
    pub(super) fn revisions(&self, numbers: RangeInclusive<u64>) -> Vec<Arc<Revision>> {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        slice(&log.revisions, numbers, self.revision).to_vec()
    }

    fn check_revision(&self, revision: u64) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::NoSuchRevision { asked: revision, newest: self.revision });
        }
        Ok(())
    }
}

/// The entries numbered `range` of a list whose first has the number 1, as far as `newest`.
fn slice<T>(all: &[T], range: RangeInclusive<u64>, newest: u64) -> &[T] {
    let end = usize::try_from((*range.end()).min(newest)).unwrap_or(usize::MAX).min(all.len());
    let start = usize::try_from(range.start().saturating_sub(1)).unwrap_or(usize::MAX).min(end);
    all.get(start..end).unwrap_or(&[])
}
