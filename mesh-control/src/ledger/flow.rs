//! One row of the ledger: an edge and what was counted on it.

use mesh_proto::flows;
use mesh_proto::ops::histogram::Sketch;
use mesh_proto::wire::v1;
use std::sync::Arc;

/// What the other side of an edge is called when it found no room, here or in a proxy's table.
pub(crate) const OTHERS: &str = flows::OTHERS;
/// What every peer without an identity is called.
pub(crate) const UNMESHED: &str = flows::UNMESHED;

/// Who told of a call: the callee's proxy, which knows the verdict, or the caller's, which knows of failures to reach.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Side {
    /// The callee's.
    Callee,
    /// The caller's.
    Caller,
}

/// Which edge. The texts are shared, since every slice has the same ones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct FlowKey {
    /// Whose proxy told it.
    pub(crate) side: Side,
    /// SPIFFE ID, [`UNMESHED`] or [`OTHERS`].
    pub(crate) source: Arc<str>,
    /// SPIFFE ID, [`OTHERS`], or empty while nobody was reached.
    pub(crate) destination: Arc<str>,
    /// `namespace/name`.
    pub(crate) service: Arc<str>,
    /// The service's or workload's port.
    pub(crate) port: u16,
    /// What was spoken.
    pub(crate) protocol: Arc<str>,
    /// `TLSv1.3`; empty for plaintext.
    pub(crate) tls: Arc<str>,
}

impl FlowKey {
    /// The row for what finds no room: its own side and protocol stay.
    pub(crate) fn overflow(&self) -> Self {
        let others: Arc<str> = OTHERS.into();
        Self {
            side: self.side,
            source: others.clone(),
            destination: others.clone(),
            service: others,
            port: 0,
            protocol: self.protocol.clone(),
            tls: self.tls.clone(),
        }
    }

    /// The callee as people call it: its service, or its identity where none is known.
    pub(crate) fn target(&self) -> &str {
        if self.service.is_empty() { &self.destination } else { &self.service }
    }
}

/// What was counted on an edge.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    /// Requests or connections that passed.
    pub(crate) allowed: u64,
    /// Refused by policy or identity, or without a single reading.
    pub(crate) denied: u64,
    /// Refused by a limit.
    pub(crate) limited: u64,
    /// Not reached, timed out, cut off.
    pub(crate) failed: u64,
    /// Allowed and answered by a server error.
    pub(crate) errors: u64,
    /// Bytes from the caller.
    pub(crate) bytes_in: u64,
    /// Bytes to the caller.
    pub(crate) bytes_out: u64,
    /// How long what was allowed took.
    pub(crate) latency: Sketch,
}

impl Counts {
    /// Adds another row.
    pub(crate) fn merge(&mut self, other: &Self) {
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
    pub(crate) fn asked(&self) -> u64 {
        [self.denied, self.limited, self.failed]
            .iter()
            .fold(self.allowed, |sum, more| sum.saturating_add(*more))
    }
}

/// A proxy's message as a row. Texts that are too long and ports that do not exist were dealt with by `traffic`.
pub(crate) fn row_of(stats: &v1::EdgeStats) -> (FlowKey, Counts) {
    let is_outbound = stats.direction == i32::from(v1::Direction::Outbound);
    let key = FlowKey {
        side: if is_outbound { Side::Caller } else { Side::Callee },
        source: stats.source.as_str().into(),
        destination: stats.destination.as_str().into(),
        service: stats.service.as_str().into(),
        port: u16::try_from(stats.port).unwrap_or(0),
        protocol: stats.protocol.as_str().into(),
        tls: stats.tls_version.as_str().into(),
    };
    let mut latency = Sketch::default();
    for bucket in &stats.latency_us {
        latency.add(bucket.index, bucket.count);
    }
    let counts = Counts {
        allowed: stats.allowed,
        denied: stats.denied,
        limited: stats.limited,
        failed: stats.failed,
        errors: stats.errors,
        bytes_in: stats.bytes_in,
        bytes_out: stats.bytes_out,
        latency,
    };
    (key, counts)
}

impl FlowKey {
    /// The row for `meshctl`.
    pub(crate) fn to_wire(&self, counts: &Counts) -> v1::Flow {
        let Counts { allowed, denied, limited, failed, errors, bytes_in, bytes_out, latency } = counts;
        let direction = match self.side {
            Side::Callee => v1::Direction::Inbound,
            Side::Caller => v1::Direction::Outbound,
        };
        v1::Flow {
            direction: direction.into(),
            source: self.source.to_string(),
            destination: self.destination.to_string(),
            service: self.service.to_string(),
            port: self.port.into(),
            protocol: self.protocol.to_string(),
            tls_version: self.tls.to_string(),
            allowed: *allowed,
            denied: *denied,
            limited: *limited,
            failed: *failed,
            errors: *errors,
            bytes_in: *bytes_in,
            bytes_out: *bytes_out,
            latency_us: latency.buckets().map(|(index, count)| v1::Bucket { index, count }).collect(),
        }
    }
}
