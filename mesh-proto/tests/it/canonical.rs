//! Spellings of path, host and header, and the patterns that judge them: a golden table, and properties of the canonical form.
//!
//! `UPDATE_GOLDEN=1 cargo test -p mesh-proto --test it` rewrites what stands after `=>`.

use crate::decisions::{compare, golden};
use crate::notation::Headers;
use mesh_proto::matching::{
    GrpcPattern, HeaderCondition, HostPattern, Method, PathPattern, Quantifier, canonical_host,
    canonical_path, split_target,
};
use proptest::prelude::*;
use std::fmt::{Display, Write};
use std::str::FromStr;

/// `\xNN` is a byte, `\s` a space, `\\` a backslash.
fn bytes(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        let next = if byte == b'\\' { rest.next() } else { None };
        out.push(match next {
            Some(b'x') => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            Some(b's') => b' ',
            Some(other) => other,
            None => byte,
        });
    }
    out
}

fn path(text: &str) -> String {
    let raw = bytes(text);
    match split_target(&raw).and_then(|(path, query)| Ok((canonical_path(path)?, query))) {
        Ok((path, None)) => path.into_owned(),
        Ok((path, Some(query))) => format!("{path} query {}", String::from_utf8_lossy(query)),
        Err(problem) => format!("refused {}", problem.code()),
    }
}

fn host(text: &str) -> String {
    let (text, default_port) = match text.split_once(" default ") {
        Some((text, port)) => (text, port.parse().ok()),
        None => (text, None),
    };
    match canonical_host(&bytes(text), default_port) {
        Ok(host) if host.authority() == host.host() => host.host().to_owned(),
        Ok(host) => format!("{} host {}", host.authority(), host.host()),
        Err(problem) => format!("refused {}", problem.code()),
    }
}

/// `condition ~ line | line`.
fn header(text: &str) -> String {
    let (condition, lines) = text.split_once(" ~").unwrap();
    let condition: HeaderCondition = condition.parse().unwrap();
    let line = |line: &str| (condition.name().to_owned(), String::from_utf8(bytes(line)).unwrap());
    let fields = Headers(match lines.trim_start() {
        "absent" => Vec::new(),
        _ => lines.split(" | ").map(|text| line(text.strip_prefix(' ').unwrap_or(text))).collect(),
    });
    let allow = if condition.matches(&fields, Quantifier::All) { "allow matches" } else { "allow does not" };
    let deny = if condition.matches(&fields, Quantifier::Any) { "deny matches" } else { "deny does not" };
    format!("{allow}, {deny}")
}

fn pattern<T: FromStr<Err: Display> + Display>(text: &str) -> String {
    match text.parse::<T>() {
        Ok(parsed) => {
            assert_eq!(parsed.to_string(), text);
            "accepted".to_owned()
        }
        Err(error) => format!("refused: {error}"),
    }
}

#[test]
fn every_spelling_has_one_reading_or_none() {
    let before = std::fs::read_to_string(golden("spellings.txt")).unwrap();
    let (mut after, mut cases) = (String::new(), 0);
    for line in before.lines() {
        let case = line.split(" =>").next().unwrap().trim_end();
        let Some((kind, text)) = case.split_once(' ').filter(|_| !line.starts_with('#')) else {
            writeln!(after, "{line}").unwrap();
            continue;
        };
        let outcome = match kind {
            "path" => path(text),
            "host" => host(text),
            "header" => header(text),
            "path-pattern" => pattern::<PathPattern>(text),
            "host-pattern" => pattern::<HostPattern>(text),
            "header-pattern" => pattern::<HeaderCondition>(text),
            "method-pattern" => pattern::<Method>(text),
            "grpc-pattern" => pattern::<GrpcPattern>(text),
            _ => panic!("{kind}?"),
        };
        writeln!(after, "{case:<50} => {outcome}").unwrap();
        cases += 1;
    }
    assert!(cases >= 250, "only {cases} spellings");
    compare("spellings.txt", &before, &after);
}

/// Bytes that matter to a path come often.
fn path_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "/", "//", ".", "..", ";", "%2e", "%2F", "%5c", "%00", "%41", "%7e", "%c3%a4", "%25", "%", "%3B",
        "a", "b", "\\", "#", "?", " ", "\u{e4}", ":", "*", "{", "~",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()).into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_canonical_path_stays_as_it_is(raw in prop_oneof![path_like(), prop::collection::vec(any::<u8>(), 0..40)]) {
        let Ok(once) = canonical_path(&raw) else { return Ok(()) };
        let twice = canonical_path(once.as_bytes()).unwrap();
        prop_assert_eq!(&once, &twice);
        prop_assert!(matches!(twice, std::borrow::Cow::Borrowed(_)), "a canonical path is borrowed: {}", once);
        // What any origin makes of it by decoding, cutting parameters and merging slashes climbs nowhere.
        let decoded = once.replace("%3B", ";");
        for segment in decoded.split('/') {
            let stem = segment.split(';').next().unwrap();
            prop_assert!(stem != "." && stem != "..", "{}", once);
        }
        prop_assert!(!once.contains("//") && once.is_ascii() && !once.contains(['\\', '#', '?', ' ']));
    }

    #[test]
    fn a_canonical_host_stays_as_it_is(raw in "[a-zA-Z0-9.:_\\-\\[\\]@%x]{0,20}", port in prop::option::of(1_u16..100)) {
        let Ok(once) = canonical_host(raw.as_bytes(), port) else { return Ok(()) };
        let twice = canonical_host(once.authority().as_bytes(), port).unwrap();
        prop_assert_eq!(&once, &twice);
        prop_assert!(!once.authority().bytes().any(|byte| byte.is_ascii_uppercase()));
    }

    #[test]
    fn patterns_read_back_what_they_write(name in "[a-z-]{1,8}", value in "[ -~]{0,12}", kind in 0..3_u8) {
        use mesh_proto::matching::HeaderTest;
        let test = match kind {
            0 => HeaderTest::Exact(value.as_str().into()),
            1 => HeaderTest::Prefix(value.as_str().into()),
            _ => HeaderTest::Present,
        };
        let Ok(condition) = HeaderCondition::new(&name, test) else { return Ok(()) };
        prop_assert_eq!(condition.to_string().parse::<HeaderCondition>().unwrap(), condition);
    }

    #[test]
    fn whatever_a_pattern_says_of_its_spelling_is_accepted(text in "/[a-z%0-9A-F/ *{}~:ä.;]{0,14}") {
        let Err(error) = text.parse::<PathPattern>() else { return Ok(()) };
        if let Some((_, spelling)) = error.problem.split_once("is not in its canonical spelling; write ")
            && let Err(again) = spelling.parse::<PathPattern>()
        {
            // Another mistake may remain, but never the same one again.
            prop_assert!(!again.problem.starts_with("is not in"), "{} -> {}", text, again);
        }
    }
}
