//! The shop's front end: HTTP/1.1; asks the catalog over gRPC and payments over HTTP/1.1.

use super::http_client::HttpClient;
use super::messages::catalog_client::CatalogClient;
use super::messages::{ListRequest, WatchRequest};
use super::payments::respond;
use crate::command::demo::tally::{Ending, Tally};
use crate::failure::Failure;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long to wait before a broken stream is opened again.
const WATCH_AGAIN: Duration = Duration::from_millis(300);
/// A call that takes longer counts as failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where web calls others.
pub(crate) struct Backends {
    /// The gRPC service.
    pub(crate) catalog: SocketAddr,
    /// The HTTP service.
    pub(crate) payments: SocketAddr,
}

#[derive(Clone)]
struct Shop {
    catalog: CatalogClient<Channel>,
    payments: SocketAddr,
    http: HttpClient,
    tally: Tally,
}

/// Serves until the listener fails; watches prices meanwhile.
///
/// # Errors
/// When the listener does.
pub(crate) async fn run(listener: TcpListener, backends: Backends, tally: Tally) -> Result<(), Failure> {
    let shop = Shop {
        catalog: catalog_client(backends.catalog)?,
        payments: backends.payments,
        http: HttpClient::new(),
        tally,
    };
    let watching = watch(shop.clone());
    let serving = super::serve(listener, move |stream| {
        let shop = shop.clone();
        async move {
            let service = service_fn(move |request| answer(request, shop.clone()));
            // A caller that goes away is no error of ours.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    });
    // Cancel safe: whichever ends, the application ends.
    tokio::select! {
        ended = serving => ended,
        () = watching => Ok(()),
    }
}

/// A client that connects when it is first used, and again when it must.
///
/// # Errors
/// Never with a socket address; tonic cannot know that.
pub(crate) fn catalog_client(at: SocketAddr) -> Result<CatalogClient<Channel>, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{at}"))
        .map_err(|error| Failure::failed(format!("cannot call {at}: {error}")))?
        .timeout(CALL_TIMEOUT)
        .tcp_nodelay(true);
    Ok(CatalogClient::new(endpoint.connect_lazy()))
}

/// How a gRPC call ended.
pub(crate) fn judge(status: &Status) -> (Ending, String, String) {
    let ending = match status.code() {
        Code::PermissionDenied => Ending::Refused,
        Code::ResourceExhausted => Ending::Limited,
        _ => Ending::Failed,
    };
    let decision =
        status.metadata().get("x-mesh-decision").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let cause = std::error::Error::source(status).map(crate::failure::chain).unwrap_or_default();
    let why = format!("{:?} {} {cause}", status.code(), status.message());
    (ending, why.trim_end().to_owned(), decision.to_owned())
}

async fn answer(request: Request<Incoming>, shop: Shop) -> Result<Response<Full<Bytes>>, hyper::Error> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => respond(StatusCode::OK, "ok"),
        (&Method::GET, "/" | "/products") => shop.front_page().await,
        (&Method::POST, "/checkout") => shop.buy().await,
        _ => respond(StatusCode::NOT_FOUND, "no such page"),
    })
}

impl Shop {
    async fn front_page(mut self) -> Response<Full<Bytes>> {
        match self.catalog.list(ListRequest {}).await {
            Ok(list) => {
                self.tally.count("catalog", Ending::Ok, "", "");
                let lines =
                    list.into_inner().items.into_iter().map(|item| format!("{} {}\n", item.name, item.cents));
                respond(StatusCode::OK, &lines.collect::<String>())
            }
            Err(status) => {
                let (ending, why, decision) = judge(&status);
                self.tally.count("catalog", ending, &why, &decision);
                respond(StatusCode::BAD_GATEWAY, &why)
            }
        }
    }

    async fn buy(self) -> Response<Full<Bytes>> {
        let outcome = self.http.call(self.payments, Method::POST, "/charge", "tea 450").await;
        self.tally.count("payments", outcome.ending, &outcome.why, &outcome.decision);
        match outcome.ending {
            Ending::Ok => respond(StatusCode::OK, &String::from_utf8_lossy(&outcome.body)),
            _ => respond(StatusCode::BAD_GATEWAY, &outcome.why),
        }
    }
}

/// Keeps one stream of prices open for as long as the application runs. A gap in it counts as failed.
async fn watch(shop: Shop) {
    let Shop { catalog, tally, .. } = shop;
    // The stream has no end, so the channel's deadline for a call does not apply to it.
    let mut catalog = catalog;
    loop {
        match catalog.watch(WatchRequest {}).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                let mut expected = 0;
                let ended = loop {
                    match stream.message().await {
                        Ok(Some(price)) if price.tick == expected => {
                            tally.count("price stream", Ending::Ok, "", "");
                            expected = expected.wrapping_add(1);
                        }
                        Ok(Some(price)) => {
                            break format!("price {} came where {expected} was due", price.tick);
                        }
                        Ok(None) => break "the stream ended".to_owned(),
                        Err(status) => break judge(&status).1,
                    }
                };
                tally.count("price stream", Ending::Failed, &ended, "");
            }
            Err(status) => {
                let (ending, why, decision) = judge(&status);
                tally.count("price stream", ending, &why, &decision);
            }
        }
        tokio::time::sleep(WATCH_AGAIN).await;
    }
}
