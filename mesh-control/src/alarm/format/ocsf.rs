//! OCSF 1.3 "Detection Finding" (class 2004), one JSON object for each line.

use super::{notices, target};
use mesh_proto::wire::v1;
use serde_json::json;

/// All notices, each on a line of its own.
pub(crate) fn lines(message: &v1::AlarmMessage) -> Vec<u8> {
    let mut out = Vec::new();
    for (change, alarm) in notices(message) {
        out.extend(finding(message, change, alarm).to_string().into_bytes());
        out.push(b'\n');
    }
    out
}

fn finding(message: &v1::AlarmMessage, change: &str, alarm: &v1::Alarm) -> serde_json::Value {
    // Activities: 1 create, 2 update, 3 close. Status: 1 new, 2 in progress, 4 resolved.
    let (activity_id, activity, status_id, status) = match change {
        "raised" => (1, "Create", 1, "New"),
        "resolved" => (3, "Close", 4, "Resolved"),
        _ => (2, "Update", 2, "In Progress"),
    };
    let (severity_id, severity) = match alarm.severity.as_str() {
        "critical" => (5, "Critical"),
        "warning" => (3, "Medium"),
        _ => (1, "Informational"),
    };
    json!({
        "activity_id": activity_id,
        "activity_name": activity,
        "category_uid": 2,
        "category_name": "Findings",
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "type_uid": 200_400 + activity_id,
        "type_name": format!("Detection Finding: {activity}"),
        "time": message.made_ms,
        "start_time": alarm.since_ms,
        "end_time": alarm.resolved_ms.max(alarm.last_ms),
        "count": alarm.count,
        "severity_id": severity_id,
        "severity": severity,
        "status_id": status_id,
        "status": status,
        "message": alarm.sentence,
        "finding_info": {
            "uid": alarm.id,
            "title": alarm.detector,
            "desc": alarm.sentence,
            "created_time": alarm.raised_ms,
            "first_seen_time": alarm.since_ms,
            "last_seen_time": alarm.last_ms,
            "types": [alarm.detector],
            "analytic": {"name": alarm.detector, "type_id": 3, "type": "Statistical"},
        },
        "evidences": [{
            "actor": {"user": {"name": alarm.source, "uid": alarm.source, "type_id": 3, "type": "System"}},
            "dst_endpoint": {"name": alarm.destination, "svc_name": target(alarm)},
            "data": {"value": alarm.value, "threshold": alarm.threshold},
        }],
        "remediation": {"desc": alarm.command},
        "metadata": {
            "version": "1.3.0",
            "uid": format!("{}-{change}-{}", alarm.id, message.made_ms),
            "product": {"name": "mesh-control", "vendor_name": "meshctl", "version": env!("CARGO_PKG_VERSION")},
        },
        "unmapped": {"lost_before": message.lost},
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples::{EVIL, hostile, message};
    use super::*;

    fn read(message: &v1::AlarmMessage) -> Vec<serde_json::Value> {
        let text = String::from_utf8(lines(message)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_finding_is_created_and_closed_under_one_name() {
        let (raised, resolved) = (&read(&message("raised"))[0], &read(&message("resolved"))[0]);
        assert_eq!(
            (raised["type_uid"].as_u64(), resolved["type_uid"].as_u64()),
            (Some(200_401), Some(200_403))
        );
        assert_eq!(raised["finding_info"]["uid"], resolved["finding_info"]["uid"]);
        assert_ne!(raised["metadata"]["uid"], resolved["metadata"]["uid"]);
    }

    #[test]
    fn hostile_text_stays_on_its_line() {
        let found = read(&hostile());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["evidences"][0]["actor"]["user"]["name"], EVIL);
    }
}
