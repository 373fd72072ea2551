use super::*;
use serde_json::{Value, json};

fn read<K: serde::de::DeserializeOwned>(object: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(object).unwrap())
}

fn service(name: &str, spec: Value) -> Arc<Service> {
    read(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}))
}

/// A pod of the account `pay`; `meshed` by its label.
fn pod(name: &str, ips: &[&str], more: Value) -> Arc<Pod> {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {MESHED: "true", "app": "pay"}},
        "spec": {"serviceAccountName": "pay", "containers": []},
        "status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips},
    });
    for (path, value) in more.as_object().unwrap() {
        *pod.pointer_mut(path).unwrap() = value.clone();
    }
    read(pod)
}

fn unmeshed() -> Value {
    json!({"/metadata/labels": {"app": "pay"}})
}

/// A slice of `pay` with `name=ip[:conditions]` endpoints, whose port `http` lies at `target`.
fn slice(target: u16, endpoints: &[(&str, &str, Value)]) -> Arc<EndpointSlice> {
    let endpoint = |(name, ip, conditions): &(&str, &str, Value)| json!({"addresses": [ip], "conditions": conditions, "targetRef": {"kind": "Pod", "name": name}});
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    read(json!({
        "metadata": {"name": "pay-1", "namespace": "shop", "labels": {SERVICE_NAME: "pay"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": target}],
    }))
}

fn ready() -> Value {
    json!({"ready": true})
}

fn draining() -> Value {
    json!({"ready": false, "serving": true, "terminating": true})
}

fn usual() -> Value {
    json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "selector": {"app": "pay"},
        "ports": [{"name": "http", "port": 80, "targetPort": "web"}]})
}

fn made(services: Vec<Arc<Service>>, slices: Vec<Arc<EndpointSlice>>, pods: Vec<Arc<Pod>>) -> Platform {
    let objects = Objects { services, slices, pods, namespaces: Vec::new() };
    platform(&objects, &"cluster.local".parse().unwrap(), None)
}

/// A destination in one line: `80>8080 pay-1@10.244.0.1:15008 pay …`.
fn shown(platform: &Platform, service: &str) -> String {
    let name = ServiceRef { namespace: "shop".parse().unwrap(), name: service.parse().unwrap() };
    let Some(item) = platform.destinations.get(&name) else { return "outside".to_owned() };
    let Part::Destination(destination) = item.part() else { panic!("{item:?}") };
    let ports = destination.ports.iter().map(|port| format!("{}>{}", port.port, port.target_port));
    let endpoint = |endpoint: &Endpoint| {
        let account = endpoint.identity.as_ref().and_then(|id| Some(id.workload()?.1.to_string()));
        let ports: Vec<_> = endpoint.ports.iter().map(|(port, at)| format!("{port}>{at}")).collect();
        format!(
            "{}@{} {} {:?} {}",
            endpoint.instance,
            endpoint.address,
            account.as_deref().unwrap_or("plain"),
            endpoint.state,
            ports.join(",")
        )
    };
    let all = ports.chain(destination.endpoints.iter().map(endpoint));
    all.map(|text| text.trim().to_owned()).collect::<Vec<_>>().join("; ")
}

#[test]
fn services_lead_to_the_proxies_of_their_pods() {
    let one = || vec![pod("pay-1", &["10.244.0.1"], json!({}))];
    let both = || [one(), vec![pod("pay-2", &["10.244.0.2"], unmeshed())]].concat();
    let is_at = |ip: &'static str| ("pay-1", ip, ready());
    for (what, spec, slices, pods, expected) in [
        (
            "a meshed pod",
            usual(),
            vec![slice(8080, &[is_at("10.244.0.1")])],
            one(),
            "80>8080; pay-1@10.244.0.1:15008 pay Ready",
        ),
        (
            "a pod that goes away",
            usual(),
            vec![slice(8080, &[("pay-1", "10.244.0.1", draining())])],
            one(),
            "80>8080; pay-1@10.244.0.1:15008 pay Draining",
        ),
        (
            "one that is not ready",
            usual(),
            vec![slice(8080, &[("pay-1", "10.244.0.1", json!({"ready": false}))])],
            one(),
            "80>8080",
        ),
        (
            "one without a proxy beside it",
            usual(),
            vec![slice(8080, &[is_at("10.244.0.1"), ("pay-2", "10.244.0.2", ready())])],
            both(),
            "80>8080; pay-1@10.244.0.1:15008 pay Ready; pay-2@10.244.0.2:8080 plain Ready 80>8080",
        ),
        (
            "a named port that differs between slices",
            usual(),
            vec![slice(8080, &[]), slice(9090, &[is_at("10.244.0.1")])],
            one(),
            "80>8080; pay-1@10.244.0.1:15008 pay Ready 80>9090",
        ),
        ("nobody yet", usual(), vec![], vec![], "80>80"),
        (
            "only pods without a proxy",
            usual(),
            vec![slice(8080, &[("pay-2", "10.244.0.2", ready())])],
            both(),
            "outside",
        ),
        (
            "an alias",
            json!({"type": "ExternalName", "externalName": "example.com"}),
            vec![],
            vec![],
            "outside",
        ),
        (
            "an address that is another pod's by now",
            usual(),
            vec![slice(8080, &[is_at("10.244.0.9")])],
            one(),
            "outside",
        ),
    ] {
        assert_eq!(shown(&made(vec![service("pay", spec)], slices, pods), "pay"), expected, "{what}");
    }
}

