//! Probes and lifecycle calls of the application: the kubelet asks the proxy, and the proxy asks the application.
//!
//! What each was goes to the proxy as `MESH_PROBES`, by the path under `/probe/` (`mesh_proxy::probe` reads it). `exec` and
//! `sleep` need no network and stay.

use super::{HEALTH_PORT, Problem};
use serde_json::{Map, Value, json};

/// Fields of a container with a probe, and what the path calls them.
const PROBES: [(&str, &str); 3] =
    [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];
/// Fields of a container's `lifecycle`.
const HOOKS: [(&str, &str); 2] = [("postStart", "poststart"), ("preStop", "prestop")];

/// Points all of them at the proxy, and gives what they were.
///
/// `was` are those that an injection of before has moved. `grace` is how long a `preStop` may take, in seconds.
pub(super) fn rewrite(
    spec: &mut Map<String, Value>,
    (was, grace): (&Map<String, Value>, i64),
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<String>,
) -> Map<String, Value> {
    let mut moving = Moving { was, moved: Map::new(), problems, warnings };
    for field in ["initContainers", "containers"] {
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let place = format!("spec.{field}[{index}]");
            moving.container(container, &place, grace);
        }
    }
    moving.moved
}

struct Moving<'a> {
    was: &'a Map<String, Value>,
    moved: Map<String, Value>,
    problems: &'a mut Vec<Problem>,
    warnings: &'a mut Vec<String>,
}

impl Moving<'_> {
    fn container(&mut self, container: &mut Value, place: &str, grace: i64) {
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let ports = container.get("ports").cloned().unwrap_or_default();
        for (field, kind) in PROBES {
            let Some(probe) = container.get_mut(field).and_then(Value::as_object_mut) else { continue };
            let seconds = probe.get("timeoutSeconds").and_then(Value::as_i64).unwrap_or(1);
            let asked = Asked { place: format!("{place}.{field}"), key: format!("{name}/{kind}"), seconds };
            self.handler(probe, &asked, &ports);
        }
        let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) else { return };
        for (field, kind) in HOOKS {
            let Some(hook) = lifecycle.get_mut(field).and_then(Value::as_object_mut) else { continue };
            // The kubelet carries out `httpGet` alone; `tcpSocket` has never done anything (LifecycleHandler).
            if hook.contains_key("httpGet") {
                let place = format!("{place}.lifecycle.{field}");
                let asked = Asked { place, key: format!("{name}/{kind}"), seconds: grace };
                self.handler(hook, &asked, &ports);
            }
        }
    }

    /// Moves one handler, if it is one that needs the network.
    fn handler(&mut self, handler: &mut Map<String, Value>, asked: &Asked, ports: &Value) {
        let path = format!("/probe/{}", asked.key);
        let Some(kind) =
            ["httpGet", "tcpSocket", "grpc"].into_iter().find(|kind| handler.contains_key(*kind))
        else {
            return;
        };
        let Some(asks) = handler.get(kind) else { return };
        let place = format!("{}.{kind}", asked.place);
        if asks.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty()) {
            self.warnings
                .push(format!("{place}.host names another machine; the node asks it without the mesh"));
            return;
        }
        let is_moved = asks.get("port").and_then(Value::as_u64) == Some(u64::from(HEALTH_PORT));
        let entry = if is_moved {
            let entry = self.was.get(&asked.key).filter(|_| asks.get("path") == Some(&json!(path))).cloned();
            if entry.is_none() {
                let allowed = "this port is the proxy's; name the application's own";
                self.problems.push(Problem::new(format!("{place}.port"), HEALTH_PORT, allowed));
            }
            entry
        } else {
            self.entry(kind, asks, asked, ports)
        };
        let Some(entry) = entry else { return };
        self.moved.insert(asked.key.clone(), entry);
        handler.remove(kind);
        handler.insert("httpGet".to_owned(), json!({"path": path, "port": HEALTH_PORT, "scheme": "HTTP"}));
    }

    /// What `MESH_PROBES` says of it; `None`: it was refused.
    fn entry(&mut self, kind: &str, asks: &Value, asked: &Asked, ports: &Value) -> Option<Value> {
        let place = format!("{}.{kind}", asked.place);
        let Some(port) = asks.get("port").and_then(|port| number(port, ports)) else {
            let written = asks.get("port").map(ToString::to_string).unwrap_or_default();
            let allowed = "a port is a number from 1 to 65535, or the name of one of this container's ports";
            self.problems.push(Problem::new(format!("{place}.port"), written.trim_matches('"'), allowed));
            return None;
        };
        let text = |field: &str| asks.get(field).and_then(Value::as_str).unwrap_or_default();
        let what = match kind {
            "httpGet" => {
                let path = Some(text("path")).filter(|path| !path.is_empty()).unwrap_or("/");
                let mut http = json!({"port": port, "path": path});
                let headers = asks.get("httpHeaders").and_then(Value::as_array).into_iter().flatten();
                let headers =
                    headers.filter_map(|header| Some(json!([header.get("name")?, header.get("value")?])));
                let headers: Vec<Value> = headers.collect();
                if let (false, Some(http)) = (headers.is_empty(), http.as_object_mut()) {
                    http.insert("headers".to_owned(), json!(headers));
                }
                let is_secure = text("scheme").eq_ignore_ascii_case("HTTPS");
                (if is_secure { "https" } else { "http" }, http)
            }
            "grpc" => ("grpc", json!({"port": port, "service": text("service")})),
            _ => ("tcp", json!({"port": port})),
        };
        let (kind, what) = what;
        Some(json!({kind: what, "timeoutSeconds": asked.seconds.clamp(1, 3600)}))
    }
}

/// One probe or call.
struct Asked {
    place: String,
    key: String,
    /// How long the kubelet waits.
    seconds: i64,
}

fn number(port: &Value, ports: &Value) -> Option<u16> {
    let from_number = |number: u64| u16::try_from(number).ok().filter(|port| *port > 0);
    if let Some(number) = port.as_u64() {
        return from_number(number);
    }
    let name = port.as_str()?;
    let named = ports.as_array()?.iter().find(|port| port.get("name").and_then(Value::as_str) == Some(name));
    match named {
        Some(port) => from_number(port.get("containerPort")?.as_u64()?),
        // The kubelet takes "8080" for a number as well.
        None => name.parse().ok().filter(|port| *port > 0),
    }
}
