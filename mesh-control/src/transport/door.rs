//! Who may stand at the TLS port before it is known who he is: bounded in all and for each host.
//!
//! A connection first says its ClientHello, which costs it a packet and us a socket; only then it gets a place for the
//! handshake, which costs us keys and memory. Both places are counted by where the connection comes from, so that one
//! host, whatever it does, leaves seven eighths of them to the others.

use super::places::{Bounds, Full, Place, Places};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::net::{IpAddr, Ipv4Addr};

/// Connections that have not said their hello; each is a socket and a small buffer.
const UNHEARD_MAX: usize = 4_096;
/// Handshakes at once. One costs about 0.3 ms of CPU and 20 KiB.
const HANDSHAKES_MAX: usize = 2_048;
/// Connections of strangers, who hold no certificate: machines that join at this very moment.
const STRANGERS_MAX: usize = 256;
/// The share of one host in the first two.
const SHARE: usize = 8;
/// Connections of strangers from one host: some machines may share an address.
const STRANGERS_EACH_MAX: usize = 16;

/// Where a connection comes from, as far as one host cannot choose it: an IPv4 address, or the 64 bits of an IPv6 address
/// that name its network (RFC 4291, 2.5.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Source {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// The places before the door.
pub(super) struct Door {
    unheard: Places<Source>,
    handshakes: Places<Source>,
    strangers: Places<Source>,
}

impl Door {
    /// As many places as a process with so many descriptors can afford: half of them at most, the other half is for those
    /// who came in.
    pub(super) fn new(descriptors: usize) -> Self {
        let places = |wanted: usize, part: usize| {
            let all = wanted.min(descriptors / part).max(SHARE);
            Places::new(Bounds { all, each: all / SHARE })
        };
        Self {
            unheard: places(UNHEARD_MAX, 4),
            handshakes: places(HANDSHAKES_MAX, 8),
            strangers: Places::new(Bounds { all: STRANGERS_MAX, each: STRANGERS_EACH_MAX }),
        }
    }

    /// A place until the hello has come.
    pub(super) fn unheard(&self, source: Source) -> Result<Place, &'static str> {
        self.unheard.take(source, usize::MAX).map_err(|full| match full {
            Full::All => "too_many_unheard",
            Full::Each => "source_too_many_unheard",
        })
    }

    /// A place for the handshake.
    pub(super) fn handshake(&self, source: Source) -> Result<Place, &'static str> {
        self.handshakes.take(source, usize::MAX).map_err(|full| match full {
            Full::All => "too_many_handshakes",
            Full::Each => "source_too_many_handshakes",
        })
    }

    /// A place for a connection that showed no certificate.
    pub(super) fn stranger(&self, source: Source) -> Result<Place, &'static str> {
        self.strangers.take(source, usize::MAX).map_err(|full| match full {
            Full::All => "too_many_strangers",
            Full::Each => "source_too_many_strangers",
        })
    }
}

/// Takes as many descriptors as the system lets this process have, and says how many those are: 1,024 is the soft limit
/// in most places, and each proxy needs two.
pub(crate) fn descriptors() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // What it was given is what it has.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_source_whatever_address_it_takes() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    #[test]
    fn one_host_cannot_take_the_places_of_another() {
        for descriptors in [1_024, 1 << 20] {
            let door = Door::new(descriptors);
            let (hostile, other) = (Source::V4([192, 0, 2, 1].into()), Source::V6([1, 2, 3, 4]));
            let (mut unheard, mut handshakes) = (Vec::new(), Vec::new());
            let ends = loop {
                match door.unheard(hostile) {
                    Ok(place) => unheard.push(place),
                    Err(reason) => break reason,
                }
            };
            assert_eq!(ends, "source_too_many_unheard");
            let ends = loop {
                match door.handshake(hostile) {
                    Ok(place) => handshakes.push(place),
                    Err(reason) => break reason,
                }
            };
            assert_eq!(ends, "source_too_many_handshakes");
            assert!(unheard.len() + handshakes.len() <= descriptors / 8, "{descriptors}");
            assert!(
                door.unheard(other).is_ok() && door.handshake(other).is_ok() && door.stranger(other).is_ok()
            );
        }
    }
}
