//! How long a caller is believed on a connection that it keeps open: to the end of its certificate, and a grace.
//!
//! `inbound` tells of every proof and asks again whenever connections are judged; `data` asks when that is due. Reads no
//! clock and cuts nothing itself.
//!
//! # Why
//! TLS 1.3 has no second proof on a connection, so a connection that lives longer than the certificate it was opened with
//! would be believed for ever. A caller that goes on renewing shows its new certificate on the connections it opens
//! meanwhile; that counts for all connections of the same instance. One that shows none has lost its standing, or opens
//! nothing but this one connection, and then has to open it again.

use crate::refusal::Refusal;
use mesh_ca::verify::PeerIdentity;
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::InstanceName;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a connection has beyond the end of a certificate, the caller's or our own. A certificate is renewed from a third of
/// its life on, so its end says that renewal has failed for long already; an hour more lets a control plane that has come
/// back, and a clock that is put right, mend it before anything is cut.
pub(crate) const GRACE: Duration = Duration::from_secs(3_600);
/// Callers whose newest certificate is known; about 200 bytes each. Beyond, connections stand on their own proof.
const CALLERS_MAX: usize = 4_096;
/// Ends are looked at once a minute, so that thousands of certificates cost one entry.
const ROUND_SECS: u64 = 60;

/// What callers have proven, and when to judge their connections again.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    newest: RefCell<HashMap<(SpiffeId, Option<InstanceName>), SystemTime>>,
    ends: RefCell<BTreeSet<u64>>,
}

impl Standing {
    /// A caller has shown its certificate.
    pub(crate) fn proven(&self, peer: &PeerIdentity, now: SystemTime) {
        let end = unix_secs(end_of(peer.not_after)).div_ceil(ROUND_SECS).saturating_mul(ROUND_SECS);
        self.ends.borrow_mut().insert(end);
        let mut newest = self.newest.borrow_mut();
        if newest.len() >= CALLERS_MAX {
            newest.retain(|_, not_after| end_of(*not_after) > now);
        }
        if newest.len() < CALLERS_MAX {
            let of = newest.entry((peer.id.clone(), peer.instance.clone())).or_insert(peer.not_after);
            *of = peer.not_after.max(*of);
        }
    }

    /// Whether a connection of this caller may stay, as far as certificates go; `own` is when ours ends.
    ///
    /// # Errors
    /// [`Refusal::PeerExpired`], [`Refusal::CertificateExpired`].
    pub(crate) fn check(&self, peer: &PeerIdentity, own: SystemTime, now: SystemTime) -> Result<(), Refusal> {
        if end_of(own) <= now {
            return Err(Refusal::CertificateExpired);
        }
        if end_of(peer.not_after) > now {
            return Ok(());
        }
        let newest = self.newest.borrow();
        match newest.get(&(peer.id.clone(), peer.instance.clone())) {
            Some(not_after) if end_of(*not_after) > now => Ok(()),
            _ => Err(Refusal::PeerExpired),
        }
    }

    /// Whether some caller's time may have run out since this was last asked.
    pub(crate) fn is_due(&self, now_secs: u64) -> bool {
        let mut ends = self.ends.borrow_mut();
        let later = ends.split_off(&now_secs.saturating_add(1));
        !std::mem::replace(&mut *ends, later).is_empty()
    }
}

/// From when on nothing stands on a certificate.
pub(crate) fn end_of(not_after: SystemTime) -> SystemTime {
    not_after.checked_add(GRACE).unwrap_or(not_after)
}

/// Whole seconds since the epoch, rounded up.
pub(crate) fn unix_secs(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().saturating_add(u64::from(since.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn peer(instance: &str, not_after: SystemTime) -> PeerIdentity {
        PeerIdentity {
            id: "spiffe://mesh.test/ns/default/sa/web".parse().unwrap(),
            instance: Some(instance.parse().unwrap()),
            serials: Vec::new(),
            not_after,
        }
    }

    #[test]
    fn a_caller_whose_certificate_has_ended_stays_for_the_grace_and_no_longer() {
        let standing = Standing::default();
        let start = UNIX_EPOCH + HOUR * 1_000;
        let old = peer("web-1", start + HOUR);
        standing.proven(&old, start);
        let far = start + HOUR * 1_000;
        let last = start + HOUR + GRACE - Duration::from_secs(1);
        assert_eq!(standing.check(&old, far, last), Ok(()));
        assert_eq!(standing.check(&old, far, start + HOUR + GRACE), Err(Refusal::PeerExpired));
        // Another instance of the same identity proves nothing for it.
        standing.proven(&peer("web-2", far), last);
        assert_eq!(standing.check(&old, far, start + HOUR + GRACE), Err(Refusal::PeerExpired));
        standing.proven(&peer("web-1", start + HOUR * 9), last);
        assert_eq!(standing.check(&old, far, start + HOUR * 9), Ok(()), "it has renewed and shown it");
        assert_eq!(standing.check(&old, far, start + HOUR * 9 + GRACE), Err(Refusal::PeerExpired));
    }

    #[test]
    fn nothing_stands_on_our_own_certificate_when_it_has_ended() {
        let standing = Standing::default();
        let start = UNIX_EPOCH + HOUR * 1_000;
        let caller = peer("web-1", start + HOUR * 100);
        assert_eq!(standing.check(&caller, start, start), Ok(()));
        assert_eq!(standing.check(&caller, start, start + GRACE), Err(Refusal::CertificateExpired));
    }

    #[test]
    fn connections_are_judged_again_when_a_time_has_run_out() {
        let standing = Standing::default();
        let start = UNIX_EPOCH + HOUR * 1_000;
        for minute in [1, 1, 1, 5] {
            standing.proven(&peer("web-1", start + Duration::from_secs(60 * minute)), start);
        }
        let end = unix_secs(start + GRACE);
        assert!(!standing.is_due(end + 59));
        assert!(standing.is_due(end + 60));
        assert!(!standing.is_due(end + 60), "told once");
        assert!(!standing.is_due(end + 299));
        assert!(standing.is_due(end + 400));
        assert!(standing.ends.borrow().is_empty());
    }

    #[test]
    fn no_more_callers_are_remembered_than_there_is_room_for() {
        let standing = Standing::default();
        let start = UNIX_EPOCH + HOUR * 1_000;
        for n in 0..CALLERS_MAX + 10 {
            standing.proven(&peer(&format!("web-{n}"), start), start);
        }
        assert_eq!(standing.newest.borrow().len(), CALLERS_MAX);
        standing.proven(&peer("late", start + HOUR * 9), start + GRACE);
        assert_eq!(standing.newest.borrow().len(), 1, "those whose time has run out gave way");
    }
}
