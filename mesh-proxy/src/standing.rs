//! How long a peer is believed on a connection that stays open: to the end of its certificate, and a grace.
//!
//! One table for the process: every handshake of every data thread tells [`Standing`] what the peer has shown, and each
//! connection asks it again whenever it is judged. `data` asks when that is due, `outbound::renewal` shows our own
//! certificate anew and looks at the peer's. Reads no clock and cuts nothing itself.
//!
//! # Why
//! TLS 1.3 has no second proof on a connection, so a connection that lives longer than the certificate it was opened with
//! would be believed for ever. What the same instance shows in another handshake meanwhile counts for all its connections.
//! A peer that shows no newer certificate in all of the grace has lost its standing.

use mesh_ca::verify::PeerIdentity;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a connection has beyond the end of a certificate, the peer's or our own. A certificate is renewed from a third of
/// its life on, so its end says that renewal has failed for long already; an hour more lets a control plane that has come
/// back, and a clock that is put right, mend it before anything is cut.
pub const CERTIFICATE_GRACE: Duration = Duration::from_secs(3_600);
/// Peers whose newest certificate is known; about 200 bytes each. Beyond, connections stand on their own proof.
const PEERS_MAX: usize = 4_096;
/// Instances of one identity among them, so that none fills the table with instances it makes up; the one whose certificate
/// ends first gives way.
const INSTANCES_MAX: usize = 512;
/// Ends are looked at once in this part of the grace, so that thousands of certificates cost one entry: once a minute.
const ROUNDS: u32 = 60;
/// Times at which certificates end; with a certificate's life of a month and a minute for each there are 43,200.
const ENDS_MAX: usize = 65_536;

/// What peers have proven, and when to judge their connections again.
#[derive(Debug)]
pub(crate) struct Standing {
    grace: Duration,
    round_secs: u64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When the newest certificate ends that an instance has shown.
    newest: HashMap<SpiffeId, HashMap<Option<InstanceName>, SystemTime>>,
    instances: usize,
    /// Unix seconds at which nothing stands on some certificate any more.
    ends: BTreeSet<u64>,
}

/// Whose certificate has ended, and the grace with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// The peer's; it has shown no newer one.
    Peer,
    /// Our own.
    Own,
}

impl Standing {
    /// Nobody has proven anything; what stands on a certificate has `grace` beyond its end.
    pub(crate) fn new(grace: Duration) -> Arc<Self> {
        let round_secs = (grace / ROUNDS).as_secs().max(1);
        Arc::new(Self { grace, round_secs, known: Mutex::default() })
    }

    /// What a connection has beyond the end of a certificate.
    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }

    /// A peer has shown its certificate in a handshake.
    pub(crate) fn proven(&self, peer: &PeerIdentity, now: SystemTime) {
        let end = unix_secs(self.end_of(peer.not_after)).div_ceil(self.round_secs);
        let mut known = self.known();
        known.ends.insert(end.saturating_mul(self.round_secs));
        if known.ends.len() > ENDS_MAX {
            known.ends.pop_first();
        }
        known.learn(peer, |not_after| self.end_of(not_after) > now);
    }

    /// When the newest certificate ends that a peer has shown, the one of its own handshake included.
    pub(crate) fn newest(&self, peer: &PeerIdentity) -> SystemTime {
        let known = self.known();
        let newest = known.newest.get(&peer.id).and_then(|of| of.get(&peer.instance));
        newest.map_or(peer.not_after, |newest| peer.not_after.max(*newest))
    }

    /// Whether a connection of this peer may stay, as far as certificates go; `own` is when ours ends.
    ///
    /// # Errors
    /// Whose certificate it is that has ended.
    pub(crate) fn check(&self, peer: &PeerIdentity, own: SystemTime, now: SystemTime) -> Result<(), Ended> {
        if self.end_of(own) <= now {
            return Err(Ended::Own);
        }
        // The table is asked only when that matters.
        if self.end_of(peer.not_after) > now || self.end_of(self.newest(peer)) > now {
            return Ok(());
        }
        Err(Ended::Peer)
    }

    /// Whether somebody's time ran out after `from` and not after `to`, both Unix seconds; `own` is when our certificate
    /// ends.
    pub(crate) fn has_ended(&self, own: SystemTime, from: u64, to: u64) -> bool {
        let first = from.saturating_add(1);
        let own_end = unix_secs(self.end_of(own));
        first <= to
            && ((first..=to).contains(&own_end) || self.known().ends.range(first..=to).next().is_some())
    }

    /// From when on nothing stands on a certificate.
    fn end_of(&self, not_after: SystemTime) -> SystemTime {
        not_after.checked_add(self.grace).unwrap_or(not_after)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Remembers a certificate if there is room, or room can be made of what `counts` no more.
    fn learn(&mut self, peer: &PeerIdentity, counts: impl Fn(SystemTime) -> bool) {
        if let Some(of) = self.newest.get_mut(&peer.id).and_then(|of| of.get_mut(&peer.instance)) {
            *of = peer.not_after.max(*of);
            return;
        }
        if self.instances >= PEERS_MAX {
            self.newest.retain(|_, of| {
                of.retain(|_, not_after| counts(*not_after));
                !of.is_empty()
            });
            self.instances = self.newest.values().map(HashMap::len).sum();
        }
        let of_identity = self.newest.get(&peer.id).map_or(0, HashMap::len);
        if of_identity < INSTANCES_MAX && self.instances >= PEERS_MAX {
            return;
        }
        let of = self.newest.entry(peer.id.clone()).or_default();
        if of_identity >= INSTANCES_MAX
            && let Some(first) = of.iter().min_by_key(|(_, end)| **end).map(|(instance, _)| instance.clone())
        {
            of.remove(&first);
            self.instances = self.instances.saturating_sub(1);
        }
        of.insert(peer.instance.clone(), peer.not_after);
        self.instances = self.instances.saturating_add(1);
    }
}

