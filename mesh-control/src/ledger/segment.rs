//! The ledger on disk: one append-only file for each hour, in `ledger/` beside the store.
//!
//! A frame is its length (4 bytes, little endian), the first 8 bytes of its SHA-256, and a `LedgerFrame`. What a kill cut
//! off or a disk spoilt ends the reading of its file, and is told as a gap. Nothing else ever reads or writes there.
//!
//! # Why not in the store
//! The store makes every write durable before it answers, in the one order of revisions and audit records; a minute of
//! traffic must neither wait there nor make a policy wait. Rows are never changed and leave in the order in which they
//! came, so that retention is the removal of a file, where a tree would rewrite pages and grow before it shrinks. A time
//! series library was the other alternative: it would be the largest dependency for the smallest part.

use super::flow::{Counts, FlowKey, Side};
use super::{PathCounts, PathKey};
use aws_lc_rs::digest;
use mesh_proto::ops::histogram::Sketch;
use mesh_proto::wire::v1;
use prost::Message as _;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Milliseconds of the span that one file has.
pub(crate) const HOUR_MS: u64 = 3_600_000;
/// The largest frame that is read: 4,096 rows with full sketches are 1.5 MiB.
const FRAME_BYTES_MAX: usize = 8 << 20;
/// The largest file that is read: an hour of such frames.
const FILE_BYTES_MAX: u64 = 128 << 20;
/// Bytes of the digest kept in front of each frame: against accidents, not against people.
const DIGEST_BYTES: usize = 8;

/// The rows of a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Minute {
    /// Its beginning, milliseconds since the epoch.
    pub(crate) from_ms: u64,
    /// Its end.
    pub(crate) to_ms: u64,
    /// Who called whom.
    pub(crate) rows: BTreeMap<FlowKey, Counts>,
    /// Which paths were seen.
    pub(crate) paths: BTreeMap<PathKey, PathCounts>,
}

/// What a file has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// A minute, or a part of one.
    Rows(Minute),
    /// A control plane began to write at this time.
    Start(u64),
    /// It ended in order at this time.
    End(u64),
    /// From here on the file cannot be read.
    Torn,
}

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    dir: PathBuf,
}

impl Segments {
    /// Opens or makes the directory.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir })
    }

    /// Appends an entry to the file of its hour and waits for the disk.
    ///
    /// # Errors
    /// The system's; the file may then end in a torn frame, which readers skip.
    pub(crate) fn append(&self, entry: &Entry) -> io::Result<()> {
        let (frame, at_ms) = match entry {
            Entry::Rows(minute) => (encode(minute), minute.from_ms),
            Entry::Start(at) => (mark(*at, v1::LedgerMark::Start), *at),
            Entry::End(at) => (mark(*at, v1::LedgerMark::End), *at),
            Entry::Torn => return Ok(()),
        };
        let body = frame.encode_to_vec();
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(body.len().saturating_add(4 + DIGEST_BYTES));
        bytes.extend(length.to_le_bytes());
        bytes.extend(digest_of(&body));
        bytes.extend(body);
        let path = self.path(at_ms / HOUR_MS);
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let before = file.metadata()?.len();
        let written = file.write_all(&bytes).and_then(|()| file.sync_data());
        if written.is_err() {
            // A half-written frame would hide what comes after it.
            let _ = file.set_len(before);
        }
        written
    }

    /// The hours for which there is a file, oldest first.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn hours(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut hours = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let hour =
                name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).and_then(|hour| hour.parse().ok());
            if let Some(hour) = hour {
                hours.push((hour, entry.metadata()?.len()));
            }
        }
        hours.sort_unstable();
        Ok(hours)
    }

    /// Everything in the file of an hour. One that is not there is empty.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn read(&self, hour: u64) -> io::Result<Vec<Entry>> {
        let file = match File::open(self.path(hour)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(entries(&bytes))
    }

    /// Cuts off what a kill left half-written at the end of an hour's file, so that what is appended can be read.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn mend(&self, hour: u64) -> io::Result<()> {
        let path = self.path(hour);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut rest = &bytes[..];
        while let Some((_, after)) = entry(rest) {
            rest = after;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let good = bytes.len().saturating_sub(rest.len());
        OpenOptions::new().write(true).open(path)?.set_len(u64::try_from(good).unwrap_or(u64::MAX))
    }

    /// Removes whole hours: those before `oldest_hour`, and then the oldest until at most `bytes_max` are left.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn retain(&self, oldest_hour: u64, bytes_max: u64) -> io::Result<()> {
        let hours = self.hours()?;
        let mut bytes = hours.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        for (hour, size) in hours {
            if hour < oldest_hour || bytes > bytes_max {
                fs::remove_file(self.path(hour))?;
                bytes = bytes.saturating_sub(size);
            }
        }
        Ok(())
    }

    fn path(&self, hour: u64) -> PathBuf {
        Path::new(&self.dir).join(format!("{hour}{SUFFIX}"))
    }
}

