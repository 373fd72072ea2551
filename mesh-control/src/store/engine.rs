//! The database itself: four sled trees of sealed values, and nothing that sled says is believed.
//!
//! `writer` owns an [`Engine`] and is the only one that writes; `disk::open` and `rescue` read it whole. Every call into
//! sled is made under `catch_unwind`, since it panics on damaged files.
//!
//! | tree | key | value (sealed) |
//! |---|---|---|
//! | `audit` | sequence number, big-endian | an audit record |
//! | `changes` | revision, big-endian | what it changed, with the documents |
//! | `resources` | `Kind/namespace/name` | a resource in force |
//! | `meta` | name | a value of another part |
//!
//! # Why
//! - A value's seal is bound to database, tree and key: none can take another's place, not even from an older backup.
//! - Values are cut into pieces of 4 KiB. sled moves a node of more than 128 KiB to a file of its own, which it neither
//!   fsyncs nor checks for; a leaf has at most 17 entries, so nodes of such pieces never get there.
//! - `resources` could be derived from `changes`. It is kept because a change then touches the state in force, its history
//!   and its audit record in one transaction, and because two independent copies show each other's damage.

use super::ledger::{Found, Ledger, Planned, PlannedMeta, Step};
use super::record;
use super::view::Resources;
use mesh_ca::seal::SealKey;
use sled::transaction::{TransactionError, Transactional, TransactionalTree, UnabortableTransactionError};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

/// sled's own cache. The state is in our memory, so sled is read at the start only.
const CACHE_BYTES: u64 = 4 << 20;
/// See the module's head.
const PIECE_BYTES: usize = 4096;
/// Where a database keeps its name, in the tree that sled always has. The name is no secret, and only a repair that lost
/// the manifest reads it.
const ID_KEY: &[u8] = b"database";
/// Length of the piece number at a key's end, and of the count before the first piece.
const NUMBER_BYTES: usize = 4;

/// Together a second: a child holds our descriptors for the time between fork and exec.
const LOCK_TRIES: u32 = 100;
const LOCK_WAIT: Duration = Duration::from_millis(10);

/// Names one database, so that no value of another one opens in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DatabaseId(pub(super) [u8; 16]);

impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl DatabaseId {
    /// A new one.
    pub(super) fn random() -> Self {
        Self(rand::random())
    }
}

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// The system refused something.
    #[error("{0}")]
    Io(io::Error),
    /// sled gave up.
    #[error("sled says: {0}")]
    Sled(String),
    /// sled panicked.
    #[error("sled cannot make sense of its files ({0})")]
    Panicked(String),
    /// A value is not whole, not ours, or not decodable.
    #[error("{tree} {key}: {problem}")]
    Value { tree: Table, key: String, problem: String },
    /// The trees contradict each other.
    #[error("{0}")]
    Inconsistent(#[from] super::ledger::Inconsistent),
    /// The resources in force are not those that the change sets lead to.
    #[error("{0} is in force without the revision that made it, or the other way round")]
    Resource(String),
}

/// The four trees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Table {
    Audit,
    Changes,
    Resources,
    Meta,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Audit => "audit",
            Self::Changes => "changes",
            Self::Resources => "resources",
            Self::Meta => "meta",
        })
    }
}

/// A key of one of the trees.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Number(u64),
    Text(String),
}

impl Key {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Number(number) => number.to_be_bytes().to_vec(),
            Self::Text(text) => text.clone().into_bytes(),
        }
    }

    fn piece(&self, number: u32) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// One value to be put or removed; the value is sealed already.
struct Put {
    table: Table,
    key: Key,
    value: Option<Vec<u8>>,
}

/// An open database.
pub(super) struct Engine {
    /// Dropped under `catch_unwind`, hence the `Option`; always there before that.
    db: Option<sled::Db>,
    trees: Trees,
    /// A second descriptor of sled's file, for the fsync that sled leaves out.
    file: File,
    id: DatabaseId,
    seal: Arc<SealKey>,
}

struct Trees {
    audit: sled::Tree,
    changes: sled::Tree,
    resources: sled::Tree,
    meta: sled::Tree,
}

impl Engine {
    /// Opens or makes the database in a directory.
    pub(super) fn open(directory: &Path, id: DatabaseId, seal: Arc<SealKey>) -> Result<Self, EngineError> {
        // No flush by the clock: a background flush that fails would poison sled between two writes of ours.
        let config = sled::Config::new().path(directory).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let (db, trees) = guarded(|| {
            let db = opened(&config)?;
            let trees = Trees {
                audit: db.open_tree("audit")?,
                changes: db.open_tree("changes")?,
                resources: db.open_tree("resources")?,
                meta: db.open_tree("meta")?,
            };
            Ok((db, trees))
        })?;
        let file =
            OpenOptions::new().read(true).write(true).open(directory.join("db")).map_err(EngineError::Io)?;
        Ok(Self { db: Some(db), trees, file, id, seal })
    }

