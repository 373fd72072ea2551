//! The checks of a cluster: whether the mesh can be installed there, and whether the one that is runs well.

use super::Finding;
use crate::cluster::access::{Cluster, MINOR_MIN, words};
use crate::cluster::installation::{is_established, is_trusted, webhooks};
use crate::cluster::manifest::{self, CONTROL, NAMESPACE};
use crate::cluster::object::{self, Name};
use crate::cluster::removal::{TRUST, meshed_pods, some};
use crate::cluster::values::Values;
use crate::cluster::{health, permission, ready};
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

/// The groups of the Kubernetes API that the mesh stands on, and what for.
const GROUPS: [(&str, &str); 8] = [
    ("admissionregistration.k8s.io", "API for webhooks"),
    ("apiextensions.k8s.io", "API for definitions"),
    ("apps", "API for deployments"),
    ("authentication.k8s.io", "API for tokens"),
    ("authorization.k8s.io", "API for access reviews"),
    ("coordination.k8s.io", "API for leases"),
    ("discovery.k8s.io", "API for endpoints"),
    ("policy", "API for disruption budgets"),
];
const INSTALL: &str = "meshctl install";

/// Whether the mesh can be installed.
pub(super) async fn before(cluster: &Cluster) -> Vec<Finding> {
    let mut found = vec![
        Finding::pass("API server", format!("cluster {} answers", cluster.name)),
        version(cluster),
        sessions(cluster),
    ];
    found.extend(groups(cluster).await);
    let objects = manifest::for_version(manifest::objects(&Values::default()), cluster.minor);
    found.push(rights(cluster, &objects).await);
    found.push(foreign(cluster, &objects).await);
    found.push(accepted(cluster, &objects).await);
    found.extend(nodes(cluster).await);
    found.extend(namespaces(cluster).await);
    found
}

/// Whether the mesh that is installed runs well.
pub(super) async fn after(cluster: &Cluster) -> Vec<Finding> {
    let mut found = vec![
        Finding::pass("API server", format!("cluster {} answers", cluster.name)),
        version(cluster),
        sessions(cluster),
    ];
    found.extend(parts(cluster).await);
    found.extend(control(cluster).await);
    found.push(trust(cluster).await);
    found.extend(nodes(cluster).await);
    found.extend(namespaces(cluster).await);
    found
}

fn version(cluster: &Cluster) -> Finding {
    const ABOUT: &str = "Kubernetes version";
    match cluster.minor >= MINOR_MIN {
        true => Finding::pass(ABOUT, cluster.version.clone()),
        false => Finding::fail(
            ABOUT,
            format!("{} has no native sidecars that are on by default", cluster.version),
            format!("upgrade the cluster to 1.{MINOR_MIN} or later"),
        ),
    }
}

fn sessions(cluster: &Cluster) -> Finding {
    const ABOUT: &str = "sessions of users";
    match cluster.minor >= 30 {
        true => Finding::pass(ABOUT, "the API server can vouch for users"),
        false => Finding::warn(
            ABOUT,
            "the API server cannot vouch for users: meshctl status and explain will not work",
            "upgrade the cluster to 1.30 or later",
        ),
    }
}

async fn groups(cluster: &Cluster) -> Vec<Finding> {
    let served = match cluster.client.list_api_groups().await {
        Ok(served) => served.groups,
        Err(error) => return vec![Finding::fail("API groups", words(&error), "kubectl api-versions")],
    };
    let check = |(group, about): (&str, &'static str)| match served.iter().any(|found| found.name == group) {
        true => Finding::pass(about, group),
        false => Finding::fail(about, format!("{group} is not served"), "kubectl api-versions"),
    };
    GROUPS.map(check).into()
}

async fn rights(cluster: &Cluster, objects: &[Value]) -> Finding {
    const ABOUT: &str = "rights to install";
    match permission::missing(cluster, permission::on_objects(objects, &["get", "create", "patch"])).await {
        Ok(lacking) if lacking.is_empty() => Finding::pass(ABOUT, "this user has all of them"),
        Ok(lacking) => Finding::fail(
            ABOUT,
            format!("missing: {}", permission::by_kind(&lacking).join("; ")),
            "kubectl auth whoami   # then ask for the ClusterRole cluster-admin",
        ),
        Err(failure) => Finding::fail(ABOUT, failure.message, "kubectl auth can-i --list"),
    }
}

