//! The mesh's resources as objects of a cluster: written and removed through its API server, under the user's own rights.
//!
//! Called by `apply`, `delete` and `rollback` where the mesh is that of a cluster. The control plane has checked the change as
//! a whole before, and said what it is; what stands here only makes it so: everything is tried first, and nothing is changed
//! when one object would be refused.
//!
//! # Why
//! A whole object is replaced rather than applied field by field: going back to a former state must also take away what
//! others have added since.

use super::access::{Cluster, is_absent, words};
use super::manifest::GROUP;
use super::object::{FIELD_MANAGER, Name, Write};
use crate::failure::Failure;
use kube::api::{DeleteParams, DynamicObject, PostParams};
use mesh_proto::resource::Kind;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at the status of what was written.
const PAUSE: Duration = Duration::from_millis(200);

/// What is to be done to one object.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Step {
    /// It is made, or becomes this.
    Write(Value),
    /// It goes.
    Remove(Name),
}

/// An object that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Written {
    name: Name,
    /// Its form, in the API server's count.
    generation: i64,
}

/// How far what was written is in force.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct InForce {
    /// Objects that are: enforced by every proxy that they are about.
    pub(crate) done: usize,
    /// The others, each with what its status says.
    pub(crate) waiting: Vec<String>,
}

/// The object of a cluster that is this resource.
///
/// # Errors
/// The cluster has no such kind.
pub(crate) fn name(kind: &str, namespace: &str, name: &str) -> Result<Name, Failure> {
    let known = Kind::from_word(kind);
    // What is about the whole mesh has a kind of its own, so that rights in a namespace are no rights over all.
    let kind = match (known, namespace) {
        (Some(Kind::AccessPolicy), "") => "MeshAccessPolicy",
        (Some(Kind::RateLimit), "") => "MeshRateLimit",
        (Some(kind @ (Kind::Service | Kind::Workload)), _) => {
            return Err(Failure::failed(format!(
                "a {kind} is no object of a cluster: Kubernetes' own services and pods take its place; nothing was changed"
            ))
            .next("kubectl get services,pods --all-namespaces"));
        }
        (Some(kind), _) => kind.as_str(),
        (None, _) => kind,
    };
    Ok(Name {
        api_version: format!("{GROUP}/v1alpha1"),
        kind: kind.to_owned(),
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        name: name.to_owned(),
    })
}

/// The object that a document describes.
///
/// # Errors
/// It is not YAML, or of no kind that the cluster has.
pub(crate) fn object(yaml: &str) -> Result<Value, Failure> {
    let mut object: Value = serde_saphyr::from_str(yaml)
        .map_err(|error| Failure::failed(format!("the document is not YAML: {error}")))?;
    let Name { kind, namespace, name: called, .. } = Name::of(&object);
    let name = name(&kind, namespace.as_deref().unwrap_or_default(), &called)?;
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), name.api_version.into());
        map.insert("kind".to_owned(), name.kind.into());
    }
    Ok(object)
}

/// Does everything, or nothing where the API server would refuse one of them.
///
/// # Errors
/// What is refused. Where a refusal comes in the middle all the same, how far it went.
pub(crate) async fn carry_out(cluster: &Cluster, steps: &[Step]) -> Result<Vec<Written>, Failure> {
    for step in steps {
        one(cluster, step, Write::Try)
            .await
            .map_err(|error| refused(cluster, step, &error, "nothing was changed"))?;
    }
    let mut written = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let far = format!("{index} of {} objects were changed before; type the same again", steps.len());
        let made = one(cluster, step, Write::Do).await;
        written.extend(made.map_err(|error| refused(cluster, step, &error, &far))?);
    }
    Ok(written)
}

async fn one(cluster: &Cluster, step: &Step, write: Write) -> Result<Option<Written>, kube::Error> {
    let dry_run = write == Write::Try;
    let params = PostParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()) };
    match step {
        Step::Remove(name) => {
            let how = DeleteParams { dry_run, ..DeleteParams::default() };
            match name.api(cluster).delete(&name.name, &how).await {
                Ok(_) => Ok(None),
                // Somebody was faster.
                Err(error) if is_absent(&error) => Ok(None),
                Err(error) => Err(error),
            }
        }
        Step::Write(object) => {
            let name = Name::of(object);
            let api = name.api(cluster);
            let wanted: DynamicObject =
                serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
            let made = match api.get_opt(&name.name).await? {
                None => api.create(&params, &wanted).await?,
                // With the version that was read: what somebody else changes in this moment is not undone.
                Some(found) => api.replace(&name.name, &params, &becomes(found, wanted)).await?,
            };
            Ok(Some(Written { name, generation: made.metadata.generation.unwrap_or_default() }))
        }
    }
}

/// The object as it is wanted, with what the cluster keeps of the one that is there.
fn becomes(mut found: DynamicObject, wanted: DynamicObject) -> DynamicObject {
    found.metadata.labels = wanted.metadata.labels;
    found.metadata.managed_fields = None;
    if let (Some(is), Some(spec)) = (found.data.as_object_mut(), wanted.data.get("spec")) {
        is.insert("spec".to_owned(), spec.clone());
    }
    found
}

