//! The body of `POST /api/v2/alerts` of an Alertmanager.
//!
//! Labels make an alert the same alert there, so that they hold what does not change while an alarm lives. An alert ends
//! when its `endsAt` has passed: one that burns gets a time after our next word at the latest, one that is over its own.

use super::{notices, target, time};
use mesh_proto::wire::v1;
use serde_json::{Value, json};

/// Beyond the time at which we repeat ourselves.
const GRACE_MS: u64 = 5 * 60_000;

/// The body.
pub(crate) fn body(message: &v1::AlarmMessage) -> Vec<u8> {
    let ends_ms = message.made_ms.saturating_add(message.repeat_ms).saturating_add(GRACE_MS);
    let alerts = notices(message).map(|(_, alarm)| {
        let ends_ms = if alarm.resolved_ms > 0 { alarm.resolved_ms } else { ends_ms };
        json!({
            "labels": {
                "alertname": format!("Mesh{}", capital(&alarm.detector)),
                "alarm": alarm.id,
                "severity": alarm.severity,
                "detector": alarm.detector,
                "source": alarm.source,
                "destination": alarm.destination,
                "service": target(alarm),
            },
            "annotations": {"summary": alarm.sentence, "command": alarm.command},
            "startsAt": time(alarm.raised_ms),
            "endsAt": time(ends_ms),
        })
    });
    Value::from(alerts.collect::<Vec<_>>()).to_string().into_bytes()
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{hostile, message};
    use super::*;

    #[test]
    fn an_alert_that_burns_outlives_our_silence_and_one_that_is_over_ends() {
        let burning: Value = serde_json::from_slice(&body(&message("raised"))).unwrap();
        assert_eq!(burning[0]["labels"]["alertname"], "MeshDenialBurst");
        assert_eq!(burning[0]["startsAt"], "2023-11-14T22:13:22.000Z");
        assert_eq!(burning[0]["endsAt"], "2023-11-15T02:18:22.500Z");
        let over: Value = serde_json::from_slice(&body(&message("resolved"))).unwrap();
        assert_eq!(over[0]["labels"], burning[0]["labels"], "the same alert");
        assert_eq!(over[0]["endsAt"], "2023-11-14T22:14:50.000Z");
    }

    #[test]
    fn hostile_text_stays_text() {
        let alerts: Value = serde_json::from_slice(&body(&hostile())).unwrap();
        assert_eq!(alerts.as_array().map(Vec::len), Some(1));
        assert_eq!(alerts[0]["labels"].as_object().map(|labels| labels.len()), Some(7));
    }
}
