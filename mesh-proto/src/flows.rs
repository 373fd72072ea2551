//! Who called whom, put together from the rows of the flow ledger: edges, services, workloads.
//!
//! The dashboard and `meshctl stat`, `top`, `graph` and `posture` all look at a [`Picture`], so that they cannot disagree.
//! It is a pure function of rows: those of several control planes are put one after the other.
//!
//! # One call, two tellers
//! The callee's proxy counts what arrived, with the verdict; the caller's counts what it sent, and alone knows of what
//! arrived nowhere. Of an edge that the callee tells, a [`Picture`] therefore takes the callee's counts and adds what the
//! caller's proxy failed to send or refused itself; of one that no callee tells (it is outside of the mesh, or its proxy
//! has not reported yet), all that the caller tells. A call that its caller gave up after it had arrived counts twice:
//! once with the callee's verdict, once as failed.

use crate::ops::histogram::Sketch;
use crate::wire::v1;
use std::collections::{BTreeMap, BTreeSet};

/// What the other side of an edge is called when it found no room in a table.
pub const OTHERS: &str = "others";
/// What every peer without an identity is called.
pub const UNMESHED: &str = "unmeshed";

/// What was counted. All sums stop at the largest number instead of wrapping.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Requests or connections that passed, whatever the application answered.
    pub allowed: u64,
    /// Refused by policy or identity, or without a single reading.
    pub denied: u64,
    /// Refused by a limit.
    pub limited: u64,
    /// Not reached, timed out, cut off.
    pub failed: u64,
    /// Allowed and answered by a server error.
    pub errors: u64,
    /// Bytes from the caller.
    pub bytes_in: u64,
    /// Bytes to the caller.
    pub bytes_out: u64,
    /// How long what was allowed took, in microseconds.
    pub latency: Sketch,
}

impl Tally {
    fn of(flow: &v1::Flow) -> Self {
        let mut latency = Sketch::default();
        flow.latency_us.iter().for_each(|bucket| latency.add(bucket.index, bucket.count));
        Self {
            allowed: flow.allowed,
            denied: flow.denied,
            limited: flow.limited,
            failed: flow.failed,
            errors: flow.errors,
            bytes_in: flow.bytes_in,
            bytes_out: flow.bytes_out,
            latency,
        }
    }

    /// Adds another.
    pub fn merge(&mut self, other: &Self) {
        let Self { allowed, denied, limited, failed, errors, bytes_in, bytes_out, latency } = other;
        for (own, more) in [
            (&mut self.allowed, allowed),
            (&mut self.denied, denied),
            (&mut self.limited, limited),
            (&mut self.failed, failed),
            (&mut self.errors, errors),
            (&mut self.bytes_in, bytes_in),
            (&mut self.bytes_out, bytes_out),
        ] {
            *own = own.saturating_add(*more);
        }
        self.latency.merge(latency);
    }

    /// Everything that was asked.
    pub fn asked(&self) -> u64 {
        [self.denied, self.limited, self.failed]
            .iter()
            .fold(self.allowed, |sum, more| sum.saturating_add(*more))
    }

    /// Refused by policy, identity or a limit.
    pub fn refused(&self) -> u64 {
        self.denied.saturating_add(self.limited)
    }

    /// The share, 0 to 1, of what was not refused that was answered without a server error; `None` when nothing was.
    ///
    /// A refusal is the mesh doing what it was told, and says nothing about the service.
    #[expect(clippy::cast_precision_loss, reason = "a share for people, exact enough above 2^53")]
    pub fn success(&self) -> Option<f64> {
        let tried = self.allowed.saturating_add(self.failed);
        let good = self.allowed.saturating_sub(self.errors);
        (tried > 0).then(|| good as f64 / tried as f64)
    }
}

/// Whom an edge leads from and to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EdgeKey {
    /// SPIFFE ID, [`UNMESHED`] or [`OTHERS`].
    pub source: String,
    /// The service called, `namespace/name`; where none is known, the callee's identity.
    pub target: String,
}

/// All calls from one identity to one service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Edge {
    /// Whether `target` is a service; else it is the callee's identity.
    pub is_service: bool,
    /// Identities that answered for it; empty while nobody was reached.
    pub destinations: BTreeSet<String>,
    /// What was spoken.
    pub protocols: BTreeSet<String>,
    /// Versions of TLS.
    pub tls: BTreeSet<String>,
    /// Calls that came or went in plaintext.
    pub plaintext: u64,
    /// What was counted.
    pub tally: Tally,
}

/// What a workload received and sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Workload {
    /// Calls to it.
    pub received: Tally,
    /// Calls by it.
    pub sent: Tally,
}

/// Who called whom in a span of time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Picture {
    /// All edges.
    pub edges: BTreeMap<EdgeKey, Edge>,
    /// By service, `namespace/name`: what it was asked.
    pub services: BTreeMap<String, Tally>,
    /// By identity, [`UNMESHED`] and [`OTHERS`] included.
    pub workloads: BTreeMap<String, Workload>,
}

impl Picture {
    /// Puts rows together; their order does not matter, and rows of the same edge are added.
    pub fn of(flows: &[v1::Flow]) -> Self {
        let told: BTreeSet<(&str, &str)> = flows
            .iter()
            .filter(|flow| !is_outbound(flow))
            .map(|flow| (&*flow.source, target(flow)))
            .collect();
        let mut picture = Self::default();
        for flow in flows {
            let tally = Tally::of(flow);
            if !(is_outbound(flow) && told.contains(&(&*flow.source, target(flow)))) {
                picture.add(flow, &tally);
                continue;
            }
            let Tally { denied, limited, failed, .. } = tally;
            let unsent = Tally { denied, limited, failed, ..Tally::default() };
            if unsent.asked() > 0 {
                picture.add(flow, &unsent);
            }
        }
        picture
    }

