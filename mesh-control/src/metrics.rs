//! What operators can scrape of the control plane, in Prometheus text.
//!
//! Names are in `mesh_proto::ops::metrics`; counting happens where things happen, through the methods here.

use crate::store::Health;
use mesh_proto::ops::metrics::{EventKind, OpResult, ReportFault, control as names};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

/// The control plane's counters.
pub(crate) struct Metrics {
    registry: Registry,
    proxies: Gauge,
    revision: Gauge,
    updates: Counter,
    answers: Family<ByResult, Counter>,
    propagation: Histogram,
    certificates: Family<ByResult, Counter>,
    intermediate_expires: Gauge,
    commits: Family<ByResult, Counter>,
    commit_seconds: Histogram,
    writable: Gauge,
    reports: Counter,
    report_faults: Family<ByReason, Counter>,
    denied: Counter,
    resyncs: Counter,
    answers_missed: Counter,
    handshakes: Family<ByReason, Counter>,
    events: Family<ByKind, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        // From 1 ms to 16 s: an update over loopback takes some milliseconds, a commit a disk's fsync.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let mut metrics = Self {
            registry: Registry::default(),
            proxies: Gauge::default(),
            revision: Gauge::default(),
            updates: Counter::default(),
            answers: Family::default(),
            propagation: seconds(),
            certificates: Family::default(),
            intermediate_expires: Gauge::default(),
            commits: Family::default(),
            commit_seconds: seconds(),
            writable: Gauge::default(),
            reports: Counter::default(),
            report_faults: Family::default(),
            denied: Counter::default(),
            resyncs: Counter::default(),
            answers_missed: Counter::default(),
            handshakes: Family::default(),
            events: Family::default(),
        };
        metrics.register();
        metrics.begin();
        metrics
    }
}

impl Metrics {
    /// Series of closed sets are there from the start: an increase from nothing is none for who scrapes, and a family
    /// without a series is not shown.
    fn begin(&self) {
        for result in OpResult::ALL.iter().map(|result| ByResult { result: result.as_str() }) {
            for family in [&self.answers, &self.certificates, &self.commits] {
                drop(family.get_or_create(&result));
            }
        }
        for fault in ReportFault::ALL {
            drop(self.report_faults.get_or_create(&ByReason { reason: fault.as_str() }));
        }
        drop(self.handshakes.get_or_create(&ByReason { reason: "timeout" }));
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register(names::PROXIES, "Connected proxies", self.proxies.clone());
        r.register(names::REVISION, "Last accepted revision", self.revision.clone());
        r.register(names::UPDATES_SENT, "Updates sent to proxies", self.updates.clone());
        r.register(names::ACKNOWLEDGEMENTS, "Answers of proxies to updates", self.answers.clone());
        r.register(
            names::PROPAGATION_SECONDS,
            "Seconds from an update's sending to its acknowledgement",
            self.propagation.clone(),
        );
        r.register(names::CERTIFICATES, "Certificate requests", self.certificates.clone());
        r.register(
            names::INTERMEDIATE_EXPIRES_SECONDS,
            "Seconds until the issuing intermediate expires",
            self.intermediate_expires.clone(),
        );
        r.register(names::COMMITS, "Commits to the store", self.commits.clone());
        r.register(names::COMMIT_SECONDS, "Seconds until a commit was durable", self.commit_seconds.clone());
        r.register(names::STORE_WRITABLE, "1 while the store accepts writes", self.writable.clone());
        r.register(names::REPORTS, "Traffic reports received", self.reports.clone());
        r.register(
            names::REPORT_FAULTS,
            "Entries of traffic reports that were not taken, by reason",
            self.report_faults.clone(),
        );
        r.register(names::DENIED, "Admin calls refused for want of a role", self.denied.clone());
        r.register(names::RESYNCS, "Whole states sent because digests differed", self.resyncs.clone());
        r.register(
            names::ANSWERS_MISSED,
            "Updates that a proxy did not answer in time",
            self.answers_missed.clone(),
        );
        r.register(
            names::HANDSHAKE_FAILURES,
            "TLS handshakes that failed, by reason",
            self.handshakes.clone(),
        );
        r.register(names::SECURITY_EVENTS, "Security events, by kind", self.events.clone());
    }