/// Whole seconds since the epoch, rounded up.
fn unix_secs(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().saturating_add(u64::from(since.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const GRACE: Duration = CERTIFICATE_GRACE;

    fn peer(instance: &str, not_after: SystemTime) -> PeerIdentity {
        peer_of("web", instance, not_after)
    }

    fn peer_of(account: &str, instance: &str, not_after: SystemTime) -> PeerIdentity {
        PeerIdentity {
            id: format!("spiffe://mesh.test/ns/default/sa/{account}").parse().unwrap(),
            instance: Some(instance.parse().unwrap()),
            serials: Vec::new(),
            not_after,
        }
    }

    #[test]
    fn a_peer_whose_certificate_has_ended_stays_for_the_grace_and_no_longer() {
        let standing = Standing::new(GRACE);
        let start = UNIX_EPOCH + HOUR * 1_000;
        let old = peer("web-1", start + HOUR);
        standing.proven(&old, start);
        let far = start + HOUR * 1_000;
        let last = start + HOUR + GRACE - Duration::from_secs(1);
        assert_eq!(standing.check(&old, far, last), Ok(()));
        assert_eq!(standing.check(&old, far, start + HOUR + GRACE), Err(Ended::Peer));
        // Another instance of the same identity proves nothing for it, nor does one of that name of another identity.
        standing.proven(&peer("web-2", far), last);
        standing.proven(&peer_of("api", "web-1", far), last);
        assert_eq!(standing.check(&old, far, start + HOUR + GRACE), Err(Ended::Peer));
        standing.proven(&peer("web-1", start + HOUR * 9), last);
        assert_eq!(standing.check(&old, far, start + HOUR * 9), Ok(()), "it has renewed and shown it");
        assert_eq!(standing.newest(&old), start + HOUR * 9);
        assert_eq!(standing.check(&old, far, start + HOUR * 9 + GRACE), Err(Ended::Peer));
        // An older one that comes later takes nothing back.
        standing.proven(&old, last);
        assert_eq!(standing.newest(&old), start + HOUR * 9);
    }

    #[test]
    fn nothing_stands_on_our_own_certificate_when_it_has_ended() {
        let standing = Standing::new(GRACE);
        let start = UNIX_EPOCH + HOUR * 1_000;
        let caller = peer("web-1", start + HOUR * 100);
        assert_eq!(standing.check(&caller, start, start), Ok(()));
        assert_eq!(standing.check(&caller, start, start + GRACE), Err(Ended::Own));
    }

    #[test]
    fn connections_are_judged_again_when_a_time_has_run_out() {
        let standing = Standing::new(GRACE);
        let start = UNIX_EPOCH + HOUR * 1_000;
        let far = start + HOUR * 1_000;
        for minute in [1, 1, 1, 5] {
            standing.proven(&peer("web-1", start + Duration::from_secs(60 * minute)), start);
        }
        assert_eq!(standing.known().ends.len(), 2);
        let end = unix_secs(start + GRACE);
        assert!(!standing.has_ended(far, end, end + 59));
        assert!(standing.has_ended(far, end + 59, end + 60));
        assert!(standing.has_ended(far, end, end + 60), "each thread asks for itself");
        assert!(!standing.has_ended(far, end + 60, end + 299));
        assert!(standing.has_ended(far, end + 299, end + 400));
        assert!(!standing.has_ended(far, end + 400, end + 300), "the clock was set back");
        assert!(standing.has_ended(start, end - 1, end), "our own");
    }

    #[test]
    fn no_more_peers_are_remembered_than_there_is_room_for() {
        let standing = Standing::new(GRACE);
        let start = UNIX_EPOCH + HOUR * 1_000;
        for n in 0..PEERS_MAX + 10 {
            standing.proven(&peer_of(&format!("web-{}", n % 16), &format!("web-{n}"), start), start);
        }
        assert_eq!(standing.known().instances, PEERS_MAX);
        standing.proven(&peer("late", start + HOUR * 9), start + GRACE);
        assert_eq!(standing.known().instances, 1, "those whose time has run out gave way");
        assert_eq!(standing.known().newest.len(), 1);
    }

    #[test]
    fn one_identity_does_not_fill_the_table_with_instances() {
        let standing = Standing::new(GRACE);
        let start = UNIX_EPOCH + HOUR * 1_000;
        for n in 0..PEERS_MAX {
            let life = Duration::from_secs(u64::try_from(n).unwrap());
            standing.proven(&peer(&format!("web-{n}"), start + life), start);
        }
        assert_eq!(standing.known().instances, INSTANCES_MAX);
        standing.proven(&peer_of("api", "api-1", start), start);
        assert_eq!(standing.known().instances, INSTANCES_MAX + 1);
        // The newest are there.
        let last = PEERS_MAX - 1;
        let kept = peer(&format!("web-{last}"), start);
        assert!(standing.newest(&kept) > start);
    }
}
