//! A workload of the mesh that calls what is none of its business, by every protocol of the shop.

use super::http_client::HttpClient;
use super::messages::ListRequest;
use super::{payments, web};
use crate::command::demo::tally::{Ending, Tally};
use crate::failure::Failure;
use http::Method;
use std::net::SocketAddr;
use std::time::Duration;

/// How often it tries each of its targets.
const TRY_EVERY: Duration = Duration::from_millis(250);

/// What it tries to reach.
pub(crate) struct Targets {
    /// HTTP/1.1.
    pub(crate) payments: SocketAddr,
    /// gRPC.
    pub(crate) catalog: SocketAddr,
    /// Plain TCP.
    pub(crate) store: SocketAddr,
}

/// Tries until the end of the process.
///
/// # Errors
/// Never with socket addresses.
pub(crate) async fn run(targets: Targets, tally: Tally) -> Result<(), Failure> {
    let http = HttpClient::new();
    let mut catalog = web::catalog_client(targets.catalog)?;
    let mut ticks = tokio::time::interval(TRY_EVERY);
    loop {
        ticks.tick().await;
        let outcome = http.call(targets.payments, Method::POST, "/charge", "everything 0").await;
        tally.count("payments", outcome.ending, &outcome.why, &outcome.decision);
        match catalog.list(ListRequest {}).await {
            Ok(_) => tally.count("catalog", Ending::Ok, "", ""),
            Err(status) => {
                let (ending, why, decision) = web::judge(&status);
                tally.count("catalog", ending, &why, &decision);
            }
        }
        match payments::connect(targets.store).await {
            Ok(_) => tally.count("store", Ending::Ok, "", ""),
            // Over plain TCP a refusal has no words: the connection is closed before the store greets.
            Err(error) => tally.count("store", Ending::Refused, &error.to_string(), ""),
        }
    }
}
