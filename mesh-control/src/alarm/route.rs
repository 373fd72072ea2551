//! Whom to tell of which alarm, and when: pure, from the book, the mesh's rules and what was told before.
//!
//! An alarm is told to a sink when it begins, when it gets heavier, again after the rule's `repeatEvery` unless it was
//! acknowledged, and when it ends if its beginning was told. What comes in the same moment and agrees in the rule's
//! `groupBy` is one message.

use super::book::{Alarm, Book};
use mesh_proto::identity::SpiffeId;
use mesh_proto::name::ObjectName;
use mesh_proto::resource::alert::Severity;
use mesh_proto::resource::alert_rule::{AlertRule, GroupKey};
use mesh_proto::wire::v1;
use std::collections::{BTreeMap, BTreeSet};

/// Notices in one message; what is beyond is another message.
const NOTICES_MAX: usize = 50;

/// Something for a sink.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Message {
    /// Whom.
    pub(crate) sink: ObjectName,
    /// What.
    pub(crate) message: v1::AlarmMessage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    at_ms: u64,
    severity: Severity,
}

/// What was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Router {
    told: BTreeMap<(String, ObjectName), Told>,
}

impl Router {
    /// After a restart: what had been sent is not sent again before its time.
    pub(crate) fn resumed(alarms: &[v1::Alarm], now_ms: u64) -> Self {
        let mut router = Self::default();
        for alarm in alarms.iter().filter(|alarm| alarm.state == "firing") {
            let severity = Severity::ALL.into_iter().find(|severity| severity.as_str() == alarm.severity);
            let told = Told { at_ms: now_ms, severity: severity.unwrap_or(Severity::Info) };
            for sink in alarm.sinks.iter().filter_map(|sink| sink.parse().ok()) {
                router.told.insert((alarm.id.clone(), sink), told);
            }
        }
        router
    }

    /// What is to be told now.
    pub(crate) fn due<'r>(
        &mut self,
        book: &Book,
        rules: impl Iterator<Item = &'r AlertRule>,
        now_ms: u64,
    ) -> Vec<Message> {
        let rules: Vec<&AlertRule> = rules.collect();
        let mut groups: BTreeMap<(ObjectName, String), v1::AlarmMessage> = BTreeMap::new();
        let mut burning: BTreeSet<&str> = BTreeSet::new();
        for alarm in book.firing() {
            burning.insert(&alarm.id);
            for rule in rules.iter().filter(|rule| !alarm.silenced && means(rule, alarm)) {
                for sink in &rule.sinks {
                    if let Some(change) = self.change(rule, alarm, sink, now_ms) {
                        put(&mut groups, rule, (sink, change), alarm, now_ms);
                    }
                }
            }
        }
        let ended: Vec<&Alarm> = book.resolved().collect();
        let over: Vec<(String, ObjectName)> =
            self.told.keys().filter(|(id, _)| !burning.contains(id.as_str())).cloned().collect();
        for (id, sink) in over {
            self.told.remove(&(id.clone(), sink.clone()));
            let alarm = ended.iter().rev().find(|alarm| alarm.id == id);
            let rule = rules.iter().find(|rule| rule.sinks.contains(&sink));
            if let (Some(alarm), Some(rule)) = (alarm, rule) {
                put(&mut groups, rule, (&sink, "resolved"), alarm, now_ms);
            }
        }
        groups.into_iter().flat_map(|((sink, _), message)| split(&sink, message)).collect()
    }

    /// What is new about an alarm for a sink.
    fn change(
        &mut self,
        rule: &AlertRule,
        alarm: &Alarm,
        sink: &ObjectName,
        now_ms: u64,
    ) -> Option<&'static str> {
        let severity = rule.severity.unwrap_or(alarm.signal.severity);
        let key = (alarm.id.clone(), sink.clone());
        let repeat_ms = crate::clock::millis(rule.repeat_every);
        let change = match self.told.get(&key) {
            None => "raised",
            Some(told) if severity > told.severity => "heavier",
            Some(told) if alarm.acked.is_none() && now_ms.saturating_sub(told.at_ms) >= repeat_ms => {
                "repeated"
            }
            Some(_) => return None,
        };
        self.told.insert(key, Told { at_ms: now_ms, severity });
        Some(change)
    }
}

/// Whether a rule is about an alarm.
fn means(rule: &AlertRule, alarm: &Alarm) -> bool {
    let subject = &alarm.signal.subject;
    let is_in = |text: &str| {
        let id = text.parse::<SpiffeId>().ok();
        let namespace = match id.and_then(|id| id.workload()) {
            Some((namespace, _)) => namespace.to_string(),
            None => text.split('/').next().unwrap_or_default().to_owned(),
        };
        rule.namespaces.iter().any(|wanted| wanted.as_str() == namespace)
    };
    let places = [&subject.source, &subject.destination, &subject.service];
    (rule.detectors.is_empty() || rule.detectors.contains(&subject.detector))
        && (rule.namespaces.is_empty() || places.iter().any(|place| is_in(place)))
        && alarm.signal.severity >= rule.min_severity
        && rule.at_least.is_none_or(|least| alarm.signal.value >= crate::detect::table::float(least))
}

fn put(
    groups: &mut BTreeMap<(ObjectName, String), v1::AlarmMessage>,
    rule: &AlertRule,
    (sink, change): (&ObjectName, &str),
    alarm: &Alarm,
    now_ms: u64,
) {
    let subject = &alarm.signal.subject;
    let part = |key: &GroupKey| match key {
        GroupKey::Detector => subject.detector.as_str().to_owned(),
        GroupKey::Source => subject.source.to_string(),
        GroupKey::Destination => format!("{} {}", subject.destination, subject.service),
    };
    let group = rule.group_by.iter().map(part).collect::<Vec<_>>().join("\n");
    let message = groups.entry((sink.clone(), group)).or_default();
    message.made_ms = now_ms;
    message.repeat_ms = message.repeat_ms.max(crate::clock::millis(rule.repeat_every));
    let mut alarm = alarm.to_wire();
    if let Some(severity) = rule.severity {
        alarm.severity = severity.as_str().to_owned();
    }
    message.notices.push(v1::AlarmNotice { change: change.to_owned(), alarm: Some(alarm) });
}

fn split(sink: &ObjectName, message: v1::AlarmMessage) -> Vec<Message> {
    let v1::AlarmMessage { made_ms, notices, repeat_ms, lost } = message;
    let parts = notices.chunks(NOTICES_MAX);
    parts
        .map(|notices| Message {
            sink: sink.clone(),
            message: v1::AlarmMessage { made_ms, notices: notices.to_vec(), repeat_ms, lost },
        })
        .collect()
}
