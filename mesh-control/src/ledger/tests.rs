use super::*;
use proptest::prelude::*;

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const PAY: &str = "spiffe://mesh.local/ns/shop/sa/pay";

fn edge(port: u32, allowed: u64) -> v1::EdgeStats {
    v1::EdgeStats {
        source: WEB.to_owned(),
        destination: PAY.to_owned(),
        service: "shop/pay".to_owned(),
        port,
        protocol: "http1".to_owned(),
        tls_version: "TLSv1.3".to_owned(),
        allowed,
        bytes_in: allowed * 10,
        bytes_out: allowed * 100,
        latency_us: vec![v1::Bucket { index: 50, count: allowed }],
        ..v1::EdgeStats::default()
    }
}

fn told(edges: &[v1::EdgeStats]) -> Told<'_> {
    Told { reporter: "pay-1", edges, decisions: &[], events: &[] }
}

fn open(dir: &tempfile::TempDir, now_ms: u64) -> Ledger {
    Ledger::open(dir.path().join("ledger"), now_ms).unwrap()
}

fn total(sum: &history::Sum) -> (u64, u64, u64, u64) {
    sum.rows.values().fold((0, 0, 0, 0), |(allowed, bytes_in, bytes_out, latencies), counts| {
        (
            allowed + counts.allowed,
            bytes_in + counts.bytes_in,
            bytes_out + counts.bytes_out,
            latencies + counts.latency.count(),
        )
    })
}

#[test]
fn a_short_span_is_summed_from_slices_and_includes_the_open_one() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, 100_000);
    for second in 0..60 {
        let now = 100_000 + second * 1_000;
        ledger.add(told(&[edge(80, 1)]), now);
        if second % 2 == 1 {
            ledger.cut(now);
        }
    }
    ledger.add(told(&[edge(80, 5)]), 160_000);
    assert_eq!(total(&ledger.sum(100_000, 160_000, 160_000).unwrap()).0, 65);
    let sum = ledger.sum(150_000, 160_000, 160_000).unwrap();
    assert!((10..=16).contains(&total(&sum).0), "{:?}", total(&sum));
    let (from, to) = sum.span.unwrap();
    assert!(from >= 148_000 && to >= 159_000, "{from} to {to}");
}

#[test]
fn a_long_span_includes_the_open_slice() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, 100_000);
    ledger.add(told(&[edge(80, 3)]), 101_000);
    ledger.cut(102_000);
    ledger.add(told(&[edge(80, 4)]), 103_000);
    let sum = ledger.sum(0, 104_000, 104_000).unwrap();
    assert_eq!((total(&sum).0, sum.span), (7, Some((100_000, 104_000))));
}

#[test]
fn a_minute_on_its_way_to_the_disk_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, 0);
    ledger.add(told(&[edge(80, 3)]), 30_000);
    ledger.cut(60_000);
    // As between the append and the end of the wait for it.
    let minute = ledger.state().unwritten.front().cloned().unwrap();
    ledger.segments.append(&Entry::Rows((*minute).clone())).unwrap();
    assert_eq!(total(&ledger.sum(0, 600_000, 600_000).unwrap()).0, 3);
    ledger.write(60_000).unwrap();
}

#[test]
fn minutes_survive_a_kill_and_the_rest_is_told_as_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, 0);
    ledger.add(told(&[edge(80, 3)]), 30_000);
    ledger.cut(60_000);
    ledger.write(60_000).unwrap();
    ledger.add(told(&[edge(80, 4)]), 90_000);
    ledger.cut(92_000);
    // Killed: no close.
    drop(ledger);
    let ledger = open(&dir, 200_000);
    let sum = ledger.sum(0, 300_000, 200_000).unwrap();
    assert_eq!(total(&sum).0, 3, "what was written stays");
    assert_eq!(sum.gaps.len(), 1, "{:?}", sum.gaps);
    assert_eq!((sum.gaps[0].from_ms, sum.gaps[0].to_ms), (60_000, 200_000));
    assert!(sum.gaps[0].reason.contains("killed"), "{:?}", sum.gaps);
}

#[test]
fn an_orderly_end_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, 0);
    ledger.add(told(&[edge(80, 3)]), 30_000);
    ledger.close(31_000).unwrap();
    drop(ledger);
    let ledger = open(&dir, 40_000);
    let sum = ledger.sum(0, 1_000_000, 1_000_000).unwrap();
    assert_eq!(total(&sum), (3, 30, 300, 3));
    assert_eq!((sum.gaps[0].from_ms, sum.gaps[0].to_ms), (31_000, 40_000));
    assert!(sum.gaps[0].reason.contains("stopped"), "{:?}", sum.gaps);
}

