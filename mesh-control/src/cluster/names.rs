//! What the mesh calls things that Kubernetes calls otherwise. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_proto::name::{InstanceName, ObjectName};
use mesh_proto::policy::model::Protocol;
use std::net::IpAddr;

/// The label with which a Deployment tells its pods' generations apart (Kubernetes, well-known labels).
const TEMPLATE_HASH: &str = "pod-template-hash";

/// The workload a pod belongs to: whatever its user wrote, so its controller's name, and for those that Kubernetes makes in
/// between (ReplicaSets, the Jobs of a CronJob) their maker's. A pod of its own is its own workload.
pub(crate) fn workload(pod: &ObjectMeta) -> Option<ObjectName> {
    let controller = pod.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let name = match controller {
        None => pod.name.as_deref()?,
        Some(owner) if owner.kind == "ReplicaSet" => {
            let hash = pod.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH));
            hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'))
                .unwrap_or(&owner.name)
        }
        // A CronJob names its jobs after itself and the minute they are due.
        Some(owner) if owner.kind == "Job" => match owner.name.rsplit_once('-') {
            Some((cron, minute)) if minute.len() >= 8 && minute.bytes().all(|b| b.is_ascii_digit()) => cron,
            _ => &owner.name,
        },
        Some(owner) => &owner.name,
    };
    name.parse().ok()
}

/// What an unmeshed endpoint is called: as its pod, or else by its address.
pub(crate) fn instance(pod: Option<&str>, ip: IpAddr) -> Option<InstanceName> {
    if let Some(name) = pod.and_then(|name| name.parse().ok()) {
        return Some(name);
    }
    format!("ip-{}", ip.to_string().replace(['.', ':'], "-").trim_matches('-')).parse().ok()
}

/// What a port speaks, by its `appProtocol` or the first word of its name; `None`: whatever its callers speak.
///
/// `http` is not taken for a promise of HTTP/1: half of those who write it mean HTTP/2 as well.
pub(crate) fn protocol(app_protocol: Option<&str>, name: &str) -> Option<Protocol> {
    let word = app_protocol.unwrap_or_else(|| name.split('-').next().unwrap_or_default());
    let word = word.to_ascii_lowercase();
    match word.strip_prefix("kubernetes.io/").unwrap_or(&word) {
        "h2c" | "http2" => Some(Protocol::Http2),
        "grpc" => Some(Protocol::Grpc),
        "tls" | "https" => Some(Protocol::Tls),
        "tcp" | "mysql" | "redis" | "mongo" | "postgres" | "postgresql" | "kafka" | "amqp" | "smtp" => {
            Some(Protocol::Tcp)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn pod(name: &str, owner: Option<(&str, &str)>, hash: Option<&str>) -> ObjectMeta {
        let owner = owner.map(|(kind, name)| OwnerReference {
            kind: kind.to_owned(),
            name: name.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        });
        ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: owner.map(|owner| vec![owner]),
            labels: hash.map(|hash| [(TEMPLATE_HASH.to_owned(), hash.to_owned())].into()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_pod_belongs_to_what_its_user_wrote() {
        for (name, owner, hash, expected) in [
            ("web-7d9f-abcde", Some(("ReplicaSet", "web-7d9f")), Some("7d9f"), "web"),
            ("web-7d9f-abcde", Some(("ReplicaSet", "web-7d9f")), None, "web-7d9f"),
            ("db-0", Some(("StatefulSet", "db")), None, "db"),
            ("agent-x", Some(("DaemonSet", "agent")), None, "agent"),
            ("nightly-29400000-x", Some(("Job", "nightly-29400000")), None, "nightly"),
            ("import-2-x", Some(("Job", "import-2")), None, "import-2"),
            ("alone", None, None, "alone"),
        ] {
            assert_eq!(workload(&pod(name, owner, hash)).unwrap().as_str(), expected, "{name}");
        }
    }

    #[test]
    fn an_endpoint_without_a_pod_is_called_by_its_address() {
        for (name, ip, expected) in [
            (Some("old-1"), "10.0.0.7", "old-1"),
            (None, "10.0.0.7", "ip-10-0-0-7"),
            (Some("not.a.label"), "fd00::7", "ip-fd00--7"),
        ] {
            assert_eq!(instance(name, ip.parse().unwrap()).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn a_port_says_what_it_speaks() {
        for (app, name, expected) in [
            (Some("kubernetes.io/h2c"), "http", Some(Protocol::Http2)),
            (Some("grpc"), "", Some(Protocol::Grpc)),
            (None, "grpc-api", Some(Protocol::Grpc)),
            (None, "grpcapi", None),
            (None, "http", None),
            (None, "https-web", Some(Protocol::Tls)),
            (None, "tcp-db", Some(Protocol::Tcp)),
            (None, "redis", Some(Protocol::Tcp)),
            (Some("example.com/own"), "tcp", None),
            (None, "", None),
        ] {
            assert_eq!(protocol(app, name), expected, "{app:?} {name}");
        }
    }
}
