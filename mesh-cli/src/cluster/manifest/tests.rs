//! What an installation makes.

use super::*;

fn find<'v>(objects: &'v [Value], kind: &str, name: &str) -> &'v Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn the_same_values_make_the_same_objects_and_no_secret() {
    let text = |objects: &[Value]| serde_json::to_string(objects).unwrap();
    let objects = objects(&Values::default());
    assert_eq!(text(&objects), text(&super::objects(&Values::default())));
    assert!(objects.iter().all(|object| object["kind"] != "Secret"));
    for object in &objects {
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "meshctl", "{object}");
        assert!(object["apiVersion"].is_string() && object["metadata"]["name"].is_string(), "{object}");
    }
}

#[test]
fn the_control_planes_pod_is_restricted() {
    let objects = objects(&Values::default());
    let pod = &find(&objects, "Deployment", CONTROL)["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in pod["containers"].as_array().unwrap() {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }));
    }
    let labels = &find(&objects, "Namespace", NAMESPACE)["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
}

#[test]
fn no_account_of_the_mesh_may_do_everything() {
    for object in objects(&Values::default()) {
        for rule in object["rules"].as_array().into_iter().flatten() {
            assert!(!rule.to_string().contains("\"*\""), "{rule}");
            let reads_secrets = rule["resources"].as_array().unwrap().contains(&"secrets".into())
                && rule["verbs"].as_array().unwrap().contains(&"get".into());
            let is_named = rule["resourceNames"].as_array().is_some_and(|names| !names.is_empty());
            assert!(!reads_secrets || is_named && object["kind"] == "Role", "{object}");
        }
    }
}

#[test]
fn each_kind_of_the_mesh_has_a_definition() {
    let definitions = definitions();
    let mut defined: Vec<&str> =
        definitions.iter().map(|d| d["spec"]["names"]["plural"].as_str().unwrap()).collect();
    let mut expected = [&PLURALS[..], &["adminsessions"]].concat();
    defined.sort_unstable();
    expected.sort_unstable();
    assert_eq!(defined, expected);
    for definition in &definitions {
        assert_eq!(
            definition["metadata"]["name"],
            format!("{}.{GROUP}", definition["spec"]["names"]["plural"].as_str().unwrap())
        );
    }
}

#[test]
fn system_namespaces_are_never_injected() {
    let objects = objects(&Values::default());
    for webhook in find(&objects, "MutatingWebhookConfiguration", WEBHOOKS)["webhooks"].as_array().unwrap() {
        if webhook["clientConfig"]["service"]["path"] == "/inject" {
            let selector = webhook["namespaceSelector"].to_string();
            for system in ["kube-system", "kube-node-lease", NAMESPACE] {
                assert!(selector.contains(system), "{webhook}");
            }
        }
    }
}

/// Names that the shipped monitors select by are those of the objects.
#[test]
fn the_shipped_monitors_find_the_control_plane_and_the_proxies() {
    let monitors = include_str!("../../../../deploy/monitors/prometheus-operator.yaml");
    for told in [
        format!("namespace: {NAMESPACE}"),
        "port: metrics".to_owned(),
        "{app.kubernetes.io/name: meshctl, app.kubernetes.io/part-of: meshctl}".to_owned(),
        format!("{{{}: \"true\"}}", mesh_control::webhook::patch::MESHED),
        "port: mesh-health".to_owned(),
    ] {
        assert!(monitors.contains(&told), "{told}");
    }
    let service = service();
    assert_eq!(service["metadata"]["labels"]["app.kubernetes.io/name"], "meshctl");
    assert_eq!(service["metadata"]["labels"]["app.kubernetes.io/part-of"], "meshctl");
    let ports = service["spec"]["ports"].as_array().unwrap();
    assert!(ports.iter().any(|port| port["name"] == "metrics"), "{ports:?}");
}
