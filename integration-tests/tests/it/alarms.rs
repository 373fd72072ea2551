//! From refused calls to an alarm in somebody's hands: ledger, detector, alarm, sink, `meshctl alerts`.

use integration_tests::applications::{caller, http_server, status};
use integration_tests::receivers::Webhook;
use integration_tests::wait;
use integration_tests::world::{World, free_port};
use serde_json::Value;

mod intrusion;
mod secure;

fn sink(port: u16) -> String {
    format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: AlertSink\nmetadata: {{name: ops}}\n\
         spec: {{webhook: {{url: http://127.0.0.1:{port}/hook, secret: hook}}}}\n---\n\
         apiVersion: meshctl.io/v1alpha1\nkind: AlertRule\nmetadata: {{name: all}}\nspec: {{sinks: [ops]}}\n"
    )
}

#[test]
fn a_burst_of_refusals_reaches_a_sink_although_it_is_down_and_the_control_plane_is_killed() {
    let mut world = World::start();
    let folder = world.folder().to_path_buf();
    http_server(&mut world, "b", &folder, &[]);
    let to = caller(&mut world, "a", "b");
    let port = free_port();
    world.apply(&sink(port));
    std::fs::write(world.state().join("alarms/secrets/hook"), "a shared key\n").unwrap();
    for _ in 0..40 {
        assert_eq!(status(to), "403 no_rule_allows");
    }

    let alarm = wait::until("the alarm to burn", || {
        let alerts = world.json(&["alerts"]);
        alerts["alerts"].as_array()?.iter().find(|alarm| alarm["detector"] == "denialBurst").cloned()
    });
    let summary = alarm["summary"].as_str().unwrap();
    assert!(summary.contains("default/a was refused") && summary.contains("no_rule_allows"), "{summary}");
    assert_eq!(world.meshctl(&["alerts"]).status.code(), Some(3), "burning alarms are a bad answer");
    let id = alarm["id"].as_str().unwrap().to_owned();
    world.told(&["alerts", "ack", &id, "--comment", "a test"]);
    let sinks = wait::until("the sink to be known as down", || {
        let output = world.meshctl(&["alerts", "sinks", "-o", "json"]);
        let sinks: Value = serde_json::from_slice(&output.stdout).ok()?;
        (sinks[0]["problem"] != "").then_some(sinks)
    });
    assert_eq!((sinks[0]["waiting"].as_u64(), sinks[0]["lost"].as_u64()), (Some(1), Some(0)), "{sinks}");

    world.kill_control();
    world.start_control();
    let kept = world.json(&["alerts", "--all"]);
    let kept = kept["alerts"].as_array().unwrap().iter().find(|alarm| alarm["id"] == *id).cloned();
    assert_eq!(kept.unwrap()["comment"], "a test", "the acknowledgement outlives the kill");
    let hook = Webhook::start(port, None);
    let (head, body) = wait::until("the alarm to arrive", || hook.posted().first().cloned());
    let head = head.to_lowercase();
    assert!(head.starts_with("post /hook http/1.1"), "{head}");
    let signature = head.lines().find_map(|line| line.strip_prefix("x-mesh-signature: sha256=")).unwrap();
    assert_eq!(signature.len(), 64, "{signature}");
    assert!(head.contains("x-mesh-timestamp: "), "{head}");
    let told = &body["alarms"][0];
    assert_eq!((told["id"].as_str(), told["change"].as_str()), (Some(&*id), Some("raised")), "{body}");
    let audit = world.told(&["audit"]);
    assert!(audit.contains("acknowledged denialBurst"), "{audit}");
}
