//! Whether this user may do what a command needs, asked before anything is changed (SelfSubjectAccessReview).

use super::access::Cluster;
use super::object::Name;
use crate::failure::Failure;
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Questions that are open at the same time: enough to hide the way to the server, little enough not to be throttled.
const OPEN_MAX: usize = 16;

/// One right: a verb on a kind of objects.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Right {
    /// `create`.
    pub(crate) verb: &'static str,
    /// `apps`; empty for the oldest kinds.
    pub(crate) group: String,
    /// `deployments`, or `pods/portforward`.
    pub(crate) resource: String,
    /// `None`: in the whole cluster.
    pub(crate) namespace: Option<String>,
}

impl Right {
    /// A right on a kind.
    pub(crate) fn new(verb: &'static str, group: &str, resource: &str, namespace: Option<&str>) -> Self {
        let namespace = namespace.map(str::to_owned);
        Self { verb, group: group.to_owned(), resource: resource.to_owned(), namespace }
    }
}

/// `create, get deployments.apps in mesh-system`: one line for each kind.
pub(crate) fn by_kind(rights: &[Right]) -> Vec<String> {
    let mut verbs: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for right in rights {
        verbs.entry(right.kind()).or_default().push(right.verb);
    }
    verbs.into_iter().map(|(kind, verbs)| format!("{} {kind}", verbs.join(", "))).collect()
}

impl Right {
    /// `deployments.apps in mesh-system`.
    fn kind(&self) -> String {
        let of = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let within = self.namespace.as_ref().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
        format!("{}{of}{within}", self.resource)
    }
}

/// The rights that these verbs on these objects need, each once.
pub(crate) fn on_objects(objects: &[Value], verbs: &[&'static str]) -> BTreeSet<Right> {
    let right = |object: &Value, verb| {
        let name = Name::of(object);
        Right::new(verb, name.group(), &name.plural(), name.namespace.as_deref())
    };
    objects.iter().flat_map(|object| verbs.iter().map(move |verb| right(object, verb))).collect()
}

/// The rights that this user lacks.
///
/// # Errors
/// The API server did not answer.
pub(crate) async fn missing(cluster: &Cluster, rights: BTreeSet<Right>) -> Result<Vec<Right>, Failure> {
    let asked = stream::iter(rights).map(|right| async move {
        let may = may(cluster, &right).await?;
        Ok::<_, Failure>((right, may))
    });
    let answers: Vec<_> = asked.buffered(OPEN_MAX).collect().await;
    let mut lacking = Vec::new();
    for answer in answers {
        let (right, may) = answer?;
        if !may {
            lacking.push(right);
        }
    }
    Ok(lacking)
}

/// Refuses a user who lacks rights; `doing` is the command.
///
/// # Errors
/// Names each right that is missing.
pub(crate) async fn require(cluster: &Cluster, doing: &str, rights: BTreeSet<Right>) -> Result<(), Failure> {
    let lacking = missing(cluster, rights).await?;
    if lacking.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = by_kind(&lacking).iter().map(|line| format!("  {line}")).collect();
    Err(Failure::failed(format!(
        "this user may not do what {doing} needs on cluster {}; nothing was changed. Missing:\n{}",
        cluster.name,
        lines.join("\n")
    ))
    .next("kubectl auth whoami   # then ask for the ClusterRole cluster-admin, or for these rights"))
}

async fn may(cluster: &Cluster, right: &Right) -> Result<bool, Failure> {
    let (resource, part) = match right.resource.split_once('/') {
        Some((resource, part)) => (resource.to_owned(), Some(part.to_owned())),
        None => (right.resource.clone(), None),
    };
    let question = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: Some(right.verb.to_owned()),
                group: Some(right.group.clone()),
                resource: Some(resource),
                subresource: part,
                namespace: right.namespace.clone(),
                ..ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let answer = reviews.create(&PostParams::default(), &question).await;
    let answer = answer.map_err(|error| cluster.failure("ask what this user may do", &error))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rights_follow_from_the_objects_and_are_asked_once() {
        let object = |kind: &str, namespace: Option<&str>| {
            let mut metadata = json!({ "name": "x" });
            if let Some(namespace) = namespace {
                metadata["namespace"] = namespace.into();
            }
            json!({ "kind": kind, "apiVersion": "apps/v1", "metadata": metadata })
        };
        let objects =
            [object("Deployment", Some("a")), object("Deployment", Some("a")), object("Node", None)];
        let rights: Vec<Right> = on_objects(&objects, &["create", "patch"]).into_iter().collect();
        assert_eq!(rights.len(), 4);
        assert_eq!(by_kind(&rights), ["create, patch deployments.apps in a", "create, patch nodes.apps"]);
    }
}
