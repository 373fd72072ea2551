//! How many connections one party may have open here, so that nobody uses up what all share.
//!
//! `inbound` counts strangers by the network they come from and callers by who they are. Counts, never waits and never
//! refuses anything itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;

/// Where a stranger comes from: an IPv4 address, or the network of an IPv6 address.
///
/// # Why
/// A /64 is the smallest network that a host is given (RFC 6177), so one host has 2^64 addresses to choose from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Origin(IpAddr);

impl Origin {
    /// Of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let network = u128::from(address) & (u128::MAX << 64);
                IpAddr::V6(Ipv6Addr::from(network))
            }
        })
    }
}

/// Who has a connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Party {
    /// A proven identity, all its instances together.
    Meshed(Arc<str>),
    /// Whoever comes from there without one.
    Unmeshed(Origin),
}

/// Open connections by party, with the most that one may have. Parties with none take no room.
#[derive(Debug)]
pub(crate) struct Shares<K: Eq + Hash> {
    open: RefCell<HashMap<K, u64>>,
    most: u64,
}

/// One open connection of a party; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Share<K: Eq + Hash> {
    of: Rc<Shares<K>>,
    party: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// Nobody has any; each may have `most`.
    pub(crate) fn new(most: u64) -> Rc<Self> {
        Rc::new(Self { open: RefCell::default(), most })
    }

    /// One more of a party; `None` when it has all it may have.
    pub(crate) fn take(self: &Rc<Self>, party: K) -> Option<Share<K>> {
        let mut open = self.open.borrow_mut();
        match open.get_mut(&party) {
            Some(count) if *count >= self.most => return None,
            Some(count) => *count = count.saturating_add(1),
            None => {
                open.insert(party.clone(), 1);
            }
        }
        Some(Share { of: Rc::clone(self), party })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut open = self.of.open.borrow_mut();
        if let Some(count) = open.get_mut(&self.party) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.party);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(address: &str) -> Origin {
        Origin::of(address.parse().unwrap())
    }

    #[test]
    fn a_host_has_one_origin_however_many_addresses_it_has() {
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_ne!(origin("10.0.0.1"), origin("10.0.0.2"));
        assert_eq!(origin("::ffff:10.0.0.1"), origin("10.0.0.1"));
        assert_ne!(origin("::ffff:10.0.0.1"), origin("::ffff:10.0.0.2"));
    }

    #[test]
    fn whoever_has_its_share_leaves_the_others_theirs() {
        let shares = Shares::new(2);
        let party = |name: &str| Party::Meshed(name.into());
        let first = shares.take(party("greedy")).unwrap();
        let _second = shares.take(party("greedy")).unwrap();
        assert!(shares.take(party("greedy")).is_none());
        let modest = shares.take(party("modest"));
        assert!(modest.is_some());
        assert!(shares.take(Party::Unmeshed(origin("10.0.0.1"))).is_some());
        drop(first);
        assert!(shares.take(party("greedy")).is_some(), "its place has come back");
    }

    #[test]
    fn nobody_is_remembered_who_has_none() {
        let shares = Shares::new(2);
        for n in 0..100_u8 {
            drop(shares.take(origin(&format!("10.0.0.{n}"))));
        }
        assert!(shares.open.borrow().is_empty());
    }
}
