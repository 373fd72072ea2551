//! The shop's catalog: a gRPC service with a unary call and an endless stream.

use super::messages::catalog_server::{Catalog, CatalogServer};
use super::messages::{Item, ListRequest, ListResponse, Price, WatchRequest};
use crate::failure::Failure;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::{IntervalStream, TcpListenerStream};
use tonic::{Request, Response, Status};

const GOODS: [(&str, u64); 4] = [("tea", 450), ("kettle", 3_900), ("cup", 1_200), ("honey", 700)];
/// How often a price is told.
const PRICE_EVERY: Duration = Duration::from_millis(250);

/// Serves until the listener fails.
///
/// # Errors
/// When the server does.
pub(crate) async fn run(listener: TcpListener) -> Result<(), Failure> {
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(CatalogServer::new(Shelf))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await
        .map_err(|error| {
            Failure::failed(format!("the catalog cannot serve: {}", crate::failure::chain(&error)))
        })
}

struct Shelf;

#[tonic::async_trait]
impl Catalog for Shelf {
    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let items =
            GOODS.iter().map(|(name, cents)| Item { name: (*name).to_owned(), cents: *cents }).collect();
        Ok(Response::new(ListResponse { items }))
    }

    type WatchStream = BoxStream<'static, Result<Price, Status>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let mut tick = 0_u64;
        let goods = stream::iter(GOODS.iter().cycle());
        let prices = IntervalStream::new(tokio::time::interval(PRICE_EVERY)).zip(goods).map(
            move |(_, (name, cents))| {
                let price = Price { name: (*name).to_owned(), cents: *cents, tick };
                tick = tick.wrapping_add(1);
                Ok(price)
            },
        );
        Ok(Response::new(prices.boxed()))
    }
}
