//! Alarms by TLS: to a real rsyslog and a real Alertmanager that ask for a certificate, and to a webhook; never to somebody
//! who does not prove who he is.

use integration_tests::applications::{caller, http_server, status};
use integration_tests::receivers::{Alertmanager, Certificates, Rsyslog, Webhook};
use integration_tests::wait;
use integration_tests::world::{World, free_port};
use serde_json::Value;

/// PEM as a value in YAML.
fn quoted(pem: &str) -> String {
    format!("\"{}\"", pem.replace('\n', "\\n"))
}

fn sink(name: &str, delivery: &str, tls: &str) -> String {
    format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: AlertSink\nmetadata: {{name: {name}}}\n\
         spec: {{{delivery}, tls: {{{tls}}}}}}}\n---\n"
    )
}

fn sinks(world: &World) -> Vec<Value> {
    let output = world.meshctl(&["alerts", "sinks", "-o", "json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn alarms_go_by_tls_to_who_proves_to_be_the_sink_and_to_nobody_else() {
    let mut world = World::start();
    let folder = world.folder().to_path_buf();
    let (ours, others) = (Certificates::new(&folder, "ours"), Certificates::new(&folder, "others"));
    let syslog = Rsyslog::start(&folder, Some(&ours));
    let alertmanager = Alertmanager::start(&folder, Some(&ours));
    let (hook, fraud) = (free_port(), free_port());
    let (webhook, impostor) = (Webhook::start(hook, Some(&ours)), Webhook::start(fraud, Some(&others)));
    let ca = format!("ca: {}", quoted(&ours.ca_text));
    let shown = format!("{ca}, certificate: sender");
    let secrets = world.state().join("alarms/secrets");
    std::fs::copy(&ours.client, secrets.join("sender")).unwrap();
    let siem = |tls: &str| sink("siem", &format!("syslog: {{address: 'localhost:{}'", syslog.port), tls);
    let resources = [
        siem(&ca),
        sink("on-call", &format!("alertmanager: {{url: 'https://127.0.0.1:{}'", alertmanager.port), &shown),
        sink("hook", &format!("webhook: {{url: 'https://localhost:{hook}/mesh'"), &ca),
        sink("fraud", &format!("webhook: {{url: 'https://localhost:{fraud}/mesh'"), &ca),
        // The system's roots vouch for nobody here.
        sink("public", &format!("webhook: {{url: 'https://localhost:{hook}/public'"), ""),
        "apiVersion: meshctl.io/v1alpha1\nkind: AlertRule\nmetadata: {name: all}\n\
         spec: {sinks: [siem, on-call, hook, fraud, public]}\n"
            .to_owned(),
    ];
    world.apply(&resources.concat());
    http_server(&mut world, "b", &folder, &[]);
    let to = caller(&mut world, "a", "b");
    for _ in 0..40 {
        assert_eq!(status(to), "403 no_rule_allows");
    }

    wait::until("the webhook and Alertmanager to be told", || {
        let is_there = !webhook.alarms().is_empty() && !alertmanager.alerts().is_empty();
        is_there.then_some(())
    });
    let problems = wait::until("all the others to be known as no sinks", || {
        let sinks = sinks(&world);
        let problem = |name: &str| {
            let sink = sinks.iter().find(|sink| sink["name"] == name)?;
            sink["problem"].as_str().filter(|problem| !problem.is_empty()).map(str::to_owned)
        };
        Some([problem("siem")?, problem("fraud")?, problem("public")?])
    });
    assert!(problems[0].contains("ertificate"), "rsyslog lets in who shows a certificate: {problems:?}");
    assert!(problems[1].contains("UnknownIssuer") || problems[1].contains("BadSignature"), "{problems:?}");
    assert!(problems[2].contains("UnknownIssuer"), "{problems:?}");
    assert!(syslog.lines().is_empty(), "{:?}", syslog.lines());
    assert!(impostor.posted().is_empty() && webhook.posted().iter().all(|(head, _)| head.contains("/mesh")));

    world.apply(&siem(&shown));
    let lines = wait::until("what waited for rsyslog to arrive", || {
        Some(syslog.lines()).filter(|lines| !lines.is_empty())
    });
    assert!(
        lines[0].contains("CEF:0|meshctl|mesh-control|") && lines[0].contains("|denialBurst|"),
        "{lines:?}"
    );
    let told = wait::until("rsyslog to have acknowledged it", || {
        sinks(&world).into_iter().find(|sink| sink["name"] == "siem" && sink["delivered"] == 1)
    });
    assert_eq!((&told["waiting"], &told["problem"]), (&0.into(), &"".into()), "{told}");
    assert_eq!(syslog.lines().len(), 1, "once");
}
