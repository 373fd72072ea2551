//! The sealing key of a mesh whose pod has no file with it: a chart can hold no key, so the first control plane makes it.
//!
//! Called once, before anything is opened. `meshctl install` makes the Secret itself, and the pod then finds it mounted. A
//! key is never overwritten, and none is made where something is sealed under one that is gone.

use super::{Cluster, ClusterError, labels};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use mesh_ca::seal::{SealKey, random_key_text};

/// The Secret, and the key in it.
const NAME: &str = "mesh-seal-key";
const FILE: &str = "seal.key";
/// What is sealed under it.
const SEALED: &str = "mesh-authority";

/// The key in the Secret, which is made if there is none.
///
/// # Errors
/// The API server's refusal, a Secret without a key, or a state that only a lost key opens.
pub(crate) async fn key(cluster: &Cluster) -> Result<SealKey, ClusterError> {
    let failed = |problem: String| ClusterError::SealKey { namespace: cluster.namespace.clone(), problem };
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), cluster.namespace.as_str());
    let found = secrets.get_opt(NAME).await.map_err(|error| failed(error.to_string()))?;
    let found = match found {
        Some(found) => found,
        None => make(&secrets, &failed).await?,
    };
    let text = found.data.unwrap_or_default().remove(FILE);
    let key = text.and_then(|text| SealKey::from_text(&text.0));
    key.ok_or_else(|| failed(format!("it has no {FILE} of 64 hexadecimal digits")))
}

async fn make(
    secrets: &Api<Secret>,
    failed: &impl Fn(String) -> ClusterError,
) -> Result<Secret, ClusterError> {
    let sealed = secrets.get_opt(SEALED).await.map_err(|error| failed(error.to_string()))?;
    if sealed.is_some() {
        let problem = format!(
            "it is gone, and the Secret {SEALED} opens with it alone; bring it back from a backup, or give the mesh a new \
             authority with: kubectl delete secret {SEALED}"
        );
        return Err(failed(problem));
    }
    let text = random_key_text().ok_or_else(|| failed("the random source failed".to_owned()))?;
    let secret = Secret {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), labels: Some(labels()), ..ObjectMeta::default() },
        immutable: Some(true),
        string_data: Some([(FILE.to_owned(), (*text).clone())].into()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(made) => {
            tracing::info!(secret = NAME, "made the sealing key");
            Ok(made)
        }
        // Another replica was first; its key counts.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            secrets.get(NAME).await.map_err(|error| failed(error.to_string()))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::{self, Answer};
    use serde_json::{Value, json};
    use std::sync::{Arc, Mutex};

    /// An API server that has these Secrets, and turns texts into data as the real one does.
    fn server(secrets: &[(&str, Value)]) -> Cluster {
        let kept: Vec<(String, Value)> = secrets.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
        let kept = Arc::new(Mutex::new(kept));
        testing::cluster(move |call| {
            let mut kept = kept.lock().unwrap();
            let find = |kept: &[(String, Value)], path: &str| {
                kept.iter().find(|(name, _)| path.ends_with(&format!("/{name}"))).map(|(_, v)| v.clone())
            };
            if call.method == "GET" {
                return find(&kept, &call.path).map_or(Answer::NotFound, Answer::Ok);
            }
            let name = call.body["metadata"]["name"].as_str().unwrap().to_owned();
            if find(&kept, &format!("/{name}")).is_some() {
                return Answer::Conflict;
            }
            let text = call.body["stringData"][FILE].as_str().unwrap();
            let made = json!({ "metadata": { "name": name }, "data": { FILE: encoded(text) } });
            kept.push((name, made.clone()));
            Answer::Ok(made)
        })
    }

    fn encoded(text: &str) -> Value {
        serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap()
    }

    #[tokio::test]
    async fn the_first_replica_makes_the_key_and_the_others_take_it() {
        let cluster = server(&[]);
        let (one, two) = (key(&cluster).await.unwrap(), key(&cluster).await.unwrap());
        let sealed = one.seal("a test", b"text").unwrap();
        assert_eq!(&**two.open("a test", &sealed).unwrap(), b"text");
    }

    #[tokio::test]
    async fn no_new_key_hides_that_the_old_one_is_gone() {
        let cluster = server(&[(SEALED, json!({ "metadata": { "name": SEALED } }))]);
        let said = key(&cluster).await.err().unwrap().to_string();
        assert!(said.contains("it is gone") && said.contains("kubectl delete secret"), "{said}");
        let cluster = server(&[(NAME, json!({ "metadata": {}, "data": { FILE: encoded("short") } }))]);
        let said = key(&cluster).await.err().unwrap().to_string();
        assert!(said.contains("64 hexadecimal digits"), "{said}");
    }
}
