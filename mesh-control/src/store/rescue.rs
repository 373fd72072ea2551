//! Making a database, whole or not at all: a new one, one from a backup, one from what a damaged one still holds.
//!
//! `disk::open` makes new ones; `meshctl restore` and `meshctl check --repair-store` call the rest while no control plane
//! runs. A database is made as `data.new`, made durable, and then named `data`; nothing is ever repaired in place, and
//! what a repair replaces is kept.

use super::BackupReport;
use super::disk::{OpenError, claim, damaged, manifest_refused};
use super::durable::{copy_tree, remove_tree, sync_directory, sync_tree};
use super::engine::{DatabaseId, Engine, EngineError};
use super::export;
use super::faults::{Faults, NoFaults, Point};
use super::ledger::{Chain, Found, Ledger, replay};
use super::manifest::{Manifest, ManifestError};
use super::place::{Place, database_in, make_directory, manifest_in};
use super::record;
use mesh_ca::seal::SealKey;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a repair saved, and what it could not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairReport {
    /// The revision in force now.
    pub revision: u64,
    /// Audit records saved; they are the first ones, without gaps.
    pub records: u64,
    /// Acknowledged records that are lost; `None`: unknown, because the manifest was lost too.
    pub records_lost: Option<u64>,
    /// Resources in force now.
    pub resources: u64,
    /// Values of other parts that are lost, or were brought back in an older state.
    pub values_lost: Vec<String>,
    /// What could not be read, for people.
    pub problems: Vec<String>,
    /// Where the damaged database was put.
    pub kept_as: PathBuf,
}

/// Makes an empty store.
pub(super) fn create(place: &Place, seal: &Arc<SealKey>, faults: &dyn Faults) -> Result<(), OpenError> {
    build(place, seal, faults, &Found::default(), &Ledger::empty())?;
    name(place, faults)
}

/// Makes a store from a backup, in a directory that is empty or missing. Blocks.
///
/// # Errors
/// The directory is not empty, the backup cannot be used, or the disk refuses; there is no store then.
pub fn restore(backup: &mut dyn io::Read, dir: &Path, seal: Arc<SealKey>) -> Result<BackupReport, OpenError> {
    let place = Place::new(dir);
    let io = |source| OpenError::Io { path: dir.to_path_buf(), tried: "read", source };
    if !place.is_empty().map_err(io)? {
        return Err(OpenError::NotEmpty { path: dir.to_path_buf() });
    }
    let mut counted = Counted { input: backup, bytes: 0 };
    let mut found = Found::default();
    let heading =
        export::read(&mut counted, &seal, &mut found).map_err(|problem| OpenError::Backup { problem })?;
    let bytes = counted.bytes;
    let contradiction = |problem: String| OpenError::Contradiction { problem };
    let ledger = replay(&found).map_err(|e| contradiction(e.to_string()))?;
    let tip = ledger.tip();
    if (tip.sequence, tip.head, tip.revision)
        != (heading.tip.sequence, heading.tip.head, heading.tip.revision)
    {
        return Err(contradiction("its records do not lead to the state it names".to_owned()));
    }
    let _lock = claim(&place)?;
    build(&place, &seal, &NoFaults, &found, &ledger)?;
    name(&place, &NoFaults)?;
    Ok(BackupReport {
        revision: tip.revision,
        records: tip.sequence,
        resources: ledger.resource_count(),
        bytes,
    })
}

