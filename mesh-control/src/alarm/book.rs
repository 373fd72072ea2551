//! The alarms that there are: from the first signal to the end, and what people said to them. Pure.
//!
//! A subject has one alarm at a time. It ends when nothing was said of it for [`hold`]; the same cause later is a new one.
//! While a scan of a caller burns, what else it sets off (new edges, new paths, refusals) is counted there.

use crate::detect::{Signal, Subject};
use aws_lc_rs::digest;
use mesh_proto::name::ObjectName;
use mesh_proto::resource::alert::{Detector, Severity};
use mesh_proto::wire::v1;
use std::collections::BTreeMap;

/// Alarms that burn at once; beyond, those of one detector are counted as one.
const FIRING_MAX: usize = 1_000;
/// Alarms kept after their end.
const RESOLVED_MAX: usize = 1_000;
/// How long they are kept.
const RESOLVED_MS: u64 = 7 * 24 * 3_600_000;
/// Silences at once.
const SILENCES_MAX: usize = 200;
/// Bytes of a comment.
const COMMENT_BYTES_MAX: usize = 500;
/// Digits of an id: no letter that is mistaken for another (Crockford's base 32).
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// How long an alarm lasts after its last signal. Longer for what is said once than for what is said as long as it lasts.
pub(crate) fn hold(detector: Detector) -> u64 {
    match detector {
        Detector::NewEdge | Detector::NewPath | Detector::Plaintext => 300_000,
        _ => 60_000,
    }
}

/// One alarm.
#[derive(Clone, Debug)]
pub(crate) struct Alarm {
    /// 8 characters.
    pub(crate) id: String,
    /// Whom it is about, how heavy it is, and why: the last signal, with the heaviest weight.
    pub(crate) signal: Signal,
    /// When it was raised.
    pub(crate) raised_ms: u64,
    /// When it was last said.
    pub(crate) last_ms: u64,
    /// When it ended; `None` while it burns.
    pub(crate) resolved_ms: Option<u64>,
    /// How often it was said.
    pub(crate) count: u64,
    /// Who acknowledged it, and when.
    pub(crate) acked: Option<(String, u64)>,
    /// What he said.
    pub(crate) comment: String,
    /// Whether it is told to nobody at present.
    pub(crate) silenced: bool,
    /// Where it was sent.
    pub(crate) sinks: Vec<String>,
}

/// All alarms and silences.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    firing: BTreeMap<Subject, Alarm>,
    resolved: Vec<Alarm>,
    silences: Vec<v1::Silence>,
}

impl Book {
    /// Takes in what was said; says whether anything began, ended or got heavier.
    pub(crate) fn take(&mut self, signals: Vec<Signal>, now_ms: u64) -> bool {
        let mut is_changed = false;
        let scanning: Vec<_> = signals
            .iter()
            .map(|signal| &signal.subject)
            .chain(self.firing.keys())
            .filter(|subject| subject.detector == Detector::Scan)
            .map(|subject| subject.source.clone())
            .collect();
        for signal in signals {
            let is_part = matches!(
                signal.subject.detector,
                Detector::NewEdge | Detector::NewPath | Detector::DenialBurst
            );
            // What burnt before the scan was seen stays; what comes with it is the scan.
            let is_new = !self.firing.contains_key(&signal.subject);
            if is_part && is_new && scanning.contains(&signal.subject.source) {
                continue;
            }
            is_changed |= self.say(signal, now_ms);
        }
        is_changed |= self.end(now_ms);
        self.silences.retain(|silence| silence.until_ms > now_ms);
        let silences = std::mem::take(&mut self.silences);
        for alarm in self.firing.values_mut() {
            let silenced = silences.iter().any(|silence| matches(silence, &alarm.signal.subject));
            is_changed |= alarm.silenced != silenced;
            alarm.silenced = silenced;
        }
        self.silences = silences;
        is_changed
    }

    fn say(&mut self, mut signal: Signal, now_ms: u64) -> bool {
        if self.firing.len() >= FIRING_MAX && !self.firing.contains_key(&signal.subject) {
            signal.subject.source = "others".into();
            signal.subject.destination = "others".into();
            signal.subject.service = "".into();
        }
        if let Some(alarm) = self.firing.get_mut(&signal.subject) {
            let is_heavier = signal.severity > alarm.signal.severity;
            let severity = signal.severity.max(alarm.signal.severity);
            let since_ms = alarm.signal.since_ms;
            alarm.signal = Signal { severity, since_ms, ..signal };
            alarm.last_ms = now_ms;
            alarm.count = alarm.count.saturating_add(1);
            return is_heavier;
        }
        let alarm = Alarm {
            id: id(&signal.subject, now_ms),
            signal: signal.clone(),
            raised_ms: now_ms,
            last_ms: now_ms,
            resolved_ms: None,
            count: 1,
            acked: None,
            comment: String::new(),
            silenced: false,
            sinks: Vec::new(),
        };
        self.firing.insert(signal.subject, alarm);
        true
    }

