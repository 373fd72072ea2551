//! Backups and the store's own periodic exports: everything in one sealed file.
//!
//! `sled` writes them, `rescue` reads them. The form is ours alone, so it is also the way to another database one day.
//!
//! ```text
//! "meshctl-backup\n" | format (1) | file id (16) | first 8 bytes of the SHA-256 of these | frame…
//! frame: length of the sealed bytes (u32, little-endian) | first 8 bytes of their SHA-256 | sealed bytes
//! ```
//! Each frame is sealed for this file and its place in it. The first one says what must follow, the last one holds the
//! SHA-256 of all before. So a cut, reordered, mixed or changed file is noticed, and a wrong key is told apart from
//! damage by the plain checksum.

use super::BackupReport;
use super::engine::DatabaseId;
use super::ledger::{Found, Tip};
use super::record::{self, sha256, sha256_of};
use super::view::{Hash, ReadView};
use mesh_ca::seal::SealKey;
use prost::Message;
use std::io::{self, Read, Write};

const MAGIC: &[u8; 15] = b"meshctl-backup\n";
const FORMAT: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// What stands before the first frame.
const HEAD_BYTES: u64 = 40;
/// No frame is longer: a change set of [`WRITE_BYTES_MAX`](super::write::WRITE_BYTES_MAX) with 20,000 names of at most
/// 4 KiB file name each would reach it, and none was ever seen near it.
const FRAME_BYTES_MAX: usize = 160 << 20;

/// Why a file is no usable backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupProblem {
    /// It is something else.
    #[error("it is no backup of a mesh")]
    NotABackup,
    /// A newer release made it.
    #[error("it has the format {0}, which only a newer release reads")]
    Newer(u8),
    /// Another key sealed it.
    #[error("it was sealed under another key: give the seal.key that belongs to it")]
    WrongKey,
    /// It ends too early.
    #[error("it is cut off after {frames} of its parts")]
    Cut {
        /// Complete parts before the cut.
        frames: u64,
    },
    /// Bytes were changed.
    #[error("its part {frame} is damaged: {problem}")]
    Damaged {
        /// Which part, from 0.
        frame: u64,
        /// What is wrong.
        problem: String,
    },
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(io::Error),
}

#[derive(Clone, PartialEq, Message)]
struct Frame {
    #[prost(oneof = "Part", tags = "1, 2, 3, 4")]
    part: Option<Part>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Part {
    #[prost(message, tag = "1")]
    Start(Start),
    #[prost(message, tag = "2")]
    Record(RecordPart),
    #[prost(message, tag = "3")]
    Meta(MetaPart),
    #[prost(message, tag = "4")]
    End(End),
}

#[derive(Clone, PartialEq, Message)]
struct Start {
    #[prost(bytes = "vec", tag = "1")]
    database: Vec<u8>,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "4")]
    head: Vec<u8>,
    #[prost(uint64, tag = "5")]
    meta: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RecordPart {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "2")]
    stored: Vec<u8>,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(bytes = "vec", optional, tag = "4")]
    changes: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct MetaPart {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "vec", tag = "2")]
    stored: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct End {
    /// SHA-256 of all plain frames before, each preceded by the digest of those before it.
    #[prost(bytes = "vec", tag = "1")]
    digest: Vec<u8>,
}

/// What the first part of a backup says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Heading {
    pub(super) database: DatabaseId,
    /// `meta_sequence` is not known from it and 0.
    pub(super) tip: Tip,
    /// Values of other parts in it.
    pub(super) meta: u64,
}

struct Frames<'a> {
    out: &'a mut dyn Write,
    seal: &'a SealKey,
    file: DatabaseId,
    number: u64,
    digest: Hash,
    bytes: u64,
}

