//! JSON as Slack's incoming webhooks take it. Texts are escaped as Slack asks (`&`, `<`, `>`), which is what makes links,
//! mentions and channels; `mrkdwn` is off, so that nothing else is markup.

use super::notices;
use crate::detect::words;
use mesh_proto::wire::v1;
use serde_json::json;

/// The body.
pub(crate) fn body(message: &v1::AlarmMessage) -> Vec<u8> {
    let attachments: Vec<_> = notices(message)
        .map(|(change, alarm)| {
            let color = match (change, alarm.severity.as_str()) {
                ("resolved", _) => "#2eb886",
                (_, "critical") => "#cc0000",
                (_, "warning") => "#daa038",
                _ => "#4a90d9",
            };
            let text = format!("{}\n{}", escape(&alarm.sentence), escape(&alarm.command));
            json!({
                "color": color,
                "title": format!("{} {}: {change}", escape(&alarm.severity), escape(&alarm.detector)),
                "text": text,
                "fallback": text,
                "footer": format!("alarm {}", escape(&alarm.id)),
                "ts": alarm.raised_ms / 1_000,
                "mrkdwn_in": [],
            })
        })
        .collect();
    let lost = if message.lost > 0 { format!(" ({} before were lost)", message.lost) } else { String::new() };
    let text = format!("mesh: {} alarm(s){lost}", attachments.len());
    json!({"text": text, "mrkdwn": false, "attachments": attachments}).to_string().into_bytes()
}

fn escape(text: &str) -> String {
    let harmless: String = text.chars().filter(|c| !c.is_control()).collect();
    let harmless = words::clean_long(&harmless);
    harmless.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::samples::{hostile, message};
    use super::*;

    #[test]
    fn the_message_says_what_and_how_heavy() {
        let body: serde_json::Value = serde_json::from_slice(&body(&message("raised"))).unwrap();
        assert_eq!(body["attachments"][0]["title"], "warning denialBurst: raised");
        assert_eq!(body["attachments"][0]["color"], "#daa038");
    }

    #[test]
    fn nobody_can_mention_a_channel_or_make_a_link() {
        let text = String::from_utf8(body(&hostile())).unwrap();
        assert!(!text.contains('<') && !text.contains('>'), "{text}");
        assert!(text.contains("&lt;!channel&gt;"), "{text}");
    }
}