/// Rebuilds a store from everything that still verifies: its database and its exports. Blocks; no control plane may run.
///
/// The longest unbroken beginning of the audit chain is kept, with every revision and resource that follows from it, and
/// the newest readable state of each value. The damaged database stays beside the new one.
///
/// # Errors
/// The seal key is wrong, nothing verifies, or the disk refuses; the store is as it was then.
pub fn repair(dir: &Path, seal: Arc<SealKey>) -> Result<RepairReport, OpenError> {
    let place = Place::new(dir);
    let io = |tried| move |source| OpenError::Io { path: dir.to_path_buf(), tried, source };
    let _lock = claim(&place)?;
    let source =
        if place.data().exists() { Some(place.data()) } else { place.damaged().map_err(io("read"))?.pop() };
    let mut problems = Vec::new();
    let mut manifest = None;
    let mut sources = Vec::new();
    if let Some(source) = &source {
        match Manifest::read(&manifest_in(source), &seal) {
            Ok(read) => manifest = Some(read),
            Err(error @ (ManifestError::WrongKey | ManifestError::Newer(_) | ManifestError::Io(_))) => {
                return Err(manifest_refused(&place, error));
            }
            Err(error) => problems.push(error.to_string()),
        }
        sources.extend(from_database(&place, source, manifest.as_ref(), &seal, &mut problems));
    }
    sources.extend(from_exports(&place, &seal, &mut problems).map_err(io("read"))?);
    let (found, ledger) = merged(&sources, &mut problems);
    let tip = ledger.tip();
    let expected = manifest.as_ref().map(|manifest| manifest.tip.sequence);
    let empty = tip.sequence == 0 && found.meta.is_empty();
    if empty && (expected != Some(0) || manifest.as_ref().is_some_and(|m| !m.meta.is_empty())) {
        let problem = problems.join("; ");
        let (path, state) = (dir.to_path_buf(), place.state_dir());
        return Err(OpenError::NothingLeft { path, state, problem });
    }
    build(&place, &seal, &NoFaults, &found, &ledger)?;
    let kept_as = match source.filter(|source| *source == place.data()) {
        Some(source) => {
            let kept = place.next_damaged().map_err(io("read"))?;
            std::fs::rename(source, &kept).map_err(io("set aside"))?;
            kept
        }
        None => place.damaged().map_err(io("read"))?.pop().unwrap_or_else(|| place.exports()),
    };
    name(&place, &NoFaults)?;
    let is_lost = |(key, (sequence, _)): &(&String, &(u64, super::view::Hash))| {
        ledger.meta().get(*key).is_none_or(|value| value.sequence < *sequence)
    };
    let values = manifest.iter().flat_map(|manifest| &manifest.meta).filter(is_lost);
    Ok(RepairReport {
        revision: tip.revision,
        records: tip.sequence,
        records_lost: expected.map(|expected| expected.saturating_sub(tip.sequence)),
        resources: ledger.resource_count(),
        values_lost: values.map(|(key, _)| key.clone()).collect(),
        problems,
        kept_as,
    })
}

/// What opens in a copy of the database.
fn from_database(
    place: &Place,
    source: &Path,
    manifest: Option<&Manifest>,
    seal: &Arc<SealKey>,
    problems: &mut Vec<String>,
) -> Option<Found> {
    let copy = place.dir().join("data.repair");
    let mut salvaged = None;
    // A check that was interrupted while it put the files back left them beside the data directory.
    let present = database_in(source);
    let files = if present.exists() { present } else { place.before() };
    let copied = remove_tree(&copy).and_then(|()| copy_tree(&files, &copy));
    let opened = match copied {
        Ok(()) => Engine::open_as(&copy, manifest.map(|manifest| manifest.database), Arc::clone(seal)),
        Err(error) => Err(EngineError::Io(error)),
    };
    match opened.and_then(|engine| engine.salvage()) {
        Ok((found, lost)) => {
            if lost > 0 {
                problems.push(format!("{lost} values in the database do not open"));
            }
            salvaged = Some(found);
        }
        Err(error) => problems.push(format!("the database: {error}")),
    }
    if let Err(error) = remove_tree(&copy) {
        problems.push(format!("{}: {error}", copy.display()));
    }
    salvaged
}

/// What can be read of the exports, newest first.
fn from_exports(place: &Place, seal: &SealKey, problems: &mut Vec<String>) -> io::Result<Vec<Found>> {
    let mut all = Vec::new();
    for path in place.exported()? {
        let mut found = Found::default();
        let mut file = io::BufReader::new(File::open(&path)?);
        if let Err(problem) = export::read(&mut file, seal, &mut found) {
            problems.push(format!("the export {}: {problem}", path.display()));
        }
        all.push(found);
    }
    Ok(all)
}

