//! What Prometheus and Grafana get: a real Prometheus scrapes a mesh, evaluates the shipped rules and runs the shipped
//! dashboards' queries.

use integration_tests::applications::{body, curl, http_server, status, succeeded};
use integration_tests::process::Process;
use integration_tests::world::{World, allow, free_port, loopback};
use integration_tests::{programs, wait};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Labels that are not of a series but of a scrape, or of the functions that make one.
const SCRAPED: [&str; 3] = ["job", "instance", "le"];

fn shipped(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy").join(folder);
    let files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    files
}

/// Every query of the dashboards, with where it stands.
fn dashboard_queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for file in shipped("dashboards") {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let board: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            let title = format!("{name}: {}", panel["title"].as_str().unwrap());
            for target in panel["targets"].as_array().into_iter().flatten() {
                queries.push((title.clone(), target["expr"].as_str().unwrap().to_owned()));
            }
        }
        for variable in board["templating"]["list"].as_array().unwrap() {
            if let Some(definition) = variable["definition"].as_str() {
                queries.push((format!("{name}: a variable"), definition.to_owned()));
            }
        }
    }
    assert!(queries.len() > 50, "{}", queries.len());
    queries
}

/// The names beginning with `mesh_` in a query.
fn metrics_in(query: &str) -> BTreeSet<&str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("mesh_")).collect()
}

/// The labels that a query selects or groups by.
fn labels_in(query: &str) -> BTreeSet<&str> {
    let mut labels = BTreeSet::new();
    let mut rest = query;
    while let Some((_, selector)) = rest.split_once('{') {
        let (inside, after) = selector.split_once('}').unwrap();
        // Commas also stand within values, in which there is no `=`.
        let names = inside.split(',').filter_map(|part| part.split_once('='));
        labels.extend(names.map(|(name, _)| name.trim_end_matches('!').trim()));
        rest = after;
    }
    for word in ["by (", "on (", "group_left ("] {
        for list in query.split(word).skip(1) {
            let inside = list.split(')').next().unwrap();
            labels.extend(inside.split(',').map(str::trim).filter(|label| !label.is_empty()));
        }
    }
    labels
}

/// A mesh with metrics everywhere: a server that nobody may call yet, and a caller.
struct Watched {
    world: World,
    to: u16,
    scraped: Vec<(&'static str, u16)>,
}

impl Watched {
    fn start() -> Self {
        let (control, server, client) = (free_port(), free_port(), free_port());
        let mut world = World::start_with(&["--metrics", &loopback(control).to_string()]);
        let folder = world.folder().to_path_buf();
        http_server(&mut world, "files", &folder, &["--admin", &loopback(server).to_string()]);
        let to = free_port();
        let (service, admin) = (format!("files=127.0.0.1:{to}"), loopback(client).to_string());
        world.run("caller", &["--to", &service, "--admin", &admin], &[]);
        let scraped = vec![("mesh-control", control), ("mesh-proxy", server), ("mesh-proxy", client)];
        Self { world, to, scraped }
    }

    /// What all of them expose, as text.
    fn exposed(&self) -> String {
        self.scraped.iter().map(|(_, port)| body(&format!("http://127.0.0.1:{port}/metrics"))).collect()
    }
}

#[test]
fn every_query_that_is_shipped_asks_for_what_there_is() {
    let watched = Watched::start();
    assert_eq!(status(watched.to), "403 no_rule_allows");
    let text = watched.exposed();
    // Families by name, and the labels of each.
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let kinds: BTreeMap<&str, &str> = types.collect();
    let mut labels: BTreeSet<&str> = SCRAPED.into();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let inside = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        let pairs = inside.into_iter().flat_map(|(inside, _)| inside.split(','));
        labels.extend(pairs.filter_map(|pair| pair.split_once('=')).map(|(name, _)| name));
    }
    // Nothing of this kind has happened in this mesh.
    labels.insert("queue");
    let mut queries = dashboard_queries();
    for file in shipped("alerts") {
        let rules = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let exprs = rules.split("expr: ").skip(1).map(|rest| rest.split("labels: {severity").next().unwrap());
        queries.extend(exprs.map(|expr| (name.clone(), expr.to_owned())));
    }
    assert!(queries.len() > 70, "{}", queries.len());
    for (place, query) in &queries {
        let metrics = metrics_in(query);
        assert!(!metrics.is_empty(), "{place}: {query}");
        for metric in metrics {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| metric.strip_suffix(end));
            let is_there = kinds.contains_key(metric)
                || family.is_some_and(|family| kinds.get(family) == Some(&"histogram"));
            assert!(is_there, "{place}: nobody exposes {metric}: {query}");
        }
        for label in labels_in(query) {
            assert!(labels.contains(label), "{place}: no series has a label {label}: {query}");
        }
    }
}

