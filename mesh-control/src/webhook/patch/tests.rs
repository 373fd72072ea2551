//! Pods before and after.

use super::*;
use proptest::prelude::*;

fn options() -> Options {
    Options {
        proxy_image: "mesh-proxy:1".to_owned(),
        init_image: "mesh-init:1".to_owned(),
        pull_policy: Some("IfNotPresent".to_owned()),
        control: "mesh-control.mesh-system.svc:15012".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        version: "1".to_owned(),
    }
}

/// A pod of one container `app`, with what `spec` and `app` say beside that.
fn pod(spec: Value, app: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "shop"},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    merge(&mut pod["spec"], spec);
    merge(&mut pod["spec"]["containers"][0], app);
    pod
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

#[track_caller]
fn injected(pod: &Value) -> (Value, Vec<String>) {
    match inject(pod, Origin::Pod, &options()) {
        Ok(Outcome::Injected { pod, warnings }) => (pod, warnings),
        other => panic!("{other:?} of {pod}"),
    }
}

fn proxy_of(pod: &Value) -> &Value {
    &pod["spec"]["initContainers"][1]
}

fn env(container: &Value, name: &str) -> Option<String> {
    let env = container["env"].as_array()?;
    env.iter()
        .find(|entry| entry["name"] == name)
        .map(|entry| entry["value"].as_str().unwrap_or("…").to_owned())
}

fn probes(pod: &Value) -> Value {
    env(proxy_of(pod), "MESH_PROBES").map_or(json!({}), |text| serde_json::from_str(&text).unwrap())
}

