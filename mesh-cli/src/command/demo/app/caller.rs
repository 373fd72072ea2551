//! Applications that only call: a shopper at a decent pace, and a batch that knows none.

use super::http_client::HttpClient;
use crate::command::demo::tally::Tally;
use crate::failure::Failure;
use futures_util::future::join_all;
use http::Method;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Sixteen pages and eight purchases a second: below every limit of the shop.
pub(crate) const SHOPPER: &[Call] = &[
    Call { name: "browse", method: Method::GET, path: "/", every_ms: 62, at_once: 1 },
    Call { name: "buy", method: Method::POST, path: "/checkout", every_ms: 125, at_once: 1 },
];

/// Up to 400 charges a second: four times what the shop's limit gives one caller.
pub(crate) const BATCH: &[Call] =
    &[Call { name: "charge", method: Method::POST, path: "/charge", every_ms: 10, at_once: 4 }];

/// One kind of call, made again and again.
pub(crate) struct Call {
    name: &'static str,
    method: Method,
    path: &'static str,
    every_ms: u64,
    /// So many of them run side by side.
    at_once: usize,
}

/// Calls until the end of the process.
///
/// # Errors
/// Never; the shape of all applications.
pub(crate) async fn run(at: SocketAddr, calls: &'static [Call], tally: Tally) -> Result<(), Failure> {
    let http = HttpClient::new();
    let tasks = calls.iter().flat_map(|call| std::iter::repeat_n(call, call.at_once));
    join_all(tasks.map(|call| repeat(&http, at, call, &tally))).await;
    Ok(())
}

async fn repeat(http: &HttpClient, at: SocketAddr, call: &Call, tally: &Tally) {
    let mut ticks = tokio::time::interval(Duration::from_millis(call.every_ms));
    // A slow answer must not be followed by a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outcome = http.call(at, call.method.clone(), call.path, "tea 450").await;
        tally.count(call.name, outcome.ending, &outcome.why, &outcome.decision);
    }
}