async fn foreign(cluster: &Cluster, objects: &[Value]) -> Finding {
    const ABOUT: &str = "names that we use";
    let mut others = Vec::new();
    for name in objects.iter().map(Name::of).filter(|name| name.kind != "Namespace") {
        if let Ok(Some(found)) = object::find(cluster, &name).await
            && label(&found.metadata, "app.kubernetes.io/part-of") != Some("meshctl")
        {
            others.push(name.to_string());
        }
    }
    match others.is_empty() {
        true => Finding::pass(ABOUT, "free, or ours"),
        false => Finding::fail(
            ABOUT,
            format!("made by somebody else: {}", some(&others)),
            "kubectl get KIND NAME -o yaml   # whose they are",
        ),
    }
}

async fn accepted(cluster: &Cluster, objects: &[Value]) -> Finding {
    const ABOUT: &str = "objects of the cluster";
    let wide = objects.iter().filter(|object| Name::of(object).namespace.is_none());
    let mut count = 0_usize;
    for object in wide {
        if let Err(error) = object::apply(cluster, object, object::Write::Try).await {
            return Finding::fail(
                ABOUT,
                format!("{} would be refused: {}", Name::of(object), words(&error)),
                "meshctl install --dry-run -o yaml",
            );
        }
        count = count.saturating_add(1);
    }
    Finding::pass(ABOUT, format!("a dry run of {count} is accepted"))
}

async fn nodes(cluster: &Cluster) -> Vec<Finding> {
    let nodes = match health::all::<Node>(cluster).await {
        Ok(nodes) => nodes,
        Err(failure) => return vec![Finding::skip("nodes", failure.message)],
    };
    let able = |node: &&Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is_closed = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
        !is_closed && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    let count = nodes.iter().filter(able).count();
    let mut found = vec![match count {
        0 => Finding::fail("nodes", "none is ready and takes pods", "kubectl get nodes"),
        1 => Finding::warn("nodes", "one is ready: both control planes share it", "add a node"),
        _ => Finding::pass("nodes", format!("{count} are ready")),
    }];
    let info = |node: &Node| node.status.as_ref().and_then(|status| status.node_info.clone());
    let bad = |test: fn(&k8s_openapi::api::core::v1::NodeSystemInfo) -> bool| -> Vec<String> {
        nodes
            .iter()
            .filter(|node| info(node).is_some_and(|info| !test(&info)))
            .map(|node| name(&node.metadata))
            .collect()
    };
    let strange = bad(|info| info.operating_system == "linux");
    found.push(match strange.is_empty() {
        true => Finding::pass("operating system", "all nodes run Linux"),
        false => Finding::warn(
            "operating system",
            format!("not Linux: {}", some(&strange)),
            "keep meshed pods off them by a nodeSelector",
        ),
    });
    let old = bad(|info| minor(&info.kubelet_version) >= MINOR_MIN);
    found.push(match old.is_empty() {
        true => Finding::pass("kubelets", "all know native sidecars"),
        false => Finding::fail(
            "kubelets",
            format!("older than 1.{MINOR_MIN}: {}", some(&old)),
            "upgrade these nodes",
        ),
    });
    found
}

fn name(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

fn label<'m>(meta: &'m ObjectMeta, key: &str) -> Option<&'m str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// The minor number of `v1.34.4`.
fn minor(version: &str) -> u32 {
    let minor = version.split('.').nth(1).unwrap_or_default();
    minor.parse().unwrap_or_default()
}

async fn namespaces(cluster: &Cluster) -> Vec<Finding> {
    let all = match health::all::<Namespace>(cluster).await {
        Ok(all) => all,
        Err(failure) => return vec![Finding::skip("namespaces", failure.message)],
    };
    let is_in =
        |ns: &&Namespace| label(&ns.metadata, "meshctl.io/inject").is_some_and(|word| word == "enabled");
    let strict = |ns: &&Namespace| {
        let level = label(&ns.metadata, "pod-security.kubernetes.io/enforce");
        matches!(level, Some("baseline" | "restricted"))
    };
    let refused: Vec<String> = all.iter().filter(is_in).filter(strict).map(|ns| name(&ns.metadata)).collect();
    let odd: Vec<String> = all
        .iter()
        .filter(|ns| {
            label(&ns.metadata, "meshctl.io/inject")
                .is_some_and(|word| word != "enabled" && word != "disabled")
        })
        .map(|ns| name(&ns.metadata))
        .collect();
    let others: Vec<String> = all
        .iter()
        .map(|ns| name(&ns.metadata))
        .filter(|name| name == "istio-system" || name == "linkerd")
        .collect();
    vec![
        match refused.is_empty() {
            true => Finding::pass(
                "pod security",
                "no namespace in the mesh forbids the redirecting init container",
            ),
            false => Finding::fail(
                "pod security",
                format!("NET_ADMIN of the init container is refused in {}", some(&refused)),
                "kubectl label --overwrite namespace NAME pod-security.kubernetes.io/enforce=privileged",
            ),
        },
        match odd.is_empty() {
            true => Finding::pass("labels", "meshctl.io/inject is enabled or disabled everywhere"),
            false => Finding::warn(
                "labels",
                format!("meshctl.io/inject has another word in {}", some(&odd)),
                "kubectl label --overwrite namespace NAME meshctl.io/inject=enabled",
            ),
        },
        match others.is_empty() {
            true => Finding::pass("other meshes", "none found"),
            false => Finding::warn(
                "other meshes",
                format!("found {}", some(&others)),
                "label no namespace for two meshes",
            ),
        },
    ]
}