    /// Everything as Prometheus text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        classic(&text)
    }

    /// A proxy has registered.
    pub(crate) fn stream_began(&self) {
        self.proxies.inc();
    }

    /// A registered proxy's stream has ended.
    pub(crate) fn stream_ended(&self) {
        self.proxies.dec();
    }

    /// An update was sent.
    pub(crate) fn update_sent(&self) {
        self.updates.inc();
    }

    /// A proxy enforces an update; `after` since it was sent.
    pub(crate) fn update_accepted(&self, after: Duration) {
        self.answers.get_or_create(&ByResult { result: OpResult::Ok.as_str() }).inc();
        self.propagation.observe(after.as_secs_f64());
    }

    /// A proxy could not use an update.
    pub(crate) fn update_refused(&self) {
        self.answers.get_or_create(&ByResult { result: OpResult::Error.as_str() }).inc();
    }

    /// A proxy did not answer an update in time.
    pub(crate) fn answer_missed(&self) {
        self.answers_missed.inc();
    }

    /// A proxy held something else than it should.
    pub(crate) fn resynchronised(&self) {
        self.resyncs.inc();
    }

    /// A handshake failed; `reason` is of the closed set of `PeerError::code`, or one of `transport::tls` and its
    /// door: `hello_timeout`, `hello_closed`, `not_tls`, `tls`, `timeout`, and `too_many_…` of everybody or of one source.
    pub(crate) fn handshake_refused(&self, reason: &'static str) {
        self.handshakes.get_or_create(&ByReason { reason }).inc();
    }

    /// Certificates were asked for.
    pub(crate) fn certificates(&self, result: OpResult, count: u64) {
        self.certificates.get_or_create(&ByResult { result: result.as_str() }).inc_by(count);
    }

    /// A commit was tried.
    pub(crate) fn committed(&self, result: OpResult, took: Duration) {
        self.commits.get_or_create(&ByResult { result: result.as_str() }).inc();
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// A report came in.
    pub(crate) fn reported(&self) {
        self.reports.inc();
    }

    /// Entries of a report were not taken.
    pub(crate) fn report_fault(&self, fault: ReportFault, count: u64) {
        self.report_faults.get_or_create(&ByReason { reason: fault.as_str() }).inc_by(count);
    }

    /// An admin call was refused because its caller may not make it.
    pub(crate) fn denied(&self) {
        self.denied.inc();
    }

    /// How many security events of a kind there were since the start.
    pub(crate) fn security_events(&self, kind: EventKind, total: u64) {
        let counter = self.events.get_or_create(&ByKind { kind: kind.as_str() });
        counter.inc_by(total.saturating_sub(counter.get()));
    }

    /// What is looked at regularly rather than counted.
    pub(crate) fn set(&self, revision: u64, store: &Health, intermediate_expires: Duration) {
        self.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        self.writable.set(i64::from(*store == Health::Ok));
        self.intermediate_expires.set(i64::try_from(intermediate_expires.as_secs()).unwrap_or(i64::MAX));
    }
}

/// OpenMetrics as the older text format (0.0.4), which we say it is: there a counter is called as its samples are, or they
/// have neither type nor help, and there are no units and no mark at the end.
fn classic(text: &str) -> String {
    let counter = |line: &str| line.strip_prefix("# TYPE ")?.strip_suffix(" counter").map(str::to_owned);
    let counters: BTreeSet<String> = text.lines().filter_map(counter).collect();
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let head = line.strip_prefix("# ").map(|head| head.splitn(3, ' ').collect::<Vec<_>>());
        let _ = match head.as_deref() {
            None => writeln!(out, "{line}"),
            Some([word @ ("HELP" | "TYPE"), name, rest]) => {
                let total = if counters.contains(*name) { "_total" } else { "" };
                writeln!(out, "# {word} {name}{total} {rest}")
            }
            Some(_) => continue,
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_of_the_family_above_it() {
        let metrics = Metrics::default();
        metrics.stream_began();
        metrics.update_sent();
        metrics.update_accepted(Duration::from_millis(3));
        let text = metrics.text();
        let (mut name, mut kind) = ("", "");
        let mut families = BTreeSet::new();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# HELP ") {
                name = head.split(' ').next().unwrap();
                assert!(families.insert(name) && head.ends_with('.'), "{line}");
            } else if let Some(head) = line.strip_prefix("# TYPE ") {
                let (family, of) = head.split_once(' ').unwrap();
                assert_eq!((family, family.ends_with("_total")), (name, of == "counter"), "{line}");
                kind = of;
            } else {
                let sample = line.split(['{', ' ']).next().unwrap();
                let rest = sample.strip_prefix(name).unwrap_or_else(|| panic!("{line:?} is below {name}"));
                let parts = ["_bucket", "_sum", "_count"];
                assert!(if kind == "histogram" { parts.contains(&rest) } else { rest.is_empty() }, "{line}");
            }
        }
        assert!(
            families.len() > 10 && families.iter().all(|name| name.starts_with("mesh_control_")),
            "{text}"
        );
    }
}
