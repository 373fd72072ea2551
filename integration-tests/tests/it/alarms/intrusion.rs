//! A staged intrusion in a small shop that has run for a day: a scan, a stolen identity, a theft of data, a burst of refusals,
//! a service that is made slow. Each raises its own alarm and no other, in a real syslog, a webhook and a real Alertmanager.

use integration_tests::applications::{curl, http_server};
use integration_tests::insider::Insider;
use integration_tests::past::{self, Usual};
use integration_tests::process::Process;
use integration_tests::receivers::{Alertmanager, Rsyslog, Webhook};
use integration_tests::world::{World, free_port, loopback};
use integration_tests::{programs, wait};
use mesh_ca::tls::Alpn;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// From the cause to the alarm in everybody's hands.
const IN_TIME: Duration = Duration::from_secs(10);
/// What was usual: little.
const PAST: [Usual; 5] = [
    Usual { from: "web", to: "catalog", bytes: 90_000 },
    Usual { from: "reports", to: "store", bytes: 30_000 },
    Usual { from: "orders", to: "payments", bytes: 20_000 },
    Usual { from: "batch", to: "payments", bytes: 20_000 },
    Usual { from: "shopper", to: "checkout", bytes: 50_000 },
];
/// Bytes of what is stolen: many times the least that is told.
const LOOT_BYTES: usize = 48 << 20;

/// A policy of the shop: who may `GET` what where.
fn may_read(from: &str, to: &str, path: &str) -> String {
    format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {to}-for-{from}, namespace: default}}\n\
         spec:\n  target: {{workload: {to}}}\n  rules:\n  - name: {from}\n    from: [{{serviceAccount: {from}}}]\n    \
         to: [{{methods: [GET], paths: ['{path}']}}]\n---\n"
    )
}

fn told_to(name: &str, delivery: &str) -> String {
    format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: AlertSink\nmetadata: {{name: {name}}}\nspec: {{{delivery}}}\n---\n"
    )
}

/// The shop with its receivers.
struct Shop {
    syslog: Rsyslog,
    webhook: Webhook,
    alertmanager: Alertmanager,
    /// The ports of the callers, and the mesh listener and the application's port of `payments`.
    web: u16,
    reports: u16,
    batch: u16,
    shopper: u16,
    payments: (SocketAddr, u16),
    world: World,
}

impl Shop {
    fn open() -> Self {
        let mut world = World::start();
        world.kill_control();
        #[expect(clippy::disallowed_methods, reason = "the past ends now")]
        past::write(&world.state(), &PAST, SystemTime::now());
        world.start_control();
        let folder = world.folder().to_path_buf();
        std::fs::write(folder.join("products"), "a list\n").unwrap();
        std::fs::write(folder.join("charge"), "done\n").unwrap();
        std::fs::write(folder.join("all"), vec![b'x'; LOOT_BYTES]).unwrap();
        std::fs::write(folder.join("delay"), "0").unwrap();

        let (syslog, alertmanager) = (Rsyslog::start(&folder, None), Alertmanager::start(&folder, None));
        let hook = free_port();
        let webhook = Webhook::start(hook, None);
        let rules = [
            may_read("web", "catalog", "/products"),
            may_read("reports", "store", "/all"),
            may_read("orders", "payments", "/charge"),
            may_read("batch", "payments", "/charge"),
            may_read("shopper", "checkout", "/*"),
            told_to("siem", &format!("syslog: {{address: '127.0.0.1:{}'}}", syslog.port)),
            told_to("hook", &format!("webhook: {{url: 'http://127.0.0.1:{hook}/mesh'}}")),
            told_to("on-call", &format!("alertmanager: {{url: 'http://127.0.0.1:{}'}}", alertmanager.port)),
            "apiVersion: meshctl.io/v1alpha1\nkind: AlertRule\nmetadata: {name: all}\n\
             spec: {sinks: [siem, hook, on-call]}\n---\n"
                .to_owned(),
            // Of what is allowed everything is told, too.
            "apiVersion: meshctl.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\n\
             spec: {accessLog: {sample: 1}}\n"
                .to_owned(),
        ];
        world.apply(&rules.concat());

        for name in ["catalog", "store"] {
            http_server(&mut world, name, &folder, &[]);
        }
        let listen = loopback(free_port());
        let (_, app) = http_server(&mut world, "payments", &folder, &["--listen", &listen.to_string()]);
        slow_server(&mut world);
        let [web, reports, batch, shopper] =
            [("web", "catalog"), ("reports", "store"), ("batch", "payments"), ("shopper", "checkout")].map(
                |(from, to)| {
                    let port = free_port();
                    world.run(from, &["--to", &format!("{to}=127.0.0.1:{port}")], &[]);
                    port
                },
            );
        let payments = (listen, app);
        Self { syslog, webhook, alertmanager, web, reports, batch, shopper, payments, world }
    }