    /// Opens a database whose name may be known only to itself.
    pub(super) fn open_as(
        directory: &Path,
        id: Option<DatabaseId>,
        seal: Arc<SealKey>,
    ) -> Result<Self, EngineError> {
        let mut engine = Self::open(directory, id.unwrap_or(DatabaseId([0; 16])), seal)?;
        if id.is_none() {
            let stored = guarded(|| engine.db.as_ref().map_or(Ok(None), |db| db.get(ID_KEY)))?;
            let bytes = stored.and_then(|bytes| bytes.as_ref().try_into().ok());
            engine.id =
                DatabaseId(bytes.ok_or_else(|| EngineError::Sled("it has lost its name".to_owned()))?);
        }
        Ok(engine)
    }

    /// sled's file, for reserving space.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Applies one write or value as one transaction. Not durable before [`flush`](Self::flush) and
    /// [`sync`](Self::sync).
    pub(super) fn apply(&self, step: &Step) -> Result<(), EngineError> {
        let puts = match step {
            Step::Write(planned) => self.puts(planned)?,
            Step::Meta(planned) => vec![self.put_meta(planned)?],
        };
        self.transact(&puts)
    }

    /// Hands everything to the system.
    pub(super) fn flush(&self) -> Result<(), EngineError> {
        guarded(|| self.db.as_ref().map_or(Ok(0), |db| db.flush())).map(drop)
    }

    /// Makes what the system has durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Reads and checks everything: each seal, each link of the chain, and that the trees agree.
    pub(super) fn load(&self) -> Result<Ledger, EngineError> {
        let found = self.found()?;
        let ledger = super::ledger::replay(&found)?;
        let mut stored = Resources::new();
        for (key, value) in self.read(Table::Resources)? {
            let resource = record::decode_resource(&value).map_err(|e| EngineError::Value {
                tree: Table::Resources,
                key: key.to_string(),
                problem: e.to_string(),
            })?;
            stored.insert(resource.key.clone(), Arc::new(resource));
        }
        let view = ledger.view();
        let replayed = view.resources();
        if stored != *replayed {
            let differs = replayed.iter().find(|(key, value)| stored.get(*key) != Some(*value));
            let extra = || stored.keys().find(|key| !replayed.contains_key(*key));
            let key = differs.map(|(key, _)| key).or_else(extra);
            return Err(EngineError::Resource(key.map(ToString::to_string).unwrap_or_default()));
        }
        Ok(ledger)
    }

    /// Audit records as far as they can be read, in order.
    pub(super) fn audit(&self) -> Result<BTreeMap<u64, Result<Vec<u8>, String>>, EngineError> {
        let mut records = BTreeMap::new();
        for (key, pieces) in self.pieces(Table::Audit)? {
            let sealed = joined(pieces).ok_or_else(|| "is not whole".to_owned());
            let plain = sealed.and_then(|sealed| self.open_value(Table::Audit, &key, &sealed));
            if let Key::Number(sequence) = key {
                records.insert(sequence, plain);
            }
        }
        Ok(records)
    }

    /// Everything that still opens; what does not is counted and left out.
    pub(super) fn salvage(&self) -> Result<(Found, u64), EngineError> {
        let mut found = Found::default();
        let mut lost = 0_u64;
        for table in [Table::Audit, Table::Changes, Table::Meta] {
            for (key, pieces) in self.pieces(table)? {
                let plain = joined(pieces).and_then(|sealed| self.open_value(table, &key, &sealed).ok());
                match plain {
                    Some(plain) => found.insert(table, key, plain),
                    None => lost = lost.saturating_add(1),
                }
            }
        }
        Ok((found, lost))
    }

    /// Removes what `loaded` has beyond `kept`, as one transaction.
    pub(super) fn undo(&self, loaded: &Ledger, kept: &Ledger) -> Result<(), EngineError> {
        let (from, to) = (kept.tip(), loaded.tip());
        let gone = |table, key| Put { table, key, value: None };
        let mut puts = Vec::new();
        for sequence in from.sequence.saturating_add(1)..=to.sequence {
            puts.push(gone(Table::Audit, Key::Number(sequence)));
        }
        for revision in from.revision.saturating_add(1)..=to.revision {
            puts.push(gone(Table::Changes, Key::Number(revision)));
        }
        let (loaded_view, kept_view) = (loaded.view(), kept.view());
        let (now, then) = (loaded_view.resources(), kept_view.resources());
        for key in now.keys().filter(|key| !then.contains_key(*key)) {
            puts.push(gone(Table::Resources, Key::Text(record::key_text(key))));
        }
        for (key, resource) in then.iter().filter(|(key, resource)| now.get(*key) != Some(*resource)) {
            let key = Key::Text(record::key_text(key));
            puts.push(self.put(Table::Resources, key, &record::encode_resource(resource))?);
        }
        for key in loaded.meta().keys().filter(|key| !kept.meta().contains_key(*key)) {
            puts.push(gone(Table::Meta, Key::Text(key.clone())));
        }
        for (key, value) in kept.meta() {
            if loaded.meta().get(key) != Some(value) {
                let (_, stored) = record::encode_meta(value.sequence, value.value.clone());
                puts.push(self.put(Table::Meta, Key::Text(key.clone()), &stored)?);
            }
        }
        self.transact(&puts)
    }

