//! What becomes of two replicas' answers.

use super::*;

fn answer<T>(replica: &str, value: T) -> Answer<T> {
    Answer { replica: replica.to_owned(), value }
}

fn proxy(instance: &str, revision: u64, connected_ms: u64) -> v1::ProxyStatus {
    v1::ProxyStatus { instance: instance.to_owned(), revision, connected_ms, ..Default::default() }
}

#[test]
fn the_proxies_of_all_replicas_are_told_in_the_count_of_the_first() {
    let one = v1::StatusResponse {
        revision: 40,
        store: "ok".into(),
        warnings: vec!["same".into()],
        proxies: vec![proxy("web-1", 40, 10), proxy("moved", 38, 10)],
        ..Default::default()
    };
    let two = v1::StatusResponse {
        revision: 7,
        store: "disk full".into(),
        warnings: vec!["same".into(), "own".into()],
        proxies: vec![proxy("pay-1", 6, 5), proxy("moved", 7, 20)],
        ..Default::default()
    };
    let whole = whole(vec![answer("c-a", one), answer("c-b", two)]);
    let told: Vec<(&str, u64, &str)> = whole
        .status
        .proxies
        .iter()
        .map(|proxy| (proxy.instance.as_str(), proxy.revision, whole.served_by[&proxy.instance].as_str()))
        .collect();
    assert_eq!(told, [("moved", 40, "c-b"), ("pay-1", 39, "c-b"), ("web-1", 40, "c-a")]);
    assert_eq!(whole.status.warnings, ["same", "own"]);
    assert_eq!(whole.status.store, "disk full (at c-b)");
    assert_eq!(whole.replicas.iter().map(|r| (r.proxies, r.revision)).collect::<Vec<_>>(), [(2, 40), (2, 7)]);
}

#[test]
fn the_same_edge_is_added_up_and_others_stay() {
    let edge = |source: &str, allowed: u64, index: u32, last_seen_ms: u64, reason: &str| v1::Edge {
        stats: Some(v1::EdgeStats {
            source: source.into(),
            allowed,
            denied: 1,
            latency_us: vec![v1::Bucket { index, count: allowed }],
            last_reason: reason.into(),
            ..Default::default()
        }),
        last_seen_ms,
        p50_us: 1,
        p99_us: 1,
    };
    let edges = [edge("a", 10, 5, 1, "old"), edge("b", 1, 5, 1, ""), edge("a", 90, 60, 2, "new")];
    let sums = sum_edges(edges.into_iter());
    assert_eq!(sums.len(), 2);
    let stats = sums[0].stats.as_ref().unwrap();
    assert_eq!((stats.allowed, stats.denied, stats.last_reason.as_str()), (100, 2, "new"));
    assert_eq!(sums[0].last_seen_ms, 2);
    assert_eq!(sums[0].p50_us, histogram::quantile(&[(5, 10), (60, 90)], 0.5));
}

#[test]
fn the_ledgers_of_all_are_one() {
    let flow = |source: &str, allowed: u64| v1::Flow {
        source: source.into(),
        allowed,
        latency_us: vec![v1::Bucket { index: 3, count: allowed }],
        ..Default::default()
    };
    let path = |seen: u64| v1::FlowPath { template: "/a".into(), seen, ..Default::default() };
    let gap = |from_ms: u64| v1::Gap { from_ms, to_ms: from_ms + 1, reason: "r".into() };
    let one = v1::FlowsResponse {
        from_ms: 10,
        to_ms: 90,
        flows: vec![flow("a", 1), flow("b", 2)],
        paths: vec![path(1)],
        gaps: vec![gap(20)],
    };
    let two = v1::FlowsResponse {
        from_ms: 5,
        to_ms: 80,
        flows: vec![flow("a", 4)],
        paths: vec![path(2)],
        gaps: vec![gap(12), gap(20)],
    };
    let all = sum_flows([one, two].into_iter());
    assert_eq!((all.from_ms, all.to_ms), (5, 90));
    let told: Vec<(&str, u64)> = all.flows.iter().map(|flow| (flow.source.as_str(), flow.allowed)).collect();
    assert_eq!(told, [("a", 5), ("b", 2)]);
    assert_eq!(all.flows[0].latency_us, [v1::Bucket { index: 3, count: 5 }]);
    assert_eq!(all.paths[0].seen, 3);
    assert_eq!(all.gaps, [gap(12), gap(20)]);
}

#[test]
fn alarms_of_all_burn_first_and_sinks_are_added_up() {
    let alarm = |id: &str, state: &str, raised_ms: u64| v1::Alarm {
        id: id.into(),
        state: state.into(),
        raised_ms,
        ..Default::default()
    };
    let sink = |delivered: u64, problem: &str| v1::SinkStatus {
        name: "siem".into(),
        delivered,
        problem: problem.into(),
        ..Default::default()
    };
    let silence = |id: &str| v1::Silence { id: id.into(), detector: "newEdge".into(), ..Default::default() };
    let one = v1::AlarmsResponse {
        alarms: vec![alarm("1", "firing", 5), alarm("2", "resolved", 9)],
        silences: vec![silence("x")],
        sinks: vec![sink(3, "")],
    };
    let two = v1::AlarmsResponse {
        alarms: vec![alarm("3", "firing", 7)],
        silences: vec![silence("y")],
        sinks: vec![sink(4, "refused")],
    };
    let all = join_alarms([one, two].into_iter());
    let ids: Vec<&str> = all.alarms.iter().map(|alarm| alarm.id.as_str()).collect();
    assert_eq!(ids, ["3", "1", "2"]);
    assert_eq!(all.silences.len(), 1, "one command made both");
    assert_eq!((all.sinks[0].delivered, all.sinks[0].problem.as_str()), (7, "refused"));
}
