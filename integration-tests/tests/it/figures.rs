//! What `stat`, `top`, `edges --since` and `graph` say of requests that were counted while they were sent.

use integration_tests::applications::{body, caller, http_server, status};
use integration_tests::world::{World, allow, free_port, loopback};
use integration_tests::{programs, wait};
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// The row of this name.
fn row<'a>(stat: &'a Value, name: &str) -> Option<&'a Value> {
    stat["rows"].as_array()?.iter().find(|row| row["name"] == name)
}

/// The sum of a counter over the lines of a proxy's metrics that have all these labels.
fn counted(metrics: &str, name: &str, labels: &[&str]) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    let wanted = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    wanted.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn figures_are_those_of_the_requests_sent() {
    let mut world = World::start();
    let folder = world.folder().to_path_buf();
    let said = world.told(&["stat"]);
    assert!(said.contains("no traffic in the last 1m"), "{said}");
    let admin = free_port();
    http_server(&mut world, "files", &folder, &["--admin", &loopback(admin).to_string()]);
    let (to, stranger) = (caller(&mut world, "reader", "files"), caller(&mut world, "stranger", "files"));
    world.apply(&allow("reader", "files"));
    for _ in 0..30 {
        assert_eq!(status(to), "200");
    }
    for _ in 0..7 {
        assert_eq!(status(stranger), "403 no_rule_allows");
    }

    let (stat, late) = wait::timed(|| {
        wait::until("all requests to be counted", || {
            let stat = world.json(&["stat", "--window", "5m"]);
            let requests = row(&stat, "default/files")?["requests"].as_u64()?;
            assert!(requests <= 37, "more than were sent: {stat}");
            (requests == 37).then_some(stat)
        })
    });
    println!("all counted after {late:?}");
    let files = row(&stat, "default/files").unwrap();
    assert_eq!((&files["allowed"], &files["denied"]), (&30.into(), &7.into()), "{stat}");
    assert_eq!((&files["success_rate"], &files["errors"]), (&1.0.into(), &0.into()), "{stat}");
    let quantiles = ["p50_us", "p95_us", "p99_us"].map(|name| files[name].as_u64().unwrap());
    assert!(quantiles[0] > 0 && quantiles.is_sorted(), "{quantiles:?}");
    let seconds = stat["seconds"].as_f64().unwrap();
    assert!((files["rps"].as_f64().unwrap() * seconds - 37.0).abs() < 0.1 * seconds, "{stat}");

    let id = |name: &str| format!("spiffe://mesh.local/ns/default/sa/{name}");
    let workloads = world.json(&["stat", "workload", "--window", "5m"]);
    let sent = |name: &str| row(&workloads, &id(name)).map(|row| row["sent"]["requests"].clone());
    assert_eq!((sent("reader"), sent("stranger")), (Some(30.into()), Some(7.into())), "{workloads}");
    assert_eq!(row(&workloads, &id("files")).unwrap()["requests"], 37, "{workloads}");
    let edge = world.json(&["stat", "edge", "stranger", "--window", "5m"]);
    assert_eq!(edge["rows"].as_array().unwrap().len(), 1, "{edge}");
    assert_eq!((&edge["rows"][0]["denied"], &edge["rows"][0]["plaintext"]), (&7.into(), &0.into()), "{edge}");
    let none = world.told(&["stat", "service", "nowhere"]);
    assert!(none.contains("no traffic of nowhere") && none.contains("files"), "{none}");

    // The ledger, the totals and the callee's own counters are three counts of the same requests.
    let metrics = body(&format!("http://127.0.0.1:{admin}/metrics"));
    let inbound = |outcome| counted(&metrics, "mesh_requests_total", &["direction=\"inbound\"", outcome]);
    assert_eq!((inbound("outcome=\"allowed\""), inbound("outcome=\"denied\"")), (30, 7), "{metrics}");
    let sums = |edges: &Value| -> (u64, u64) {
        let inbound = edges["edges"].as_array().unwrap().iter().filter(|edge| edge["direction"] == "inbound");
        inbound.fold((0, 0), |(allowed, denied), edge| {
            (allowed + edge["allowed"].as_u64().unwrap(), denied + edge["denied"].as_u64().unwrap())
        })
    };
    let (total, since) = (world.json(&["edges"]), world.json(&["edges", "--since", "5m"]));
    assert_eq!((sums(&total), sums(&since)), ((30, 7), (30, 7)), "{since}");
    let locks = |edges: &Value| edges["edges"][0]["key_exchange"].clone();
    assert_eq!(locks(&since), locks(&total), "{since}");

    let top = world.told(&["top", "--once", "--window", "5m"]);
    let first = top.lines().nth(1).unwrap();
    assert!(first.starts_with("reader") && first.contains("files"), "{top}");

    draws(&world);
    let logs = world.told(&["logs", "--verdict", "denied", "--from", "stranger", "--limit", "0"]);
    assert_eq!(logs.matches("  no_rule_allows").count(), 7, "{logs}");
    assert!(logs.lines().all(|line| line.contains("denied  stranger -> files:")), "{logs}");

    world.kill_control();
    world.start_control();
    let after = world.told(&["stat", "--window", "1h"]);
    assert!(after.contains("not known: ") && after.contains("killed"), "the lost minute is told: {after}");
}

