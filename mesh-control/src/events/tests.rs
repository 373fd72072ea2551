use super::*;
use crate::clock;
use mesh_proto::wire::v1;
use proptest::prelude::*;

fn refused(source: &str, count: u64) -> Event {
    let mut event = Event::new(EventKind::Refused, SystemTime::UNIX_EPOCH, "no_rule_allows");
    event.source = source.to_owned();
    event.destination = "spiffe://mesh.local/ns/shop/sa/web".to_owned();
    event.count = count;
    event
}

fn sum(events: &[Arc<Event>]) -> u64 {
    events.iter().map(|event| event.count).sum()
}

#[test]
fn the_first_is_told_at_once_and_repetitions_once_in_a_window_with_their_count() {
    let events = Events::default();
    let (_, mut news) = events.follow();
    for _ in 0..1_000 {
        events.tell("web", refused("a", 3));
    }
    assert_eq!(news.try_recv().unwrap().count, 3);
    assert!(news.try_recv().is_err(), "what repeats it waits");
    assert!(events.end_window(), "it may go on");
    assert_eq!(news.try_recv().unwrap().count, 999 * 3);
    assert!(!events.end_window(), "a quiet window ends it");
    events.tell("web", refused("a", 1));
    assert_eq!(news.try_recv().unwrap().count, 1, "then the next one is the first again");
}

#[test]
fn no_reporter_takes_the_room_of_another() {
    let events = Events::default();
    for n in 0..10_000 {
        events.tell("flooder", refused(&format!("made up {n}"), 1));
    }
    let (kept, mut news) = events.follow();
    assert_eq!(kept.len(), SUBJECTS_EACH_MAX);
    events.tell("web", refused("a", 1));
    assert_eq!(news.try_recv().unwrap().source, "a");
    events.end_window();
    let others = news.try_recv().unwrap();
    assert_eq!((others.source.as_str(), others.count), (OTHERS, 10_000 - 32));
}

#[test]
fn who_asks_later_gets_what_is_kept_and_misses_nothing_after() {
    let events = Events::default();
    events.tell("web", refused("a", 1));
    let (kept, mut news) = events.follow();
    events.tell("web", refused("b", 1));
    assert_eq!(kept.len(), 1);
    assert_eq!(news.try_recv().unwrap().source, "b");
    assert_eq!(events.follow().0.len(), 2);
}

#[test]
fn what_is_kept_is_bounded() {
    let events = Events::default();
    for n in 0..2_000_u64 {
        events.tell("web", refused(&format!("{n}{}", "x".repeat(5_000)), 1));
        events.end_window();
        events.end_window();
    }
    let (kept, _) = events.follow();
    assert_eq!(kept.len(), KEPT_EACH_MAX);
    assert!(kept.iter().all(|event| event.source.len() <= TEXT_BYTES_MAX));
}

proptest! {
    /// Nothing is lost and nothing counted twice, whatever comes from whom and whenever windows end.
    #[test]
    fn counts_add_up(told in proptest::collection::vec((0_u8..60, 0_u8..3, 1_u64..5, any::<bool>()), 0..300)) {
        let events = Events::default();
        let (_, mut news) = events.follow();
        let mut heard = Vec::new();
        let mut all = 0;
        for (source, by, count, ends) in told {
            events.tell(&format!("reporter {by}"), refused(&format!("source {source}"), count));
            all += count;
            if ends {
                events.end_window();
            }
            while let Ok(event) = news.try_recv() {
                heard.push(event);
            }
        }
        events.end_window();
        while let Ok(event) = news.try_recv() {
            heard.push(event);
        }
        prop_assert_eq!(sum(&heard), all);
        prop_assert_eq!(events.totals().values().sum::<u64>(), all);
    }
}

#[test]
fn a_report_tells_of_refusals_by_their_exact_count_and_only_of_its_own() {
    let web = "spiffe://mesh.local/ns/shop/sa/web";
    let edge = |destination: &str| v1::EdgeStats {
        direction: v1::Direction::Inbound.into(),
        source: "spiffe://mesh.local/ns/shop/sa/bot".to_owned(),
        destination: destination.to_owned(),
        denied: 7,
        limited: 2,
        allowed: 100,
        last_reason: "limited".to_owned(),
        last_rule: "limit shop/web".to_owned(),
        ..v1::EdgeStats::default()
    };
    let handshake = |kind: &str, detail: &str| v1::SecurityEvent {
        kind: kind.to_owned(),
        detail: detail.to_owned(),
        count: 5,
        ..v1::SecurityEvent::default()
    };
    let report = v1::ProxyReport {
        edges: vec![edge(web), edge("spiffe://mesh.local/ns/shop/sa/other")],
        events: vec![
            handshake("plaintext", "inbound plaintext: plaintext_refused"),
            handshake("expired", "inbound handshake: expired"),
            handshake("wrong_peer", "outbound handshake: wrong_peer"),
        ],
        ..v1::ProxyReport::default()
    };
    let found = from_reports::told(web, &report, clock::wall());
    let shown: Vec<_> = found
        .iter()
        .map(|event| (event.kind, event.reason.as_str(), event.count, event.source == web))
        .collect();
    assert_eq!(
        shown,
        [
            (EventKind::Refused, "refused", 7, false),
            (EventKind::Limited, "limited", 2, false),
            (EventKind::Plaintext, "plaintext", 5, false),
            (EventKind::Certificate, "expired", 5, false),
            (EventKind::Unauthenticated, "wrong_peer", 5, true),
        ]
    );
}
