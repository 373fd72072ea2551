//! One line about one request or connection, made only where it is worth a line, and the queue it travels on.

use crate::connections::Direction;
use crate::observe::Shard;
use crate::observe::trace::Span;
use mesh_proto::policy::model::Protocol;
use std::cell::Cell;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Records that wait for the control thread. At 1 KiB each this is 4 MiB at most, under a flood of denials.
pub(crate) const RECORDS_MAX: usize = 4_096;

/// What became of a request or connection, as counters and reports say it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Outcome {
    /// It passed (whatever the application answered).
    Allowed,
    /// Policy or identity refused it.
    Denied,
    /// A limit refused it.
    Limited,
    /// No endpoint, connect failure, timeout, cut-off answer.
    Failed,
    /// It had no single reading.
    Malformed,
}

impl Outcome {
    /// All of them; the order is that of the variants.
    pub(crate) const ALL: [Self; 5] =
        [Self::Allowed, Self::Denied, Self::Limited, Self::Failed, Self::Malformed];

    /// The word for it in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
        }
    }
}

/// One line about one request or connection. No header values and no query strings.
#[derive(Debug)]
pub(crate) struct Record {
    /// When it ended, milliseconds since the epoch.
    pub(crate) time_ms: u64,
    /// The decision's id.
    pub(crate) id: String,
    /// Inbound or outbound.
    pub(crate) direction: Direction,
    /// SPIFFE ID, or `unmeshed:<ip>`.
    pub(crate) source: Arc<str>,
    /// The caller's instance, if it proved one.
    pub(crate) source_instance: String,
    /// The caller's address.
    pub(crate) source_ip: String,
    /// SPIFFE ID of the callee; empty when none was reached.
    pub(crate) destination: Arc<str>,
    /// The callee's instance; empty when none was reached.
    pub(crate) destination_instance: String,
    /// `namespace/name`.
    pub(crate) service: Arc<str>,
    /// The port called.
    pub(crate) port: u16,
    /// What was spoken; `None` when it ended before that was known.
    pub(crate) protocol: Option<Protocol>,
    /// Server name of the application's own TLS.
    pub(crate) sni: String,
    /// Canonical host.
    pub(crate) host: String,
    /// Method.
    pub(crate) method: String,
    /// Canonical path, without query.
    pub(crate) path: String,
    /// What became of it.
    pub(crate) outcome: Outcome,
    /// Why it was refused or failed; empty otherwise. A closed set.
    pub(crate) reason: &'static str,
    /// Which rule or limit decided; empty when none did.
    pub(crate) rule: String,
    /// HTTP status sent; 0 without one.
    pub(crate) status: u16,
    /// From the caller.
    pub(crate) bytes_in: u64,
    /// To the caller.
    pub(crate) bytes_out: u64,
    /// How long it took, in microseconds.
    pub(crate) duration_us: u64,
    /// Revision of the snapshot that decided.
    pub(crate) revision: u64,
    /// Names of the header fields that the rules of this workload judge.
    pub(crate) header_names: Vec<String>,
    /// The trace, 32 hexadecimal digits; empty without one.
    pub(crate) trace_id: String,
    /// The request's span, where it is traced.
    pub(crate) span: Option<Box<Span>>,
    /// Whether it is worth a line; otherwise it is here for its span.
    pub(crate) worth: Worth,
}

/// What a record is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Worth {
    /// A line in the access log, and to be told to the control plane.
    Line,
    /// A span alone.
    Span,
}

/// Hands records of one worker to the control thread, and numbers its decisions.
#[derive(Debug)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Record>,
    shard: Arc<Shard>,
    prefix: u64,
    next: Cell<u64>,
}

/// Digits of decision ids: no letter that is mistaken for another (Crockford's base 32, in lower case).
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Recorder {
    /// `prefix` is random, drawn once for each worker.
    pub(crate) fn new(queue: mpsc::Sender<Record>, shard: Arc<Shard>, prefix: u64) -> Self {
        Self { queue, shard, prefix, next: Cell::new(0) }
    }

    /// A new decision id: 16 characters, ten of the worker's random prefix and six of a counter.
    pub(crate) fn decision_id(&self) -> String {
        let n = self.next.get();
        self.next.set(n.wrapping_add(1));
        let digit = |bits: u64| {
            let at = usize::try_from(bits & 31).unwrap_or(0);
            char::from(DIGITS.get(at).copied().unwrap_or(b'0'))
        };
        let prefix = (0..10).map(|i| digit(self.prefix >> (5 * i)));
        prefix.chain((0..6).rev().map(|i| digit(n >> (5 * i)))).collect()
    }

    /// Queues a record; when the queue is full it is dropped and counted.
    pub(crate) fn record(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.shard.dropped("records");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decision_ids_are_unique_and_plain() {
        let (queue, _rx) = mpsc::channel(1);
        let recorder = Recorder::new(queue, Arc::default(), 0xfeed_beef_cafe_0123);
        let ids: Vec<String> = (0..1000).map(|_| recorder.decision_id()).collect();
        let unique: std::collections::BTreeSet<&String> = ids.iter().collect();
        assert_eq!(unique.len(), 1000);
        for id in ids {
            assert_eq!(id.len(), 16);
            assert!(id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
        }
    }
}
