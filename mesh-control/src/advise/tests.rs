use super::*;
use crate::index::{Parts, Trust};
use crate::local::registry::{Claims, InboundPort, Registered, WorkloadKey};
use crate::store::memory::MemoryStore;
use mesh_proto::config::Bundle;
use mesh_proto::name::Port;
use mesh_proto::policy::model::Protocol;

fn registered(name: &str, ports: &[(u16, Option<Protocol>)]) -> Registered {
    let id: SpiffeId = format!("spiffe://mesh.local/ns/shop/sa/{name}").parse().unwrap();
    let port = |(number, protocol): &(u16, Option<Protocol>)| InboundPort {
        port: Port::new(*number).unwrap(),
        protocol: *protocol,
        name: None,
    };
    Registered {
        namespace: id.workload().unwrap().0,
        key: WorkloadKey { id, instance: format!("{name}-1").parse().unwrap() },
        workload: name.parse().unwrap(),
        address: "127.0.0.1:4000".parse().unwrap(),
        ports: ports.iter().map(port).collect(),
        labels: std::collections::BTreeMap::new(),
        version: String::new(),
        claims: Claims::Vouched,
        draining: false,
    }
}

fn world() -> World {
    let yaml = [
        "kind: AccessPolicy\nmetadata: {name: payments, namespace: shop}\nspec:\n  target: {service: payments}\n  rules:\n    \
         - from: [{serviceAccount: web}]\n      except: [{serviceAccount: nightly}]\n      to: [{methods: [POST], paths: [/charge], hosts: [payments]}]\n",
        "kind: Service\nmetadata: {name: payments, namespace: shop}\nspec: {ports: [{port: 80, targetPort: 8081}], \
         selector: {workload: payments}}\n",
        "kind: Workload\nmetadata: {name: batch, namespace: shop}\nspec: {}\n",
    ];
    let read = yaml.iter().map(|yaml| {
        let yaml = format!("apiVersion: meshctl.io/v1alpha1\n{yaml}");
        resource::parse(&SourceDocument { file: "shop.yaml".into(), line: 1, yaml }).unwrap()
    });
    let workloads = [
        registered("web", &[(8080, None)]),
        registered("payments", &[(8081, Some(Protocol::Http1))]),
        registered("store", &[(7000, Some(Protocol::Tcp)), (7001, None)]),
    ];
    let trust_domain: mesh_proto::identity::TrustDomain = "mesh.local".parse().unwrap();
    let bundle = Bundle { trust_domain: trust_domain.clone(), roots: vec![vec![1]], sequence: 1 };
    let parts = Parts {
        trust_domain,
        revision: 3,
        catalog: Arc::new(Catalog::from_resources(read)),
        workloads: workloads.into_iter().map(|w| (w.key.clone(), Arc::new(w))).collect(),
        trust: Arc::new(Trust { bundles: vec![bundle], ..Trust::default() }),
        trust_generation: 0,
        platform: None,
    };
    World::build(parts, None)
}

fn ask(request: v1::ExplainRequest) -> Result<v1::ExplainResponse, Status> {
    let (world, store, traffic) = (world(), MemoryStore::new(), Traffic::default());
    let sources = Sources { world: &world, store: &store, traffic: &traffic };
    explain(&sources, request, SystemTime::UNIX_EPOCH)
}

/// `web payments POST /charge` -> what is said of it.
fn question(words: &str) -> v1::ExplainRequest {
    let mut words = words.split(' ').map(str::to_owned);
    let mut next = || words.next().unwrap_or_default();
    v1::ExplainRequest { from: next(), to: next(), method: next(), path: next(), ..Default::default() }
}

#[test]
fn callers_and_callees_are_found_by_every_name_they_have() {
    for from in ["web", "web-1", "shop/web", "spiffe://mesh.local/ns/shop/sa/web"] {
        for to in ["payments-1", "shop/payments", "payments", "spiffe://mesh.local/ns/shop/sa/payments"] {
            let told = ask(question(&format!("{from} {to} POST /charge"))).unwrap();
            assert!(told.allowed, "{from} {to}: {}", told.text);
            let decision = told.decision.unwrap();
            assert_eq!((decision.port, decision.revision), (8081, 3), "{from} {to}");
            assert!(decision.rule.contains("shop.yaml:"), "{decision:?}");
        }
    }
}

