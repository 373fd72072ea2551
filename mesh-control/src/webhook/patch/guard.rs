//! What a pod must not have if its proxy is to stand between it and the network.

use super::settings::Settings;
use super::{Before, INIT, PROXY, PROXY_UID, Problem, RESERVED, VOLUMES};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// Containers of a pod with the place of each: init containers first.
fn all(spec: &PodSpec) -> impl Iterator<Item = (String, &Container)> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(index, container)| (format!("spec.initContainers[{index}]"), container));
    let main = spec.containers.iter().enumerate();
    init.chain(main.map(|(index, container)| (format!("spec.containers[{index}]"), container)))
}

/// Everything for which the pod is refused.
pub(super) fn check(_pod: &Pod, spec: &PodSpec, was: &Before) -> Vec<Problem> {
    let mut problems = Vec::new();
    if spec.containers.is_empty() {
        problems.push(Problem::new("spec.containers", "", "a pod has at least one container"));
    }
    let pod_user = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    for (place, container) in all(spec).filter(|(_, container)| !was.is_ours(container)) {
        if [INIT, PROXY].contains(&container.name.as_str()) {
            let allowed = "the name is that of the mesh's own container; rename this one";
            problems.push(Problem::new(format!("{place}.name"), &container.name, allowed));
        }
        let own_user = container.security_context.as_ref().and_then(|context| context.run_as_user);
        if own_user.or(pod_user) == Some(PROXY_UID) {
            let field = if own_user.is_some() {
                format!("{place}.securityContext.runAsUser")
            } else {
                "spec.securityContext.runAsUser".to_owned()
            };
            let allowed =
                "this is the user of the proxy, whose connections are not redirected; choose another";
            problems.push(Problem::new(field, PROXY_UID, allowed));
        }
        for (index, port) in container.ports.iter().flatten().enumerate() {
            if RESERVED.iter().any(|reserved| i32::from(*reserved) == port.container_port) {
                let allowed =
                    "the ports 15000, 15001, 15006, 15008 and 15020 are the proxy's; choose another";
                problems.push(Problem::new(
                    format!("{place}.ports[{index}].containerPort"),
                    port.container_port,
                    allowed,
                ));
            }
        }
    }
    if !was.is_injected {
        for (index, volume) in spec.volumes.iter().flatten().enumerate() {
            if VOLUMES.contains(&volume.name.as_str()) {
                let allowed = "the name is that of the mesh's own volume; rename this one";
                problems.push(Problem::new(format!("spec.volumes[{index}].name"), &volume.name, allowed));
            }
        }
    }
    problems.dedup();
    problems
}

/// What weakens the mesh without being forbidden.
pub(super) fn warnings(spec: &PodSpec, settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    for (place, container) in
        all(spec).filter(|(_, container)| ![INIT, PROXY].contains(&container.name.as_str()))
    {
        let Some(context) = &container.security_context else { continue };
        let added = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_ref());
        let can_rule = |name: &String| ["NET_ADMIN", "CAP_NET_ADMIN", "ALL"].contains(&name.as_str());
        let holds = if context.privileged == Some(true) {
            Some("privileged: true")
        } else {
            added.is_some_and(|names| names.iter().any(can_rule)).then_some("capability NET_ADMIN")
        };
        if let Some(holds) = holds {
            warnings.push(format!(
                "{place} ({}) has {holds} and could undo the redirection of the pod's traffic to its proxy; drop it",
                container.name
            ));
        }
    }
    if matches!(spec.dns_policy.as_deref(), Some("Default" | "None")) {
        warnings.push(
            "spec.dnsPolicy is not ClusterFirst: unless the pod's own DNS knows the cluster's names, its proxy will \
             not find the control plane, and the pod will not start"
                .to_owned(),
        );
    }
    if settings.skip_cidrs.iter().any(|cidr| cidr.ends_with("/0")) {
        warnings.push("meshctl.io/skip-outbound-cidrs leaves out a whole address family: those calls are not in the mesh".to_owned());
    }
    warnings
}