/// The longest chain that the sources make together, and the newest state of each value.
fn merged(sources: &[Found], problems: &mut Vec<String>) -> (Found, Ledger) {
    let mut kept = Found::default();
    let mut chain = Chain::default();
    loop {
        let sequence = chain.tip().sequence.saturating_add(1);
        let Some((record, changes)) = next(sources, &mut chain, sequence) else { break };
        kept.audit.insert(sequence, record);
        if let Some(changes) = changes {
            kept.changes.insert(chain.tip().revision, changes);
        }
    }
    let beyond = sources.iter().any(|found| found.audit.keys().any(|n| *n > chain.tip().sequence));
    if beyond {
        problems
            .push(format!("audit record {} is lost; later ones cannot be trusted", chain.tip().sequence + 1));
    }
    let mut newest = std::collections::BTreeMap::new();
    for (key, stored) in sources.iter().flat_map(|found| &found.meta) {
        let Ok(value) = record::decode_meta(stored) else { continue };
        if newest.get(key).is_none_or(|sequence| *sequence < value.sequence) {
            newest.insert(key.clone(), value.sequence);
            kept.meta.insert(key.clone(), stored.clone());
        }
    }
    // Everything kept was checked one by one, so that this cannot fail; if it does, nothing was salvaged.
    let ledger = replay(&kept).unwrap_or_else(|error| {
        problems.push(error.to_string());
        Ledger::empty()
    });
    (kept, ledger)
}

/// Adds the next record that any source has and that fits; returns it and its change set.
fn next(sources: &[Found], chain: &mut Chain, sequence: u64) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let before = chain.tip().revision;
    for record in sources.iter().filter_map(|found| found.audit.get(&sequence)) {
        let revision = before.saturating_add(1);
        let sets = sources.iter().filter_map(|found| found.changes.get(&revision));
        for changes in sets.map(Some).chain([None]) {
            if chain.add(sequence, record, |_| changes.map(Vec::as_slice)).is_ok() {
                let used = changes.filter(|_| chain.tip().revision > before);
                return Some((record.clone(), used.cloned()));
            }
        }
    }
    None
}

/// Makes `data.new`, whole and durable; a part of one is removed again, since the space may be what is missing.
fn build(
    place: &Place,
    seal: &Arc<SealKey>,
    faults: &dyn Faults,
    found: &Found,
    ledger: &Ledger,
) -> Result<(), OpenError> {
    let new = place.data_new();
    let io = |source| OpenError::Io { path: place.dir().to_path_buf(), tried: "made", source };
    faults.reach(Point::CreateDatabase).and_then(|()| remove_tree(&new)).map_err(io)?;
    let built = fill(&new, seal, found, ledger).map_err(|error| match error {
        EngineError::Io(source) => io(source),
        other => damaged(place, other.to_string()),
    });
    if built.is_err() {
        remove_tree(&new).map_err(io)?;
    }
    built
}

/// Makes a data directory with a database and its manifest.
fn fill(new: &Path, seal: &Arc<SealKey>, found: &Found, ledger: &Ledger) -> Result<(), EngineError> {
    make_directory(new).map_err(EngineError::Io)?;
    let id = DatabaseId::random();
    let engine = Engine::open(&database_in(new), id, Arc::clone(seal))?;
    engine.fill(found, ledger.view().resources())?;
    // Dropping it writes; only then are its files what will be found.
    drop(engine);
    let manifest = Manifest::of(id, ledger).seal(seal).map_err(EngineError::Io)?;
    std::fs::write(manifest_in(new), manifest).map_err(EngineError::Io)?;
    sync_tree(new).map_err(EngineError::Io)
}

/// Gives `data.new` its name.
fn name(place: &Place, faults: &dyn Faults) -> Result<(), OpenError> {
    let named = faults
        .reach(Point::CreateRename)
        .and_then(|()| std::fs::rename(place.data_new(), place.data()))
        .and_then(|()| faults.reach(Point::CreateSync))
        .and_then(|()| sync_directory(place.dir()));
    named.map_err(|source| OpenError::Io { path: place.dir().to_path_buf(), tried: "named", source })
}

/// Counts what is read.
struct Counted<'a> {
    input: &'a mut dyn io::Read,
    bytes: u64,
}

impl io::Read for Counted<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(bytes)?;
        self.bytes = self.bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}
