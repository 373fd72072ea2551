//! Syslog (RFC 5424) with the Common Event Format inside, framed by octet counting (RFC 6587, 3.4.1).
//!
//! With counted octets no text can begin a line of its own in the transport; within the line CEF escapes `\` and `|` in its
//! header and `\` and `=` in its extension, and what ends lines or moves cursors is taken out of every text.

use super::{notices, time};
use crate::detect::words;
use mesh_proto::wire::v1;

/// Facility 13, "log audit" (RFC 5424, 6.2.1).
const FACILITY: u32 = 13;

/// All notices as frames.
pub(crate) fn frames(message: &v1::AlarmMessage) -> Vec<u8> {
    let mut out = Vec::new();
    for (change, alarm) in notices(message) {
        let line = line(message, change, alarm);
        out.extend(format!("{} ", line.len()).into_bytes());
        out.extend(line.into_bytes());
    }
    out
}

fn line(message: &v1::AlarmMessage, change: &str, alarm: &v1::Alarm) -> String {
    // Syslog: 2 critical, 4 warning, 5 notice, 6 info. CEF: 0 to 10.
    let (syslog, cef) = match (change, alarm.severity.as_str()) {
        ("resolved", _) => (5, 2),
        (_, "critical") => (2, 10),
        (_, "warning") => (4, 7),
        _ => (6, 3),
    };
    let priority = FACILITY * 8 + syslog;
    let detector: String = alarm.detector.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    let name = format!("{detector} {change}");
    format!(
        "<{priority}>1 {} mesh mesh-control - {} - CEF:0|meshctl|mesh-control|{}|{}|{}|{cef}|{}",
        time(message.made_ms),
        if detector.is_empty() { "-" } else { &detector },
        header(env!("CARGO_PKG_VERSION")),
        header(&detector),
        header(&name),
        extension(message, change, alarm),
    )
}

fn extension(message: &v1::AlarmMessage, change: &str, alarm: &v1::Alarm) -> String {
    let numbers = format!("value {} threshold {}", alarm.value, alarm.threshold);
    let pairs = [
        ("rt", alarm.raised_ms.to_string()),
        ("start", alarm.since_ms.to_string()),
        ("end", alarm.resolved_ms.max(alarm.last_ms).to_string()),
        ("externalId", alarm.id.clone()),
        ("cat", alarm.detector.clone()),
        ("act", change.to_owned()),
        ("cnt", alarm.count.to_string()),
        ("suser", alarm.source.clone()),
        ("duser", alarm.destination.clone()),
        ("destinationServiceName", alarm.service.clone()),
        ("cs1Label", "numbers".to_owned()),
        ("cs1", numbers),
        ("cs2Label", "command".to_owned()),
        ("cs2", alarm.command.clone()),
        ("cn1Label", "lostBefore".to_owned()),
        ("cn1", message.lost.to_string()),
        ("msg", alarm.sentence.clone()),
    ];
    let shown = pairs.iter().filter(|(_, value)| !value.is_empty());
    shown.map(|(key, value)| format!("{key}={}", value_of(value))).collect::<Vec<_>>().join(" ")
}

fn header(text: &str) -> String {
    words::clean_long(text).replace('\\', "\\\\").replace('|', "\\|")
}

fn value_of(text: &str) -> String {
    words::clean_long(text).replace('\\', "\\\\").replace('=', "\\=")
}

#[cfg(test)]
mod tests {
    use super::super::samples::{hostile, message};
    use super::*;
    use std::collections::BTreeMap;

    /// Reads frames as a receiver does: by their counts.
    fn read(mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ').unwrap();
            let count: usize = std::str::from_utf8(&bytes[..space]).unwrap().parse().unwrap();
            lines.push(String::from_utf8(bytes[space + 1..space + 1 + count].to_vec()).unwrap());
            bytes = &bytes[space + 1 + count..];
        }
        lines
    }

    /// A CEF reader by the book: splits the header at bare `|`, the extension at ` key=` with a bare `=`.
    fn cef(line: &str) -> (Vec<String>, BTreeMap<String, String>) {
        let cef = &line[line.find("CEF:").unwrap()..];
        let (mut fields, mut field, mut escaped, mut rest) = (Vec::new(), String::new(), false, cef.len());
        for (at, c) in cef.char_indices() {
            match c {
                _ if escaped => {
                    field.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                '|' => fields.push(std::mem::take(&mut field)),
                c => field.push(c),
            }
            if fields.len() == 7 {
                rest = at + 1;
                break;
            }
        }
        let mut pairs = BTreeMap::new();
        let (mut key, mut value, mut escaped) = (String::new(), String::new(), false);
        for c in cef[rest..].chars() {
            match c {
                _ if escaped => {
                    value.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                '=' => {
                    let (before, next) = value
                        .rsplit_once(' ')
                        .map_or((String::new(), value.clone()), |(a, b)| (a.to_owned(), b.to_owned()));
                    if !key.is_empty() {
                        pairs.insert(key, before);
                    }
                    (key, value) = (next, String::new());
                }
                c => value.push(c),
            }
        }
        pairs.insert(key, value);
        (fields, pairs)
    }

    #[test]
    fn a_line_has_the_fields_of_both_standards() {
        let lines = read(&frames(&message("raised")));
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].starts_with("<108>1 2023-11-14T22:13:22.500Z mesh mesh-control - denialBurst - CEF:0|"),
            "{}",
            lines[0]
        );
        let (fields, pairs) = cef(&lines[0]);
        assert_eq!(fields[4..7], ["denialBurst", "denialBurst raised", "7"]);
        assert_eq!(pairs["suser"], "spiffe://mesh.local/ns/shop/sa/web");
        assert!(pairs["msg"].ends_with("usual there are 0"), "{pairs:?}");
    }

    #[test]
    fn hostile_text_forges_neither_lines_nor_fields() {
        let lines = read(&frames(&hostile()));
        assert_eq!(lines.len(), 1);
        assert!(
            !lines[0].chars().any(|c| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c)),
            "{:?}",
            lines[0]
        );
        let (fields, pairs) = cef(&lines[0]);
        assert_eq!(fields[4..7], ["denialBurst", "denialBurst raised", "7"]);
        let honest = cef(&read(&frames(&message("raised")))[0]).1;
        assert_eq!(pairs.keys().collect::<Vec<_>>(), honest.keys().collect::<Vec<_>>());
        assert!(pairs["msg"].contains("CEF:0|\\|a=b\\=c"), "{pairs:?}");
    }
}
