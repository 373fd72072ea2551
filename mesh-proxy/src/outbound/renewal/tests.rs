//! When proofs are due.

use super::*;
use mesh_proto::name::Port;

const GRACE: Duration = Duration::from_secs(3_600);
const WAIT: Duration = Duration::from_secs(1_000);
const LIFE: Duration = Duration::from_secs(86_400);

fn start() -> SystemTime {
    UNIX_EPOCH + LIFE * 1_000
}

fn key(n: u16) -> LaneKey {
    LaneKey {
        address: SocketAddr::from(([10, 0, 0, 1], n)),
        identity: Some("spiffe://mesh.test/ns/default/sa/api".parse().unwrap()),
        name: Some(("default/api".parse().unwrap(), Port::new(80).unwrap())),
        instance: None,
        caller: None,
    }
}

fn peer(not_after: SystemTime) -> Rc<PeerIdentity> {
    Rc::new(PeerIdentity {
        id: "spiffe://mesh.test/ns/default/sa/api".parse().unwrap(),
        instance: Some("api-1".parse().unwrap()),
        serials: Vec::new(),
        not_after,
    })
}

fn end(renewals: &Renewals, key: &LaneKey, retry_at: SystemTime) {
    renewals.ended(&key.endpoint(), retry_at);
}

#[test]
fn our_own_certificate_is_shown_anew_when_the_one_that_was_shown_has_ended() {
    let (renewals, standing) = (Renewals::default(), Standing::new(GRACE));
    let theirs = peer(start() + LIFE * 100);
    renewals.opened(&key(1), &theirs, start(), WAIT);
    let newer = start() + LIFE;
    let due = |own, now| renewals.due(own, &standing, now).len();
    assert_eq!(due(newer, start()), 0, "it has only just ended");
    assert_eq!(due(start(), start() + WAIT), 0, "there is nothing newer to show");
    assert_eq!(due(start() + WAIT, start() + WAIT), 0, "what there is has ended too");
    let now = start() + WAIT + LOOK_EVERY;
    assert_eq!(due(newer, now), 1);
    assert_eq!(due(newer, now + GRACE), 0, "it is under way");
    renewals.shown(&key(1).endpoint(), newer);
    end(&renewals, &key(1), now + GRACE / TRIES);
    assert_eq!(due(newer + LIFE, now + GRACE), 0, "it was taken");
    assert_eq!(due(newer + LIFE, newer + WAIT), 1, "the next certificate has ended");
}

#[test]
fn the_peers_certificate_is_looked_at_anew_when_it_has_ended() {
    let (renewals, standing) = (Renewals::default(), Standing::new(GRACE));
    let far = start() + LIFE * 100;
    let theirs = peer(start());
    standing.proven(&theirs, start());
    renewals.opened(&key(1), &theirs, far, WAIT);
    assert!(renewals.due(far, &standing, start()).is_empty());
    assert_eq!(renewals.due(far, &standing, start() + WAIT), [key(1)]);
    end(&renewals, &key(1), start() + WAIT + GRACE / TRIES);
    assert!(
        renewals.due(far, &standing, start() + WAIT + Duration::from_secs(1)).is_empty(),
        "not yet again"
    );
    // Somebody has seen a newer one meanwhile.
    standing.proven(&peer(start() + LIFE), start());
    assert!(renewals.due(far, &standing, start() + GRACE).is_empty());
    assert_eq!(renewals.due(far, &standing, start() + LIFE + WAIT), [key(1)]);
}

#[test]
fn a_newer_connection_to_the_endpoint_is_as_good_as_a_proof() {
    let (renewals, standing) = (Renewals::default(), Standing::new(GRACE));
    let (old, new) = (peer(start() + LIFE * 100), peer(start() + LIFE * 100));
    renewals.opened(&key(1), &old, start(), WAIT);
    renewals.opened(&key(1), &new, start() + LIFE, WAIT);
    let own = start() + LIFE * 2;
    assert!(renewals.due(own, &standing, start() + WAIT).is_empty());
    drop(new);
    // It may have been refused.
    assert_eq!(renewals.due(own, &standing, start() + WAIT + LOOK_EVERY), [key(1)]);
}

#[test]
fn what_is_closed_needs_no_proof_and_is_forgotten() {
    let (renewals, standing) = (Renewals::default(), Standing::new(GRACE));
    for _ in 0..10_000 {
        renewals.opened(&key(1), &peer(start()), start(), WAIT);
    }
    assert!(renewals.by_endpoint.borrow().values().all(|of| of.open.len() <= 16));
    assert!(renewals.due(start() + LIFE, &standing, start() + WAIT).is_empty());
    assert!(renewals.by_endpoint.borrow().is_empty());
}

#[test]
fn proofs_are_few_at_a_time_and_all_come_to_their_turn() {
    let (renewals, standing) = (Renewals::default(), Standing::new(GRACE));
    let theirs = peer(start());
    for n in 0..100 {
        renewals.opened(&key(n), &theirs, start(), WAIT);
    }
    let mut proven = std::collections::BTreeSet::new();
    for second in 0..100 {
        let now = start() + WAIT + Duration::from_secs(second);
        let due = renewals.due(start() + LIFE, &standing, now);
        assert!(due.len() <= AT_ONCE_MAX, "{}", due.len());
        for key in due {
            proven.insert(key.address);
            end(&renewals, &key, now + GRACE);
        }
    }
    assert_eq!(proven.len(), 100);
}
