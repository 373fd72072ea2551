//! The mesh's own JSON, and its signature.
//!
//! The signature is `sha256=` and the hexadecimal HMAC-SHA-256 of `TIMESTAMP.BODY`, TIMESTAMP being the text of the header
//! `X-Mesh-Timestamp` (seconds since the epoch): whoever checks both knows who sent it, and that it is no old message.

use super::{notices, time};
use aws_lc_rs::hmac;
use mesh_proto::wire::v1;
use serde_json::json;

/// The body.
pub(crate) fn body(message: &v1::AlarmMessage) -> Vec<u8> {
    let alarms: Vec<_> = notices(message)
        .map(|(change, alarm)| {
            json!({
                "id": alarm.id,
                "change": change,
                "state": alarm.state,
                "detector": alarm.detector,
                "severity": alarm.severity,
                "source": alarm.source,
                "destination": alarm.destination,
                "service": alarm.service,
                "since": time(alarm.since_ms),
                "raised": time(alarm.raised_ms),
                "lastSeen": time(alarm.last_ms),
                "resolved": (alarm.resolved_ms > 0).then(|| time(alarm.resolved_ms)),
                "count": alarm.count,
                "value": alarm.value,
                "threshold": alarm.threshold,
                "summary": alarm.sentence,
                "command": alarm.command,
                "acknowledgedBy": (!alarm.acked_by.is_empty()).then_some(&alarm.acked_by),
            })
        })
        .collect();
    let whole =
        json!({"version": 1, "sent": time(message.made_ms), "lostBefore": message.lost, "alarms": alarms});
    whole.to_string().into_bytes()
}

/// The value of `X-Mesh-Signature`.
pub(crate) fn signature(key: &[u8], timestamp: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    context.update(timestamp.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let tag = context.sign();
    let hex = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("sha256={hex}")
}

#[cfg(test)]
mod tests {
    use super::super::samples::{EVIL, hostile, message};
    use super::*;

    #[test]
    fn the_body_is_json_with_every_field() {
        let body: serde_json::Value = serde_json::from_slice(&body(&message("raised"))).unwrap();
        let alarm = &body["alarms"][0];
        assert_eq!(
            (alarm["detector"].as_str(), alarm["change"].as_str()),
            (Some("denialBurst"), Some("raised"))
        );
        assert_eq!(alarm["raised"], "2023-11-14T22:13:22.000Z");
        assert!(alarm["resolved"].is_null());
    }

    #[test]
    fn hostile_text_stays_text() {
        let body = body(&hostile());
        assert!(!body.iter().any(|byte| *byte < 0x20), "no raw control byte");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["alarms"][0]["service"], EVIL);
        assert_eq!(body["alarms"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn the_signature_is_what_openssl_computes() {
        // printf '%s' '1700000000.{}' | openssl dgst -sha256 -hmac key
        let expected = "sha256=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
        assert_eq!(signature(b"key", 1_700_000_000, b"{}"), expected);
    }
}
