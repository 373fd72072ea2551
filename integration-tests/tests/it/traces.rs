//! What an OpenTelemetry Collector gets, built from its own modules: a request over three hops is one trace with one root.

use integration_tests::applications::{curl, http_server};
use integration_tests::process::Process;
use integration_tests::receivers::Certificates;
use integration_tests::world::{World, allow, free_port, loopback};
use integration_tests::{programs, wait};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// A running collector that speaks TLS only.
struct Collector {
    _process: Process,
    port: u16,
    file: PathBuf,
}

impl Collector {
    fn start(world: &World, certificates: &Certificates) -> Self {
        let (port, folder) = (free_port(), world.folder());
        let (config, file) = (folder.join("collector.yaml"), folder.join("collected.json"));
        let text = format!(
            "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:{port}', tls: {{cert_file: {}, key_file: {}}}}}}}}}}}\n\
             exporters: {{file: {{path: {}, flush_interval: 100ms}}}}\n\
             service:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines:\n    \
             traces: {{receivers: [otlp], exporters: [file]}}\n    logs: {{receivers: [otlp], exporters: [file]}}\n",
            certificates.server.display(),
            certificates.server_key.display(),
            file.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(programs::go("collector"));
        let process = Process::start("collector", folder, command.arg("--config").arg(config));
        wait::for_listener("the collector", loopback(port));
        Self { _process: process, port, file }
    }

    /// The spans that it has written, each with the name of its service.
    fn spans(&self) -> Vec<(String, Value)> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        // The last line may be on its way.
        let batches = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let mut spans = Vec::new();
        for resource in batches.flat_map(|batch| list(&batch, "resourceSpans")) {
            let name = attribute(&resource["resource"], "service.name");
            for scope in list(&resource, "scopeSpans") {
                spans.extend(list(&scope, "spans").into_iter().map(|span| (name.clone(), span)));
            }
        }
        spans
    }
}

/// A text among the attributes of a resource or a span.
fn attribute(of: &Value, key: &str) -> String {
    let attributes = of["attributes"].as_array().into_iter().flatten();
    let found = attributes.into_iter().find(|attribute| attribute["key"] == key);
    found.and_then(|found| found["value"]["stringValue"].as_str()).unwrap_or_default().to_owned()
}

/// A workload that asks the next one for each request, and passes on the trace fields that it got.
fn forwarder(world: &mut World, name: &str, next: &str) {
    let (python, port, to) = (programs::python(), free_port(), free_port());
    let script = format!("{}/tests/it/traces/forward.py", env!("CARGO_MANIFEST_DIR"));
    let (python, port_text, to_text) =
        (python.to_string_lossy().into_owned(), port.to_string(), to.to_string());
    let service = format!("{next}=127.0.0.1:{to}");
    let args = ["--port", &port_text, "--to", &service];
    world.run(name, &args, &[&python, &script, &port_text, &to_text]);
    wait::for_listener(name, loopback(port));
}

#[test]
fn a_collector_gets_a_request_over_three_hops_by_tls_as_one_trace_with_one_root() {
    let mut world = World::start();
    let folder = world.folder().to_path_buf();
    let certificates = Certificates::new(&folder, "collectors");
    let collector = Collector::start(&world, &certificates);
    let ca = certificates.ca_text.replace('\n', "\\n");
    world.apply(&format!(
        "apiVersion: meshctl.io/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\n\
         spec: {{tracing: {{endpoint: 'https://localhost:{}', ca: \"{ca}\", sampling: 1}}}}\n---\n{}{}{}",
        collector.port,
        allow("web", "orders"),
        allow("orders", "payments"),
        allow("payments", "store"),
    ));
    http_server(&mut world, "store", &folder, &[]);
    forwarder(&mut world, "payments", "store");
    forwarder(&mut world, "orders", "payments");
    let to = free_port();
    world.run("web", &["--to", &format!("orders=127.0.0.1:{to}")], &[]);
    let url = format!("http://127.0.0.1:{to}/");
    assert_eq!(curl("%{http_code}", &[&url]), "200");

    let spans = wait::until("the collector to have both spans of each of the three hops", || {
        Some(collector.spans()).filter(|spans| spans.len() >= 6)
    });
    assert_eq!(spans.len(), 6, "{spans:?}");
    let text = |span: &Value, key: &str| span[key].as_str().unwrap_or_default().to_owned();
    assert!(spans.iter().all(|(_, span)| span["traceId"] == spans[0].1["traceId"]), "one trace: {spans:?}");
    let roots: Vec<_> = spans.iter().filter(|(_, span)| text(span, "parentSpanId").is_empty()).collect();
    assert_eq!(
        roots.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["web"],
        "one root: {spans:?}"
    );
    // From the innermost span to the root there is each proxy in its turn.
    let by_id: BTreeMap<String, &(String, Value)> =
        spans.iter().map(|span| (text(&span.1, "spanId"), span)).collect();
    let mut at = spans.iter().find(|(name, _)| name == "store");
    let mut way = Vec::new();
    while let Some((name, span)) = at {
        way.push(format!("{name} {}", span["kind"]));
        at = by_id.get(&text(span, "parentSpanId")).copied();
    }
    // Kinds of OTLP: 2 is a server's, 3 a client's.
    let expected = ["store 2", "payments 3", "payments 2", "orders 3", "orders 2", "web 3"];
    assert_eq!(way, expected, "{spans:?}");
    let called = attribute(&spans.iter().find(|(name, _)| name == "store").unwrap().1, "mesh.source");
    assert_eq!(called, "spiffe://mesh.local/ns/default/sa/payments");
}