impl Frames<'_> {
    fn put(&mut self, part: Part) -> io::Result<()> {
        let plain = Frame { part: Some(part) }.encode_to_vec();
        let sealed = self.seal.seal(&context(self.file, self.number), &plain).map_err(io::Error::other)?;
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(sha256(&sealed).iter().take(CHECKSUM_BYTES));
        bytes.extend_from_slice(&sealed);
        self.out.write_all(&bytes)?;
        self.digest = sha256_of(&[&self.digest, &plain]);
        self.number = self.number.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// Writes everything in `view`.
pub(super) fn write(
    view: &ReadView,
    database: DatabaseId,
    seal: &SealKey,
    out: &mut dyn Write,
) -> io::Result<BackupReport> {
    let file = DatabaseId::random();
    out.write_all(MAGIC)?;
    out.write_all(&[FORMAT])?;
    out.write_all(&file.0)?;
    out.write_all(&head_checksum(FORMAT, file))?;
    let mut frames = Frames { out, seal, file, number: 0, digest: Hash::default(), bytes: HEAD_BYTES };
    frames.put(Part::Start(Start {
        database: database.0.to_vec(),
        revision: view.revision,
        sequence: view.sequence,
        head: view.head.to_vec(),
        meta: u64::try_from(view.meta.len()).unwrap_or(u64::MAX),
    }))?;
    for record in view.audit(1..=view.sequence) {
        let made = if record.changes.is_empty() { None } else { view.change_set(record.revision).ok() };
        let changes = made.map(|revision| record::encode_changes(revision.revision, &revision.changes));
        let (again, stored) = record::encode_record((*record).clone());
        if again.hash != record.hash {
            let text = format!("audit record {} was written by a newer release", record.sequence);
            return Err(io::Error::other(text));
        }
        let (sequence, revision) = (record.sequence, record.revision);
        frames.put(Part::Record(RecordPart { sequence, stored, revision, changes }))?;
    }
    for (key, value) in view.meta.iter() {
        let (_, stored) = record::encode_meta(value.sequence, value.value.clone());
        frames.put(Part::Meta(MetaPart { key: key.clone(), stored }))?;
    }
    let digest = frames.digest.to_vec();
    frames.put(Part::End(End { digest }))?;
    frames.out.flush()?;
    let resources = u64::try_from(view.resources.len()).unwrap_or(u64::MAX);
    Ok(BackupReport { revision: view.revision, records: view.sequence, resources, bytes: frames.bytes })
}

/// Reads only what a backup says of itself.
pub(super) fn heading(input: &mut dyn Read, seal: &SealKey) -> Result<Heading, BackupProblem> {
    let mut reader = Reader::start(input, seal)?;
    match reader.next()? {
        Part::Start(start) => reader.heading(start),
        _ => Err(reader.damaged("the first part is another one".to_owned())),
    }
}

/// Reads a backup as far as it is good. `Ok` only if that is all of it.
pub(super) fn read(
    input: &mut dyn Read,
    seal: &SealKey,
    found: &mut Found,
) -> Result<Heading, BackupProblem> {
    let mut reader = Reader::start(input, seal)?;
    let heading = match reader.next()? {
        Part::Start(start) => reader.heading(start)?,
        _ => return Err(reader.damaged("the first part is another one".to_owned())),
    };
    loop {
        let digest = reader.digest;
        match reader.next()? {
            Part::Start(_) => return Err(reader.damaged("a second beginning".to_owned())),
            Part::Record(part) => {
                found.audit.insert(part.sequence, part.stored);
                if let Some(changes) = part.changes {
                    found.changes.insert(part.revision, changes);
                }
            }
            Part::Meta(part) => drop(found.meta.insert(part.key, part.stored)),
            Part::End(end) if end.digest != digest => {
                return Err(reader.damaged("the digest of all parts differs".to_owned()));
            }
            Part::End(_) => break,
        }
    }
    let complete = u64::try_from(found.audit.len()) == Ok(heading.tip.sequence)
        && u64::try_from(found.meta.len()) == Ok(heading.meta);
    if !complete {
        return Err(reader.damaged("it has other parts than its beginning says".to_owned()));
    }
    match reader.input.read(&mut [0]) {
        Ok(0) => Ok(heading),
        Ok(_) => Err(reader.damaged("something follows its end".to_owned())),
        Err(error) => Err(BackupProblem::Io(error)),
    }
}

struct Reader<'a> {
    input: &'a mut dyn Read,
    seal: &'a SealKey,
    file: DatabaseId,
    number: u64,
    digest: Hash,
}

