//! Making the mesh on a cluster: what must hold before, the order, and the wait for each step.
//!
//! Each step leaves what is there already as it should be, so that an installation that broke off goes on at the next try.

use super::access::{Cluster, status, words};
use super::manifest::{self, CONTROL, GROUP, NAMESPACE, SEAL_KEY, WEBHOOKS};
use super::object::{self, Name, Write};
use super::values::{Kept, Values};
use super::{permission, ready};
use crate::failure::Failure;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Definitions are taken up within a second; more means that the API server is not well.
const DEFINITIONS_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Refuses a cluster that is too old, and a user who may not install.
///
/// # Errors
/// Which version, or which rights; nothing was changed.
pub(crate) async fn permit(cluster: &Cluster) -> Result<(), Failure> {
    cluster.require_version()?;
    let objects = manifest::for_version(manifest::objects(&Values::default()), cluster.minor);
    permission::require(cluster, "an installation", rights(&objects)).await
}

/// What was chosen at earlier installations; nothing where there was none.
///
/// # Errors
/// The API server's refusal.
pub(crate) async fn kept(cluster: &Cluster) -> Result<Kept, Failure> {
    let name = Name {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        namespace: Some(NAMESPACE.to_owned()),
        name: manifest::VALUES.to_owned(),
    };
    let found = object::find(cluster, &name).await?;
    let data = found.as_ref().and_then(|found| found.data.get("data")).and_then(Value::as_object);
    let values = data.into_iter().flatten().filter(|(key, _)| *key != manifest::VERSION_KEY);
    Ok(values.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
}

/// Refuses where an installation would fail by half: foreign objects, another trust domain.
///
/// # Errors
/// What stands in the way; nothing was changed.
pub(crate) async fn prepare(cluster: &Cluster, objects: &[Value], values: &Values) -> Result<(), Failure> {
    for object in objects {
        let name = Name::of(object);
        if let Some(found) = object::find(cluster, &name).await? {
            refuse_foreign(cluster, &name, &found)?;
            if name.kind == "Deployment" {
                refuse_trust_domain(cluster, &found, values)?;
            }
        }
    }
    // What the API server would refuse in the middle, such as rights that this user cannot hand on.
    for object in objects.iter().filter(|object| Name::of(object).namespace.is_none()) {
        object::apply(cluster, object, Write::Try).await.map_err(|error| refused(cluster, object, &error))?;
    }
    Ok(())
}

fn rights(objects: &[Value]) -> BTreeSet<permission::Right> {
    let mut rights = permission::on_objects(objects, &["get", "create", "patch"]);
    rights.insert(permission::Right::new("create", "", "secrets", Some(NAMESPACE)));
    rights.insert(permission::Right::new("list", "", "pods", Some(NAMESPACE)));
    rights
}

/// Refuses what somebody else has made under our names.
fn refuse_foreign(cluster: &Cluster, name: &Name, found: &DynamicObject) -> Result<(), Failure> {
    let annotations = found.metadata.annotations.as_ref();
    if let Some(release) = annotations.and_then(|map| map.get("meta.helm.sh/release-name")) {
        return Err(Failure::failed(format!(
            "{name} on cluster {} belongs to the Helm release {release}; nothing was changed",
            cluster.name
        ))
        .next(format!(
            "helm upgrade {release} deploy/chart   # keep to Helm, or first: helm uninstall {release}"
        )));
    }
    let labels = found.metadata.labels.as_ref();
    let is_ours =
        labels.and_then(|map| map.get("app.kubernetes.io/part-of")).is_some_and(|part| part == "meshctl");
    // A namespace may be there beforehand: some clusters let only few make them.
    if is_ours || name.kind == "Namespace" {
        return Ok(());
    }
    let plural = name.plural();
    let of = if name.group().is_empty() { String::new() } else { format!(".{}", name.group()) };
    let within = name.namespace.as_ref().map(|ns| format!(" --namespace {ns}")).unwrap_or_default();
    Err(Failure::failed(format!(
        "{name} exists on cluster {} and was not made by meshctl (it lacks the label app.kubernetes.io/part-of: meshctl); \
         nothing was changed",
        cluster.name
    ))
    .next(format!("kubectl get {plural}{of} {}{within} -o yaml   # whose it is", name.name))
    .next(format!("kubectl delete {plural}{of} {}{within}   # if nobody needs it, with all objects of its kind", name.name)))
}

/// Every identity is named after the trust domain: another one is another mesh.
fn refuse_trust_domain(cluster: &Cluster, found: &DynamicObject, values: &Values) -> Result<(), Failure> {
    let arguments = found.data.pointer("/spec/template/spec/containers/0/args").and_then(Value::as_array);
    let texts = arguments.into_iter().flatten().filter_map(Value::as_str);
    let present = texts.filter_map(|text| text.strip_prefix("--trust-domain=")).next();
    match present {
        Some(present) if present != values.trust_domain => Err(Failure::failed(format!(
            "the mesh on cluster {} has the trust domain {present}, not {}: every identity is named after it, and so it \
             cannot be changed; nothing was changed",
            cluster.name, values.trust_domain
        ))
        .next(format!("meshctl install --set trustDomain={present}"))
        .next("meshctl uninstall   # first, for a new mesh under another name")),
        _ => Ok(()),
    }
}

/// Makes everything, in order. `tell` hears of each step.
///
/// # Errors
/// The object that the API server refused, with what was made before it.
pub(crate) async fn make(
    cluster: &Cluster,
    objects: &[Value],
    mut tell: impl FnMut(&str),
) -> Result<(), Failure> {
    let is_definition = |object: &&Value| Name::of(object).kind == "CustomResourceDefinition";
    let is_guard = |object: &&Value| Name::of(object).kind.starts_with("ValidatingAdmissionPolicy");
    let is_namespace = |object: &&Value| Name::of(object).kind == "Namespace";
    for object in objects.iter().filter(is_namespace) {
        put(cluster, object).await?;
        tell(&format!("namespace {NAMESPACE}"));
    }
    // In force before there is anything to guard.
    for object in objects.iter().filter(is_guard) {
        put(cluster, object).await?;
    }
    let definitions: Vec<&Value> = objects.iter().filter(is_definition).collect();
    for object in &definitions {
        put(cluster, object).await?;
    }
    established(cluster, &definitions).await?;
    tell(&format!("{} kinds of {GROUP}", definitions.len()));
    if make_key(cluster, SEAL_KEY).await? {
        tell(&format!("key {}", SEAL_KEY.0));
    }
    for object in objects.iter().filter(|o| !is_definition(o) && !is_namespace(o) && !is_guard(o)) {
        put(cluster, object).await?;
    }
    tell("rights, service, webhooks, deployment");
    Ok(())
}

/// Waits until every replica is ready and the API server trusts its webhooks.
///
/// # Errors
/// Which pod is not ready and why; or that the bundle is missing.
#[expect(clippy::disallowed_methods, reason = "the deadline of a command that waits for a cluster")]
pub(crate) async fn finish(
    cluster: &Cluster,
    deadline: Duration,
    mut tell: impl FnMut(&str),
) -> Result<(), Failure> {
    let until = Instant::now() + deadline;
    ready::wait(cluster, deadline, &mut tell).await?;
    loop {
        let mut lacking = None;
        for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
            if !is_trusted(object::find(cluster, &webhooks(kind)).await?.as_ref()) {
                lacking = Some(kind);
            }
        }
        let Some(kind) = lacking else { return Ok(()) };
        if Instant::now() >= until {
            return Err(Failure::failed(format!(
                "the control plane on cluster {} runs, but has not written its bundle into the {kind} {WEBHOOKS} within {} s",
                cluster.name,
                deadline.as_secs()
            ))
            .next(format!("kubectl --namespace {NAMESPACE} logs deployment/{CONTROL}"))
            .next("meshctl install   # again"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The name of a webhook configuration of ours.
pub(crate) fn webhooks(kind: &str) -> Name {
    Name {
        api_version: "admissionregistration.k8s.io/v1".to_owned(),
        kind: kind.to_owned(),
        namespace: None,
        name: WEBHOOKS.to_owned(),
    }
}

/// Whether each webhook has the bundle that proves the control plane.
pub(crate) fn is_trusted(found: Option<&DynamicObject>) -> bool {
    let webhooks = found.and_then(|found| found.data.get("webhooks")).and_then(Value::as_array);
    webhooks.is_some_and(|webhooks| {
        webhooks.iter().all(|webhook| {
            let bundle = webhook.pointer("/clientConfig/caBundle").and_then(Value::as_str);
            bundle.is_some_and(|bundle| !bundle.is_empty())
        })
    })
}

async fn put(cluster: &Cluster, object: &Value) -> Result<(), Failure> {
    object::apply(cluster, object, Write::Do)
        .await
        .map(drop)
        .map_err(|error| refused(cluster, object, &error))
}

fn refused(cluster: &Cluster, object: &Value, error: &kube::Error) -> Failure {
    let name = Name::of(object);
    let failure = Failure::failed(format!("cluster {} refuses {name}: {}", cluster.name, words(error)));
    match status(error) {
        Some(status) if status.code == 403 => failure
            .next("kubectl auth whoami   # then ask for the ClusterRole cluster-admin")
            .next("meshctl install   # again: it goes on where it stopped"),
        _ => failure.next("meshctl install   # again: it goes on where it stopped"),
    }
}

/// Makes a key unless there is one; true when it did.
async fn make_key(cluster: &Cluster, key: (&str, &str)) -> Result<bool, Failure> {
    let text = mesh_ca::seal::random_key_text()
        .ok_or_else(|| Failure::failed("this machine's random source failed; no key was made"))?;
    let secret: Secret = serde_json::from_value(manifest::secret(key, &text))
        .map_err(|error| Failure::failed(format!("cannot make Secret {}: {error}", key.0)))?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    // A creation never overwrites: a second key would make everything sealed under the first unreadable.
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(true),
        Err(error) if status(&error).is_some_and(|status| status.code == 409) => Ok(false),
        Err(error) => Err(cluster.failure(&format!("make Secret {NAMESPACE}/{}", key.0), &error)),
    }
}

/// Waits until the API server serves the kinds.
#[expect(clippy::disallowed_methods, reason = "the deadline of a command that waits for a cluster")]
async fn established(cluster: &Cluster, definitions: &[&Value]) -> Result<(), Failure> {
    let until = Instant::now() + DEFINITIONS_TIMEOUT;
    for definition in definitions {
        let name = Name::of(definition);
        loop {
            let found = object::find(cluster, &name).await?;
            if found.as_ref().is_some_and(is_established) {
                break;
            }
            if Instant::now() >= until {
                let why = found.as_ref().map(not_established).unwrap_or_default();
                return Err(Failure::failed(format!(
                    "cluster {} has not taken up {name} within {} s{why}",
                    cluster.name,
                    DEFINITIONS_TIMEOUT.as_secs()
                ))
                .next(format!("kubectl describe crd {}", name.name)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

fn conditions(found: &DynamicObject) -> impl Iterator<Item = &Value> {
    found.data.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

/// Whether the API server serves a definition's kind.
pub(crate) fn is_established(found: &DynamicObject) -> bool {
    conditions(found).any(|c| c["type"] == "Established" && c["status"] == "True")
}

fn not_established(found: &DynamicObject) -> String {
    let refused = conditions(found).find(|c| c["type"] == "NamesAccepted" && c["status"] == "False");
    let message = refused.and_then(|condition| condition["message"].as_str());
    message.map(|message| format!(": {message}")).unwrap_or_default()
}