/// How the files' names end.
const SUFFIX: &str = ".flows";

fn digest_of(body: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, body).as_ref().iter().copied().take(DIGEST_BYTES).collect()
}

fn mark(at_ms: u64, mark: v1::LedgerMark) -> v1::LedgerFrame {
    v1::LedgerFrame { from_ms: at_ms, to_ms: at_ms, mark: mark.into(), ..v1::LedgerFrame::default() }
}

/// All entries up to the first that cannot be read.
fn entries(mut bytes: &[u8]) -> Vec<Entry> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let Some((entry, rest)) = entry(bytes) else {
            found.push(Entry::Torn);
            break;
        };
        found.push(entry);
        bytes = rest;
    }
    found
}

fn entry(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length =
        usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= FRAME_BYTES_MAX)?;
    let (digest, rest) = rest.split_at_checked(DIGEST_BYTES)?;
    let (body, rest) = rest.split_at_checked(length)?;
    if digest != digest_of(body) {
        return None;
    }
    let frame = v1::LedgerFrame::decode(body).ok()?;
    let entry = match frame.mark() {
        v1::LedgerMark::Rows => Entry::Rows(decode(&frame)),
        v1::LedgerMark::Start => Entry::Start(frame.from_ms),
        v1::LedgerMark::End => Entry::End(frame.from_ms),
    };
    Some((entry, rest))
}

/// Numbers texts in the order in which they come.
#[derive(Default)]
struct Names {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<String>,
}

impl Names {
    fn number(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.numbers.insert(name.clone(), number);
        self.names.push(name.to_string());
        number
    }
}

fn encode(minute: &Minute) -> v1::LedgerFrame {
    let mut names = Names::default();
    let rows = minute.rows.iter().map(|(key, counts)| row(&mut names, key, counts)).collect();
    let paths = minute.paths.iter().map(|(key, counts)| v1::LedgerPath {
        source: names.number(&key.source),
        destination: names.number(&key.destination),
        method: names.number(&key.method),
        template: names.number(&key.template),
        seen: counts.seen,
        refused: counts.refused,
    });
    let paths = paths.collect();
    v1::LedgerFrame {
        from_ms: minute.from_ms,
        to_ms: minute.to_ms,
        names: names.names,
        rows,
        paths,
        mark: v1::LedgerMark::Rows.into(),
    }
}

fn row(names: &mut Names, key: &FlowKey, counts: &Counts) -> v1::LedgerRow {
    let FlowKey { side, source, destination, service, port, protocol, tls } = key;
    let Counts { allowed, denied, limited, failed, errors, bytes_in, bytes_out, latency } = counts;
    let (latency_index, latency_count) = latency.buckets().unzip();
    v1::LedgerRow {
        outbound: *side == Side::Caller,
        source: names.number(source),
        destination: names.number(destination),
        service: names.number(service),
        port: u32::from(*port),
        protocol: names.number(protocol),
        tls_version: names.number(tls),
        allowed: *allowed,
        denied: *denied,
        limited: *limited,
        failed: *failed,
        errors: *errors,
        bytes_in: *bytes_in,
        bytes_out: *bytes_out,
        latency_index,
        latency_count,
    }
}

fn decode(frame: &v1::LedgerFrame) -> Minute {
    let names: Vec<Arc<str>> = frame.names.iter().map(|name| name.as_str().into()).collect();
    let empty: Arc<str> = "".into();
    let name = |number: u32| {
        let found = usize::try_from(number).ok().and_then(|number| names.get(number));
        found.unwrap_or(&empty).clone()
    };
    let mut minute = Minute { from_ms: frame.from_ms, to_ms: frame.to_ms, ..Minute::default() };
    for row in &frame.rows {
        let key = FlowKey {
            side: if row.outbound { Side::Caller } else { Side::Callee },
            source: name(row.source),
            destination: name(row.destination),
            service: name(row.service),
            port: u16::try_from(row.port).unwrap_or(0),
            protocol: name(row.protocol),
            tls: name(row.tls_version),
        };
        let mut latency = Sketch::default();
        for (bucket, count) in row.latency_index.iter().zip(&row.latency_count) {
            latency.add(*bucket, *count);
        }
        let counts = Counts {
            allowed: row.allowed,
            denied: row.denied,
            limited: row.limited,
            failed: row.failed,
            errors: row.errors,
            bytes_in: row.bytes_in,
            bytes_out: row.bytes_out,
            latency,
        };
        minute.rows.entry(key).or_default().merge(&counts);
    }
    for path in &frame.paths {
        let key = PathKey {
            source: name(path.source),
            destination: name(path.destination),
            method: name(path.method),
            template: name(path.template),
        };
        let counts = minute.paths.entry(key).or_default();
        counts.merge(PathCounts { seen: path.seen, refused: path.refused });
    }
    minute
}

#[cfg(test)]
mod tests;
