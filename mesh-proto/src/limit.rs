//! Rate limits: what they say, and the arithmetic of one bucket.

use crate::policy::model::{Mode, Operation, PolicyName};
use std::sync::Arc;
use std::time::Duration;

/// A limit that applies to a workload's inbound traffic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// Its name.
    pub name: PolicyName,
    /// Whether it refuses, or only counts.
    pub mode: Mode,
    /// What gets a bucket of its own.
    pub key: LimitKey,
    /// Which requests it counts; empty: all.
    pub to: Vec<Operation>,
    /// How much in which time; `None`: only the bounds below.
    pub rate: Option<Rate>,
    /// Requests (or connections) in flight for one key.
    pub concurrent: Option<u32>,
    /// The largest request body, in bytes.
    pub body_bytes_max: Option<u64>,
}

/// What a bucket belongs to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum LimitKey {
    /// The caller's proven identity; unmeshed callers share one bucket for each address.
    SourceIdentity,
    /// The caller's address.
    Address,
    /// The value of a header (its absence is a value too).
    Header(Arc<str>),
    /// One bucket for all callers.
    Target,
}

/// An amount per time, with a burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// What is counted.
    pub unit: Unit,
    /// How many in `per`; at least 1.
    pub amount: u64,
    /// The time; at least a millisecond.
    pub per: Duration,
    /// How many may come at once; at least 1.
    pub burst: u64,
}

/// What a rate counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unit {
    /// HTTP requests and gRPC calls.
    Requests,
    /// Connections.
    Connections,
    /// Bytes in both directions.
    Bytes,
}