    fn end(&mut self, now_ms: u64) -> bool {
        let over = |subject: &Subject, alarm: &mut Alarm| {
            now_ms.saturating_sub(alarm.last_ms) > hold(subject.detector)
        };
        let ended: Vec<Alarm> = self.firing.extract_if(.., over).map(|(_, alarm)| alarm).collect();
        let is_changed = !ended.is_empty();
        self.resolved.extend(ended.into_iter().map(|alarm| Alarm { resolved_ms: Some(now_ms), ..alarm }));
        let oldest = now_ms.saturating_sub(RESOLVED_MS);
        self.resolved.retain(|alarm| alarm.resolved_ms.unwrap_or(0) >= oldest);
        let surplus = self.resolved.len().saturating_sub(RESOLVED_MAX);
        self.resolved.drain(..surplus);
        is_changed
    }

    /// Those that burn.
    pub(crate) fn firing(&self) -> impl Iterator<Item = &Alarm> {
        self.firing.values()
    }

    /// Those that have ended, oldest first.
    pub(crate) fn resolved(&self) -> impl Iterator<Item = &Alarm> {
        self.resolved.iter()
    }

    /// Notes where an alarm was sent.
    pub(crate) fn sent(&mut self, id: &str, sink: &ObjectName) {
        let alarms = self.firing.values_mut().chain(&mut self.resolved);
        for alarm in alarms.filter(|alarm| alarm.id == id) {
            if !alarm.sinks.iter().any(|known| known == sink.as_str()) {
                alarm.sinks.push(sink.to_string());
            }
        }
    }

    /// Acknowledges the alarm whose id begins so.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn ack(
        &mut self,
        id: &str,
        by: &str,
        comment: &str,
        now_ms: u64,
    ) -> Result<v1::Alarm, String> {
        let found: Vec<Subject> = self
            .firing
            .values()
            .filter(|alarm| alarm.id.starts_with(id))
            .map(|a| a.signal.subject.clone())
            .collect();
        let subject = the_one(&found, id, "alarm that burns", "meshctl alerts")?;
        let Some(alarm) = self.firing.get_mut(subject) else { return Err("it has just ended".to_owned()) };
        alarm.acked = Some((by.to_owned(), now_ms));
        alarm.comment = cut(comment);
        Ok(alarm.to_wire())
    }

    /// Adds a silence, in force until its `until_ms`.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn silence(&mut self, mut silence: v1::Silence, now_ms: u64) -> Result<v1::Silence, String> {
        if silence.until_ms <= now_ms {
            return Err(
                "the silence would be over before it begins; give it a duration, for instance 2h".to_owned()
            );
        }
        if self.silences.len() >= SILENCES_MAX {
            return Err(format!(
                "there are {SILENCES_MAX} silences already; end some: meshctl alerts unsilence ID"
            ));
        }
        let subject = Subject {
            detector: Detector::Silence,
            source: silence.source.as_str().into(),
            destination: silence.destination.as_str().into(),
            service: silence.detector.as_str().into(),
        };
        silence.id = id(&subject, now_ms);
        silence.comment = cut(&silence.comment);
        for alarm in self.firing.values_mut() {
            alarm.silenced |= matches(&silence, &alarm.signal.subject);
        }
        self.silences.push(silence.clone());
        Ok(silence)
    }

    /// Ends the silence whose id begins so.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn unsilence(&mut self, id: &str) -> Result<v1::Silence, String> {
        let found: Vec<usize> = (0..self.silences.len())
            .filter(|at| self.silences.get(*at).is_some_and(|silence| silence.id.starts_with(id)))
            .collect();
        let at = *the_one(&found, id, "silence", "meshctl alerts")?;
        let ended = self.silences.remove(at);
        for alarm in self.firing.values_mut() {
            alarm.silenced = self.silences.iter().any(|silence| matches(silence, &alarm.signal.subject));
        }
        Ok(ended)
    }

    /// All of it, those that burn first, then the newest.
    pub(crate) fn to_wire(&self) -> v1::AlarmsResponse {
        let mut firing: Vec<&Alarm> = self.firing.values().collect();
        firing.sort_by_key(|alarm| std::cmp::Reverse((alarm.signal.severity, alarm.raised_ms)));
        let alarms = firing.into_iter().chain(self.resolved.iter().rev()).map(Alarm::to_wire).collect();
        v1::AlarmsResponse { alarms, silences: self.silences.clone(), sinks: Vec::new() }
    }

    /// What was kept. What burnt at the last end burns until it is held no longer, counted from now.
    pub(crate) fn of_wire(kept: v1::AlarmsResponse, now_ms: u64) -> Self {
        let mut book = Self { silences: kept.silences, ..Self::default() };
        for alarm in kept.alarms.iter().rev().filter_map(Alarm::of_wire) {
            match alarm.resolved_ms {
                Some(_) => book.resolved.push(alarm),
                None => {
                    let alarm = Alarm { last_ms: now_ms, ..alarm };
                    book.firing.insert(alarm.signal.subject.clone(), alarm);
                }
            }
        }
        book
    }
}

