//! Which endpoint a request or tunnel goes to, and whether another one may be tried.
//!
//! Only what is provably unprocessed is tried again: a connection that was not made, or a stream that the peer refused.

use super::connect::ConnectError;
use super::pool::Lane;
use super::resolve::Route;
use crate::balance::ewma::FAILURE;
use crate::balance::p2c;
use crate::clock;
use crate::worker::Random;
use smallvec::SmallVec;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Instant;

/// Attempts for one request, the first included. Three endpoints that fail in a row are no chance any more.
pub(crate) const ATTEMPTS_MAX: usize = 3;
/// Endpoints that may say at once that nobody is there, before that counts as an attempt: when a workload is scaled in, all of
/// those that go are gone for a moment before anybody is told, and each says so within a round trip.
pub(crate) const GONE_MAX: usize = 32;

/// The endpoints one request has not failed on yet.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    failed: SmallVec<[Rc<Lane>; 2]>,
    made: usize,
    gone: usize,
}

impl Attempts {
    /// Chooses an endpoint: by load among those that take new requests, else among those that are going away; one that
    /// failed this request only when there is no other.
    ///
    /// `None` when there is no endpoint, or no attempt left.
    pub(crate) fn next(&mut self, route: &Route, random: &Random, now: Instant) -> Option<Rc<Lane>> {
        if self.made >= ATTEMPTS_MAX {
            return None;
        }
        self.made += 1;
        let untried = |lanes: &[Rc<Lane>]| -> SmallVec<[Rc<Lane>; 8]> {
            lanes.iter().filter(|lane| !self.failed.iter().any(|f| Rc::ptr_eq(f, lane))).cloned().collect()
        };
        let pick = |lanes: &[Rc<Lane>]| {
            p2c::pick(lanes, |n| random.below(n), |lane| lane.load.cost(now)).map(Rc::clone)
        };
        if self.failed.is_empty() {
            return pick(&route.ready).or_else(|| pick(&route.draining));
        }
        pick(&untried(&route.ready)).or_else(|| pick(&untried(&route.draining)))
    }

    /// There is no connection to the endpoint.
    pub(crate) fn not_connected(&mut self, lane: &Rc<Lane>, error: &ConnectError) {
        match error {
            ConnectError::Refused { source, .. } if source.kind() == ErrorKind::ConnectionRefused => {
                self.gone(lane)
            }
            _ => self.failed(lane),
        }
    }

    /// The endpoint said at once that its application is not there, or nobody is.
    pub(crate) fn gone(&mut self, lane: &Rc<Lane>) {
        if self.gone < GONE_MAX {
            self.gone += 1;
            self.made = self.made.saturating_sub(1);
        }
        self.failed(lane);
    }

    /// The endpoint failed this request before it saw any of it.
    pub(crate) fn failed(&mut self, lane: &Rc<Lane>) {
        // Counts as a slow answer, so that others are preferred for a while.
        lane.load.begin();
        lane.load.end(Some(FAILURE), clock::now());
        self.failed.push(Rc::clone(lane));
    }
}

/// One request in flight on an endpoint; its end tells the balancer.
#[derive(Debug)]
pub(crate) struct InFlight {
    lane: Rc<Lane>,
    began: Instant,
    told: bool,
}

impl InFlight {
    /// A request begins.
    pub(crate) fn new(lane: &Rc<Lane>, began: Instant) -> Self {
        lane.load.begin();
        Self { lane: Rc::clone(lane), began, told: false }
    }

    /// It ended with an answer.
    pub(crate) fn answered(mut self, now: Instant) {
        self.told = true;
        self.lane.load.end(Some(now.saturating_duration_since(self.began)), now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.told {
            self.lane.load.end(None, self.began);
        }
    }
}
