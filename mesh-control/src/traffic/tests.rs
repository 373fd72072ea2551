use super::*;

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const PAY: &str = "spiffe://mesh.local/ns/shop/sa/payments";
const FROM: Reporter<'_> = Reporter { id: PAY, instance: "payments-1" };

#[test]
fn what_was_cut_off_a_text_is_given_back() {
    let mut text = String::with_capacity(1 << 20);
    text.push_str(&"ä".repeat(5_000));
    cut_to(&mut text, HEADER_NAME_BYTES_MAX);
    assert_eq!((text.len(), text.capacity() < 2 * HEADER_NAME_BYTES_MAX), (HEADER_NAME_BYTES_MAX, true));
}

fn edge(source: &str, destination: &str) -> v1::EdgeStats {
    v1::EdgeStats {
        source: source.into(),
        destination: destination.into(),
        allowed: 2,
        latency_us: vec![v1::Bucket { index: 8, count: 2 }],
        ..Default::default()
    }
}

fn decision(id: &str) -> v1::Decision {
    v1::Decision {
        id: id.into(),
        source: WEB.into(),
        source_instance: "web-1".into(),
        destination: PAY.into(),
        destination_instance: "payments-1".into(),
        ..Default::default()
    }
}

#[test]
fn reports_of_one_edge_add_up() {
    let traffic = Traffic::default();
    for now in [5, 9] {
        traffic.add(FROM, v1::ProxyReport { edges: vec![edge(WEB, PAY)], ..Default::default() }, now);
    }
    let edges = traffic.edges();
    assert_eq!(edges.len(), 1, "{edges:?}");
    let stats = edges[0].stats.as_ref().unwrap();
    assert_eq!((stats.allowed, edges[0].last_seen_ms), (4, 9));
    assert_eq!(stats.latency_us, [v1::Bucket { index: 8, count: 4 }]);
}

#[test]
fn a_proxy_cannot_speak_for_others() {
    let traffic = Traffic::default();
    let lie = v1::Decision { destination: WEB.into(), source: WEB.into(), ..decision("x") };
    let report = v1::ProxyReport { edges: vec![edge(PAY, WEB)], decisions: vec![lie], ..Default::default() };
    traffic.add(FROM, report, 1);
    assert!(traffic.edges().is_empty() && traffic.decision("x").is_none());
    assert_eq!(traffic.dropped().foreign, 2);
}

#[test]
fn the_oldest_decision_makes_room() {
    let traffic = Traffic::default();
    for n in 0..=decisions::DECISIONS_MAX {
        let report = v1::ProxyReport { decisions: vec![decision(&n.to_string())], ..Default::default() };
        traffic.add(FROM, report, 1);
    }
    assert!(traffic.decision("0").is_none());
    assert!(traffic.decision("1").is_some());
    assert_eq!(traffic.decisions(1, Which::Refused)[0].id, decisions::DECISIONS_MAX.to_string());
}

#[test]
fn long_texts_are_cut_on_a_character() {
    let mut text = "ä".repeat(TEXT_BYTES_MAX);
    cut(&mut text);
    assert_eq!(text.len(), TEXT_BYTES_MAX);
}

const CALLER: Reporter<'_> = Reporter { id: WEB, instance: "web-1" };

fn report_of(of: Vec<v1::Decision>) -> v1::ProxyReport {
    v1::ProxyReport { decisions: of, ..Default::default() }
}

#[test]
fn the_called_side_s_record_wins_over_the_caller_s() {
    let forged = v1::Decision { allowed: true, reason: String::new(), ..decision("x") };
    let true_one = v1::Decision { reason: "no_rule_allows".into(), ..decision("x") };
    for caller_first in [true, false] {
        let traffic = Traffic::default();
        let mut faults = Vec::new();
        let mut reports = vec![(CALLER, forged.clone()), (FROM, true_one.clone())];
        if !caller_first {
            reports.reverse();
        }
        for (from, decision) in reports {
            faults.extend(traffic.add(from, report_of(vec![decision]), 1).faults);
        }
        let forger = (ReportFault::Forged, CALLER.to_string());
        assert_eq!(
            (faults, traffic.dropped().forged),
            (vec![(forger, 1)], 1),
            "caller first: {caller_first}"
        );
        let kept = traffic.decision("x").unwrap();
        assert_eq!(kept.decision.reason, "no_rule_allows", "caller first: {caller_first}");
        assert_eq!(traffic.decisions(9, Which::All).len(), 1, "caller first: {caller_first}");
    }
}

#[test]
fn a_decision_of_another_instance_is_not_taken() {
    let traffic = Traffic::default();
    let other = v1::Decision { destination_instance: "payments-2".into(), ..decision("x") };
    traffic.add(FROM, report_of(vec![other]), 1);
    assert!(traffic.decision("x").is_none());
    assert_eq!(traffic.dropped().foreign, 1);
}

#[test]
fn two_who_claim_to_have_decided_the_same_are_both_named() {
    let traffic = Traffic::default();
    let own = v1::Decision {
        destination: WEB.into(),
        destination_instance: "web-1".into(),
        source: PAY.into(),
        source_instance: "payments-1".into(),
        ..decision("x")
    };
    traffic.add(CALLER, report_of(vec![own]), 1);
    let added = traffic.add(FROM, report_of(vec![decision("x")]), 1);
    assert_eq!(added.faults.into_keys().next().unwrap().1, format!("{FROM} or {CALLER}"));
    let found = traffic.decision("x").unwrap();
    assert_eq!((found.decision.destination.as_str(), found.rivals), (WEB, vec!["payments-1".to_owned()]));
}

#[test]
fn one_identity_cannot_take_the_room_of_the_others() {
    let traffic = Traffic::default();
    traffic.add(CALLER, report_of(vec![v1::Decision { destination: String::new(), ..decision("rare") }]), 1);
    let event = |n: usize| v1::SecurityEvent { time_ms: 5, peer: n.to_string(), ..Default::default() };
    traffic.add(CALLER, v1::ProxyReport { events: vec![event(0)], ..Default::default() }, 1);
    for round in 0..30 {
        let many = |n: usize| decision(&format!("{round}-{n}"));
        let edges = (0..1_000).map(|n| edge(&format!("unmeshed:10.{round}.0.{n}"), PAY)).collect();
        let report = v1::ProxyReport {
            edges,
            decisions: (0..500).map(many).collect(),
            events: (0..100).map(event).collect(),
            ..Default::default()
        };
        traffic.add(FROM, report, 1);
    }
    assert_eq!(traffic.edges().len(), EDGES_EACH_MAX);
    assert_eq!(traffic.decisions(usize::MAX, Which::All).len(), decisions::DECISIONS_MAX);
    assert!(traffic.decision("rare").is_some(), "the only decision of another was pushed out");
    let events = traffic.events_since(0);
    assert_eq!(events.len(), EVENTS_EACH_MAX + 1);
    assert_eq!(events[0].reporter, "web-1");
}