#[test]
fn rows_are_bounded_and_totals_stay() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, 0);
    let edges: Vec<_> = (0..2_000)
        .map(|number| v1::EdgeStats {
            service: format!("shop/s{number}-{}", "x".repeat(1_900)),
            ..edge(80, 1)
        })
        .collect();
    for _ in 0..5 {
        ledger.add(told(&edges), 1);
    }
    let many: Vec<_> = (1..=6_000).map(|port| edge(port, 1)).collect();
    ledger.add(told(&many), 1);
    let slice = ledger.cut(2_000);
    assert!(slice.rows.len() <= ROWS_MAX + 2, "{}", slice.rows.len());
    assert_eq!(total(&ledger.sum(0, 2_000, 2_000).unwrap()).0, 16_000);
    ledger.close(3_000).unwrap();
    assert_eq!(total(&open(&dir, 4_000).sum(0, 10_000_000, 10_000_000).unwrap()).0, 16_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes when, the ledger's totals are the sums of what was reported.
    #[test]
    fn totals_are_those_of_the_reports(reports in proptest::collection::vec((0u32..50, 0u64..1_000, 0u64..20_000), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(&dir, 0);
        let (mut now, mut allowed) = (0, 0);
        for (port, count, pause) in reports {
            now += pause;
            ledger.add(told(&[edge(port, count)]), now);
            allowed += count;
            if pause % 3 == 0 {
                ledger.cut(now);
                ledger.write(now).unwrap();
            }
        }
        ledger.close(now + 1).unwrap();
        let sum = open(&dir, now + 2).sum(0, now + RETAIN_MS, now + RETAIN_MS).unwrap();
        prop_assert_eq!(total(&sum), (allowed, allowed * 10, allowed * 100, allowed));
    }
}

/// A thousand reports of a proxy with a thousand new paths and hosts each, asked for by one stranger, beside one honest edge.
#[test]
fn a_million_paths_and_hosts_take_a_bounded_room_and_none_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, 1_000_000);
    let refused = |source: &str, path: String, host: String| v1::Decision {
        source: source.to_owned(),
        destination: "spiffe://mesh.local/ns/shop/sa/pay".to_owned(),
        method: "GET".to_owned(),
        path,
        host,
        ..v1::Decision::default()
    };
    let mut words = 0_u64;
    for report in 0..1_000_u64 {
        let mut decisions: Vec<_> = (0..1_000)
            .map(|_| {
                words += 1;
                // Letters only: nothing that a template would set aside.
                let word: String = (0..5)
                    .map(|at| char::from(b'a' + u8::try_from(words / 26_u64.pow(at) % 26).unwrap()))
                    .collect();
                refused("spiffe://mesh.local/ns/shop/sa/evil", format!("/{word}"), format!("{word}.example"))
            })
            .collect();
        decisions.push(refused("spiffe://mesh.local/ns/shop/sa/web", "/charge".to_owned(), "pay".to_owned()));
        let now = 1_000_000 + report * 50;
        ledger.add(Told { reporter: "pay-1", edges: &[], decisions: &decisions, events: &[] }, now);
        if report % 40 == 39 {
            let slice = ledger.cut(now);
            assert!(slice.sightings.len() <= SIGHTINGS_MAX, "{}", slice.sightings.len());
        }
    }
    let state = ledger.state();
    let kept = state.ring.iter().map(|slice| slice.sightings.len()).sum::<usize>();
    assert!(kept <= RING_SIGHTINGS_MAX && kept == state.ring_sightings, "{kept} sightings in memory");
    let minutes = || state.unwritten.iter().map(|minute| &**minute).chain([&state.minute]);
    for minute in minutes() {
        assert!(minute.paths.len() <= PATHS_EACH_MAX + 2, "{} paths", minute.paths.len());
    }
    let counted = |what: &dyn Fn(&PathKey) -> bool| {
        let paths = minutes().flat_map(|minute| &minute.paths);
        paths.filter(|(key, _)| what(key)).fold(0, |sum, (_, counts)| sum + counts.seen)
    };
    assert!(counted(&|key| &*key.template == "/charge") > 0, "the honest edge keeps its path");
    assert!(counted(&|key| &*key.template == OTHER_PATHS) > 100_000, "the rest is counted together");
    assert_eq!(
        counted(&|_| true),
        25 * u64::try_from(SIGHTINGS_MAX).unwrap(),
        "everything that a slice takes is counted somewhere"
    );
}