#[test]
fn promtool_finds_nothing_to_say_about_metrics_and_rules() {
    let watched = Watched::start();
    let _ = status(watched.to);
    for (name, port) in &watched.scraped {
        let mut promtool = Command::new(programs::system("promtool"))
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let text = body(&format!("http://127.0.0.1:{port}/metrics"));
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.trim().is_empty(), "{name}: {said}");
    }
    for file in shipped("alerts") {
        let checked = Command::new(programs::system("promtool")).args(["check", "rules"]).arg(&file).output();
        succeeded("promtool check rules", &checked);
    }
}

/// A running Prometheus.
struct Prometheus {
    _process: Process,
    port: u16,
}

impl Prometheus {
    fn start(watched: &Watched) -> Self {
        let mut jobs: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (job, port) in &watched.scraped {
            jobs.entry(job).or_default().push(format!("\"127.0.0.1:{port}\""));
        }
        let mut config = "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files:\n".to_owned();
        for file in shipped("alerts") {
            config.push_str(&format!("- {}\n", file.display()));
        }
        config.push_str("scrape_configs:\n");
        for (job, targets) in jobs {
            let targets = targets.join(", ");
            config.push_str(&format!("- job_name: {job}\n  static_configs: [{{targets: [{targets}]}}]\n"));
        }
        let folder = watched.world.folder();
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let port = free_port();
        let mut command = Command::new(programs::system("prometheus"));
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::start("prometheus", folder, &mut command);
        wait::for_listener("prometheus", loopback(port));
        // It listens before its storage answers.
        wait::until("Prometheus to be ready", || {
            let status = curl("%{http_code}", &[&format!("http://127.0.0.1:{port}/-/ready")]);
            (status == "200").then_some(())
        });
        Self { _process: process, port }
    }

    fn get(&self, path: &str) -> Value {
        let text = body(&format!("http://127.0.0.1:{}/api/v1/{path}", self.port));
        serde_json::from_str(&text).unwrap()
    }

    /// The answer to a query, which must be one that it understands.
    fn query(&self, query: &str) -> Value {
        let asked = Command::new(programs::system("curl"))
            .args(["-sS", "--max-time", "20", "-G", "--data-urlencode"])
            .arg(format!("query={query}"))
            .arg(format!("http://127.0.0.1:{}/api/v1/query", self.port))
            .output();
        let answer: Value = serde_json::from_str(&succeeded(query, &asked)).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].clone()
    }
}

