use super::*;
use mesh_proto::config::Revocations;
use mesh_proto::identity::SpiffeId;
use mesh_proto::wire::item::{Item, Part};
use std::sync::Arc;

/// A state that differs from others by `n` revoked identities.
fn state(n: usize, revision: u64) -> Wanted {
    let id = |n: usize| -> SpiffeId { format!("spiffe://mesh.local/ns/a/sa/w{n:03}").parse().unwrap() };
    let revocations = Revocations { serials: Vec::new(), identities: (0..n).map(id).collect() };
    let items = [Item::new(Part::Revocations(Arc::new(revocations)))].into_iter().collect();
    Wanted { items, revision, bundle_sequence: 1, trust_generation: 0 }
}

#[expect(clippy::disallowed_methods, reason = "a start for the times of a test")]
fn start() -> Instant {
    Instant::now()
}

fn ack(wanted: &Wanted) -> v1::Ack {
    v1::Ack { revision: wanted.revision, digest: wanted.items.digest().to_vec() }
}

/// A proxy that has confirmed the state with one entry, at revision 1.
fn settled(now: Instant) -> Subscriber {
    let (mut subscriber, update) = Subscriber::greet(&[], state(1, 1), now);
    assert!(update.expect("the first state").full);
    assert!(subscriber.acknowledge(&ack(&state(1, 1)), now).is_none());
    assert_eq!(subscriber.confirmed().revision, 1);
    subscriber
}

#[test]
fn a_proxy_that_holds_the_right_state_is_sent_nothing() {
    let digest = state(1, 1).items.digest();
    let (subscriber, update) = Subscriber::greet(&digest, state(1, 7), start());
    assert!(update.is_none());
    assert_eq!(subscriber.confirmed(), Confirmed { revision: 7, bundle_sequence: 1, trust_generation: 0 });
}

#[test]
fn a_slow_proxy_gets_the_newest_state_and_none_between() {
    let now = start();
    let mut subscriber = settled(now);
    assert!(subscriber.offer(state(2, 2), now).is_some());
    for n in 3..100 {
        assert!(subscriber.offer(state(n, n as u64), now).is_none(), "one update is under way");
    }
    let update = subscriber.acknowledge(&ack(&state(2, 2)), now).expect("the newest");
    assert_eq!((update.revision, update.full), (99, false));
    assert!(subscriber.acknowledge(&ack(&state(99, 99)), now).is_none());
    assert_eq!(subscriber.confirmed().revision, 99);
}

#[test]
fn a_change_that_does_not_concern_the_proxy_is_confirmed_at_once() {
    let now = start();
    let mut subscriber = settled(now);
    assert!(subscriber.offer(state(1, 5), now).is_none());
    assert_eq!((subscriber.confirmed().revision, subscriber.waiting_since()), (5, None));
}

#[test]
fn what_was_refused_is_not_sent_again_but_the_next_state_is() {
    let now = start();
    let mut subscriber = settled(now);
    assert!(subscriber.offer(state(2, 2), now).is_some());
    let refusal = v1::Refusal { revision: 2, reason: "bad\u{1b}[31m".into() };
    assert!(matches!(subscriber.refuse(&refusal, now), Refusal::Noted(None)));
    assert_eq!(subscriber.refusal().unwrap().reason, "bad[31m", "no control characters reach a terminal");
    assert!(subscriber.offer(state(2, 3), now).is_none(), "the same state, at a later revision");
    let update = subscriber.offer(state(3, 4), now).expect("another state");
    assert!(!update.full, "the proxy still holds what it had");
    subscriber.acknowledge(&ack(&state(3, 4)), now);
    assert_eq!((subscriber.refusal(), subscriber.confirmed().revision), (None, 4));
}

#[test]
fn a_refused_change_that_is_taken_back_needs_no_update() {
    let now = start();
    let mut subscriber = settled(now);
    subscriber.offer(state(2, 2), now).unwrap();
    subscriber.refuse(&v1::Refusal { revision: 2, reason: "bad".into() }, now);
    assert!(subscriber.offer(state(1, 3), now).is_none());
    assert_eq!((subscriber.refusal(), subscriber.confirmed().revision), (None, 3));
}

#[test]
fn a_stale_or_invented_answer_changes_nothing() {
    let now = start();
    let mut subscriber = settled(now);
    subscriber.offer(state(2, 2), now).unwrap();
    assert!(subscriber.acknowledge(&v1::Ack { revision: 2, digest: vec![1; 32] }, now).is_none());
    assert_eq!((subscriber.confirmed().revision, subscriber.waiting_since()), (1, Some(now)));
    let none = v1::Refusal { revision: 9, reason: String::new() };
    subscriber.acknowledge(&ack(&state(2, 2)), now);
    assert!(matches!(subscriber.refuse(&none, now), Refusal::Stale));
    assert_eq!(subscriber.refusal(), None, "nothing was under way");
    // Nor does one that refers to what was sent before.
    subscriber.offer(state(3, 3), now).unwrap();
    assert!(matches!(subscriber.refuse(&none, now), Refusal::Stale));
    assert_eq!((subscriber.refusal(), subscriber.waiting_since()), (None, Some(now)));
}

#[test]
fn a_missed_answer_is_followed_by_the_whole_newest_state() {
    let now = start();
    let mut subscriber = settled(now);
    subscriber.offer(state(2, 2), now).unwrap();
    subscriber.offer(state(3, 3), now);
    let later = now + ANSWER_DEADLINE;
    let update = subscriber.expire(later).expect("again");
    assert_eq!((update.revision, update.full), (3, true));
    assert_eq!(subscriber.waiting_since(), Some(later));
    // The late answer to the first one means nothing any more.
    assert!(subscriber.acknowledge(&ack(&state(2, 2)), later).is_none());
    assert_eq!(subscriber.confirmed().revision, 1);
}

#[test]
fn a_digest_is_only_compared_when_nothing_is_under_way() {
    let now = start();
    let mut subscriber = settled(now);
    let digest = |bytes: Vec<u8>| v1::Digest { revision: 1, digest: bytes, svid_serial: Vec::new() };
    let right = digest(state(1, 1).items.digest().to_vec());
    assert!(subscriber.compare(&right, state(1, 1), now).is_none(), "it is in step");
    let wrong = digest(vec![9; 32]);
    assert!(subscriber.compare(&wrong, state(1, 1), now).expect("everything anew").full);
    assert!(subscriber.compare(&wrong, state(1, 1), now).is_none(), "an update is under way");
}

#[test]
fn a_proxy_that_is_never_in_step_is_not_sent_everything_in_a_circle() {
    let now = start();
    let mut subscriber = settled(now);
    let wrong = v1::Digest { revision: 1, digest: vec![9; 32], svid_serial: Vec::new() };
    let mut sent = 0;
    for millis in 0..20_000 {
        let now = now + Duration::from_millis(millis);
        if subscriber.compare(&wrong, state(1, 1), now).is_some() {
            sent += 1;
            subscriber.acknowledge(&ack(&state(1, 1)), now);
        }
    }
    assert_eq!(sent, 2, "once, and once more after the pause");
}
