use super::*;

fn key(direction: Direction, number: u32) -> EdgeKey {
    let peer: Arc<str> = format!("spiffe://mesh.local/ns/shop/sa/caller-{number}").into();
    let own: Arc<str> = "spiffe://mesh.local/ns/shop/sa/own".into();
    let (source, destination) = match direction {
        Direction::Inbound => (peer, own),
        Direction::Outbound => (own, peer),
    };
    EdgeKey {
        direction,
        source,
        destination,
        service: format!("shop/service-{number}").into(),
        port: u16::try_from(number % 65_535).unwrap(),
        protocol: Protocol::Http1,
        tls_version: if number.is_multiple_of(2) { "TLSv1.3" } else { "" },
        key_exchange: "X25519MLKEM768",
    }
}

fn allowed(edges: &[Arc<Edge>]) -> u64 {
    edges.iter().map(|edge| edge.outcome(Outcome::Allowed)).sum()
}

#[test]
fn a_hundred_thousand_identities_find_a_bounded_table() {
    for direction in [Direction::Inbound, Direction::Outbound] {
        let mut table = Table::default();
        for number in 0..100_000 {
            table.edge(key(direction, number)).count(Outcome::Allowed, 200, Duration::from_millis(1));
        }
        let live = table.live();
        assert_eq!(live.len(), EDGES_MAX + 1);
        assert_eq!(allowed(&live), 100_000);
        let most = live.iter().max_by_key(|edge| edge.outcome(Outcome::Allowed)).unwrap();
        assert_eq!(most.outcome(Outcome::Allowed), 99_000);
        // The control plane takes a proxy that names another own side for a liar.
        let own = "spiffe://mesh.local/ns/shop/sa/own";
        let sides = match direction {
            Direction::Inbound => (OVERFLOW, own),
            Direction::Outbound => (own, OVERFLOW),
        };
        assert_eq!((&*most.key.source, &*most.key.destination), sides);
    }
}

#[test]
fn what_leaves_stays_in_the_sums() {
    let mut table = Table::default();
    for number in 0..10 {
        let edge = table.edge(key(Direction::Inbound, number));
        edge.count(Outcome::Allowed, 503, Duration::from_millis(1));
        edge.bytes_in.add(7);
        edge.bytes_out.add(9);
    }
    for number in 0..4 {
        assert!(matches!(table.retire(&key(Direction::Inbound, number)), Retired::Gone(_)));
        assert!(matches!(table.retire(&key(Direction::Inbound, number)), Retired::Absent));
    }
    assert_eq!(table.live().len(), 6);
    let counted = table.counted();
    let sum = |of: fn(&Edge) -> u64| counted.iter().map(|edge| of(edge)).sum::<u64>();
    assert_eq!(sum(|edge| edge.count_of(Outcome::Allowed, ResponseClass::ServerError)), 10);
    assert_eq!(sum(|edge| edge.latencies().map(|(_, count)| count).sum()), 10);
    assert_eq!((sum(|edge| edge.bytes_in.value()), sum(|edge| edge.bytes_out.value())), (70, 90));
    assert_eq!(sum(Edge::latency_us_sum), 10_000);
}

#[test]
fn what_somebody_holds_does_not_leave() {
    let mut table = Table::default();
    let held = table.edge(key(Direction::Outbound, 1));
    assert!(matches!(table.retire(&held.key), Retired::Held(_)));
    held.count(Outcome::Denied, 403, Duration::ZERO);
    assert!(Arc::ptr_eq(&held, &table.edge(key(Direction::Outbound, 1))));
    let known = held.key.clone();
    drop(held);
    assert!(matches!(table.retire(&known), Retired::Gone(edge) if edge.outcome(Outcome::Denied) == 1));
    assert_eq!(table.edge(known).outcome(Outcome::Denied), 0, "it begins anew");
}
