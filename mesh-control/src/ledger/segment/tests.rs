use super::*;

const SECOND: u64 = 1_000;

fn minute(from_ms: u64) -> Minute {
    let key = FlowKey {
        side: Side::Callee,
        source: "spiffe://mesh.local/ns/shop/sa/web".into(),
        destination: "spiffe://mesh.local/ns/shop/sa/pay".into(),
        service: "shop/pay".into(),
        port: 80,
        protocol: "http1".into(),
        tls: "TLSv1.3".into(),
    };
    let mut counts = Counts { allowed: 7, denied: 1, bytes_in: 900, bytes_out: 12_000, ..Counts::default() };
    counts.latency.add(40, 5);
    counts.latency.add(44, 2);
    let path = PathKey {
        source: key.source.clone(),
        destination: key.destination.clone(),
        method: "GET".into(),
        template: "/items/{id}".into(),
    };
    Minute {
        from_ms,
        to_ms: from_ms + 60 * SECOND,
        rows: [(key.clone(), counts.clone()), (FlowKey { side: Side::Caller, ..key }, counts)].into(),
        paths: [(path, PathCounts { seen: 3, refused: 1 })].into(),
    }
}

#[test]
fn what_is_appended_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let segments = Segments::open(dir.path().join("ledger")).unwrap();
    let entries = [Entry::Start(5), Entry::Rows(minute(10)), Entry::Rows(minute(70)), Entry::End(99)];
    for entry in &entries {
        segments.append(entry).unwrap();
    }
    assert_eq!(segments.read(0).unwrap(), entries);
    assert_eq!(segments.read(1).unwrap(), []);
}

#[test]
fn a_cut_or_spoilt_file_gives_what_came_before_and_can_be_mended() {
    let dir = tempfile::tempdir().unwrap();
    let segments = Segments::open(dir.path().to_owned()).unwrap();
    segments.append(&Entry::Start(1)).unwrap();
    let start = fs::read(segments.path(0)).unwrap().len();
    segments.append(&Entry::Rows(minute(10))).unwrap();
    let whole = fs::read(segments.path(0)).unwrap();
    for cut in start + 1..whole.len() {
        fs::write(segments.path(0), &whole[..cut]).unwrap();
        assert_eq!(segments.read(0).unwrap(), [Entry::Start(1), Entry::Torn], "cut at {cut}");
    }
    for at in start..whole.len() {
        let mut spoilt = whole.clone();
        spoilt[at] ^= 1;
        fs::write(segments.path(0), &spoilt).unwrap();
        assert_eq!(segments.read(0).unwrap(), [Entry::Start(1), Entry::Torn], "spoilt at {at}");
    }
    segments.mend(0).unwrap();
    segments.append(&Entry::Rows(minute(20))).unwrap();
    assert_eq!(segments.read(0).unwrap(), [Entry::Start(1), Entry::Rows(minute(20))]);
}

#[test]
fn whole_hours_leave_by_age_and_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let segments = Segments::open(dir.path().to_owned()).unwrap();
    for hour in 0..6 {
        segments.append(&Entry::Rows(minute(hour * HOUR_MS))).unwrap();
    }
    segments.retain(2, u64::MAX).unwrap();
    let hours = segments.hours().unwrap();
    assert_eq!(hours.iter().map(|(hour, _)| *hour).collect::<Vec<_>>(), [2, 3, 4, 5]);
    segments.retain(0, hours[0].1 * 2).unwrap();
    let hours = segments.hours().unwrap();
    assert_eq!(hours.iter().map(|(hour, _)| *hour).collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn a_day_of_a_busy_mesh_stays_within_its_share_of_the_bound() {
    // A hundred edges, each with a dozen latency buckets, every minute of a day.
    let mut one = minute(0);
    let (key, mut counts) = one.rows.pop_first().unwrap();
    (10..22).for_each(|bucket| counts.latency.add(bucket, 1_000));
    one.rows = (0..100).map(|port| (FlowKey { port, ..key.clone() }, counts.clone())).collect();
    let day = encode(&one).encode_to_vec().len() * 24 * 60;
    assert!(day < 16 << 20, "{day} bytes");
}