#[test]
fn a_pod_gets_its_proxy_before_its_own_containers() {
    let before = pod(
        json!({"initContainers": [{"name": "migrate", "image": "m"}], "volumes": [{"name": "data"}]}),
        json!({}),
    );
    let (after, warnings) = injected(&before);
    let names = |field: &str| {
        after["spec"][field]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("initContainers"), ["mesh-init", "mesh-proxy", "migrate"]);
    assert_eq!(names("containers"), ["app"]);
    assert_eq!(names("volumes"), ["data", "mesh-token", "mesh-trust"]);
    assert_eq!(proxy_of(&after)["restartPolicy"], "Always");
    assert_eq!(after["metadata"]["labels"][MESHED], "true");
    assert_eq!(after["metadata"]["annotations"][INJECTED], "1");
    assert_eq!(after["spec"]["containers"], before["spec"]["containers"], "nothing to change");
    assert_eq!(after["spec"].get("terminationGracePeriodSeconds"), None);
    assert_eq!(warnings, Vec::<String>::new());
    let token = &after["spec"]["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(token, &json!({"audience": "meshctl.io", "expirationSeconds": 3600, "path": "token"}));
}

#[test]
fn the_applications_api_token_stays_out_of_our_containers() {
    let (after, _) = injected(&pod(json!({}), json!({})));
    for container in after["spec"]["initContainers"].as_array().unwrap() {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let there = mounts.iter().find(|m| m["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount");
        assert_eq!(there.unwrap()["name"], "mesh-trust", "{container}");
    }
}

#[test]
fn every_network_probe_is_asked_of_the_proxy() {
    let with = |probe: Value| {
        let ports = json!([{"name": "web", "containerPort": 8080}]);
        pod(json!({}), json!({"ports": ports, "readinessProbe": probe}))
    };
    for (probe, expected) in [
        (
            json!({"httpGet": {"port": 8080}}),
            json!({"http": {"port": 8080, "path": "/"}, "timeoutSeconds": 1}),
        ),
        (
            json!({"httpGet": {"port": "web", "path": "/ok?x=1", "httpHeaders": [{"name": "A", "value": "b"}]}, "timeoutSeconds": 3}),
            json!({"http": {"port": 8080, "path": "/ok?x=1", "headers": [["A", "b"]]}, "timeoutSeconds": 3}),
        ),
        (
            json!({"httpGet": {"port": "8081", "path": "x"}}),
            json!({"http": {"port": 8081, "path": "x"}, "timeoutSeconds": 1}),
        ),
        (json!({"tcpSocket": {"port": "web"}}), json!({"tcp": {"port": 8080}, "timeoutSeconds": 1})),
        (
            json!({"grpc": {"port": 9000}}),
            json!({"grpc": {"port": 9000, "service": ""}, "timeoutSeconds": 1}),
        ),
        (
            json!({"grpc": {"port": 9000, "service": "a"}}),
            json!({"grpc": {"port": 9000, "service": "a"}, "timeoutSeconds": 1}),
        ),
    ] {
        let mut before = probe.clone();
        before["periodSeconds"] = json!(7);
        let (after, _) = injected(&with(before));
        let now = &after["spec"]["containers"][0]["readinessProbe"];
        assert_eq!(
            now["httpGet"],
            json!({"path": "/probe/app/readyz", "port": 15020, "scheme": "HTTP"}),
            "{probe}"
        );
        assert_eq!(now["periodSeconds"], 7, "{probe}");
        assert!(now.get("tcpSocket").is_none() && now.get("grpc").is_none(), "{now}");
        assert_eq!(probes(&after), json!({"app/readyz": expected}), "{probe}");
    }
}

#[test]
fn probes_of_all_containers_and_kinds_are_kept_apart() {
    let tcp = |port: u16| json!({"tcpSocket": {"port": port}});
    let mut before = pod(
        json!({"terminationGracePeriodSeconds": 60, "initContainers": [{"name": "side", "restartPolicy": "Always", "startupProbe": tcp(1)}]}),
        json!({"livenessProbe": tcp(2), "startupProbe": tcp(3), "lifecycle": {
            "preStop": {"httpGet": {"port": 4, "path": "/bye"}}, "postStart": {"exec": {"command": ["x"]}}}}),
    );
    let second =
        json!({"name": "second", "readinessProbe": tcp(5), "livenessProbe": {"exec": {"command": ["true"]}}});
    before["spec"]["containers"].as_array_mut().unwrap().push(second);
    let (after, _) = injected(&before);
    let asks = probes(&after);
    let keys: Vec<&String> = asks.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["app/livez", "app/prestop", "app/startupz", "second/readyz", "side/startupz"]);
    assert_eq!(asks["app/prestop"], json!({"http": {"port": 4, "path": "/bye"}, "timeoutSeconds": 60}));
    let app = &after["spec"]["containers"][0];
    assert_eq!(app["lifecycle"]["preStop"]["httpGet"]["path"], "/probe/app/prestop");
    assert_eq!(app["lifecycle"]["postStart"], json!({"exec": {"command": ["x"]}}));
    assert_eq!(after["spec"]["containers"][1]["livenessProbe"], json!({"exec": {"command": ["true"]}}));
}

#[test]
fn a_probe_in_tls_stays_one_and_one_of_another_machine_is_told_of() {
    let (after, warnings) = injected(&pod(
        json!({}),
        json!({"livenessProbe": {"httpGet": {"port": 8443, "scheme": "HTTPS", "path": "/ok"}},
               "readinessProbe": {"httpGet": {"port": 80, "host": "10.0.0.1"}}}),
    ));
    assert_eq!(
        probes(&after),
        json!({"app/livez": {"https": {"port": 8443, "path": "/ok"}, "timeoutSeconds": 1}})
    );
    assert_eq!(after["spec"]["containers"][0]["readinessProbe"]["httpGet"]["host"], "10.0.0.1");
    assert!(warnings.len() == 1 && warnings[0].contains("host"), "{warnings:?}");
}

#[test]
fn the_workload_is_the_one_that_the_control_plane_will_read() {
    let owned = |kind: &str, name: &str, hash: Option<&str>| {
        let mut pod = pod(json!({}), json!({}));
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "x/v1", "kind": kind, "name": name, "uid": "u", "controller": true}]);
        if let Some(hash) = hash {
            pod["metadata"]["labels"] = json!({"pod-template-hash": hash});
        }
        pod
    };
    for (before, expected) in [
        (owned("ReplicaSet", "web-7d9f", Some("7d9f")), "web"),
        (owned("StatefulSet", "db", None), "db"),
        (owned("Job", "nightly-29400000", None), "nightly"),
        (owned("Job", "import", None), "import"),
        (pod(json!({}), json!({})), "$(MESH_POD_NAME)"),
    ] {
        let (after, _) = injected(&before);
        assert_eq!(env(proxy_of(&after), "MESH_WORKLOAD").as_deref(), Some(expected), "{before}");
    }
}

