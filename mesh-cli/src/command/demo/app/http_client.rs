//! How the shop's applications call each other over HTTP/1.1, and how they judge the answer.

use crate::command::demo::tally::Ending;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::net::SocketAddr;
use std::time::Duration;

/// A call that takes longer counts as failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A pooled client.
#[derive(Clone)]
pub(crate) struct HttpClient(Client<HttpConnector, Full<Bytes>>);

/// How a call ended, and with what.
pub(crate) struct Outcome {
    /// Judged by its status.
    pub(crate) ending: Ending,
    /// In words.
    pub(crate) why: String,
    /// The decision id, if the answer carries one.
    pub(crate) decision: String,
    /// The answer's body.
    pub(crate) body: Bytes,
}

impl HttpClient {
    /// With connections kept alive.
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    /// Calls and reads the whole answer.
    pub(crate) async fn call(&self, at: SocketAddr, method: Method, path: &str, body: &str) -> Outcome {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{at}{path}"))
            .header("user-agent", "shop/1.0")
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Outcome::failed(format!("cannot make the request: {error}")),
        };
        let exchange = async {
            let response = self.0.request(request).await.map_err(|error| crate::failure::chain(&error))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("the answer was cut off: {error}"))?;
            Ok::<_, String>((head.status, head.headers, body.to_bytes()))
        };
        match tokio::time::timeout(CALL_TIMEOUT, exchange).await {
            Ok(Ok((status, headers, body))) => Outcome::from_answer(status, &headers, body),
            Ok(Err(why)) => Outcome::failed(why),
            Err(_) => Outcome::failed(format!("no answer within {CALL_TIMEOUT:?}")),
        }
    }
}

impl Outcome {
    fn failed(why: String) -> Self {
        Self { ending: Ending::Failed, why, decision: String::new(), body: Bytes::new() }
    }

    fn from_answer(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Self {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let ending = match status {
            StatusCode::FORBIDDEN => Ending::Refused,
            StatusCode::TOO_MANY_REQUESTS => Ending::Limited,
            status if status.is_success() => Ending::Ok,
            _ => Ending::Failed,
        };
        let why = format!("{} {}", status.as_u16(), header("x-mesh-reason")).trim_end().to_owned();
        Self { ending, why, decision: header("x-mesh-decision").to_owned(), body }
    }
}
