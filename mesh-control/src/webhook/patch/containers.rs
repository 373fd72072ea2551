//! The containers and volumes that are added.

use super::settings::Settings;
use super::{HEALTH_PORT, INIT, Named, Options, PROXY, PROXY_UID, TRUST};
use k8s_openapi::api::core::v1::Container;
use serde_json::{Map, Value, json};

const TOKEN_DIR: &str = "/var/run/meshctl/token";
const TRUST_DIR: &str = "/var/run/meshctl/trust";
/// Where Kubernetes puts the token with which the application speaks to its API, into every container that has nothing
/// there. It is none of the mesh's business: something harmless stands there in our containers.
const API_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Whom the token is for; the control plane accepts no other.
const AUDIENCE: &str = "meshctl.io";
/// The kubelet renews it at four fifths of its life.
const TOKEN_SECONDS: u32 = 3600;
/// Failed looks, one a second, before the kubelet starts the proxy anew: a day. The proxy tries without end by itself, and a
/// new start would only lead into the kubelet's growing pauses.
const START_LOOKS: u32 = 86_400;
/// What an idle proxy of one thread needs, and what it may take under load: 25 KiB for each of 15,000 connections.
const CPU: &str = "10m";
const MEMORY: (&str, &str) = ("32Mi", "512Mi");

/// The container that leads the pod's connections into its proxy. It alone holds NET_ADMIN, and is gone before the
/// application starts.
pub(super) fn init(options: &Options, settings: &Settings) -> Value {
    let mut env = Vec::new();
    let ports = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    for (name, value) in [
        ("MESH_SKIP_INBOUND_PORTS", ports(&settings.skip_inbound)),
        ("MESH_SKIP_OUTBOUND_PORTS", ports(&settings.skip_outbound)),
        ("MESH_SKIP_OUTBOUND_CIDRS", settings.skip_cidrs.join(",")),
    ] {
        if !value.is_empty() {
            env.push(json!({"name": name, "value": value}));
        }
    }
    let mut container = json!({
        "name": INIT,
        "image": options.init_image,
        "args": ["redirect"],
        "env": env,
        "resources": {"requests": {"cpu": CPU, "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [mount("mesh-trust", API_DIR)],
    });
    finish(&mut container, options);
    container
}

fn mount(volume: &str, path: &str) -> Value {
    json!({"name": volume, "mountPath": path, "readOnly": true})
}

/// The proxy's container.
pub(super) struct Proxy<'a> {
    pub(super) options: &'a Options,
    pub(super) settings: &'a Settings,
    pub(super) workload: &'a Named,
    /// By path, what the application's probes were.
    pub(super) probes: Map<String, Value>,
    /// The pod's `terminationGracePeriodSeconds`.
    pub(super) grace: i64,
}

impl Proxy<'_> {
    pub(super) fn container(self) -> Value {
        let ready = json!({"path": "/readyz", "port": HEALTH_PORT, "scheme": "HTTP"});
        let mut container = json!({
            "name": PROXY,
            "image": self.options.proxy_image,
            "args": ["pod"],
            // What makes it a sidecar: it starts before the containers after it, and ends after the application.
            "restartPolicy": "Always",
            "ports": [
                {"name": "mesh", "containerPort": 15008, "protocol": "TCP"},
                {"name": "mesh-health", "containerPort": HEALTH_PORT, "protocol": "TCP"},
            ],
            "env": self.env(),
            "resources": self.resources(),
            // The containers after it start when this has succeeded: no call without certificate and configuration.
            "startupProbe": {"httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": START_LOOKS},
            "readinessProbe": {"httpGet": ready, "periodSeconds": 5, "timeoutSeconds": 2, "failureThreshold": 3},
            "securityContext": {
                "runAsUser": PROXY_UID,
                "runAsGroup": PROXY_UID,
                "runAsNonRoot": true,
                "privileged": false,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [mount("mesh-token", TOKEN_DIR), mount("mesh-trust", TRUST_DIR), mount("mesh-trust", API_DIR)],
        });
        finish(&mut container, self.options);
        container
    }

    fn env(&self) -> Vec<Value> {
        let of_pod =
            |name: &str, field: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}});
        let plain = |name: &str, value: String| json!({"name": name, "value": value});
        let workload = match self.workload {
            Named::Name(name) => name.to_string(),
            // Kubernetes replaces it with the variable above.
            Named::AsPod => "$(MESH_POD_NAME)".to_owned(),
        };
        let mut env = vec![
            of_pod("MESH_POD_NAME", "metadata.name"),
            of_pod("MESH_POD_NAMESPACE", "metadata.namespace"),
            of_pod("MESH_POD_IP", "status.podIP"),
            of_pod("MESH_POD_ACCOUNT", "spec.serviceAccountName"),
            plain("MESH_WORKLOAD", workload),
            plain("MESH_CONTROL", self.options.control.clone()),
            plain("MESH_TRUST_DOMAIN", self.options.trust_domain.to_string()),
            plain("MESH_TRUST_ROOTS", format!("{TRUST_DIR}/roots.pem")),
            plain("MESH_TOKEN_FILE", format!("{TOKEN_DIR}/token")),
        ];
        if !self.probes.is_empty() {
            // A `$(` of the application's own stays what it is.
            let probes = Value::Object(self.probes.clone()).to_string().replace("$(", "$$(");
            env.push(plain("MESH_PROBES", probes));
        }
        // The kubelet kills when the pod's time is over, and what cannot drain until then is better cut by the proxy.
        let drain = self.grace.saturating_sub(5).clamp(1, 25);
        if drain != 25 {
            env.push(plain("MESH_DRAIN_SECONDS", drain.to_string()));
        }
        if let Some(log) = &self.settings.log {
            env.push(plain("MESH_LOG", log.clone()));
        }
        let workers = self.settings.cpu.as_ref().map_or(1, |(_, millis)| millis.div_ceil(1000)).clamp(1, 256);
        if workers != 1 {
            env.push(plain("MESH_WORKERS", workers.to_string()));
        }
        env
    }

    /// No limit of CPU: throttling is latency for everybody who calls the pod.
    fn resources(&self) -> Value {
        let cpu = self.settings.cpu.as_ref().map_or(CPU, |(text, _)| text);
        let (request, limit) = self.settings.memory.as_deref().map_or(MEMORY, |both| (both, both));
        json!({"requests": {"cpu": cpu, "memory": request}, "limits": {"memory": limit}})
    }
}

fn finish(container: &mut Value, options: &Options) {
    if let (Some(policy), Some(container)) = (&options.pull_policy, container.as_object_mut()) {
        container.insert("imagePullPolicy".to_owned(), json!(policy));
    }
    if let Some(container) = container.as_object_mut() {
        container
            .retain(|field, value| field != "env" || value.as_array().is_some_and(|env| !env.is_empty()));
    }
}

/// `MESH_PROBES` of a proxy that was injected before.
pub(super) fn probes_of(proxy: &Container) -> Option<Map<String, Value>> {
    let written = proxy.env.iter().flatten().find(|variable| variable.name == "MESH_PROBES")?;
    serde_json::from_str(&written.value.as_ref()?.replace("$$(", "$(")).ok()
}

/// The token that proves the pod to the control plane, and the roots that prove the control plane to the pod.
pub(super) fn volumes() -> Vec<Value> {
    let token = json!({"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}});
    vec![
        json!({"name": "mesh-token", "projected": {"sources": [token]}}),
        json!({"name": "mesh-trust", "configMap": {"name": TRUST}}),
    ]
}
