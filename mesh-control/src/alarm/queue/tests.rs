use super::super::format::samples::message;
use super::*;

fn open(dir: &tempfile::TempDir, bytes_max: u64) -> Queue {
    Queue::open_with(dir.path(), &"ops".parse().unwrap(), bytes_max).unwrap()
}

fn numbered(number: u64) -> v1::AlarmMessage {
    v1::AlarmMessage { made_ms: number, ..message("raised") }
}

/// Takes everything that waits.
fn drain(queue: &Queue) -> Vec<(u64, u64)> {
    let mut taken = Vec::new();
    while let Some((message, size)) = queue.next().unwrap() {
        taken.push((message.made_ms, message.lost));
        queue.done(size, message.notices.len(), Fate::Taken).unwrap();
    }
    taken
}

#[test]
fn what_was_pushed_is_there_after_a_restart_until_it_was_taken() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, BYTES_MAX);
    (1..=3).for_each(|number| queue.push(numbered(number)).unwrap());
    let (first, size) = queue.next().unwrap().unwrap();
    assert_eq!(first.made_ms, 1);
    queue.done(size, 1, Fate::Taken).unwrap();
    // Killed.
    let queue = open(&dir, BYTES_MAX);
    assert_eq!(queue.waiting(), (2, 0));
    assert_eq!(drain(&queue), [(2, 0), (3, 0)]);
    assert_eq!(open(&dir, BYTES_MAX).next().unwrap(), None);
}

#[test]
fn a_half_written_message_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir, BYTES_MAX).push(numbered(1)).unwrap();
    let log = dir.path().join("ops.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes.extend([9, 0, 0, 0, 1, 2]);
    fs::write(&log, bytes).unwrap();
    let queue = open(&dir, BYTES_MAX);
    queue.push(numbered(2)).unwrap();
    assert_eq!(drain(&queue), [(1, 0), (2, 0)]);
}

#[test]
fn the_file_has_a_bound_and_the_gap_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, 2_000);
    (1..=10).for_each(|number| queue.push(numbered(number)).unwrap());
    let (waiting, lost) = queue.waiting();
    assert!(waiting >= 2 && waiting + lost == 10, "{waiting} wait, {lost} were lost");
    assert!(fs::metadata(dir.path().join("ops.log")).unwrap().len() <= 2_000);
    // One leaves, so that there is room for one.
    let (_, size) = queue.next().unwrap().unwrap();
    queue.done(size, 1, Fate::Taken).unwrap();
    queue.push(numbered(11)).unwrap();
    let taken = drain(&queue);
    assert_eq!(taken.last(), Some(&(11, lost)), "{taken:?}");
    assert_eq!(queue.waiting(), (0, lost));
}

#[test]
fn what_a_sink_will_never_take_is_counted_as_lost() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, BYTES_MAX);
    queue.push(numbered(1)).unwrap();
    let (_, size) = queue.next().unwrap().unwrap();
    queue.done(size, 1, Fate::GivenUp).unwrap();
    assert_eq!(queue.waiting(), (0, 1));
    queue.push(numbered(2)).unwrap();
    assert_eq!(drain(&queue), [(2, 1)]);
}

#[test]
fn an_hour_without_the_sink_and_a_disk_that_fails_lose_nothing_that_was_taken_and_the_gap_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (at, away) = (dir.path().join("queue"), dir.path().join("away"));
    std::fs::create_dir(&at).unwrap();
    let open = || Queue::open(&at, &"ops".parse().unwrap()).unwrap();
    let queue = open();
    // One message every ten seconds.
    (0..360).for_each(|number| queue.push(numbered(number)).unwrap());
    std::fs::rename(&at, &away).unwrap();
    (360..370).for_each(|number| assert!(queue.push(numbered(number)).is_err(), "there is no disk"));
    std::fs::rename(&away, &at).unwrap();
    (370..380).for_each(|number| queue.push(numbered(number)).unwrap());
    assert_eq!(queue.waiting(), (370, 10));
    drop(queue);

    let told = drain(&open());
    assert_eq!(told.len(), 370, "all that was taken is there after a restart");
    let lost: Vec<_> = told.iter().filter(|(_, lost)| *lost > 0).collect();
    assert_eq!(lost, [&(370, 10)], "the next that was taken says how many were not");
}