    /// Fills an empty database with stored records whose chain was checked, and makes it durable.
    pub(super) fn fill(&self, found: &Found, resources: &Resources) -> Result<(), EngineError> {
        let audit = found.audit.iter().map(|(n, stored)| (Table::Audit, Key::Number(*n), stored));
        let changes = found.changes.iter().map(|(n, stored)| (Table::Changes, Key::Number(*n), stored));
        let meta = found.meta.iter().map(|(key, stored)| (Table::Meta, Key::Text(key.clone()), stored));
        for (table, key, stored) in audit.chain(changes).chain(meta) {
            self.transact(&[self.put(table, key, stored)?])?;
        }
        for (key, resource) in resources {
            let key = Key::Text(record::key_text(key));
            self.transact(&[self.put(Table::Resources, key, &record::encode_resource(resource))?])?;
        }
        guarded(|| self.db.as_ref().map_or(Ok(None), |db| db.insert(ID_KEY, &self.id.0)))?;
        self.flush()?;
        self.sync().map_err(EngineError::Io)
    }

    fn found(&self) -> Result<Found, EngineError> {
        let mut found = Found::default();
        for table in [Table::Audit, Table::Changes, Table::Meta] {
            for (key, value) in self.read(table)? {
                found.insert(table, key, value);
            }
        }
        Ok(found)
    }

    fn puts(&self, planned: &Planned) -> Result<Vec<Put>, EngineError> {
        let sequence = Key::Number(planned.record.sequence);
        let mut puts = vec![self.put(Table::Audit, sequence, &planned.record_stored)?];
        if let Some((revision, stored)) = &planned.revision {
            puts.push(self.put(Table::Changes, Key::Number(revision.revision), stored)?);
            for change in &revision.changes {
                let key = Key::Text(record::key_text(&change.key));
                puts.push(match &change.after {
                    Some(after) => self.put(Table::Resources, key, &record::encode_resource(after))?,
                    None => Put { table: Table::Resources, key, value: None },
                });
            }
        }
        Ok(puts)
    }

    fn put_meta(&self, planned: &PlannedMeta) -> Result<Put, EngineError> {
        self.put(Table::Meta, Key::Text(planned.key.clone()), &planned.stored)
    }

    fn put(&self, table: Table, key: Key, plain: &[u8]) -> Result<Put, EngineError> {
        let sealed = self.seal.seal(&self.context(table, &key), plain);
        let value = Some(sealed.map_err(|e| EngineError::Io(io::Error::other(e)))?);
        Ok(Put { table, key, value })
    }

    fn open_value(&self, table: Table, key: &Key, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let opened = self.seal.open(&self.context(table, key), sealed);
        opened.map(|plain| plain.to_vec()).map_err(|_| "does not open: it was changed".to_owned())
    }

    fn context(&self, table: Table, key: &Key) -> String {
        format!("store {}/{table}/{key}", self.id)
    }

    fn tree(&self, table: Table) -> &sled::Tree {
        match table {
            Table::Audit => &self.trees.audit,
            Table::Changes => &self.trees.changes,
            Table::Resources => &self.trees.resources,
            Table::Meta => &self.trees.meta,
        }
    }

    fn transact(&self, puts: &[Put]) -> Result<(), EngineError> {
        let Trees { audit, changes, resources, meta } = &self.trees;
        let run = || {
            (audit, changes, resources, meta).transaction(|(audit, changes, resources, meta)| {
                for put in puts {
                    let tree = match put.table {
                        Table::Audit => audit,
                        Table::Changes => changes,
                        Table::Resources => resources,
                        Table::Meta => meta,
                    };
                    replace(tree, &put.key, put.value.as_deref())?;
                }
                Ok(())
            })
        };
        guarded(|| {
            run().map_err(|error: TransactionError<()>| match error {
                TransactionError::Storage(error) => error,
                TransactionError::Abort(()) => sled::Error::ReportableBug("aborted".to_owned()),
            })
        })
    }

