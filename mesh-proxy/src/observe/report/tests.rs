use super::*;
use crate::observe::edges::EDGES_MAX as TABLE_MAX;
use crate::observe::text::{ControlCounts, render};
use mesh_proto::policy::model::Protocol;
use std::time::SystemTime;

fn key(number: u32) -> EdgeKey {
    EdgeKey {
        direction: Direction::Inbound,
        source: format!("spiffe://mesh.local/ns/shop/sa/caller-{number}").into(),
        destination: "spiffe://mesh.local/ns/shop/sa/own".into(),
        service: "shop/own".into(),
        port: 8080,
        protocol: Protocol::Http1,
        tls_version: "TLSv1.3",
        key_exchange: "X25519MLKEM768",
    }
}

fn reporter(shards: &[Arc<Shard>]) -> Reporter {
    let (reports, _) = mpsc::channel(1);
    Reporter::new(shards.to_vec(), Arc::default(), AccessLog::Off, (reports, mpsc::channel(1).0))
}

fn call(shard: &Shard, number: u32) {
    shard.edge(key(number)).count(Outcome::Allowed, 200, Duration::from_millis(1));
}

fn allowed(stats: &[v1::EdgeStats]) -> u64 {
    stats.iter().map(|edge| edge.allowed).sum()
}

/// What a scraper sees of the requests that passed.
fn scraped(shards: &[Arc<Shard>]) -> u64 {
    let text = render(shards, None, ControlCounts::default(), SystemTime::UNIX_EPOCH);
    let lines = text.lines().filter(|line| line.starts_with("mesh_requests_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()).map(|value| value.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_hundred_thousand_identities_come_and_go() {
    let shards = [Arc::<Shard>::default(), Arc::default()];
    let mut reporter = reporter(&shards);
    let (mut now, mut reported, mut calls) = (clock::now(), 0, 0);
    let wave = u32::try_from(TABLE_MAX).unwrap();
    for round in 0..100 {
        for number in round * wave..(round + 1) * wave {
            call(&shards[usize::try_from(number % 2).unwrap()], number);
            calls += 1;
        }
        if round % 10 == 0 {
            assert_eq!(scraped(&shards), calls, "round {round}");
        }
        let stats = reporter.edges(now);
        assert!(stats.iter().all(|edge| edge.source.starts_with("spiffe://")), "round {round}: no room");
        reported += allowed(&stats);
        now += IDLE;
        reported += allowed(&reporter.edges(now));
        assert_eq!(reported, calls, "round {round}");
        if round % 10 == 0 {
            assert_eq!(scraped(&shards), calls, "round {round}: nothing goes backwards");
        }
        assert!(shards.iter().all(|shard| shard.edges().is_empty()) && reporter.told.is_empty());
    }
    assert_eq!(calls, 100_000);
}

#[test]
fn an_edge_in_use_stays_and_is_told_once() {
    let shards = [Arc::<Shard>::default(), Arc::default()];
    let mut reporter = reporter(&shards);
    let start = clock::now();
    let held = shards[0].edge(key(1));
    held.count_begun();
    call(&shards[1], 1);
    assert_eq!(allowed(&reporter.edges(start)), 2);
    assert!(reporter.edges(start + IDLE).is_empty());
    let left = shards.iter().map(|shard| shard.edges().len()).collect::<Vec<_>>();
    assert_eq!(left, [1, 0], "the one that a connection holds");
    held.count(Outcome::Allowed, 200, Duration::ZERO);
    call(&shards[1], 1);
    assert_eq!(allowed(&reporter.edges(start + IDLE)), 2);
    drop(held);
    assert!(reporter.edges(start + IDLE + IDLE).is_empty());
    assert_eq!((scraped(&shards), reporter.told.len()), (4, 0));
}

#[test]
fn what_is_counted_while_an_edge_leaves_is_told() {
    let shards = [Arc::<Shard>::default()];
    let mut reporter = reporter(&shards);
    call(&shards[0], 1);
    assert_eq!(allowed(&reporter.edges(clock::now())), 1);
    call(&shards[0], 1);
    assert_eq!(allowed(reporter.retire(&key(1)).as_slice()), 1);
    assert!(shards[0].edges().is_empty());
}

#[test]
fn what_one_report_does_not_take_is_in_the_next() {
    let shards = [Arc::<Shard>::default(), Arc::default()];
    let mut reporter = reporter(&shards);
    for number in 0..1_500 {
        call(&shards[usize::try_from(number % 2).unwrap()], number);
    }
    let now = clock::now();
    let told = [reporter.edges(now).len(), reporter.edges(now).len(), reporter.edges(now).len()];
    assert_eq!(told, [1_000, 500, 0]);
}