/// Objects that must be there.
async fn parts(cluster: &Cluster) -> Vec<Finding> {
    let named = |api_version: &str, kind: &str, namespace: Option<&str>, name: &str| Name {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    };
    let rbac = "rbac.authorization.k8s.io/v1";
    let wanted = [
        ("service", named("v1", "Service", Some(NAMESPACE), CONTROL)),
        ("disruption budget", named("policy/v1", "PodDisruptionBudget", Some(NAMESPACE), CONTROL)),
        ("account", named("v1", "ServiceAccount", Some(NAMESPACE), CONTROL)),
        ("rights of the cluster", named(rbac, "ClusterRole", None, CONTROL)),
        ("who has these rights", named(rbac, "ClusterRoleBinding", None, CONTROL)),
        ("rights in mesh-system", named(rbac, "Role", Some(NAMESPACE), CONTROL)),
        ("sealing key", named("v1", "Secret", Some(NAMESPACE), manifest::SEAL_KEY.0)),
        ("authority", named("v1", "Secret", Some(NAMESPACE), "mesh-authority")),
        ("webhook's certificate", named("v1", "Secret", Some(NAMESPACE), "mesh-webhook")),
        ("values", named("v1", "ConfigMap", Some(NAMESPACE), manifest::VALUES)),
        ("rights of replicas", named(rbac, "RoleBinding", Some(NAMESPACE), CONTROL)),
        ("rights of viewers", named(rbac, "ClusterRole", None, "meshctl-viewer")),
    ];
    // What vouches for users, where the cluster can.
    let vouching = manifest::for_version(manifest::objects(&Values::default()), cluster.minor);
    let vouching = vouching.iter().map(Name::of).filter_map(|name| match name.kind.as_str() {
        "ValidatingAdmissionPolicy" => Some(("rule for sessions", name)),
        "ValidatingAdmissionPolicyBinding" => Some(("its binding", name)),
        _ => None,
    });
    let mut found = Vec::new();
    for (about, name) in wanted.into_iter().chain(vouching) {
        found.push(match object::find(cluster, &name).await {
            Ok(Some(_)) => Finding::pass(about, name.to_string()),
            Ok(None) => Finding::fail(about, format!("there is no {name}"), INSTALL),
            Err(failure) => Finding::skip(about, failure.message),
        });
    }
    for (about, kind) in [
        ("webhook for pods", "MutatingWebhookConfiguration"),
        ("webhook for resources", "ValidatingWebhookConfiguration"),
    ] {
        found.push(match object::find(cluster, &webhooks(kind)).await {
            Ok(Some(object)) if is_trusted(Some(&object)) => {
                Finding::pass(about, "the API server knows our certificate")
            }
            Ok(Some(_)) => Finding::fail(
                about,
                "the API server does not know our certificate",
                "kubectl --namespace mesh-system rollout restart deployment mesh-control",
            ),
            Ok(None) => Finding::fail(about, format!("there is no {kind}"), INSTALL),
            Err(failure) => Finding::skip(about, failure.message),
        });
    }
    let mut lacking = Vec::new();
    for name in manifest::for_version(manifest::definitions(), cluster.minor).iter().map(Name::of) {
        if !matches!(object::find(cluster, &name).await, Ok(Some(object)) if is_established(&object)) {
            lacking.push(name.name);
        }
    }
    found.push(match lacking.is_empty() {
        true => Finding::pass("definitions", "all kinds of the mesh are served"),
        false => Finding::fail("definitions", format!("not served: {}", some(&lacking)), INSTALL),
    });
    found
}

