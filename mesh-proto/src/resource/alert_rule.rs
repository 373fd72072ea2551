//! `AlertRule`: which alarms go to which sinks, and how heavy they are.
//!
//! Without any rule alarms are raised and shown all the same; a rule only sends them somewhere.

use super::alert::{Detector, Severity};
use super::meta::Meta;
use super::quantity::{duration_text, read_duration};
use super::reader::{At, Reader};
use super::yaml::{Map, Yaml};
use crate::name::{Namespace, ObjectName};
use std::time::Duration;

/// Sends alarms to sinks. An alarm that several rules mean is sent once to each of their sinks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlertRule {
    /// Name and origin.
    pub meta: Meta,
    /// Only alarms of these; empty: of all.
    pub detectors: Vec<Detector>,
    /// Only alarms whose source or destination is in one of these; empty: all.
    pub namespaces: Vec<Namespace>,
    /// Only alarms that weigh so much.
    pub min_severity: Severity,
    /// Only alarms whose statistic (what the detector counts or measures) has reached this.
    pub at_least: Option<u64>,
    /// What the alarm weighs for these sinks; `None`: what the detector says.
    pub severity: Option<Severity>,
    /// Where they go; at least one.
    pub sinks: Vec<ObjectName>,
    /// Alarms that agree in these are told together.
    pub group_by: Vec<GroupKey>,
    /// How often an alarm that goes on is told again.
    pub repeat_every: Duration,
}

/// What alarms of one message have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GroupKey {
    /// The detector.
    Detector,
    /// The source's identity.
    Source,
    /// The destination's identity or service.
    Destination,
}

/// The keys by their words.
const GROUP_KEYS: [(&str, GroupKey); 3] =
    [("detector", GroupKey::Detector), ("source", GroupKey::Source), ("destination", GroupKey::Destination)];
/// The most sinks of one rule.
const SINKS_MAX: usize = 16;
/// The most namespaces of one rule.
const NAMESPACES_MAX: usize = 100;
/// The largest statistic that can be asked for.
const AT_LEAST_MAX: u64 = 1_000_000_000_000;
/// An alarm that nobody has ended is told again three times in a working day.
const REPEAT_EVERY: Duration = Duration::from_secs(4 * 3_600);

impl AlertRule {
    pub(super) fn read(reader: &mut Reader, meta: Meta, spec: At<'_>) -> Option<Self> {
        let words = [
            "detectors",
            "namespaces",
            "minSeverity",
            "atLeast",
            "severity",
            "sinks",
            "groupBy",
            "repeatEvery",
        ];
        let fields = reader.fields(spec, &words)?;
        let names: Vec<(&str, Detector)> =
            Detector::ALL.iter().map(|detector| (detector.as_str(), *detector)).collect();
        let detectors = match fields.optional("detectors") {
            Some(at) => reader.each(&at, names.len(), |reader, at| reader.word(&at, &names)),
            None => Some(Vec::new()),
        };
        let namespaces = match fields.optional("namespaces") {
            Some(at) => reader.each(&at, NAMESPACES_MAX, |reader, at| reader.parse(&at)),
            None => Some(Vec::new()),
        };
        let severities = Severity::ALL.map(|severity| (severity.as_str(), severity));
        let min_severity = match fields.optional("minSeverity") {
            Some(at) => reader.word(&at, &severities),
            None => Some(Severity::Info),
        };
        let severity = match fields.optional("severity") {
            Some(at) => reader.word(&at, &severities).map(Some),
            None => Some(None),
        };
        let at_least = match fields.optional("atLeast") {
            Some(at) => reader.number(&at, 1..=AT_LEAST_MAX).map(Some),
            None => Some(None),
        };
        let hint = "write the names of the AlertSinks that are told, for instance sinks: [ops]";
        let sinks = fields.required(reader, "sinks", hint);
        let sinks = sinks.and_then(|at| reader.each(&at, SINKS_MAX, |reader, at| reader.parse(&at)));
        let group_by = match fields.optional("groupBy") {
            Some(at) => reader.each(&at, GROUP_KEYS.len(), |reader, at| reader.word(&at, &GROUP_KEYS)),
            None => Some(vec![GroupKey::Detector, GroupKey::Source]),
        };
        let repeat_every = match fields.optional("repeatEvery") {
            Some(at) => read_duration(reader, &at),
            None => Some(REPEAT_EVERY),
        };
        Some(Self {
            meta,
            detectors: detectors?,
            namespaces: namespaces?,
            min_severity: min_severity?,
            at_least: at_least?,
            severity: severity?,
            sinks: sinks?,
            group_by: group_by?,
            repeat_every: repeat_every?,
        })
    }

    pub(super) fn write(&self) -> Map {
        let Self {
            meta: _,
            detectors,
            namespaces,
            min_severity,
            at_least,
            severity,
            sinks,
            group_by,
            repeat_every,
        } = self;
        let group_word = |key: &GroupKey| {
            GROUP_KEYS.iter().find(|(_, other)| other == key).map_or("detector", |(word, _)| word)
        };
        Map::new()
            .with_list("detectors", detectors.iter().map(|detector| Yaml::text(detector.as_str())))
            .with_list("namespaces", namespaces.iter().map(|namespace| Yaml::text(namespace.as_str())))
            .with("minSeverity", min_severity.as_str())
            .with_some("atLeast", at_least.map(Yaml::bare))
            .with_some("severity", severity.map(Severity::as_str))
            .with_list("sinks", sinks.iter().map(|name| Yaml::text(name.as_str())))
            .with_list("groupBy", group_by.iter().map(|key| Yaml::text(group_word(key))))
            .with("repeatEvery", Yaml::bare(duration_text(*repeat_every)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SourceDocument, parse};

    #[test]
    fn what_is_written_is_read_again() {
        let yaml = "apiVersion: meshctl.io/v1alpha1\nkind: AlertRule\nmetadata: {name: a}\nspec: {detectors: [scan], \
                    namespaces: [shop], minSeverity: warning, atLeast: 5, severity: critical, groupBy: [source], \
                    repeatEvery: 90s, sinks: [ops, siem]}\n";
        let read = |yaml: &str| {
            let document = SourceDocument { file: "x".to_owned(), line: 1, yaml: yaml.to_owned() };
            parse(&document).unwrap_or_else(|problems| panic!("{}\n{yaml}", problems[0]))
        };
        for yaml in [
            yaml,
            "apiVersion: meshctl.io/v1alpha1\nkind: AlertRule\nmetadata: {name: a}\nspec: {sinks: [ops]}\n",
        ] {
            let rule = read(yaml);
            assert_eq!(read(&rule.to_yaml()), rule);
        }
    }
}
