//! The access log: one JSON object a line, every string escaped by the serializer, so that nothing a caller sends can
//! begin a line of its own. No header values, no query strings.

use crate::observe::Record;
use crate::observe::record::Worth;
use crate::{AccessLogTarget, ProxyError};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

/// Longest text of one field that came from outside, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;

/// Where lines go.
#[derive(Debug)]
pub(crate) enum AccessLog {
    /// Standard error.
    Stderr,
    /// A file, in append mode.
    File(File),
    /// Nowhere.
    Off,
}

#[derive(Serialize)]
struct Line<'a> {
    time_ms: u64,
    decision: &'a str,
    direction: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    rule: &'a str,
    source: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    source_instance: &'a str,
    source_ip: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    destination: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    destination_instance: &'a str,
    service: &'a str,
    port: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    protocol: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sni: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    host: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    duration_us: u64,
    revision: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_id: &'a str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(status: &u16) -> bool {
    *status == 0
}

impl AccessLog {
    /// Opens the target.
    ///
    /// # Errors
    /// The file cannot be opened or created.
    pub(crate) fn open(target: &AccessLogTarget) -> Result<Self, ProxyError> {
        match target {
            AccessLogTarget::Stderr => Ok(Self::Stderr),
            AccessLogTarget::Off => Ok(Self::Off),
            AccessLogTarget::File(path) => {
                let opened = OpenOptions::new().create(true).append(true).mode(0o640).open(path);
                opened.map(Self::File).map_err(|source| ProxyError::AccessLog { path: path.clone(), source })
            }
        }
    }

    /// Writes the lines in one go. What cannot be written is lost; the count of lost lines is the answer.
    pub(crate) fn write(&mut self, records: &[Record]) -> usize {
        if records.is_empty() || matches!(self, Self::Off) {
            return 0;
        }
        let mut out = Vec::with_capacity(records.len() * 512);
        for record in records.iter().filter(|record| record.worth == Worth::Line) {
            let mut json = Serializer::with_formatter(&mut out, Visible);
            if line(record).serialize(&mut json).is_ok() {
                out.push(b'\n');
            }
        }
        let written = match self {
            Self::Stderr => std::io::stderr().lock().write_all(&out),
            Self::File(file) => file.write_all(&out),
            Self::Off => Ok(()),
        };
        if written.is_ok() { 0 } else { records.len() }
    }
}

/// JSON in which no character is sent that a terminal obeys, or that some readers take for the end of a line: the
/// serializer escapes those of ASCII, this the others.
struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, hidden)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            let (before, from) = rest.split_at(at);
            out.write_all(before.as_bytes())?;
            write!(out, "\\u{:04x}", u32::from(hidden))?;
            rest = from.get(hidden.len_utf8()..).unwrap_or_default();
        }
        out.write_all(rest.as_bytes())
    }
}

/// Control characters beyond ASCII's first 32, line separators, and what turns the direction of text around.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn line(record: &Record) -> Line<'_> {
    Line {
        time_ms: record.time_ms,
        decision: &record.id,
        direction: record.direction.as_str(),
        outcome: record.outcome.as_str(),
        reason: record.reason,
        rule: &record.rule,
        source: &record.source,
        source_instance: &record.source_instance,
        source_ip: &record.source_ip,
        destination: &record.destination,
        destination_instance: &record.destination_instance,
        service: &record.service,
        port: record.port,
        protocol: record.protocol.map_or("", |protocol| protocol.as_str()),
        sni: &record.sni,
        host: cut(&record.host),
        method: cut(&record.method),
        path: cut(&record.path),
        status: record.status,
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        duration_us: record.duration_us,
        revision: record.revision,
        trace_id: &record.trace_id,
    }
}

/// At most [`TEXT_BYTES_MAX`] bytes, at a character's border.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::Direction;
    use crate::observe::Outcome;
    use crate::observe::record::Worth;
    use proptest::prelude::*;

    fn record(path: &str) -> Record {
        Record {
            time_ms: 1,
            id: "abc".to_owned(),
            direction: Direction::Inbound,
            source: "spiffe://a/b".into(),
            source_instance: String::new(),
            source_ip: "127.0.0.1".to_owned(),
            destination: "".into(),
            destination_instance: String::new(),
            service: "default/web".into(),
            port: 80,
            protocol: None,
            sni: String::new(),
            host: String::new(),
            method: "GET".to_owned(),
            path: path.to_owned(),
            outcome: Outcome::Denied,
            reason: "no_rule_allows",
            rule: String::new(),
            status: 403,
            bytes_in: 0,
            bytes_out: 0,
            duration_us: 1,
            revision: 7,
            header_names: Vec::new(),
            trace_id: String::new(),
            span: None,
            worth: Worth::Line,
        }
    }

    #[test]
    fn a_hostile_path_stays_on_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut log = AccessLog::open(&AccessLogTarget::File(path.clone())).unwrap();
        let hostile = "/\n{\"decision\":\"forged\"}\r\u{1b}[2J\"";
        assert_eq!(log.write(&[record(hostile), record("/b")]), 0);
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(first["path"], hostile);
        assert_eq!(first["reason"], "no_rule_allows");
        assert!(!text.bytes().any(|b| b < 0x20 && b != b'\n'), "{text:?}");
    }

    proptest! {
        /// Whatever callers send and wherever it stands: one line each, which says what was sent and hides nothing.
        #[test]
        fn nothing_forges_a_line(texts in proptest::collection::vec(
            prop_oneof![any::<String>(), "[\\PC\\x00-\\x1f\\x7f-\\u{9f}\\u{2028}\"\\\\{}]{0,40}"], 8)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("access.log");
            let mut log = AccessLog::open(&AccessLogTarget::File(path.clone())).unwrap();
            let mut hostile = record(&texts[0]);
            hostile.host.clone_from(&texts[1]);
            hostile.method.clone_from(&texts[2]);
            hostile.sni.clone_from(&texts[3]);
            hostile.source = texts[4].as_str().into();
            hostile.source_instance.clone_from(&texts[5]);
            hostile.rule.clone_from(&texts[6]);
            hostile.service = texts[7].as_str().into();
            log.write(&[hostile, record("/b")]);
            let text = std::fs::read_to_string(path).unwrap();
            prop_assert_eq!(text.matches('\n').count(), 2);
            prop_assert!(!text.chars().any(|c| c != '\n' && (c.is_control() || is_hidden(c))), "{text:?}");
            let line: serde_json::Value = serde_json::from_str(text.split('\n').next().unwrap()).unwrap();
            let said = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            let fields = ["path", "host", "method", "sni", "source", "source_instance", "rule", "service"];
            for (field, sent) in fields.into_iter().zip(&texts) {
                prop_assert_eq!(said(field), sent.as_str(), "{}", field);
            }
            prop_assert_eq!(&line["decision"], "abc");
        }
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut log = AccessLog::open(&AccessLogTarget::File(path.clone())).unwrap();
        log.write(&[record(&"ä".repeat(5_000))]);
        assert!(std::fs::read_to_string(path).unwrap().len() < 2_000);
    }
}