impl Alarm {
    /// For `meshctl`, queues and the file.
    pub(crate) fn to_wire(&self) -> v1::Alarm {
        let Self { id, signal, raised_ms, last_ms, resolved_ms, count, acked, comment, silenced, sinks } =
            self;
        let Signal { subject, severity, since_ms, value, threshold, sentence, command } = signal;
        let Subject { detector, source, destination, service } = subject;
        let (acked_by, acked_ms) = acked.clone().unwrap_or_default();
        v1::Alarm {
            id: id.clone(),
            detector: detector.as_str().to_owned(),
            severity: severity.as_str().to_owned(),
            state: if resolved_ms.is_some() { "resolved" } else { "firing" }.to_owned(),
            source: source.to_string(),
            destination: destination.to_string(),
            service: service.to_string(),
            since_ms: *since_ms,
            raised_ms: *raised_ms,
            last_ms: *last_ms,
            resolved_ms: resolved_ms.unwrap_or(0),
            count: *count,
            value: *value,
            threshold: *threshold,
            sentence: sentence.clone(),
            command: command.clone(),
            acked_by,
            acked_ms,
            comment: comment.clone(),
            silenced: *silenced,
            sinks: sinks.clone(),
        }
    }

    /// `None` for what another release wrote and this one does not know.
    fn of_wire(kept: &v1::Alarm) -> Option<Self> {
        let detector = Detector::ALL.iter().copied().find(|detector| detector.as_str() == kept.detector)?;
        let severity = Severity::ALL.into_iter().find(|severity| severity.as_str() == kept.severity)?;
        let subject = Subject {
            detector,
            source: kept.source.as_str().into(),
            destination: kept.destination.as_str().into(),
            service: kept.service.as_str().into(),
        };
        let signal = Signal {
            subject,
            severity,
            since_ms: kept.since_ms,
            value: kept.value,
            threshold: kept.threshold,
            sentence: kept.sentence.clone(),
            command: kept.command.clone(),
        };
        Some(Self {
            id: kept.id.clone(),
            signal,
            raised_ms: kept.raised_ms,
            last_ms: kept.last_ms,
            resolved_ms: (kept.resolved_ms > 0).then_some(kept.resolved_ms),
            count: kept.count,
            acked: (kept.acked_ms > 0).then(|| (kept.acked_by.clone(), kept.acked_ms)),
            comment: kept.comment.clone(),
            silenced: kept.silenced,
            sinks: kept.sinks.clone(),
        })
    }
}

fn matches(silence: &v1::Silence, subject: &Subject) -> bool {
    (silence.detector.is_empty() || silence.detector == subject.detector.as_str())
        && subject.source.contains(&silence.source)
        && (subject.destination.contains(&silence.destination)
            || subject.service.contains(&silence.destination))
}

fn the_one<'f, T>(found: &'f [T], id: &str, what: &str, command: &str) -> Result<&'f T, String> {
    let shown: String = id.chars().filter(char::is_ascii_alphanumeric).take(20).collect();
    match found {
        _ if id.is_empty() => Err(format!("name the {what} by its id; list them: {command}")),
        [one] => Ok(one),
        [] => Err(format!("there is no {what} with the id {shown}; list them: {command}")),
        several => {
            Err(format!("the id {shown} means {} of them; write more of it: {command}", several.len()))
        }
    }
}

fn cut(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    text.get(..text.floor_char_boundary(COMMENT_BYTES_MAX)).unwrap_or_default().to_owned()
}

fn id(subject: &Subject, now_ms: u64) -> String {
    let text = format!("{subject:?}{now_ms}");
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let digit = |byte: &u8| char::from(DIGITS.get(usize::from(byte % 32)).copied().unwrap_or(b'0'));
    digest.as_ref().iter().take(8).map(digit).collect()
}
