//! Messages for tests, one of them by somebody hostile.

use mesh_proto::wire::v1;

/// A message with one notice.
pub(crate) fn message(change: &str) -> v1::AlarmMessage {
    let alarm = v1::Alarm {
        id: "abcd1234".to_owned(),
        detector: "denialBurst".to_owned(),
        severity: "warning".to_owned(),
        state: if change == "resolved" { "resolved" } else { "firing" }.to_owned(),
        source: "spiffe://mesh.local/ns/shop/sa/web".to_owned(),
        destination: "spiffe://mesh.local/ns/shop/sa/pay".to_owned(),
        service: "shop/pay".to_owned(),
        since_ms: 1_700_000_000_000,
        raised_ms: 1_700_000_002_000,
        last_ms: 1_700_000_004_000,
        resolved_ms: if change == "resolved" { 1_700_000_090_000 } else { 0 },
        count: 2,
        value: 30.0,
        threshold: 20.0,
        sentence: "shop/web was refused 30 times in 10 s at shop/pay port 80; usual there are 0".to_owned(),
        command: "meshctl edges --from web --denied".to_owned(),
        ..v1::Alarm::default()
    };
    let notice = v1::AlarmNotice { change: change.to_owned(), alarm: Some(alarm) };
    v1::AlarmMessage { made_ms: 1_700_000_002_500, notices: vec![notice], repeat_ms: 14_400_000, lost: 0 }
}

/// What somebody would write who wants to forge lines, fields and markup.
pub(crate) const EVIL: &str =
    "x\r\n<13>1 - evil\u{1b}[2J|CEF:0|\\|a=b\\=c\"}]\u{2028}\u{202e}<!channel> *bold* `x` \u{0}";

/// The same message with that in every text.
pub(crate) fn hostile() -> v1::AlarmMessage {
    let mut message = message("raised");
    for alarm in message.notices.iter_mut().filter_map(|notice| notice.alarm.as_mut()) {
        for text in [
            &mut alarm.source,
            &mut alarm.destination,
            &mut alarm.service,
            &mut alarm.sentence,
            &mut alarm.command,
            &mut alarm.comment,
        ] {
            *text = EVIL.to_owned();
        }
    }
    message
}
