//! What the database must hold, written beside it: the only way to notice that sled lost something.
//!
//! `writer` replaces it with every batch, after the batch is in the database and before anyone is told so; `disk::open`
//! compares. It is sealed, so that it cannot be made to fit a rolled-back database without the key.
//!
//! # Why this order
//! database (fsync) → manifest (fsync, rename) → acknowledgement → fsync of the directory. A crash between two steps
//! leaves the database *ahead* of the manifest by writes that nobody was told of (after a power cut before the last step,
//! by a batch that somebody was told of); they are chained to what the manifest names, so they are kept. The database is
//! never *behind*: if it is, acknowledged writes are gone, and the store refuses to open. Writing the manifest less often
//! would be cheaper still, and would leave a window of acknowledged writes whose loss nobody notices.

use super::durable::Points;
use super::engine::DatabaseId;
use super::faults::Point;
use super::ledger::{Batch, Ledger, Step, Tip};
use super::record::sha256_of;
use super::view::Hash;
use mesh_ca::seal::SealKey;
use prost::Message;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

const MAGIC: &[u8; 16] = b"meshctl-manifest";
const FORMAT: u8 = 1;
const CONTEXT: &str = "store manifest";
/// Fixed part of a manifest, its seal and its header, generously.
const FIXED_BYTES: u64 = 1024;
/// What one listed value takes at most, generously.
const ENTRY_BYTES: u64 = 256;

/// The acts of replacing a manifest.
pub(super) const POINTS: Points = Points {
    create: Point::ManifestCreate,
    write: Point::ManifestWrite,
    sync: Point::ManifestSync,
    rename: Point::ManifestRename,
    sync_directory: Point::ManifestSyncDirectory,
};

/// What a database must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Manifest {
    /// Which database.
    pub(super) database: DatabaseId,
    /// The counters and the head of the chain.
    pub(super) tip: Tip,
    /// Resources in force.
    pub(super) resources: u64,
    /// Values of other parts: the number of the last write, and the hash.
    pub(super) meta: BTreeMap<String, (u64, Hash)>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error("its manifest is missing")]
    Missing,
    #[error("its manifest is damaged ({0})")]
    Damaged(&'static str),
    #[error("its manifest has the format {0}, which only a newer release knows")]
    Newer(u8),
    #[error("its manifest was sealed under another key")]
    WrongKey,
    #[error("its manifest cannot be read: {0}")]
    Io(io::Error),
}

/// How a database differs from its manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    #[error("audit records {first} to {last} are gone ({last} were acknowledged)")]
    RecordsGone { first: u64, last: u64 },
    #[error("audit record {sequence} is not the one that was acknowledged")]
    AnotherRecord { sequence: u64 },
    #[error("{found} resources are in force, {expected} were")]
    Resources { found: u64, expected: u64 },
    #[error("the value {key:?} is gone")]
    MetaGone { key: String },
    #[error("the value {key:?} is an older one than was acknowledged, or another")]
    MetaChanged { key: String },
}

#[derive(Clone, PartialEq, Message)]
struct Form {
    #[prost(bytes = "vec", tag = "1")]
    database: Vec<u8>,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "4")]
    head: Vec<u8>,
    #[prost(uint64, tag = "5")]
    meta_sequence: u64,
    #[prost(uint64, tag = "6")]
    resources: u64,
    #[prost(message, repeated, tag = "7")]
    meta: Vec<MetaForm>,
}

#[derive(Clone, PartialEq, Message)]
struct MetaForm {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
}

impl Manifest {
    /// The manifest of a state.
    pub(super) fn of(database: DatabaseId, ledger: &Ledger) -> Self {
        let entry = |(key, value): (&String, &std::sync::Arc<super::view::MetaValue>)| {
            (key.clone(), (value.sequence, value.hash))
        };
        Self {
            database,
            tip: ledger.tip(),
            resources: ledger.resource_count(),
            meta: ledger.meta().iter().map(entry).collect(),
        }
    }

    /// How many bytes its sealed form takes at most.
    pub(super) fn bytes_max(&self) -> u64 {
        let values = u64::try_from(self.meta.len()).unwrap_or(u64::MAX);
        values.saturating_mul(ENTRY_BYTES).saturating_add(FIXED_BYTES)
    }

    /// Moves it past a batch.
    pub(super) fn after(&mut self, batch: &Batch, steps: &[Step]) {
        self.tip = batch.tip();
        for step in steps {
            match step {
                Step::Meta(planned) => {
                    let entry = (planned.value.sequence, planned.value.hash);
                    self.meta.insert(planned.key.clone(), entry);
                }
                Step::Write(planned) => {
                    let changes = planned.revision.iter().flat_map(|(revision, _)| &revision.changes);
                    for change in changes {
                        match (&change.before, &change.after) {
                            (None, Some(_)) => self.resources = self.resources.saturating_add(1),
                            (Some(_), None) => self.resources = self.resources.saturating_sub(1),
                            _ => {}
                        }
                    }
                }
            }
        }
    }

