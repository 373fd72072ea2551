//! One proxy's side of the truth: what it has confirmed, what was sent, what it should have.
//!
//! Pure: `server` feeds it states, answers and the time, and sends what it returns.

use crate::snapshot::Wanted;
use mesh_proto::config::Revision;
use mesh_proto::wire::item::Items;
use mesh_proto::wire::v1;
use std::time::{Duration, Instant};

/// How long an answer is waited for before the newest state is sent whole, whatever became of the last update. Applying
/// one takes a proxy milliseconds; a proxy that is starved of CPU is not helped by more updates.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// A proxy that holds something else than it should gets everything anew at most this often. An honest one is in step after
/// the first time; one that says so again and again would have everything sent to it in a circle.
pub(crate) const RESYNC_PAUSE: Duration = Duration::from_secs(10);
/// A reason given by a proxy is cut to this, in characters.
const REASON_CHARS_MAX: usize = 500;

#[derive(Debug)]
struct Flight {
    wanted: Wanted,
    digest: [u8; 32],
    sent_at: Instant,
}

/// What is known of one proxy.
#[derive(Debug)]
pub(crate) struct Subscriber {
    /// What the proxy confirmed; `None`: not known, the next update is whole.
    held: Option<Items>,
    held_digest: [u8; 32],
    /// Sent and not answered.
    flight: Option<Flight>,
    /// The newest state, when it could not be sent yet.
    next: Option<Wanted>,
    confirmed: Confirmed,
    confirmed_at: Instant,
    /// When it was last brought back into step.
    resynced_at: Option<Instant>,
    /// The last refusal and the digest of what was refused, until a later update is accepted.
    refusal: Option<(Refused, [u8; 32])>,
}

/// What a proxy has confirmed to enforce.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Confirmed {
    /// Everything up to this revision, as far as it concerns the proxy.
    pub(crate) revision: u64,
    /// The sequence of the mesh's own bundle.
    pub(crate) bundle_sequence: u64,
    /// The generation of the authority's word: revocations among it.
    pub(crate) trust_generation: u64,
}

/// An update that the proxy could not use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    /// Of the update.
    pub(crate) revision: u64,
    /// The proxy's words.
    pub(crate) reason: String,
}

impl Subscriber {
    /// A proxy that says what it holds from before a reconnect (empty: nothing). If that is what it should have, nothing
    /// is sent.
    pub(crate) fn greet(digest: &[u8], wanted: Wanted, now: Instant) -> (Self, Option<v1::Update>) {
        let mut subscriber = Self {
            held: None,
            held_digest: [0; 32],
            flight: None,
            next: None,
            confirmed: Confirmed::default(),
            confirmed_at: now,
            resynced_at: None,
            refusal: None,
        };
        let wanted_digest = wanted.items.digest();
        if digest == wanted_digest {
            subscriber.confirm(wanted, wanted_digest, now);
            return (subscriber, None);
        }
        let update = subscriber.offer(wanted, now);
        (subscriber, update)
    }

    /// A new state of the mesh. Returns what to send, if anything can and must be sent now.
    pub(crate) fn offer(&mut self, wanted: Wanted, now: Instant) -> Option<v1::Update> {
        if self.flight.is_some() {
            self.next = Some(wanted);
            return None;
        }
        let digest = wanted.items.digest();
        if self.refusal.as_ref().is_some_and(|(_, refused)| *refused == digest) {
            return None;
        }
        let update = match &self.held {
            Some(_) if self.held_digest == digest => {
                self.refusal = None;
                self.confirm(wanted, digest, now);
                return None;
            }
            Some(held) => Items::diff(held, &wanted.items, Revision(wanted.revision)),
            None => wanted.items.full(Revision(wanted.revision)),
        };
        self.flight = Some(Flight { wanted, digest, sent_at: now });
        Some(update)
    }

    /// The proxy enforces what it was sent. Returns the next update, if more has happened meanwhile.
    pub(crate) fn acknowledge(&mut self, ack: &v1::Ack, now: Instant) -> Option<v1::Update> {
        match self.flight.take_if(|flight| flight.digest == *ack.digest) {
            Some(flight) => {
                self.refusal = None;
                self.confirm(flight.wanted, flight.digest, now);
                self.send_next(now)
            }
            None => None,
        }
    }

    /// The proxy could not use what it was sent and keeps what it had. The same state is not sent again; the next one is.
    ///
    /// What refers to no update that is under way (an answer that came too late, or was made up) changes nothing.
    pub(crate) fn refuse(&mut self, refusal: &v1::Refusal, now: Instant) -> Refusal {
        let Some(flight) = self.flight.take_if(|flight| flight.wanted.revision == refusal.revision) else {
            return Refusal::Stale;
        };
        let reason = refusal.reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
        self.refusal = Some((Refused { revision: flight.wanted.revision, reason }, flight.digest));
        Refusal::Noted(self.send_next(now))
    }

    /// Whether a digest of the proxy is worth a look at what it should have.
    pub(crate) fn is_comparable(&self, digest: &v1::Digest, now: Instant) -> bool {
        let is_early =
            self.resynced_at.is_some_and(|then| now.saturating_duration_since(then) < RESYNC_PAUSE);
        // While an update is under way, what the proxy sent before it arrived means nothing.
        self.flight.is_none() && self.held.is_some() && self.held_digest != *digest.digest && !is_early
    }

    /// What the proxy says it holds. Returns the whole state if it holds something else than it should.
    pub(crate) fn compare(
        &mut self,
        digest: &v1::Digest,
        wanted: Wanted,
        now: Instant,
    ) -> Option<v1::Update> {
        if !self.is_comparable(digest, now) {
            return None;
        }
        self.held = None;
        self.resynced_at = Some(now);
        self.offer(wanted, now)
    }

    /// Called when [`ANSWER_DEADLINE`] has passed: forgets what is under way and sends the newest state whole.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<v1::Update> {
        let flight = self.flight.take()?;
        self.held = None;
        let wanted = self.next.take().unwrap_or(flight.wanted);
        self.offer(wanted, now)
    }

    /// Since when an answer is awaited, if one is.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.flight.as_ref().map(|flight| flight.sent_at)
    }

    /// What the proxy enforces.
    pub(crate) fn confirmed(&self) -> Confirmed {
        self.confirmed
    }

    /// Since when it has enforced that.
    pub(crate) fn confirmed_at(&self) -> Instant {
        self.confirmed_at
    }

    /// The last refusal, until a later update is accepted.
    pub(crate) fn refusal(&self) -> Option<&Refused> {
        self.refusal.as_ref().map(|(refused, _)| refused)
    }

    fn confirm(&mut self, wanted: Wanted, digest: [u8; 32], now: Instant) {
        let Wanted { items, revision, bundle_sequence, trust_generation } = wanted;
        let confirmed = Confirmed { revision, bundle_sequence, trust_generation };
        if self.confirmed != confirmed {
            self.confirmed = confirmed;
            self.confirmed_at = now;
        }
        self.held_digest = digest;
        self.held = Some(items);
    }

    fn send_next(&mut self, now: Instant) -> Option<v1::Update> {
        let next = self.next.take()?;
        self.offer(next, now)
    }
}

/// What became of a proxy's refusal.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It refers to nothing that is under way.
    Stale,
    /// It is noted; this is sent next, if more has happened meanwhile.
    Noted(Option<v1::Update>),
}

#[cfg(test)]
mod tests;