#[test]
fn annotations_reach_the_containers() {
    let mut before = pod(json!({"terminationGracePeriodSeconds": 10}), json!({}));
    before["metadata"]["annotations"] = json!({
        "example.com/own": "kept",
        "meshctl.io/skip-inbound-ports": "9090, 9091",
        "meshctl.io/skip-outbound-ports": "25",
        "meshctl.io/skip-outbound-cidrs": "10.0.0.0/8,fd00::/8",
        "meshctl.io/proxy-cpu": "1.5",
        "meshctl.io/proxy-memory": "128Mi",
        "meshctl.io/log-level": "info,mesh_proxy=debug",
    });
    let (after, _) = injected(&before);
    let init = &after["spec"]["initContainers"][0];
    for (container, name, expected) in [
        (init, "MESH_SKIP_INBOUND_PORTS", "9090,9091"),
        (init, "MESH_SKIP_OUTBOUND_PORTS", "25"),
        (init, "MESH_SKIP_OUTBOUND_CIDRS", "10.0.0.0/8,fd00::/8"),
        (proxy_of(&after), "MESH_LOG", "info,mesh_proxy=debug"),
        (proxy_of(&after), "MESH_WORKERS", "2"),
        (proxy_of(&after), "MESH_DRAIN_SECONDS", "5"),
    ] {
        assert_eq!(env(container, name).as_deref(), Some(expected), "{name}");
    }
    let resources = json!({"requests": {"cpu": "1.5", "memory": "128Mi"}, "limits": {"memory": "128Mi"}});
    assert_eq!(proxy_of(&after)["resources"], resources);
    assert_eq!(after["metadata"]["annotations"]["example.com/own"], "kept");
}

