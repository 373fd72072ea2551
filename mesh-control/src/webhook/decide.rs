//! What is answered to which question, by the path that was called. Pure.

use super::patch::{self, Options, Origin, Outcome};
use super::review::{Answer, Request};
use super::validate::{self, Among};
use hyper::StatusCode;
use mesh_proto::name::Namespace;

/// Gives pods their proxy.
pub(super) const INJECT: &str = "/inject";
/// Checks resources of the mesh.
pub(super) const VALIDATE: &str = "/validate";

/// What the answers depend on.
pub(super) struct Decider {
    /// For injected pods.
    pub(super) options: Options,
    /// The control plane's namespace, whose pods never get a proxy.
    pub(super) namespace: Namespace,
    /// For resources of the mesh.
    pub(super) among: Among,
}

impl Decider {
    /// The status and the body for a call of `path`.
    pub(super) fn answer(&self, path: &str, body: &[u8]) -> (StatusCode, String) {
        if path != INJECT && path != VALIDATE {
            return (StatusCode::NOT_FOUND, format!("there are {INJECT} and {VALIDATE}\n"));
        }
        let request = match Request::read(body) {
            Ok(request) => request,
            Err(problem) => return (StatusCode::BAD_REQUEST, problem + "\n"),
        };
        let answer = match path {
            INJECT => self.inject(&request),
            _ => validate::answer(&request, &self.among),
        };
        (StatusCode::OK, answer.to_json(&request.uid))
    }

    fn inject(&self, request: &Request) -> Answer {
        if (request.kind.group.as_str(), request.kind.kind.as_str()) != ("", "Pod") {
            let asked = request.kind.text();
            return Answer::denied(format!(
                "only pods get a proxy, not {asked}; the webhook asks for the wrong kind"
            ));
        }
        let namespace = request.namespace.as_deref().unwrap_or_default();
        if request.operation != "CREATE" || namespace == "kube-system" || namespace == self.namespace.as_str()
        {
            return Answer::unchanged();
        }
        match patch::inject(&request.object, Origin::Pod, &self.options) {
            Ok(Outcome::Injected { pod, warnings }) => {
                let operations = patch::operations(&request.object, &pod);
                let warnings = warnings.into_iter().map(|warning| format!("meshctl: {warning}")).collect();
                Answer::Allowed { operations, warnings }
            }
            Ok(Outcome::Skipped { reason, is_surprising }) => {
                let warning = is_surprising.then(|| format!("meshctl: the pod gets no proxy: {reason}"));
                Answer::Allowed { operations: Vec::new(), warnings: warning.into_iter().collect() }
            }
            Err(problems) => Answer::Denied {
                problems: problems.iter().map(ToString::to_string).collect(),
                warnings: Vec::new(),
            },
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
