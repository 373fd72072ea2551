//! The mesh's own resources, looked at before the cluster takes them: the words are those that `meshctl apply` prints.
//!
//! # What is refused and what is only said
//! What is wrong with an object by itself, or with it among the others for good, is refused. What points to an object that does
//! not exist is said: a cluster takes objects one by one, in any order, and the object's status tells it until the other has
//! come. A deletion is never refused for the same reason. An object that the cluster already has is not refused for a change
//! beside its `spec`: labels, finalizers and owners must go on, whatever a newer release thinks of the rest.

use super::review::{Answer, Request};
use crate::cluster::ours::{self, OurKind};
use kube::core::DynamicObject;
use mesh_proto::resource::problem::Code;
use mesh_proto::resource::{Problem, Resource, ResourceKey};
use serde_json::{Value, json};

/// Finds what is wrong with a resource among the others; `None`: it is to be deleted.
pub(super) type Among = Box<dyn Fn(&ResourceKey, Option<&Resource>) -> Vec<Problem> + Send + Sync>;

/// The answer to a change of one of the mesh's objects.
pub(super) fn answer(request: &Request, among: &Among) -> Answer {
    let Some(kind) = OurKind::named(&request.kind.kind).filter(|_| request.kind.group == ours::GROUP) else {
        let asked = request.kind.text();
        return Answer::denied(format!(
            "{asked} is no kind of the mesh; the webhook asks for the wrong kind"
        ));
    };
    if request.operation == "DELETE" {
        return deletion(kind, &request.old_object, among);
    }
    let mut object = request.object.clone();
    name(&mut object);
    let object: DynamicObject = match serde_json::from_value(object) {
        Ok(object) => object,
        Err(error) => return Answer::denied(format!("the object cannot be read: {error}")),
    };
    let is_beside =
        request.operation == "UPDATE" && request.object.get("spec") == request.old_object.get("spec");
    let found = match ours::read(kind, &object) {
        Err(problems) => problems,
        Ok(document) => among(&document.resource.key(), Some(&document.resource)),
    };
    let is_refused =
        |problem: &Problem| problem.is_error() && problem.code != Code::UnknownReference && !is_beside;
    let (refused, said): (Vec<Problem>, Vec<Problem>) = found.into_iter().partition(is_refused);
    let warnings = warnings(&said);
    if refused.is_empty() {
        return Answer::Allowed { operations: Vec::new(), warnings };
    }
    Answer::Denied { problems: refused.iter().map(ToString::to_string).collect(), warnings }
}

fn deletion(kind: &OurKind, old: &Value, among: &Among) -> Answer {
    let text = |field: &str| old.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
    let key = text("name").and_then(|name| kind.key(text("namespace"), name));
    // What the mesh never took in is nobody's loss.
    let said = key.map(|key| among(&key, None)).unwrap_or_default();
    Answer::Allowed { operations: Vec::new(), warnings: warnings(&said) }
}

fn warnings(problems: &[Problem]) -> Vec<String> {
    let text = |problem: &Problem| problem.to_string().replacen("warning: ", "", 1);
    problems.iter().map(text).collect()
}

/// A name that the API server has yet to make is a good one.
fn name(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let is_named = metadata.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if let (false, Some(start)) = (is_named, metadata.get("generateName").and_then(Value::as_str)) {
        let made = format!("{start}00000");
        metadata.insert("name".to_owned(), json!(made));
    }
}