/// The graph has two callers and one callee, and the real Graphviz can draw it.
fn draws(world: &World) {
    let graph = world.json(&["graph"]);
    assert_eq!(
        (graph["nodes"].as_array().unwrap().len(), graph["edges"].as_array().unwrap().len()),
        (3, 2),
        "{graph}"
    );
    let mut dot = Command::new(programs::system("dot"))
        .arg("-Tplain")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    dot.stdin.take().unwrap().write_all(world.told(&["graph", "-o", "dot"]).as_bytes()).unwrap();
    let output = dot.wait_with_output().unwrap();
    let plain = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && complaint.is_empty(), "{complaint}{plain}");
    assert_eq!(plain.lines().filter(|line| line.starts_with("node ")).count(), 3, "{plain}");
    assert_eq!(plain.lines().filter(|line| line.starts_with("edge ")).count(), 2, "{plain}");
    assert!(world.told(&["graph", "-o", "svg"]).ends_with("</svg>\n"));
}

#[test]
fn posture_finds_what_is_open_and_fails_on_what_it_is_told_to() {
    let mut world = World::start();
    let folder = world.folder().to_path_buf();
    http_server(&mut world, "files", &folder, &[]);
    let to = caller(&mut world, "reader", "files");
    let strict = ["posture", "--fail-on", "plaintext,unmeshed,wildcard,default-allow,unused-rule,cert<25%"];
    world.told(&strict);
    world.apply(&allow("reader", "files"));
    world.apply(&allow("nobody", "files"));
    assert_eq!(status(to), "200");
    let posture = wait::until("the used rule to be known as used", || {
        let posture = world.json(&["posture"]);
        (posture["findings"].as_array()?.len() == 1).then_some(posture)
    });
    let finding = &posture["findings"][0];
    assert_eq!(
        (&finding["code"], &finding["namespace"]),
        (&"unused-rule".into(), &"default".into()),
        "{posture}"
    );
    assert!(finding["subject"].as_str().unwrap().contains("files-allows-nobody"), "{posture}");
    assert!(
        finding["command"]
            .as_str()
            .unwrap()
            .starts_with("meshctl get accesspolicy/default/files-allows-nobody")
    );
    let output = world.meshctl(&strict);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stdout));
    let month = world.json(&["posture", "--fail-on", "unused-rule>30d"]);
    let unanswered = month["unanswered"][0].as_str().unwrap();
    assert!(unanswered.contains("cannot be answered") && unanswered.contains("30d"), "{month}");
    assert_eq!(month["failed"].as_array().unwrap().len(), 0, "{month}");

    world.apply(
        "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {name: wide}\n\
         spec: {target: {workload: files}, rules: [{name: all, from: [{anyMeshed: true}]}]}\n---\n\
         apiVersion: meshctl.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {defaultAccess: allow}\n",
    );
    let open = world.json(&["posture", "--fail-on", "wildcard,default-allow,plaintext"]);
    assert_eq!(open["failed"], serde_json::json!(["wildcard", "default-allow"]), "{open}");
    let table = world.told(&["posture"]);
    assert!(table.contains("(mesh)") && table.contains("meshctl get meshconfig/mesh -o yaml"), "{table}");
}
