//! An API server for tests: a function from calls to answers.

use super::Cluster;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::{Value, json};
use std::sync::Arc;

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    /// `null` when there is none.
    pub(crate) body: Value,
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Ok(Value),
    NotFound,
    Conflict,
    /// No answer at all.
    Gone,
}

/// A cluster whose API server answers so.
pub(crate) fn cluster(answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Cluster {
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: hyper::Request<Body>| {
        let answer = answer.clone();
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            let call = Call {
                method: head.method.to_string(),
                path: head.uri.path().to_owned(),
                body: serde_json::from_slice(&bytes).unwrap_or_default(),
            };
            let failed = |code: u16, reason: &str| {
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": reason, "reason": reason, "code": code});
                (code, status)
            };
            let (code, body) = match answer(&call) {
                Answer::Ok(value) => (200, value),
                Answer::NotFound => failed(404, "NotFound"),
                Answer::Conflict => failed(409, "Conflict"),
                Answer::Gone => return Err("connection refused".to_owned()),
            };
            let response = hyper::Response::builder().status(code);
            response.body(Full::new(Bytes::from(body.to_string()))).map_err(|error| error.to_string())
        }
    });
    let client = kube::Client::new(service, "default");
    Cluster { client, namespace: "mesh-system".parse().unwrap(), pod: "mesh-control-0".parse().unwrap() }
}
