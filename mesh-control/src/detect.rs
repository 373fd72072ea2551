//! Anomaly detection: pure state machines that look at each slice of the ledger and say what is unusual.
//!
//! The lookout calls [`Detectors::look`] every two seconds; `alarm` keeps what they say. A detector says its [`Signal`]
//! for as long as its cause goes on; when it falls silent, the alarm ends by itself. Nothing here reads a clock, writes or
//! decides about traffic, and every table has a bound ([`table::Table`]).
//!
//! Proxies report every second and slices are cut every two, so that a detector that needs two looks has spoken five
//! seconds after the cause; none may need more than three.
//!
//! # Why thresholds of two kinds
//! What is never normal (refusals, plaintext, one identity in two places) has a fixed threshold and no warm-up. What is
//! normal in some measure (volume, latency, errors) is compared with the edge's own past, has a warm-up, and needs a large
//! and a significant deviation: the first keeps out what is real and does not matter, the second what is chance. A model
//! that learns everything by itself was the alternative; nobody could say in one sentence why it spoke.

pub(crate) mod certificate_end;
mod certificate_trouble;
mod clock_skew;
mod denial_burst;
mod error_rate;
mod exfiltration;
mod latency;
mod new_edge;
mod new_path;
mod plaintext;
mod rate_limit_pressure;
mod scan;
mod season;
mod silence;
#[cfg(test)]
pub(crate) mod staged;
pub(crate) mod table;
mod two_places;
pub(crate) mod words;

use crate::ledger::Slice;
use crate::ledger::segment::Minute;
use mesh_proto::resource::alert::{Detector, Severity};
use std::sync::Arc;

/// Whom an alarm is about. Texts are empty where there is nobody to name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Subject {
    /// What watches.
    pub(crate) detector: Detector,
    /// Who does it.
    pub(crate) source: Arc<str>,
    /// To whom: an identity.
    pub(crate) destination: Arc<str>,
    /// To which service, or on which path: what tells two alarms of one edge apart.
    pub(crate) service: Arc<str>,
}

/// Something unusual, as long as it goes on.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Signal {
    /// Whom it is about; the same alarm while it is the same.
    pub(crate) subject: Subject,
    /// How much it weighs.
    pub(crate) severity: Severity,
    /// When the cause began, milliseconds since the epoch, as far as is known.
    pub(crate) since_ms: u64,
    /// The statistic.
    pub(crate) value: f64,
    /// What it exceeds.
    pub(crate) threshold: f64,
    /// Explains it with its numbers.
    pub(crate) sentence: String,
    /// What to type to see more.
    pub(crate) command: String,
}

/// One detector.
pub(crate) trait Detect: Send {
    /// Learns from a minute of before the start, as far as that is of use: nothing is said of it.
    fn learn(&mut self, minute: &Minute) {
        let _ = minute;
    }

    /// Looks at what came since the last slice; its end is the time.
    fn look(&mut self, slice: &Slice, say: &mut Vec<Signal>);
}

/// All of them.
pub(crate) struct Detectors(Vec<Box<dyn Detect>>);

impl Detectors {
    /// All, knowing nothing.
    pub(crate) fn new() -> Self {
        Self(vec![
            Box::new(new_edge::NewEdge::default()),
            Box::new(new_path::NewPath::default()),
            Box::new(denial_burst::DenialBurst::default()),
            Box::new(scan::Scan::default()),
            Box::new(error_rate::ErrorRate::default()),
            Box::new(latency::Latency::default()),
            Box::new(exfiltration::Exfiltration::default()),
            Box::new(silence::Silence::default()),
            Box::new(two_places::TwoPlaces::default()),
            Box::new(rate_limit_pressure::RateLimitPressure::default()),
            Box::new(plaintext::Plaintext::default()),
            Box::new(certificate_trouble::CertificateTrouble::default()),
            Box::new(clock_skew::ClockSkew::default()),
        ])
    }

    /// Learns from a minute of before the start.
    pub(crate) fn learn(&mut self, minute: &Minute) {
        self.0.iter_mut().for_each(|detector| detector.learn(minute));
    }

    /// Looks at a slice with all of them.
    pub(crate) fn look(&mut self, slice: &Slice) -> Vec<Signal> {
        let mut said = Vec::new();
        for detector in &mut self.0 {
            detector.look(slice, &mut said);
        }
        said
    }
}
