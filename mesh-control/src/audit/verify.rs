//! Whether an export is what the control plane wrote, byte for byte. Reads no clock, no store, no network.

use super::export::{ChangeLine, CheckpointLine, Documents, FORMAT, Head, RecordLine, line, text};
use super::{Checkpoint, hex, is_head_signed, unhex};
use crate::store::view::{AuditRecord, Hash};
use aws_lc_rs::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use std::io::BufRead;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Records that are intact, from the first one on.
    pub records: u64,
    /// The first record's number.
    pub from: u64,
    /// Checkpoints whose signature is good, the end among them.
    pub checkpoints: u64,
    /// The last record that a good signature stands for.
    pub signed: u64,
    /// The trust domain that it says it is of; not signed by itself.
    pub trust_domain: String,
    /// The first thing that is wrong.
    pub broken: Option<Broken>,
}

/// Where an export is not what was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong there, for people.
    pub problem: String,
}

/// Reads an export to its end, or to the first thing that is wrong. `key` is the public key as the auditor holds it,
/// 64 hexadecimal digits.
///
/// # Errors
/// `key` is none.
pub fn verify(export: impl BufRead, key: &str) -> Result<Report, String> {
    let public = unhex(key.trim()).filter(|bytes| bytes.len() == 32);
    let public = public.ok_or("the key is not 64 hexadecimal digits; `meshctl audit key` prints it")?;
    let mut state = State { public, report: Report::default(), tip: None, is_over: false, has_head: false };
    let mut number = 0_u64;
    for read in export.split(b'\n') {
        number = number.saturating_add(1);
        let checked = read
            .map_err(|error| format!("cannot be read: {error}"))
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned()))
            .and_then(|line| state.line(&line));
        if let Err(problem) = checked {
            state.report.broken = Some(Broken { line: number, problem });
            return Ok(state.report);
        }
    }
    if !state.is_over {
        let problem = "the end is missing: lines after this one were cut off".to_owned();
        state.report.broken = Some(Broken { line: number.saturating_add(1), problem });
    }
    Ok(state.report)
}

struct State {
    public: Vec<u8>,
    report: Report,
    /// The last record's number and hash.
    tip: Option<(u64, Hash)>,
    has_head: bool,
    is_over: bool,
}

impl State {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if self.is_over {
            return Err("something follows the end".to_owned());
        }
        if !self.has_head {
            return self.head(line);
        }
        if line.starts_with("{\"signed\":") {
            return self.signed(line);
        }
        self.record(line)
    }

    fn head(&mut self, line: &str) -> Result<(), String> {
        let Head { audit, trust_domain, key, from, signature } = parse(line)?;
        if audit != FORMAT {
            return Err(format!("is not the head of an export that this version knows ({FORMAT:?})"));
        }
        if key != hex(&self.public) {
            return Err(format!("it was signed with another key, {key}"));
        }
        let signed = unhex(&signature).unwrap_or_default();
        if !is_head_signed(&trust_domain, from, &signed, &self.public) {
            return Err("its signature is not of this key".to_owned());
        }
        same(line, &text(&Head { audit, trust_domain: trust_domain.clone(), key, from, signature }))?;
        (self.report.trust_domain, self.report.from, self.has_head) = (trust_domain, from, true);
        Ok(())
    }

    fn record(&mut self, read: &str) -> Result<(), String> {
        let RecordLine { changes, record, hash, .. } = parse(read)?;
        let stored = unhex(&record).ok_or("its record is not hexadecimal")?;
        let record = AuditRecord::from_stored(&stored)?;
        let expected = self.tip.map_or(self.report.from, |(sequence, _)| sequence.saturating_add(1));
        if record.sequence != expected {
            return Err(format!("record {expected} should stand here, not {}", record.sequence));
        }
        if hex(&record.hash) != hash {
            return Err(format!("record {expected} does not have the hash that it says"));
        }
        let begins = self.report.from > 1 || record.previous == Hash::default();
        if self.tip.map_or(!begins, |(_, head)| head != record.previous) {
            return Err(format!("record {expected} does not follow the one before it"));
        }
        let mut documents = Documents::new();
        for ChangeLine { object, before, after, before_yaml, after_yaml } in changes {
            for (yaml, hash) in [(&before_yaml, &before), (&after_yaml, &after)] {
                if yaml
                    .as_ref()
                    .is_some_and(|yaml| Some(hex(digest(&SHA256, yaml.as_bytes()).as_ref())) != *hash)
                {
                    return Err(format!(
                        "record {expected}: a document of {object} is not the one it hashes"
                    ));
                }
            }
            documents.insert(object, (before_yaml, after_yaml));
        }
        same(read, &line(&record, &documents)).map_err(|problem| format!("record {expected}: {problem}"))?;
        self.tip = Some((record.sequence, record.hash));
        self.report.records = self.report.records.saturating_add(1);
        Ok(())
    }

    fn signed(&mut self, line: &str) -> Result<(), String> {
        let read: CheckpointLine = parse(line)?;
        same(line, &text(&read))?;
        let CheckpointLine { signed, sequence, time_ms, head, signature } = read;
        let (last, hash) = self.tip.unwrap_or((self.report.from.saturating_sub(1), Hash::default()));
        let is_here = sequence == last && (self.tip.is_none() || head == hex(&hash));
        let both = unhex(&head).zip(unhex(&signature)).ok_or("its head or signature is not hexadecimal")?;
        let checkpoint = Checkpoint { sequence, time_ms, head: both.0, signature: both.1 };
        if !checkpoint.is_signed_by(&self.public) {
            return Err(format!("the signature for record {sequence} is not of this key"));
        }
        if !is_here {
            return Err(format!(
                "record {sequence} was signed with another hash: something up to here was replaced, after record {}",
                self.report.signed
            ));
        }
        self.report.checkpoints = self.report.checkpoints.saturating_add(1);
        self.report.signed = sequence;
        self.is_over = signed == "end";
        if !self.is_over && signed != "checkpoint" {
            return Err(format!("{signed:?} is neither a checkpoint nor the end"));
        }
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| format!("cannot be read: {error}"))
}

/// What is read must be written so and not otherwise: then no byte can differ.
fn same(read: &str, written: &str) -> Result<(), String> {
    if read == written {
        return Ok(());
    }
    let at = read.bytes().zip(written.bytes()).take_while(|(a, b)| a == b).count();
    Err(format!("does not say what its hash stands for, from byte {} of the line on", at.saturating_add(1)))
}