#[track_caller]
fn refused(pod: &Value, expected: &[&str]) {
    let problems = inject(pod, Origin::Pod, &options()).unwrap_err();
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let text = text.join("\n");
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_bad_annotation_is_refused_with_what_is_allowed() {
    for (key, value, expected) in [
        ("skip-inbound-ports", "", "ports from 1 to 65535"),
        ("skip-inbound-ports", "0", "ports from 1 to 65535"),
        ("skip-inbound-ports", "http", "9090,9091"),
        ("skip-inbound-ports", "80,15008", "15008 is a port of the proxy itself"),
        ("skip-outbound-ports", "65536", "65535"),
        ("skip-outbound-cidrs", "10.1.2.3/8", "10.0.0.0/8"),
        ("skip-outbound-cidrs", "all", "CIDR"),
        ("proxy-cpu", "lots", "0.5"),
        ("proxy-cpu", "0", "1m"),
        ("proxy-cpu", "+1", "1m"),
        ("proxy-cpu", "1.2345", "1m"),
        ("proxy-memory", "1Mi", "16Mi"),
        ("proxy-memory", "128MB", "128Mi"),
        ("log-level", "verbose", "off, error, warn, info, debug, trace"),
        ("log-level", "a b=info", "target=level"),
        ("skip-inbound-port", "80", "meshctl.io/skip-inbound-ports"),
    ] {
        let mut before = pod(json!({}), json!({}));
        before["metadata"]["annotations"] = json!({format!("meshctl.io/{key}"): value});
        refused(&before, &[&format!("metadata.annotations[meshctl.io/{key}]: {value:?}"), expected]);
    }
}

#[test]
fn what_would_escape_the_proxy_is_refused() {
    for (before, expected) in [
        (
            pod(json!({}), json!({"securityContext": {"runAsUser": 1774}})),
            &["containers[0].securityContext.runAsUser: \"1774\"", "user of the proxy"][..],
        ),
        (
            pod(json!({"securityContext": {"runAsUser": 1774}}), json!({})),
            &["spec.securityContext.runAsUser"],
        ),
        (
            pod(json!({}), json!({"ports": [{"containerPort": 15006}]})),
            &["ports[0].containerPort: \"15006\"", "15020"],
        ),
        (pod(json!({}), json!({"name": "mesh-proxy"})), &["containers[0].name", "rename"]),
        (pod(json!({"initContainers": [{"name": "mesh-init"}]}), json!({})), &["initContainers[0].name"]),
        (pod(json!({"volumes": [{"name": "mesh-token"}]}), json!({})), &["volumes[0].name"]),
        (
            pod(
                json!({}),
                json!({"livenessProbe": {"httpGet": {"port": 15020, "path": "/probe/app/livez"}}}),
            ),
            &["livenessProbe.httpGet.port"],
        ),
        (
            pod(json!({}), json!({"livenessProbe": {"httpGet": {"port": "nope"}}})),
            &["\"nope\"", "name of one of this container's ports"],
        ),
        (
            pod(json!({"serviceAccountName": "a.b"}), json!({})),
            &["spec.serviceAccountName: \"a.b\"", "DNS label"],
        ),
        (json!({"spec": {"containers": []}}), &["spec.containers", "at least one"]),
        (
            json!({"metadata": {"labels": {OPT: "yes"}}, "spec": {"containers": [{"name": "a"}]}}),
            &["\"yes\"", "enabled and disabled"],
        ),
        (json!({"spec": {"containers": "all"}}), &["kubectl explain pod"]),
        (json!({}), &["spec"]),
    ] {
        refused(&before, expected);
    }
    // All at once.
    let both = pod(json!({"serviceAccountName": "a.b"}), json!({"securityContext": {"runAsUser": 1774}}));
    assert_eq!(inject(&both, Origin::Pod, &options()).unwrap_err().len(), 2);
}

#[test]
fn a_user_of_its_own_is_no_escape() {
    let before =
        pod(json!({"securityContext": {"runAsUser": 1774}}), json!({"securityContext": {"runAsUser": 1000}}));
    injected(&before);
}

#[test]
fn pods_that_cannot_have_a_proxy_are_left_alone() {
    let labelled = |value: &str| {
        let mut pod = pod(json!({}), json!({}));
        pod["metadata"]["labels"] = json!({OPT: value});
        pod
    };
    for (before, word, surprising) in [
        (pod(json!({"hostNetwork": true}), json!({})), "hostNetwork", true),
        (pod(json!({"os": {"name": "windows"}}), json!({})), "Windows", true),
        (pod(json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), json!({})), "Windows", true),
        (labelled("disabled"), "disabled", false),
    ] {
        match inject(&before, Origin::Pod, &options()) {
            Ok(Outcome::Skipped { reason, is_surprising }) => {
                assert!(reason.contains(word), "{reason}");
                assert_eq!(is_surprising, surprising, "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    injected(&labelled("enabled"));
    injected(&pod(json!({"shareProcessNamespace": true}), json!({})));
}

#[test]
fn a_second_injection_changes_nothing_or_renews() {
    let before = pod(
        json!({"initContainers": [{"name": "migrate"}]}),
        json!({"readinessProbe": {"httpGet": {"port": 8080, "path": "/$(x)"}}, "lifecycle": {"preStop": {"httpGet": {"port": 1}}}}),
    );
    let (once, _) = injected(&before);
    let (twice, _) = injected(&once);
    assert_eq!(once, twice);
    assert_eq!(operations(&once, &twice), Vec::<Value>::new());
    let newer = Options { proxy_image: "mesh-proxy:2".to_owned(), version: "2".to_owned(), ..options() };
    let Ok(Outcome::Injected { pod: renewed, .. }) = inject(&once, Origin::Pod, &newer) else { panic!() };
    let Ok(Outcome::Injected { pod: fresh, .. }) = inject(&before, Origin::Pod, &newer) else { panic!() };
    assert_eq!(renewed, fresh);
}

#[test]
fn what_is_not_ours_survives_and_the_operations_say_the_difference() {
    let mut before = pod(json!({"newerField": {"x": 1}}), json!({"alsoNew": [1]}));
    before["status"] = json!({"phase": "Pending"});
    let (after, _) = injected(&before);
    assert_eq!(after["spec"]["newerField"], before["spec"]["newerField"]);
    assert_eq!(after["spec"]["containers"][0]["alsoNew"], json!([1]));
    let mut patched = before.clone();
    for operation in operations(&before, &after) {
        let path = operation["path"].as_str().unwrap().to_owned();
        let (_, field) = path.rsplit_once('/').unwrap();
        let place = path.trim_end_matches(field).trim_end_matches('/');
        patched.pointer_mut(place).unwrap()[field] = operation["value"].clone();
        assert_ne!(field, "containers", "no probe, no change");
    }
    assert_eq!(patched, after);
}

#[test]
fn a_capable_container_is_told_of() {
    for context in [json!({"privileged": true}), json!({"capabilities": {"add": ["NET_ADMIN"]}})] {
        let (_, warnings) = injected(&pod(json!({}), json!({"securityContext": context})));
        assert!(warnings[0].contains("containers[0] (app)"), "{warnings:?}");
    }
    let (_, warnings) = injected(&pod(json!({"dnsPolicy": "Default"}), json!({})));
    assert!(warnings[0].contains("dnsPolicy"), "{warnings:?}");
}

/// The rules of the Pod Security Standard `restricted` that a container by itself can break.
fn unrestricted(container: &Value) -> Vec<&'static str> {
    let context = &container["securityContext"];
    let dropped = context["capabilities"]["drop"] == json!(["ALL"]);
    let added = context["capabilities"].get("add").is_some_and(|add| add != &json!(["NET_BIND_SERVICE"]));
    [
        ("allowPrivilegeEscalation", context["allowPrivilegeEscalation"] != false),
        ("capabilities", !dropped || added),
        ("runAsNonRoot", context["runAsNonRoot"] != true),
        ("runAsUser", context["runAsUser"] == 0),
        ("seccompProfile", context["seccompProfile"]["type"] != "RuntimeDefault"),
        ("privileged", context["privileged"] == true),
        (
            "hostPort",
            container["ports"]
                .as_array()
                .is_some_and(|all| all.iter().any(|port| port.get("hostPort").is_some())),
        ),
    ]
    .into_iter()
    .filter_map(|(rule, is_broken)| is_broken.then_some(rule))
    .collect()
}

#[test]
fn only_the_redirection_is_more_than_restricted() {
    let (after, _) = injected(&pod(json!({}), json!({})));
    assert_eq!(
        unrestricted(&after["spec"]["initContainers"][0]),
        ["capabilities", "runAsNonRoot", "runAsUser"]
    );
    assert_eq!(unrestricted(proxy_of(&after)), Vec::<&str>::new());
    assert_eq!(
        after["spec"]["initContainers"][0]["securityContext"]["capabilities"]["add"],
        json!(["NET_ADMIN"])
    );
    let kinds =
        after["spec"]["volumes"].as_array().unwrap().iter().flat_map(|v| v.as_object().unwrap().keys());
    let kinds: Vec<_> = kinds.filter(|key| *key != "name").collect();
    assert_eq!(kinds, ["projected", "configMap"], "kinds of volumes that the standard allows");
}

#[test]
fn manifests_keep_what_makes_no_pods() {
    let template =
        || json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app"}]}});
    let object = |version: &str, kind: &str, spec: Value| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "web"}, "spec": spec});
    for (before, place) in [
        (object("apps/v1", "Deployment", json!({"template": template()})), "/spec/template"),
        (object("apps/v1", "StatefulSet", json!({"template": template()})), "/spec/template"),
        (object("apps/v1", "DaemonSet", json!({"template": template()})), "/spec/template"),
        (object("batch/v1", "Job", json!({"template": template()})), "/spec/template"),
        (
            object("batch/v1", "CronJob", json!({"jobTemplate": {"spec": {"template": template()}}})),
            "/spec/jobTemplate/spec/template",
        ),
        (pod(json!({}), json!({})), ""),
    ] {
        let done =
            manifest(&json!({"apiVersion": "v1", "kind": "List", "items": [before]}), &options()).unwrap();
        let after = &done.object["items"][0];
        let pod = after.pointer(place).unwrap();
        assert_eq!(pod["spec"]["initContainers"][1]["name"], PROXY, "{after}");
        let workload = env(proxy_of(pod), "MESH_WORKLOAD");
        assert_eq!(workload.as_deref(), Some(if place.is_empty() { "$(MESH_POD_NAME)" } else { "web" }));
        assert_eq!(done.injected.len(), 1);
        assert_eq!(manifest(&done.object, &options()).unwrap().object, done.object, "once is enough");
    }
    for same in [
        object("v1", "Service", json!({"template": template()})),
        object("example.com/v1", "Deployment", json!({"template": template()})),
        json!(null),
        json!([1]),
    ] {
        assert_eq!(manifest(&same, &options()).unwrap().object, same);
    }
    let bad = object(
        "apps/v1",
        "Deployment",
        json!({"template": {"spec": {"containers": [{"name": "mesh-proxy"}]}}}),
    );
    let problems = manifest(&bad, &options()).unwrap_err();
    assert_eq!(problems[0].field, "Deployment/web: spec.template.spec.containers[0].name");
    let problems = manifest(&object("apps/v1", "Deployment", json!({})), &options()).unwrap_err();
    assert!(problems[0].field.contains("spec.template"), "{problems:?}");
}