    /// All pieces of a tree, by key and in order.
    fn pieces(&self, table: Table) -> Result<BTreeMap<Key, BTreeMap<u32, Vec<u8>>>, EngineError> {
        let wrong = |problem: &str| EngineError::Value {
            tree: table,
            key: "?".to_owned(),
            problem: problem.to_owned(),
        };
        let entries = guarded(|| self.tree(table).iter().collect::<Result<Vec<_>, _>>())?;
        let mut all: BTreeMap<Key, BTreeMap<u32, Vec<u8>>> = BTreeMap::new();
        for (name, value) in entries {
            let (name, number) =
                name.split_last_chunk::<NUMBER_BYTES>().ok_or_else(|| wrong("a key is too short"))?;
            let key = match table {
                Table::Audit | Table::Changes => {
                    let number = name.try_into().map_err(|_| wrong("a key is no number"))?;
                    Key::Number(u64::from_be_bytes(number))
                }
                Table::Resources | Table::Meta => {
                    let text = String::from_utf8(name.to_vec());
                    Key::Text(text.map_err(|_| wrong("a key is no text"))?)
                }
            };
            all.entry(key).or_default().insert(u32::from_be_bytes(*number), value.to_vec());
        }
        Ok(all)
    }

    /// All values of a tree, opened.
    fn read(&self, table: Table) -> Result<Vec<(Key, Vec<u8>)>, EngineError> {
        let mut values = Vec::new();
        for (key, pieces) in self.pieces(table)? {
            let wrong = |problem: String| EngineError::Value { tree: table, key: key.to_string(), problem };
            let sealed = joined(pieces).ok_or_else(|| wrong("is not whole".to_owned()))?;
            let plain = self.open_value(table, &key, &sealed).map_err(wrong)?;
            values.push((key, plain));
        }
        Ok(values)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // sled flushes here, and panics if it cannot. Everything acknowledged is durable already.
        let db = self.db.take();
        let _ = guarded(|| {
            drop(db);
            Ok(())
        });
    }
}

impl Found {
    fn insert(&mut self, table: Table, key: Key, plain: Vec<u8>) {
        match (table, key) {
            (Table::Audit, Key::Number(number)) => drop(self.audit.insert(number, plain)),
            (Table::Changes, Key::Number(number)) => drop(self.changes.insert(number, plain)),
            (Table::Meta, Key::Text(text)) => drop(self.meta.insert(text, plain)),
            (Table::Resources | Table::Audit | Table::Changes | Table::Meta, _) => {}
        }
    }
}

/// Puts a value's pieces, or removes them, and removes what a longer predecessor left.
fn replace(
    tree: &TransactionalTree,
    key: &Key,
    value: Option<&[u8]>,
) -> Result<(), UnabortableTransactionError> {
    let old = tree.get(key.piece(0))?.and_then(|first| count(&first)).unwrap_or(0);
    let pieces = value.map(|value| value.chunks(PIECE_BYTES).collect::<Vec<_>>()).unwrap_or_default();
    let new = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
    for (number, piece) in (0_u32..).zip(pieces) {
        let mut bytes = Vec::with_capacity(piece.len().saturating_add(NUMBER_BYTES));
        if number == 0 {
            bytes.extend_from_slice(&new.to_be_bytes());
        }
        bytes.extend_from_slice(piece);
        tree.insert(key.piece(number), bytes)?;
    }
    for number in new..old {
        tree.remove(key.piece(number))?;
    }
    Ok(())
}

/// How many pieces there are, by the first one.
fn count(first: &[u8]) -> Option<u32> {
    first.first_chunk::<NUMBER_BYTES>().map(|count| u32::from_be_bytes(*count))
}

/// The value of its pieces, if they are all there and no more.
fn joined(pieces: BTreeMap<u32, Vec<u8>>) -> Option<Vec<u8>> {
    let expected = count(pieces.get(&0)?)?;
    let dense = pieces.keys().copied().eq(0..expected);
    let mut value = pieces.into_values().flatten();
    if !dense || value.by_ref().take(NUMBER_BYTES).count() != NUMBER_BYTES {
        return None;
    }
    Some(value.collect())
}

/// Opens sled, and waits a little for its lock: nobody else has it, since the store's own lock is ours, but a child that
/// another thread is just starting still holds the descriptors of a database that we closed.
fn opened(config: &sled::Config) -> sled::Result<sled::Db> {
    for _ in 0..LOCK_TRIES {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                std::thread::park_timeout(LOCK_WAIT);
            }
            other => return other,
        }
    }
    config.open()
}

/// Calls sled and turns its panics into errors.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, EngineError> {
    silence_guarded_panics();
    let outer = IS_GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    IS_GUARDED.set(outer);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(EngineError::Io(error)),
        Ok(Err(error)) => Err(EngineError::Sled(error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
            Err(EngineError::Panicked(text.chars().take(160).collect()))
        }
    }
}

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Keeps caught panics off the screen: what they mean is in the error that follows. Other panics are shown as before.
fn silence_guarded_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                shown(panic);
            }
        }));
    });
}