    /// The kinds of alarm that each receiver was told of.
    fn arrived(&self) -> [BTreeSet<String>; 3] {
        let lines = self.syslog.lines().into_iter().filter(|line| line.contains("CEF:0|meshctl|"));
        let by_syslog = lines.filter_map(|line| Some(line.split('|').nth(4)?.to_owned()));
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let by_webhook = self.webhook.alarms().into_iter().map(|alarm| text(&alarm["detector"]));
        let by_manager =
            self.alertmanager.alerts().into_iter().map(|alert| text(&alert["labels"]["detector"]));
        [by_syslog.collect(), by_webhook.collect(), by_manager.collect()]
    }

    /// Commits an attack, and waits until everybody was told of it and of nothing else than `before`.
    fn suffers(&self, before: &[&str], kind: &str, attack: impl FnOnce()) {
        attack();
        let expected: BTreeSet<String> =
            before.iter().chain([&kind]).map(|kind| (*kind).to_owned()).collect();
        let (arrived, time) = wait::timed(|| {
            wait::until(&format!("the alarm {kind} to reach syslog, webhook and Alertmanager"), || {
                let arrived = self.arrived();
                arrived.iter().all(|kinds| kinds.contains(kind)).then_some(arrived)
            })
        });
        for kinds in arrived {
            assert_eq!(kinds, expected, "after {kind}");
        }
        assert!(time <= IN_TIME, "{kind} took {time:?}");
    }
}

/// The service `checkout`, which is as slow as the file `delay` says.
fn slow_server(world: &mut World) {
    let (python, port) = (programs::python(), free_port());
    let script = format!("{}/tests/it/alarms/slow_server.py", env!("CARGO_MANIFEST_DIR"));
    let (python, port_text) = (python.to_string_lossy().into_owned(), port.to_string());
    let delay = world.folder().join("delay").to_string_lossy().into_owned();
    world.run("checkout", &["--port", &port_text], &[&python, &script, &port_text, &delay]);
    wait::for_listener("checkout", loopback(port));
}

/// Asks for all of these; gives what was answered, one code a line.
fn asked(port: u16, paths: &str) -> String {
    curl("%{http_code}\\n", &[&format!("http://127.0.0.1:{port}{paths}")])
}

#[test]
fn each_act_of_an_intrusion_raises_its_alarm_and_no_other_in_syslog_webhook_and_alertmanager() {
    let shop = Shop::open();
    let warm = asked(shop.shopper, "/[1-1500]");
    assert!(warm.lines().all(|code| code == "200"), "{warm}");

    shop.suffers(&[], "scan", || {
        let words: Vec<String> =
            (b'a'..=b'z').map(|letter| format!("admin-{}", char::from(letter))).collect();
        let codes = asked(shop.web, &format!("/{{{}}}", words.join(",")));
        assert!(codes.lines().all(|code| code == "403"), "{codes}");
    });
    shop.suffers(&["scan"], "twoPlaces", || {
        let thief = Insider::new(&shop.world.state(), "orders");
        let ((mesh, app), here) = (shop.payments, Ipv4Addr::LOCALHOST);
        for from in [here, Ipv4Addr::new(127, 0, 0, 2), here] {
            let through = thief.relay_from(from, mesh, ("payments", app), Alpn::MeshH1);
            assert_eq!(asked(through.port(), "/charge"), "200");
        }
    });
    shop.suffers(&["scan", "twoPlaces"], "exfiltration", || {
        assert_eq!(asked(shop.reports, "/all"), "200");
    });
    shop.suffers(&["scan", "twoPlaces", "exfiltration"], "denialBurst", || {
        let codes = asked(shop.batch, "/refund?[1-60]");
        assert!(codes.lines().all(|code| code == "403"), "{codes}");
    });
    let mut load = None;
    shop.suffers(&["scan", "twoPlaces", "exfiltration", "denialBurst"], "latency", || {
        std::fs::write(shop.world.folder().join("delay"), "100").unwrap();
        let mut command = Command::new(programs::system("curl"));
        command.args(["-s", "-Z", "--parallel-max", "20", "-o", "/dev/null"]);
        command.arg(format!("http://127.0.0.1:{}/[1-20000]", shop.shopper));
        load = Some(Process::start("shoppers", shop.world.folder(), &mut command));
    });
    drop(load);

    let all = shop.world.json(&["alerts", "--all"]);
    let alarms = all["alerts"].as_array().unwrap().iter();
    let kinds: Vec<&str> = alarms.map(|alarm| alarm["detector"].as_str().unwrap()).collect();
    assert_eq!(kinds.len(), 5, "one alarm for each act: {all}");
}
