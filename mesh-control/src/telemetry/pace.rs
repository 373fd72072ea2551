//! How fast each proxy may report, however many streams and connections it opens.
//!
//! A report waits for its turn before it is read, so that what comes faster waits in the proxy's own connection.

use super::Reporter;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Reports of one proxy are looked at at most this often. A proxy sends one in a second, and a few at once after a
/// reconnect.
pub(crate) const PAUSE: Duration = Duration::from_millis(250);
/// Streams of one proxy at once: the present one, and what is left of those before a reconnect.
pub(crate) const STREAMS_MAX: usize = 4;

/// An identity and an instance of it.
type Proxy = (String, String);

#[derive(Debug)]
struct Entry {
    streams: usize,
    /// When the next report may be looked at.
    next: Instant,
}

/// The table of all proxies that report, or did a moment ago.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Arc<Mutex<HashMap<Proxy, Entry>>>);

/// One stream; its place is free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Paced {
    pace: Pace,
    proxy: Proxy,
}

impl Pace {
    /// A place for one more stream of a proxy, if there is one.
    pub(crate) fn enter(&self, from: Reporter<'_>, now: Instant) -> Option<Paced> {
        let mut table = self.table();
        // An entry outlives its streams until its turn is over: otherwise a new stream would be a new turn.
        table.retain(|_, entry| entry.streams > 0 || entry.next > now);
        let proxy = (from.id.to_owned(), from.instance.to_owned());
        let entry = table.entry(proxy.clone()).or_insert(Entry { streams: 0, next: now });
        if entry.streams >= STREAMS_MAX {
            return None;
        }
        entry.streams = entry.streams.saturating_add(1);
        drop(table);
        Some(Paced { pace: self.clone(), proxy })
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Proxy, Entry>> {
        // A panic while it is held leaves at worst one place taken.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Paced {
    /// Takes the proxy's next turn; says how long until it comes.
    pub(crate) fn turn(&self, now: Instant) -> Duration {
        let mut table = self.pace.table();
        let Some(entry) = table.get_mut(&self.proxy) else { return PAUSE };
        let turn = entry.next.max(now);
        entry.next = turn.checked_add(PAUSE).unwrap_or(turn);
        turn.saturating_duration_since(now)
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        if let Some(entry) = self.pace.table().get_mut(&self.proxy) {
            entry.streams = entry.streams.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const WEB: Reporter<'_> = Reporter { id: "spiffe://mesh.local/ns/shop/sa/web", instance: "web-1" };

    #[test]
    fn a_proxy_has_one_pace_for_all_its_streams() {
        let (pace, now) = (Pace::default(), clock::monotonic());
        let streams: Vec<_> = (0..STREAMS_MAX).map(|_| pace.enter(WEB, now).unwrap()).collect();
        assert!(pace.enter(WEB, now).is_none());
        let other = Reporter { instance: "web-2", ..WEB };
        assert_eq!(pace.enter(other, now).unwrap().turn(now), Duration::ZERO, "others do not wait for it");
        let waits: Vec<_> = streams.iter().map(|stream| stream.turn(now)).collect();
        assert_eq!(waits, [Duration::ZERO, PAUSE, PAUSE * 2, PAUSE * 3]);
        drop(streams);
        assert_eq!(pace.enter(WEB, now).unwrap().turn(now), PAUSE * 4, "a new stream is no new turn");
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let (pace, now) = (Pace::default(), clock::monotonic());
        pace.enter(WEB, now).unwrap().turn(now);
        drop(pace.enter(Reporter { instance: "web-2", ..WEB }, now + PAUSE * 2));
        assert_eq!(pace.table().len(), 1);
    }
}
