//! The objects that scenarios apply: applications with an account, a Deployment and a Service of one name; policies.

use serde_json::{Value, json};

/// An application: one container named `app`.
#[derive(Clone)]
pub(super) struct App {
    name: String,
    command: Vec<String>,
    ports: Vec<(String, u16)>,
    replicas: u16,
    grace_seconds: u16,
    readiness: Option<Value>,
    environment: Vec<(String, String)>,
}

impl App {
    /// One that runs this, as an account of its own name.
    pub(super) fn new(name: &str, command: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            ports: Vec::new(),
            replicas: 1,
            grace_seconds: 30,
            readiness: None,
            environment: Vec::new(),
        }
    }

    /// One that waits to be told what to run.
    pub(super) fn client(name: &str) -> Self {
        // `sleep` as the first process of a container knows no SIGTERM.
        Self { grace_seconds: 1, ..Self::new(name, &["sleep", "infinity"]) }
    }

    /// An HTTP/1.1 server on port 8080, whose service has port 80.
    pub(super) fn http(name: &str) -> Self {
        let server = Self::new(name, &["python3", "/pods/serve.py", "8080"]).port("http", 8080);
        Self { readiness: Some(json!({"httpGet": {"path": "/ready", "port": "http"}})), ..server }
    }

    /// With a port, and a Service of the same one.
    pub(super) fn port(mut self, name: &str, port: u16) -> Self {
        self.ports.push((name.to_owned(), port));
        self
    }

    /// With so many pods.
    pub(super) fn replicas(mut self, replicas: u16) -> Self {
        self.replicas = replicas;
        self
    }

    /// Ready when this says so.
    pub(super) fn ready_when(mut self, probe: Value) -> Self {
        self.readiness = Some(probe);
        self
    }

    /// With a variable.
    pub(super) fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The template of its pods.
    pub(super) fn pod(&self, image: &str) -> Value {
        let ports: Vec<Value> =
            self.ports.iter().map(|(name, port)| json!({"name": name, "containerPort": port})).collect();
        let environment: Vec<Value> =
            self.environment.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let mut container = json!({
            "name": "app", "image": image, "imagePullPolicy": "IfNotPresent", "command": self.command,
            "ports": ports, "env": environment,
            "securityContext": {
                "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
            },
        });
        if let Some(probe) = &self.readiness {
            container["readinessProbe"] = probe.clone();
            container["readinessProbe"]["periodSeconds"] = json!(1);
            // A node of two cores that starts thirty pods answers late; that is not what is tested.
            container["readinessProbe"]["timeoutSeconds"] = json!(10);
            container["readinessProbe"]["failureThreshold"] = json!(3);
        }
        json!({
            "metadata": {"labels": {"app": self.name}},
            "spec": {
                "serviceAccountName": self.name, "terminationGracePeriodSeconds": self.grace_seconds, "containers": [container],
            },
        })
    }

    /// Its account, its Deployment, and a Service of the same name when it has ports.
    pub(super) fn manifest(&self, image: &str) -> String {
        let mut items = vec![
            account(&self.name),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": self.name},
                "spec": {
                    "replicas": self.replicas, "selector": {"matchLabels": {"app": self.name}},
                    "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                    "template": self.pod(image),
                },
            }),
        ];
        if !self.ports.is_empty() {
            let ports: Vec<Value> = self
                .ports
                .iter()
                .map(|(name, port)| json!({"name": name, "port": port, "targetPort": name}))
                .collect();
            items.push(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name},
                "spec": {"selector": {"app": self.name}, "ports": ports},
            }));
        }
        list(&items)
    }
}

/// A ServiceAccount.
pub(super) fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}

/// Many objects as one manifest.
pub(super) fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Lets an account of the same namespace call a workload.
pub(super) fn allow(account: &str, workload: &str) -> String {
    json!({
        "apiVersion": "meshctl.io/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": format!("{workload}-allows-{account}")},
        "spec": {"target": {"workload": workload}, "rules": [{"name": "allow", "from": [{"serviceAccount": account}]}]},
    })
    .to_string()
}