    /// Its sealed form.
    pub(super) fn seal(&self, key: &SealKey) -> io::Result<Vec<u8>> {
        let meta = self.meta.iter().map(|(key, (sequence, hash))| MetaForm {
            key: key.clone(),
            sequence: *sequence,
            hash: hash.to_vec(),
        });
        let form = Form {
            database: self.database.0.to_vec(),
            revision: self.tip.revision,
            sequence: self.tip.sequence,
            head: self.tip.head.to_vec(),
            meta_sequence: self.tip.meta_sequence,
            resources: self.resources,
            meta: meta.collect(),
        };
        let sealed = key.seal(CONTEXT, &form.encode_to_vec()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(sealed.len().saturating_add(64));
        bytes.extend_from_slice(MAGIC);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&checksum(FORMAT, &sealed));
        bytes.extend_from_slice(&sealed);
        Ok(bytes)
    }

    /// Reads a manifest. A wrong key and a damaged file are told apart by the plain checksum.
    pub(super) fn read(path: &Path, key: &SealKey) -> Result<Self, ManifestError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ManifestError::Missing),
            Err(error) => return Err(ManifestError::Io(error)),
        };
        let damaged = ManifestError::Damaged;
        let (magic, rest) = bytes.split_first_chunk::<16>().ok_or(damaged("too short"))?;
        let (format, rest) = rest.split_first().ok_or(damaged("too short"))?;
        let (hash, sealed) = rest.split_first_chunk::<32>().ok_or(damaged("too short"))?;
        if magic != MAGIC {
            return Err(damaged("not a manifest"));
        }
        if checksum(*format, sealed) != *hash {
            return Err(damaged("checksum differs"));
        }
        if *format != FORMAT {
            return Err(ManifestError::Newer(*format));
        }
        let plain = key.open(CONTEXT, sealed).map_err(|_| ManifestError::WrongKey)?;
        Self::decode(&plain).ok_or(damaged("not decodable"))
    }

    fn decode(plain: &[u8]) -> Option<Self> {
        let form = Form::decode(plain).ok()?;
        let mut meta = BTreeMap::new();
        for entry in form.meta {
            meta.insert(entry.key, (entry.sequence, entry.hash.try_into().ok()?));
        }
        let tip = Tip {
            revision: form.revision,
            sequence: form.sequence,
            head: form.head.try_into().ok()?,
            meta_sequence: form.meta_sequence,
        };
        Some(Self {
            database: DatabaseId(form.database.try_into().ok()?),
            tip,
            resources: form.resources,
            meta,
        })
    }

    /// Whether a state holds everything that the manifest names. More is fine: it was never acknowledged, and its links
    /// were checked when the state was read.
    pub(super) fn check(&self, ledger: &Ledger) -> Result<(), Mismatch> {
        let (found, expected) = (ledger.tip(), self.tip);
        if found.sequence < expected.sequence {
            let first = found.sequence.saturating_add(1);
            return Err(Mismatch::RecordsGone { first, last: expected.sequence });
        }
        if expected.sequence > 0 {
            let at = ledger.view().audit(expected.sequence..=expected.sequence);
            if !at.first().is_some_and(|r| r.hash == expected.head && r.revision == expected.revision) {
                return Err(Mismatch::AnotherRecord { sequence: expected.sequence });
            }
        }
        let resources = ledger.resource_count();
        if found.sequence == expected.sequence && resources != self.resources {
            return Err(Mismatch::Resources { found: resources, expected: self.resources });
        }
        for (key, (sequence, hash)) in &self.meta {
            let value = ledger.meta().get(key).ok_or_else(|| Mismatch::MetaGone { key: key.clone() })?;
            let same = value.sequence == *sequence && value.hash == *hash;
            if !same && value.sequence <= expected.meta_sequence {
                return Err(Mismatch::MetaChanged { key: key.clone() });
            }
        }
        let known = |key: &String, sequence| self.meta.contains_key(key) || sequence > expected.meta_sequence;
        match ledger.meta().iter().find(|(key, value)| !known(key, value.sequence)) {
            Some((key, _)) => Err(Mismatch::MetaChanged { key: key.clone() }),
            None => Ok(()),
        }
    }
}

/// Covers all of the file but itself, so that a flipped bit is never taken for another key or a newer release.
fn checksum(format: u8, sealed: &[u8]) -> Hash {
    sha256_of(&[MAGIC, &[format], sealed])
}

#[cfg(test)]
mod tests;