impl<'a> Reader<'a> {
    fn start(input: &'a mut dyn Read, seal: &'a SealKey) -> Result<Self, BackupProblem> {
        let mut reader = Self { input, seal, file: DatabaseId([0; 16]), number: 0, digest: Hash::default() };
        let mut magic = [0; MAGIC.len()];
        match reader.fill(&mut magic) {
            Err(BackupProblem::Cut { .. }) => return Err(BackupProblem::NotABackup),
            other => other?,
        }
        if magic != *MAGIC {
            return Err(BackupProblem::NotABackup);
        }
        let mut format = [0];
        reader.fill(&mut format)?;
        let mut file = [0; 16];
        reader.fill(&mut file)?;
        reader.file = DatabaseId(file);
        let mut checksum = [0; CHECKSUM_BYTES];
        reader.fill(&mut checksum)?;
        if checksum != head_checksum(format[0], reader.file) {
            return Err(reader.damaged("the head's checksum differs".to_owned()));
        }
        if format != [FORMAT] {
            return Err(BackupProblem::Newer(format[0]));
        }
        Ok(reader)
    }

    fn next(&mut self) -> Result<Part, BackupProblem> {
        let mut length = [0; 4];
        let mut checksum = [0; CHECKSUM_BYTES];
        self.fill(&mut length)?;
        self.fill(&mut checksum)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(self.damaged(format!("it claims a length of {length} bytes")));
        }
        // Grows with what is really there: a changed length must not make us allocate it.
        let mut sealed = Vec::new();
        let wanted = u64::try_from(length).unwrap_or(u64::MAX);
        (&mut *self.input).take(wanted).read_to_end(&mut sealed).map_err(BackupProblem::Io)?;
        if sealed.len() < length {
            return Err(BackupProblem::Cut { frames: self.number });
        }
        if !sha256(&sealed).starts_with(&checksum) {
            return Err(self.damaged("its checksum differs".to_owned()));
        }
        let plain = match self.seal.open(&context(self.file, self.number), &sealed) {
            Ok(plain) => plain,
            Err(_) if self.number == 0 => return Err(BackupProblem::WrongKey),
            Err(_) => return Err(self.damaged("it belongs elsewhere or was changed".to_owned())),
        };
        let frame = Frame::decode(plain.as_slice()).map_err(|e| self.damaged(e.to_string()))?;
        let part = frame.part.ok_or_else(|| self.damaged("it is empty".to_owned()))?;
        self.digest = sha256_of(&[&self.digest, &plain]);
        self.number = self.number.saturating_add(1);
        Ok(part)
    }

    fn heading(&self, start: Start) -> Result<Heading, BackupProblem> {
        let short = |_| self.damaged("a field is too short".to_owned());
        let tip = Tip {
            revision: start.revision,
            sequence: start.sequence,
            head: start.head.try_into().map_err(short)?,
            meta_sequence: 0,
        };
        Ok(Heading { database: DatabaseId(start.database.try_into().map_err(short)?), tip, meta: start.meta })
    }

    fn damaged(&self, problem: String) -> BackupProblem {
        BackupProblem::Damaged { frame: self.number, problem }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BackupProblem> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BackupProblem::Cut { frames: self.number },
            _ => BackupProblem::Io(error),
        })
    }
}

fn head_checksum(format: u8, file: DatabaseId) -> [u8; CHECKSUM_BYTES] {
    let mut checksum = [0; CHECKSUM_BYTES];
    let hash = sha256_of(&[MAGIC, &[format], &file.0]);
    checksum.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    checksum
}

fn context(file: DatabaseId, number: u64) -> String {
    format!("store export {file}/{number}")
}

#[cfg(test)]
mod tests;