#[test]
fn addresses_belong_to_services_and_meshed_pods_alone() {
    let pods = vec![
        pod("pay-1", &["10.244.0.1", "fd00::1"], json!({})),
        pod("pay-2", &["10.244.0.2"], unmeshed()),
        pod("old", &["10.244.0.3"], json!({"/status/phase": "Succeeded"})),
        pod(
            "node",
            &["172.18.0.2"],
            json!({"/spec": {"serviceAccountName": "pay", "hostNetwork": true, "containers": []}}),
        ),
    ];
    let headless = json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"app": "pay"},
        "ports": [{"name": "http", "port": 80}]});
    let slices = vec![slice(8080, &[("pay-1", "10.244.0.1", ready())])];
    let platform = made(vec![service("pay", usual()), service("peers", headless)], slices, pods);
    let found: Vec<String> = platform.addresses.keys().map(ToString::to_string).collect();
    assert_eq!(found, ["10.96.0.7", "10.244.0.1", "fd00::1"]);
    let (key, workload) = platform.workloads.first_key_value().unwrap();
    assert_eq!(key.id.as_str(), "spiffe://cluster.local/ns/shop/sa/pay");
    assert_eq!((workload.workload.as_str(), platform.workloads.len()), ("pay-1", 1));
    let services: Vec<_> = workload.services.iter().map(ToString::to_string).collect();
    assert_eq!(services, ["shop/pay"]);
}

#[test]
fn what_is_the_same_is_not_made_anew() {
    let parts = || (vec![service("pay", usual())], vec![slice(8080, &[("pay-1", "10.244.0.1", ready())])]);
    let make = |previous: Option<&Platform>, ip: &str| {
        let (services, slices) = parts();
        let pods = vec![pod("pay-1", &["10.244.0.1"], json!({})), pod("pay-2", &[ip], json!({}))];
        let objects = Objects { services, slices, pods, namespaces: Vec::new() };
        platform(&objects, &"cluster.local".parse().unwrap(), previous)
    };
    let first = make(None, "10.244.0.2");
    assert!(first.is_same(&make(Some(&first), "10.244.0.2")));
    assert!(!first.is_same(&make(Some(&first), "10.244.0.3")));
}

#[test]
fn pods_that_ask_for_a_proxy_and_have_none_are_found() {
    let namespace =
        |name: &str, label: &str| read(json!({"metadata": {"name": name, "labels": {INJECT: label}}}));
    let labelled = |label: &str| json!({"/metadata/labels": {INJECT: label}});
    let pods = vec![
        pod("meshed", &["10.0.0.1"], json!({})),
        pod("early", &["10.0.0.2"], unmeshed()),
        pod("wont", &["10.0.0.3"], labelled("disabled")),
        pod("over", &["10.0.0.4"], json!({"/metadata/labels": {}, "/status/phase": "Failed"})),
        pod("elsewhere", &["10.0.0.5"], json!({"/metadata/labels": {}, "/metadata/namespace": "other"})),
        pod(
            "asks",
            &["10.0.0.6"],
            json!({"/metadata/labels": {INJECT: "enabled"}, "/metadata/namespace": "other"}),
        ),
    ];
    let namespaces = vec![namespace("shop", "enabled"), namespace("other", "disabled")];
    let objects = Objects { pods, namespaces, ..Objects::default() };
    let platform = platform(&objects, &"cluster.local".parse().unwrap(), None);
    assert_eq!(platform.unmeshed, ["other/asks", "shop/early"]);
}
