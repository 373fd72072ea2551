use super::*;
use crate::observe::EdgeKey;
use mesh_proto::policy::model::Protocol;
use std::collections::BTreeSet;
use std::time::Duration;

const HOSTILE: &str = "evil\"} 1\nmesh_requests_total{outcome=\"allowed";

fn hostile(direction: Direction, number: u16) -> EdgeKey {
    let text: Arc<str> = format!("{HOSTILE}{number}").into();
    EdgeKey {
        direction,
        source: Arc::clone(&text),
        destination: Arc::clone(&text),
        service: text,
        port: number,
        protocol: Protocol::Http1,
        tls_version: "",
        key_exchange: "",
    }
}

fn rendered() -> String {
    let shard = Arc::<Shard>::default();
    for number in 0..2_000 {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let edge = shard.edge(hostile(direction, number));
            edge.count(Outcome::Allowed, 200 + number, Duration::from_micros(number.into()));
            edge.count(Outcome::Denied, 403, Duration::ZERO);
            edge.set_last("no_rule_allows", HOSTILE);
        }
        shard.refused(Direction::Inbound, "no_rule_allows");
        shard.handshake_failed(Direction::Outbound, "alert");
        shard.audited("denied_by_rule");
        shard.dropped("records");
    }
    render(&[shard], None, ControlCounts::default(), SystemTime::UNIX_EPOCH)
}

#[test]
fn nothing_that_a_caller_says_is_in_a_label() {
    let text = rendered();
    assert!(!text.contains("evil"), "{text}");
    // Two directions, seven classes, two outcomes and fourteen buckets: whoever calls adds no series.
    assert!(text.lines().count() < 120, "{text}");
    let is_word = |value: &str| value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+.-".contains(&b));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once("} "));
        for pair in labels.into_iter().flat_map(|(labels, _)| labels.split(',')) {
            let value = pair.split_once("=\"").and_then(|(_, value)| value.strip_suffix('"'));
            assert!(value.is_some_and(is_word), "{line}");
        }
    }
}

#[test]
fn names_follow_the_conventions() {
    let text = rendered();
    let mut families = BTreeSet::new();
    let mut series = BTreeSet::new();
    let (mut name, mut kind) = ("", "");
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# HELP ") {
            let (family, help) = head.split_once(' ').unwrap();
            assert!(families.insert(family) && help.ends_with('.'), "{line}");
            name = family;
        } else if let Some(head) = line.strip_prefix("# TYPE ") {
            let (family, of) = head.split_once(' ').unwrap();
            assert_eq!((family, name.ends_with("_total")), (name, of == "counter"), "{line}");
            kind = of;
        } else {
            let (labelled, value) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(labelled) && value.parse::<f64>().is_ok(), "{line}");
            let rest = labelled.split('{').next().unwrap().strip_prefix(name).unwrap();
            assert!(rest.is_empty() || kind == "histogram", "{line}");
        }
    }
    assert!(families.len() > 10 && families.iter().all(|family| family.starts_with("mesh_")));
}