fn refused(cluster: &Cluster, step: &Step, error: &kube::Error, far: &str) -> Failure {
    let (name, doing) = match step {
        Step::Write(object) => (Name::of(object), "write"),
        Step::Remove(name) => (name.clone(), "remove"),
    };
    let failure = Failure::failed(format!(
        "cannot {doing} {name} on cluster {}: {}; {far}",
        cluster.name,
        words(error)
    ));
    match super::access::status(error).map(|status| status.code) {
        Some(403) => {
            let within = name.namespace.as_ref().map(|within| format!(" -n {within}")).unwrap_or_default();
            failure.next(format!(
                "kubectl auth can-i update {}.{GROUP}{within}   # then ask for the ClusterRole meshctl-policy-author",
                Name { namespace: None, ..name.clone() }.plural()
            ))
        }
        Some(409) => failure.next("the same command again: somebody has changed the object in this moment"),
        _ => failure,
    }
}

/// Waits until every proxy enforces what was written, as the objects' own status says.
///
/// # Errors
/// The API server's refusal.
#[expect(clippy::disallowed_methods, reason = "the deadline of a command that waits for a cluster")]
pub(crate) async fn wait(
    cluster: &Cluster,
    written: &[Written],
    deadline: Duration,
) -> Result<InForce, Failure> {
    let until = Instant::now() + deadline;
    loop {
        let mut far = InForce::default();
        for Written { name, generation } in written {
            match super::object::find(cluster, name).await? {
                // Removed by somebody: there is nothing to wait for.
                None => far.done = far.done.saturating_add(1),
                Some(found) => match settled(&found, *generation) {
                    Ok(()) => far.done = far.done.saturating_add(1),
                    Err(says) => far.waiting.push(format!("{name}: {says}")),
                },
            }
        }
        if far.waiting.is_empty() || Instant::now() >= until {
            return Ok(far);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether an object's status is about this form of it and final; else what it says.
fn settled(found: &DynamicObject, generation: i64) -> Result<(), String> {
    let text =
        |key: &str| found.data.pointer(&format!("/status/{key}")).and_then(Value::as_str).unwrap_or_default();
    let seen = found.data.pointer("/status/observedGeneration").and_then(Value::as_i64).unwrap_or_default();
    if seen < generation {
        return Err("not looked at yet".to_owned());
    }
    let (state, enforced) = (text("state"), text("enforced"));
    let is_everywhere = enforced.split_once('/').is_none_or(|(is, of)| is == of);
    match state {
        "" | "Pending" => Err("pending".to_owned()),
        "Invalid" => Err(format!("invalid: {}", text("message"))),
        _ if is_everywhere => Ok(()),
        state => Err(format!("{state} {enforced}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_about_the_whole_mesh_has_a_kind_of_its_own() {
        for (kind, namespace, expected) in [
            ("AccessPolicy", "shop", "AccessPolicy shop/web"),
            ("AccessPolicy", "", "MeshAccessPolicy web"),
            ("RateLimit", "", "MeshRateLimit web"),
            ("Segment", "", "Segment web"),
        ] {
            assert_eq!(name(kind, namespace, "web").unwrap().to_string(), expected);
        }
        assert!(name("Service", "shop", "web").unwrap_err().message.contains("no object of a cluster"));
    }

    #[test]
    fn a_document_becomes_the_object_of_a_cluster() {
        let yaml = "apiVersion: meshctl.io/v1alpha1\nkind: AccessPolicy\nmetadata: {name: web}\nspec: {guardrail: true}\n";
        let made = object(yaml).unwrap();
        assert_eq!(made["kind"], "MeshAccessPolicy");
        assert_eq!(made["spec"]["guardrail"], true);
    }

    #[test]
    fn an_object_that_is_replaced_keeps_what_the_cluster_says_of_it_and_nothing_else() {
        let dynamic = |value: Value| serde_json::from_value::<DynamicObject>(value).unwrap();
        let found = dynamic(json!({
            "apiVersion": "g/v1", "kind": "K", "spec": { "a": 1, "b": 2 }, "status": { "state": "Enforced" },
            "metadata": { "name": "x", "resourceVersion": "7", "labels": { "old": "yes" }, "finalizers": ["f"] },
        }));
        let wanted = dynamic(
            json!({ "apiVersion": "g/v1", "kind": "K", "metadata": { "name": "x" }, "spec": { "a": 3 } }),
        );
        let made = serde_json::to_value(becomes(found, wanted)).unwrap();
        assert_eq!(made["spec"], json!({ "a": 3 }));
        assert_eq!(made["metadata"], json!({ "name": "x", "resourceVersion": "7", "finalizers": ["f"] }));
    }

    #[test]
    fn only_a_final_word_about_this_form_ends_the_wait() {
        let is = |status: Value| {
            let value =
                json!({ "apiVersion": "g/v1", "kind": "K", "metadata": { "name": "x" }, "status": status });
            settled(&serde_json::from_value(value).unwrap(), 2).is_ok()
        };
        assert!(!is(json!({})));
        assert!(!is(json!({ "observedGeneration": 1, "state": "Enforced", "enforced": "3/3" })));
        assert!(!is(json!({ "observedGeneration": 2, "state": "Enforced", "enforced": "2/3" })));
        assert!(is(json!({ "observedGeneration": 2, "state": "Enforced", "enforced": "3/3" })));
        assert!(is(json!({ "observedGeneration": 2, "state": "NoMatch" })));
        assert!(!is(json!({ "observedGeneration": 2, "state": "Invalid", "message": "m" })));
    }
}
