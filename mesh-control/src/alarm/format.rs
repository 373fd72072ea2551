//! Alarms in the languages of sinks. Pure: a message goes in, bytes come out.
//!
//! Every text may have come from somebody hostile (a proxy names services, a caller paths): each format escapes for itself,
//! JSON by its library, CEF and syslog in [`cef`], and no format ever takes a line's end from a text.

pub(crate) mod alertmanager;
pub(crate) mod cef;
pub(crate) mod ocsf;
pub(crate) mod slack;
pub(crate) mod webhook;

use mesh_proto::wire::v1;

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(jiff::Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The callee as people call it.
pub(crate) fn target(alarm: &v1::Alarm) -> &str {
    if alarm.service.is_empty() { &alarm.destination } else { &alarm.service }
}

/// The notices with their alarms.
pub(crate) fn notices(message: &v1::AlarmMessage) -> impl Iterator<Item = (&str, &v1::Alarm)> {
    message.notices.iter().filter_map(|notice| Some((notice.change.as_str(), notice.alarm.as_ref()?)))
}

#[cfg(test)]
pub(crate) mod samples;