/// Any JSON, most of it with the fields of a pod.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!(15020)),
        "[a-z0-9./$()-]{0,12}".prop_map(Value::from),
        Just(json!("mesh-proxy")),
    ];
    let key = prop_oneof![
        prop::sample::select(vec![
            "metadata",
            "spec",
            "containers",
            "initContainers",
            "volumes",
            "name",
            "labels",
            "annotations",
            "lifecycle",
            "preStop",
            "livenessProbe",
            "readinessProbe",
            "httpGet",
            "tcpSocket",
            "grpc",
            "port",
            "ports",
            "path",
            "env",
            "value",
            "securityContext",
            "runAsUser",
            "meshctl.io/injected",
            "template",
            "items",
            "kind",
        ])
        .prop_map(str::to_owned),
        "[a-z]{1,4}",
    ];
    leaf.prop_recursive(6, 96, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_breaks_the_injection(value in any_json(), metadata in any_json(), app in any_json(), probe in any_json()) {
        for pod in [
            value.clone(),
            json!({"metadata": metadata, "spec": value}),
            json!({"metadata": {"annotations": {INJECTED: "1"}}, "spec": {"containers": [app, {"name": "a", "livenessProbe": probe}], "initContainers": value}}),
        ] {
            if let Ok(Outcome::Injected { pod: once, .. }) = inject(&pod, Origin::Pod, &options()) {
                let twice = inject(&once, Origin::Pod, &options());
                prop_assert!(matches!(twice, Ok(Outcome::Injected { ref pod, .. }) if *pod == once), "{once}");
            }
            for kind in ["Deployment", "CronJob", "List"] {
                let version = if kind == "List" { "v1" } else { "apps/v1" };
                let _ = manifest(&json!({"kind": kind, "apiVersion": version, "items": [pod], "spec": pod}), &options());
            }
        }
    }
}
