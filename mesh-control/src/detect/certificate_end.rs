//! A certificate that nobody renews is about to end: a workload's, or one of the authority's own.
//!
//! **Statistic**: the share of its life that a certificate has left (told as the part of a hundred that is over).
//!
//! **Threshold**: a quarter ([`PART`]), for certificates that renew by themselves. A workload renews from a third of its
//! life on, the intermediate before a third is left, so that at a quarter several attempts have failed and there is time
//! left to look. A root is replaced by a person and announced earlier by `meshctl status`; it is told at a tenth
//! ([`ROOT_PART`]), a year of ten. What has ended is critical, and so is the authority's own at half the threshold: all
//! that it has signed ends with it.
//!
//! **False alarms**: a workload that was cut off from the control plane for most of its life and has just come back is told
//! until it has renewed, which is seconds. One that is gone is not looked at: only what is connected, and what signs.
//! No warm-up.

use super::table::float;
use super::{Signal, Subject, words};
use mesh_proto::resource::alert::{Detector, Severity};
use std::time::{Duration, SystemTime};

/// Of its life, what must be left at the least.
const PART: u32 = 4;
/// The same for a root.
const ROOT_PART: u32 = 10;

/// Whose certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    /// A workload's: identity and instance.
    Workload(String, String),
    /// What signs the workloads' certificates.
    Intermediate,
    /// What signs that.
    Root,
}

/// A certificate in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Life {
    /// Whose.
    pub(crate) holder: Holder,
    /// From when on it is valid.
    pub(crate) not_before: SystemTime,
    /// Until when.
    pub(crate) not_after: SystemTime,
}

/// Tells of those that should have been replaced.
pub(crate) fn ending(lives: impl IntoIterator<Item = Life>, now: SystemTime) -> Vec<Signal> {
    lives.into_iter().filter_map(|life| signal(&life, now)).collect()
}

fn signal(life: &Life, now: SystemTime) -> Option<Signal> {
    let whole = life.not_after.duration_since(life.not_before).unwrap_or_default();
    let left = life.not_after.duration_since(now).unwrap_or_default();
    let least = whole / if life.holder == Holder::Root { ROOT_PART } else { PART };
    if left >= least {
        return None;
    }
    let (source, service, whose, command) = match &life.holder {
        Holder::Workload(id, instance) => {
            let whose = format!("the certificate of {} ({})", words::short(id), words::clean(instance));
            (id.as_str(), instance.as_str(), whose, format!("meshctl identity {}", words::account(id)))
        }
        Holder::Intermediate => {
            let whose = "the certificate by which the mesh signs".to_owned();
            ("authority", "intermediate", whose, "meshctl ca".to_owned())
        }
        Holder::Root => {
            ("authority", "root", "the root of the mesh".to_owned(), "meshctl ca rotate".to_owned())
        }
    };
    let is_ours = !matches!(life.holder, Holder::Workload(..));
    let is_critical = left.is_zero() || (is_ours && left < least / 2);
    let when = if left.is_zero() { "has ended".to_owned() } else { format!("ends in {}", span(left)) };
    Some(Signal {
        subject: Subject {
            detector: Detector::CertificateTrouble,
            source: source.into(),
            destination: "".into(),
            service: service.into(),
        },
        severity: if is_critical { Severity::Critical } else { Severity::Warning },
        since_ms: crate::clock::unix_ms(life.not_after.checked_sub(least).unwrap_or(now)),
        value: float(used(whole, left)),
        threshold: float(used(whole, least)),
        sentence: format!(
            "{whose} {when} and was not replaced; of {} at least {} should be left",
            span(whole),
            span(least)
        ),
        command,
    })
}

/// Of a hundred parts of its life, how many are over.
fn used(whole: Duration, left: Duration) -> u64 {
    let (whole, left) = (whole.as_secs(), left.as_secs());
    whole.saturating_sub(left).saturating_mul(100).checked_div(whole).unwrap_or(100)
}

fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 2 * 86_400 => format!("{} days", seconds / 86_400),
        seconds if seconds >= 2 * 3_600 => format!("{} hours", seconds / 3_600),
        seconds if seconds >= 120 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;

    fn told(holder: Holder, life_s: u64, left_s: u64) -> Option<(Severity, String)> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let not_after = now + Duration::from_secs(left_s);
        let life = Life { holder, not_before: not_after - Duration::from_secs(life_s), not_after };
        let mut said = ending([life], now);
        assert!(said.len() <= 1);
        said.pop().map(|signal| (signal.severity, signal.sentence))
    }

    #[test]
    fn what_nobody_replaces_is_told_in_time_and_what_renews_is_not() {
        let web = || Holder::Workload("spiffe://mesh.local/ns/shop/sa/web".to_owned(), "web-1".to_owned());
        assert_eq!(told(web(), 24 * HOUR, 16 * HOUR), None, "it renews from here on");
        assert_eq!(told(web(), 24 * HOUR, 6 * HOUR), None);
        let (severity, sentence) = told(web(), 24 * HOUR, 6 * HOUR - 1).unwrap();
        assert_eq!(severity, Severity::Warning);
        assert_eq!(
            sentence,
            "the certificate of shop/web (web-1) ends in 5 hours and was not replaced; of 24 hours at least 6 hours should be left"
        );
        assert_eq!(told(web(), 24 * HOUR, 0).unwrap().0, Severity::Critical, "it has ended");
        let days = |days: u64| days * 24 * HOUR;
        assert_eq!(told(Holder::Intermediate, days(8), days(2)), None);
        assert_eq!(told(Holder::Intermediate, days(8), days(1)).unwrap().0, Severity::Warning);
        assert_eq!(told(Holder::Intermediate, days(8), HOUR).unwrap().0, Severity::Critical);
        assert_eq!(told(Holder::Root, days(3_650), days(366)), None);
        assert!(
            told(Holder::Root, days(3_650), days(300))
                .unwrap()
                .1
                .starts_with("the root of the mesh ends in 300 days")
        );
    }
}
