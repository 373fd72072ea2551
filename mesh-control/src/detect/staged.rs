//! A stage for tests of detectors: traffic is said, time passes, and the detector looks.

use super::{Detect, Signal};
use crate::ledger::flow::{Counts, FlowKey, Side};
use crate::ledger::{PathKey, Sighting, Slice};
use mesh_proto::ops::histogram;
use std::sync::Arc;

/// An identity for tests.
pub(crate) const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
/// Another.
pub(crate) const PAY: &str = "spiffe://mesh.local/ns/shop/sa/pay";

/// What is being reported at the moment, and the time.
pub(crate) struct Stage {
    /// The open slice.
    pub(crate) slice: Slice,
}

impl Stage {
    /// A stage in November 2023, on a Monday at midnight.
    pub(crate) fn new() -> Self {
        let now = 1_699_833_600_000;
        Self { slice: Slice { from_ms: now, to_ms: now, ..Slice::default() } }
    }

    /// The time.
    pub(crate) fn now(&self) -> u64 {
        self.slice.from_ms
    }

    /// Counts on the edge from an identity to a service, whose account has its name.
    pub(crate) fn count(&mut self, source: &str, service: &str, counts: &Counts) {
        self.slice.rows.entry(flow(source, service)).or_default().merge(counts);
    }

    /// Calls that passed, each so long and with so many bytes in the answer.
    pub(crate) fn call(&mut self, source: &str, service: &str, calls: u64, (us, bytes): (u64, u64)) {
        let mut counts =
            Counts { allowed: calls, bytes_in: calls * 200, bytes_out: calls * bytes, ..Counts::default() };
        counts.latency.add(histogram::index(us), calls);
        self.count(source, service, &counts);
    }

    /// Refused calls.
    pub(crate) fn refuse(&mut self, source: &str, service: &str, calls: u64) {
        self.count(source, service, &Counts { denied: calls, ..Counts::default() });
    }

    /// The record of a call that was refused.
    pub(crate) fn sight_refused(&mut self, source: &str, service: &str, path: &str) {
        self.sight(source, service, path);
        if let Some(sighting) = self.slice.sightings.last_mut() {
            sighting.is_allowed = false;
            sighting.reason = "no_rule_allows".into();
        }
    }

    /// The record of a call that passed.
    pub(crate) fn sight(&mut self, source: &str, service: &str, path: &str) {
        let flow = flow(source, service);
        let now = self.slice.from_ms;
        self.slice.sightings.push(Sighting {
            path: PathKey {
                source: flow.source,
                destination: flow.destination,
                method: "GET".into(),
                template: path.into(),
            },
            instance: format!("{}-1", source.rsplit('/').next().unwrap_or_default()).into(),
            address: "10.0.0.1".into(),
            is_allowed: true,
            reason: "".into(),
            time_ms: now,
            reporter: "pay-1".into(),
            told_ms: now,
        });
    }

    /// Lets seconds pass and a detector look; gives what it says.
    pub(crate) fn after(&mut self, seconds: u64, detector: &mut dyn Detect) -> Vec<Signal> {
        let slice = self.pass(seconds);
        let mut said = Vec::new();
        detector.look(&slice, &mut said);
        said
    }

    /// Lets seconds pass; gives the slice that ends.
    pub(crate) fn pass(&mut self, seconds: u64) -> Slice {
        let mut slice = std::mem::take(&mut self.slice);
        slice.to_ms = slice.from_ms + seconds * 1_000;
        self.slice = Slice { from_ms: slice.to_ms, to_ms: slice.to_ms, ..Slice::default() };
        slice
    }
}

/// An edge from an identity to a service.
pub(crate) fn flow(source: &str, service: &str) -> FlowKey {
    let (namespace, name) = service.split_once('/').unwrap_or(("shop", service));
    let destination: Arc<str> = format!("spiffe://mesh.local/ns/{namespace}/sa/{name}").into();
    FlowKey {
        side: Side::Callee,
        source: source.into(),
        destination,
        service: service.into(),
        port: 80,
        protocol: "http1".into(),
        tls: "TLSv1.3".into(),
    }
}