    fn add(&mut self, flow: &v1::Flow, tally: &Tally) {
        let key = EdgeKey { source: flow.source.clone(), target: target(flow).to_owned() };
        let edge = self.edges.entry(key).or_default();
        edge.is_service = !flow.service.is_empty();
        if !flow.destination.is_empty() {
            edge.destinations.insert(flow.destination.clone());
        }
        if !flow.protocol.is_empty() {
            edge.protocols.insert(flow.protocol.clone());
        }
        if !flow.tls_version.is_empty() {
            edge.tls.insert(flow.tls_version.clone());
        } else if !is_outbound(flow) || tally.allowed > 0 {
            // What a caller's proxy could not send had no protection to speak of.
            edge.plaintext = edge.plaintext.saturating_add(tally.asked());
        }
        edge.tally.merge(tally);
        if !flow.service.is_empty() {
            self.services.entry(flow.service.clone()).or_default().merge(tally);
        }
        self.workloads.entry(flow.source.clone()).or_default().sent.merge(tally);
        if !flow.destination.is_empty() {
            self.workloads.entry(flow.destination.clone()).or_default().received.merge(tally);
        }
    }
}

fn is_outbound(flow: &v1::Flow) -> bool {
    flow.direction == i32::from(v1::Direction::Outbound)
}

/// The service, or the callee's identity where none is known.
fn target(flow: &v1::Flow) -> &str {
    if flow.service.is_empty() { &flow.destination } else { &flow.service }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
    const PAY: &str = "spiffe://mesh.local/ns/shop/sa/pay";

    fn flow(direction: v1::Direction, destination: &str) -> v1::Flow {
        v1::Flow {
            direction: direction.into(),
            source: WEB.to_owned(),
            destination: destination.to_owned(),
            service: "shop/pay".to_owned(),
            port: 80,
            protocol: "http1".to_owned(),
            tls_version: if destination.is_empty() { "" } else { "TLSv1.3" }.to_owned(),
            ..v1::Flow::default()
        }
    }

    #[test]
    fn a_call_told_by_both_sides_counts_once() {
        let latency_us = vec![v1::Bucket { index: 50, count: 8 }];
        let inbound =
            v1::Flow { allowed: 8, errors: 2, denied: 1, latency_us, ..flow(v1::Direction::Inbound, PAY) };
        let outbound = v1::Flow { allowed: 9, errors: 2, ..flow(v1::Direction::Outbound, PAY) };
        let unreached = v1::Flow { failed: 2, ..flow(v1::Direction::Outbound, "") };
        let picture = Picture::of(&[outbound, unreached, inbound]);
        let service = &picture.services["shop/pay"];
        assert_eq!((service.asked(), service.allowed, service.denied, service.failed), (11, 8, 1, 2));
        assert_eq!(service.success(), Some(0.6));
        assert_eq!(service.latency.count(), 8);
        let (key, edge) = picture.edges.first_key_value().unwrap();
        assert_eq!((&*key.source, &*key.target, edge.plaintext), (WEB, "shop/pay", 0));
        assert_eq!(picture.workloads[WEB].sent.asked(), 11);
        assert_eq!(picture.workloads[PAY].received.asked(), 9, "what arrived");
    }

    #[test]
    fn what_only_the_caller_tells_is_believed() {
        let picture = Picture::of(&[v1::Flow {
            allowed: 3,
            tls_version: String::new(),
            ..flow(v1::Direction::Outbound, "")
        }]);
        let edge = picture.edges.values().next().unwrap();
        assert_eq!((edge.tally.allowed, edge.plaintext), (3, 3));
        assert!(edge.destinations.is_empty());
    }

    #[test]
    fn a_refusal_does_not_lower_the_success_rate() {
        assert_eq!(Tally { denied: 5, limited: 7, ..Tally::default() }.success(), None);
        assert_eq!(Tally { allowed: 5, denied: 5, ..Tally::default() }.success(), Some(1.0));
        assert_eq!(Tally { failed: 5, ..Tally::default() }.success(), Some(0.0));
        let hostile = Tally { allowed: 1, errors: u64::MAX, failed: u64::MAX, ..Tally::default() };
        assert_eq!((hostile.success(), hostile.asked()), (Some(0.0), u64::MAX));
    }

    proptest! {
        /// Edges, services and what workloads sent are three ways to cut the same calls.
        #[test]
        fn all_cuts_have_the_same_sum(rows in proptest::collection::vec((0..2_i32, 0..3_u8, 0..3_u8, 0..1_000_u64, 0..9_u64), 0..60)) {
            let flows: Vec<v1::Flow> = rows.iter().map(|(direction, source, service, allowed, failed)| v1::Flow {
                direction: *direction,
                source: format!("s{source}"),
                service: format!("n/{service}"),
                destination: format!("d{service}"),
                allowed: *allowed,
                failed: *failed,
                ..v1::Flow::default()
            }).collect();
            let picture = Picture::of(&flows);
            let edges: u64 = picture.edges.values().map(|edge| edge.tally.asked()).sum();
            prop_assert_eq!(edges, picture.services.values().map(Tally::asked).sum::<u64>());
            prop_assert_eq!(edges, picture.workloads.values().map(|workload| workload.sent.asked()).sum::<u64>());
            prop_assert_eq!(edges, picture.workloads.values().map(|workload| workload.received.asked()).sum::<u64>());
            let mut reversed = flows;
            reversed.reverse();
            prop_assert_eq!(picture, Picture::of(&reversed));
        }
    }
}