#[test]
fn refusals_name_the_reason_and_the_nearest_miss() {
    let cases = [
        ("web payments GET /charge", "no_rule_allows"),
        ("store payments POST /charge", "no_rule_allows"),
        ("10.0.0.1 payments POST /charge", "no_rule_allows"),
        ("batch payments POST /charge", "no_rule_allows"),
        ("shop/nightly payments POST /charge", "no_rule_allows"),
    ];
    for (words, reason) in cases {
        let told = ask(question(words)).unwrap();
        assert_eq!((told.allowed, told.reason.as_str()), (false, reason), "{words}");
        assert!(!told.nearest_miss.is_empty() && told.text.contains("shop.yaml"), "{words}: {}", told.text);
    }
}

#[test]
fn what_a_workload_that_does_not_run_would_decide_is_said_to_be_that() {
    let told = ask(question("web shop/batch GET /")).unwrap();
    assert!(!told.allowed && told.text.contains("does not run at the moment"), "{}", told.text);
}

#[test]
fn what_was_assumed_is_said() {
    let told = ask(question("web store")).unwrap();
    assert!(told.text.contains("of several ports, 7000 is assumed"), "{}", told.text);
    let told = ask(question("web store GET /x")).unwrap();
    assert!(told.text.contains("are not judged"), "{}", told.text);
    let odd = v1::ExplainRequest { port: 9, ..question("web payments GET /") };
    assert!(ask(odd).unwrap().text.contains("not among the declared ports (80)"));
}

#[test]
fn what_means_nothing_is_refused_with_what_there_is() {
    let cases = [
        (question(" payments"), "who calls?"),
        (question("web"), "who is called?"),
        (question("wev payments GET /"), "shop/web"),
        (question("web spiffe://mesh.local/x GET /"), "to: nothing is called"),
        (question("spiffe://bad payments GET /"), "from:"),
        (question("web payments GET /a/%2e%2e/b"), "the proxy refuses such a request"),
        (v1::ExplainRequest { host: "a b".into(), ..question("web payments GET /") }, "host:"),
        (v1::ExplainRequest { port: 70_000, ..question("web payments GET /") }, "port"),
        (v1::ExplainRequest { protocol: "quic".into(), ..question("web payments GET /") }, "protocol"),
        (v1::ExplainRequest { headers: vec!["x".into()], ..question("web payments GET /") }, "NAME: VALUE"),
        (v1::ExplainRequest { decision_id: "gone".into(), ..Default::default() }, "no decision \"gone\""),
    ];
    for (request, expected) in cases {
        let said = format!("{request:?}");
        let status = ask(request).expect_err(&said);
        assert!(status.message().contains(expected), "{said}: {status:?}");
    }
}

#[test]
fn a_recorded_host_is_judged_and_shown_without_its_port() {
    const PAY: &str = "spiffe://mesh.local/ns/shop/sa/payments";
    const TOLD: &str = "decision ID at payments-1: allowed
spiffe://mesh.local/ns/shop/sa/web (instance web-1) -> POST payments:8081/charge (http1)
  allowed by rule 1 of shop/payments (shop.yaml:7)

rules in the order of evaluation:
  > allow shop/payments rule 1 (shop.yaml:7): matches
";
    let traffic = Traffic::default();
    let decision = |(id, host): (&str, &str)| v1::Decision {
        id: id.into(),
        source: "spiffe://mesh.local/ns/shop/sa/web".into(),
        source_instance: "web-1".into(),
        destination: PAY.into(),
        destination_instance: "payments-1".into(),
        port: 8081,
        protocol: "http1".into(),
        host: host.into(),
        method: "POST".into(),
        path: "/charge".into(),
        allowed: true,
        revision: 3,
        ..Default::default()
    };
    let hosts = [("bare", "payments"), ("asked", "payments:8081"), ("other", "payments:9")];
    let report = v1::ProxyReport { decisions: hosts.map(decision).into(), ..Default::default() };
    let faults = traffic.add(crate::traffic::Reporter { id: PAY, instance: "payments-1" }, report, 1).faults;
    assert!(faults.is_empty(), "{faults:?}");
    let (world, store) = (world(), MemoryStore::new());
    let sources = Sources { world: &world, store: &store, traffic: &traffic };
    for (id, host) in hosts {
        let request = v1::ExplainRequest { decision_id: id.into(), ..Default::default() };
        let told = explain(&sources, request, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(told.text.replace(id, "ID"), TOLD, "{host}");
    }
}