/// Whether each namespace with meshed pods has the roots that its proxies begin with.
async fn trust(cluster: &Cluster) -> Finding {
    const ABOUT: &str = "roots in namespaces";
    let looked = async {
        let meshed: std::collections::BTreeSet<String> = meshed_pods(cluster)
            .await?
            .iter()
            .filter_map(|pod| pod.split_once('/').map(|(namespace, _)| namespace.to_owned()))
            .collect();
        let mut lacking = Vec::new();
        for namespace in &meshed {
            let name = Name {
                api_version: "v1".to_owned(),
                kind: "ConfigMap".to_owned(),
                namespace: Some(namespace.clone()),
                name: TRUST.to_owned(),
            };
            if object::find(cluster, &name).await?.is_none() {
                lacking.push(namespace.clone());
            }
        }
        Ok::<_, crate::failure::Failure>((meshed.len(), lacking))
    };
    match looked.await {
        Ok((count, lacking)) if lacking.is_empty() => {
            Finding::pass(ABOUT, format!("{TRUST} is in all {count} with meshed pods"))
        }
        Ok((_, lacking)) => Finding::fail(
            ABOUT,
            format!("there is no ConfigMap {TRUST} in {}", some(&lacking)),
            "kubectl --namespace mesh-system rollout restart deployment mesh-control",
        ),
        Err(failure) => Finding::skip(ABOUT, failure.message),
    }
}

/// The control plane's pods, and the pods of the mesh.
async fn control(cluster: &Cluster) -> Vec<Finding> {
    let looked = health::look(cluster).await;
    let health = match looked {
        Ok(health) => health,
        Err(failure) => return vec![Finding::fail("control plane", failure.message, INSTALL)],
    };
    let wanted = usize::try_from(health.replicas_wanted).unwrap_or_default();
    let ill: Vec<String> =
        health.components.iter().filter(|c| !c.ready).map(|c| format!("{}: {}", c.pod, c.trouble)).collect();
    let nodes: std::collections::BTreeSet<&str> = health.components.iter().map(|c| c.node.as_str()).collect();
    let logs = format!("kubectl --namespace {NAMESPACE} logs deployment/{CONTROL}");
    let ready = match ready::look(cluster)
        .await
        .map(|(deployment, pods)| ready::standing(deployment.as_ref(), &pods))
    {
        Ok(ready::Standing::Ready) => Finding::pass("control plane", format!("{wanted} replicas are ready")),
        Ok(ready::Standing::Waiting(state)) => {
            Finding::warn("control plane", state, "meshctl check   # in a moment")
        }
        Ok(ready::Standing::Hopeless(why)) => Finding::fail("control plane", why, INSTALL),
        Err(failure) => Finding::fail("control plane", failure.message, INSTALL),
    };
    let mut found = vec![
        ready,
        match ill.is_empty() {
            true => Finding::pass("its pods", "each answers"),
            false => Finding::fail("its pods", ill.join("; "), logs.clone()),
        },
        match wanted {
            0 | 1 => Finding::warn(
                "replicas",
                "one control plane has no successor when it ends",
                "meshctl install --set control.replicas=2",
            ),
            _ => Finding::pass("replicas", format!("{wanted} are wanted")),
        },
        match nodes.len() {
            0 | 1 => Finding::warn("spread", "all control planes are on one node", "add a node"),
            count => Finding::pass("spread", format!("they are on {count} nodes")),
        },
    ];
    found.extend(pods(&health));
    found
}

/// What runs in the control plane's pods, and whether all pods of the mesh are in it.
fn pods(health: &health::Health) -> Vec<Finding> {
    let restarts = health.components.iter().map(|c| c.restarts).fold(0, i32::saturating_add);
    let version = env!("CARGO_PKG_VERSION");
    let images: std::collections::BTreeSet<&str> =
        health.components.iter().map(|c| c.image.as_str()).collect();
    let images: Vec<&str> = images.into_iter().collect();
    let logs = format!("kubectl --namespace {NAMESPACE} logs deployment/{CONTROL}");
    vec![
        match restarts {
            0 => Finding::pass("restarts", "none"),
            _ => Finding::warn(
                "restarts",
                format!("its containers were started again {restarts} times"),
                format!("{logs} --previous"),
            ),
        },
        match images[..] {
            [image] if image.ends_with(&format!(":{version}")) => {
                Finding::pass("version", format!("{image}, as meshctl"))
            }
            [image] => {
                Finding::warn("version", format!("{image}, and meshctl is {version}"), "meshctl version")
            }
            _ => Finding::warn(
                "version",
                format!("several at once: {}", images.join(", ")),
                "meshctl check   # in a moment",
            ),
        },
        match health.unmeshed_pods.is_empty() {
            true => {
                Finding::pass("pods without proxy", format!("none; {} pods have one", health.meshed_pods))
            }
            false => Finding::warn(
                "pods without proxy",
                some(&health.unmeshed_pods),
                "kubectl --namespace NAME rollout restart deployment",
            ),
        },
    ]
}
