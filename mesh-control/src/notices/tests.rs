use super::*;
use crate::store::memory::MemoryStore;

fn subject(actor: &str, what: &str) -> Subject {
    Subject { actor: actor.to_owned(), verb: "denied", what: what.to_owned() }
}

fn counted(lines: &[Line]) -> u64 {
    lines.iter().map(|line| line.others + line.holds.iter().map(|(_, count)| count).sum::<u64>()).sum()
}

#[test]
fn a_flood_takes_few_records_and_every_one_is_counted() {
    let mut tally = Tally::default();
    let start = clock::monotonic();
    let (mut records, mut happened, mut told) = (0, 0, 0);
    for second in 0..300 {
        let now = start + Duration::from_secs(second);
        for call in 0..1_000 {
            tally.add(subject(&format!("uid {}", call % 200), "apply"), 1);
            happened += 1;
        }
        let lines = tally.due(now, Turn::Usual);
        records += lines.len();
        told += counted(&lines);
    }
    let rest = tally.due(start + Duration::from_secs(300), Turn::Last);
    told += counted(&rest);
    assert_eq!(told, happened);
    assert!(records + rest.len() <= 60, "{records} records");
}

#[test]
fn what_is_new_is_written_at_once_beside_a_flood() {
    let mut tally = Tally::default();
    let now = clock::monotonic();
    tally.add(subject("uid 7", "apply"), 1);
    assert_eq!(tally.due(now, Turn::Usual)[0].text, "uid 7: apply");
    tally.add(subject("uid 7", "apply"), 500);
    assert!(tally.due(now, Turn::Usual).is_empty(), "it waits for the end of the window");
    tally.add(subject("uid 8", "backup"), 1);
    assert_eq!(tally.due(now, Turn::Usual)[0].text, "uid 8: backup");
    let end = tally.due(now + WINDOW, Turn::Usual);
    assert_eq!(end[0].text, "uid 7: apply, 500 times");
    assert_eq!((end.len(), tally.window_ends()), (1, None));
}

#[test]
fn names_are_cut_and_lines_fit() {
    let notices = Notices::default();
    for n in 0..SUBJECTS_MAX {
        notices.add(&format!("{n}{}", "x".repeat(5_000)), Verb::Denied, &"ä\n".repeat(5_000), 1);
    }
    let lines = notices.tally().due(clock::monotonic(), Turn::Usual);
    assert_eq!(counted(&lines), u64::try_from(SUBJECTS_MAX).unwrap());
    assert!(lines.iter().all(|line| line.text.len() <= crate::store::write::LINE_BYTES_MAX));
}

#[tokio::test]
async fn what_could_not_be_written_is_written_later() {
    let store = MemoryStore::new();
    store.refuse_writes(Some("no space".to_owned()));
    let notices = Notices::default();
    notices.add("uid 7", Verb::Denied, "apply", 3);
    assert!(notices.write(&store, Turn::Usual).await.is_err());
    store.refuse_writes(None);
    notices.add("uid 7", Verb::Denied, "apply", 2);
    notices.write(&store, Turn::Last).await.unwrap();
    let records = store.read().audit(1..=9);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((records[0].actor.as_str(), records[0].detail.as_str()), ("uid 7", "uid 7: apply, 5 times"));
}

#[tokio::test]
async fn an_orderly_end_loses_nothing() {
    let (store, notices, stop) =
        (Arc::new(MemoryStore::new()), Arc::new(Notices::default()), CancellationToken::new());
    let keeper = tokio::spawn(notices.clone().keep(store.clone(), stop.clone()));
    for _ in 0..1_000 {
        notices.add("uid 7", Verb::Denied, "apply", 1);
        tokio::task::yield_now().await;
    }
    stop.cancel();
    keeper.await.unwrap();
    let told: u64 = store.read().audit(1..=99).iter().map(|record| times(&record.detail)).sum();
    assert_eq!(told, 1_000);
}

/// How often a record of one kind says that it happened.
fn times(detail: &str) -> u64 {
    detail.split(", ").nth(1).map_or(1, |rest| rest.trim_end_matches(" times").parse().unwrap())
}