#[test]
fn a_real_prometheus_runs_what_is_shipped_and_a_burst_of_denials_raises_its_alert() {
    let watched = Watched::start();
    let prometheus = Prometheus::start(&watched);
    wait::until("prometheus to scrape everything", || {
        let up = prometheus.query("count(up == 1)");
        (up[0]["value"][1] == "3").then_some(())
    });
    // The incident: somebody asks again and again for what no rule allows.
    let url = format!("http://127.0.0.1:{}/[1-50]", watched.to);
    wait::until("the alert on denials to fire", || {
        let asked = Command::new(programs::system("curl")).args(["-s", "-o", "/dev/null", &url]).status();
        assert!(asked.unwrap().success());
        let alerts = prometheus.get("alerts");
        let mut firing =
            alerts["data"]["alerts"].as_array().unwrap().iter().filter(|a| a["state"] == "firing");
        firing.find(|alert| alert["labels"]["alertname"] == "MeshDenialBurst").cloned()
    });
    let groups = wait::until("all rules to be evaluated", || {
        let rules = prometheus.get("rules");
        let groups = rules["data"]["groups"].as_array().unwrap().clone();
        let mut all = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
        (!groups.is_empty() && all.all(|rule| rule["health"] != "unknown")).then_some(groups)
    });
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        assert_eq!(rule["health"], "ok", "{rule}");
        for told in ["summary", "description"] {
            assert!(rule["annotations"][told].as_str().is_some_and(|text| !text.is_empty()), "{rule}");
        }
    }
    let mut found = BTreeSet::new();
    for (place, query) in dashboard_queries() {
        if query.starts_with("label_values") {
            continue;
        }
        let query = query
            .replace("$__rate_interval", "1m")
            .replace("\"$namespace\"", "\".*\"")
            .replace("\"$workload\"", "\".*\"");
        if prometheus.query(&query).as_array().is_some_and(|series| !series.is_empty()) {
            found.insert(place);
        }
    }
    for place in [
        "mesh.json: Requests",
        "mesh.json: Requests by workload",
        "service.json: Denied",
        "workload.json: Refusals by reason",
        "control-plane.json: Proxies",
        "security.json: Where",
        "security.json: Security events by kind",
    ] {
        assert!(found.contains(place), "{place} shows nothing; these do: {found:?}");
    }
}

#[test]
fn what_happened_is_told_and_can_be_proven_without_the_control_plane() {
    let watched = Watched::start();
    let world = &watched.world;
    assert_eq!(status(watched.to), "403 no_rule_allows");
    world.apply(&allow("caller", "files"));
    let kinds = ["--kind", "refused", "--kind", "policy_changed"];
    let events = wait::until("the refusal and the change to be told", || {
        let events = world.json(&[&["events"], &kinds[..]].concat()).as_array().unwrap().clone();
        (events.len() == 2).then_some(events)
    });
    let of = |kind: &str| events.iter().find(|event| event["kind"] == kind).unwrap();
    let refused = of("refused");
    assert_eq!(refused["source"], "spiffe://mesh.local/ns/default/sa/caller", "{refused}");
    assert_eq!(refused["destination"], "spiffe://mesh.local/ns/default/sa/files", "{refused}");
    assert_eq!((&refused["count"], &refused["reason"]), (&1.into(), &"no_rule_allows".into()), "{refused}");
    assert_eq!(of("policy_changed")["destination"], "AccessPolicy default/files-allows-caller");
    wait::until("the refusal to be in the audit log", || {
        let denied = "was refused by spiffe://mesh.local/ns/default/sa/files: no_rule_allows";
        world.told(&["audit", "list"]).contains(denied).then_some(())
    });
    assert!(world.told(&["audit", "verify"]).contains("chain intact"));

    let (key, export) = (world.told(&["audit", "key"]), world.told(&["audit", "export"]));
    let file = world.folder().join("audit.jsonl");
    let path = file.to_string_lossy().into_owned();
    std::fs::write(&file, &export).unwrap();
    let verify = || world.meshctl(&["audit", "verify", &path, "--key", key.trim(), "-o", "json"]);
    let report: Value = serde_json::from_slice(&verify().stdout).unwrap();
    assert_eq!(
        (&report["intact"], &report["trust_domain"]),
        (&true.into(), &"mesh.local".into()),
        "{report}"
    );
    // The policy as it was applied is in it; one letter of that is turned.
    let line = export.lines().position(|line| line.contains("\"after_yaml\"")).unwrap() + 1;
    std::fs::write(&file, export.replacen("serviceAccount: caller", "serviceAccount: callar", 1)).unwrap();
    let output = verify();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{report}");
    assert_eq!((&report["intact"], &report["line"]), (&false.into(), &line.into()), "{report}");
}
