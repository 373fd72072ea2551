//! The shop's applications: plain programs that know nothing of a mesh.
//!
//! Each is a process of its own beside its own sidecar. They listen on the loopback, call each other through the addresses
//! that `meshctl run` gives in `MESHCTL_TO_…`, and count how their calls ended. Nothing here does TLS, identity or policy:
//! that is the point.

pub(crate) mod caller;
pub(crate) mod catalog;
pub(crate) mod http_client;
pub(crate) mod intruder;
pub(crate) mod payments;
pub(crate) mod store;
pub(crate) mod web;

use super::tally::Tally;
use crate::config;
use crate::failure::{Exit, Failure};
use crate::processes::{self, Signals};
use clap::{Args, ValueEnum};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The generated messages, client and server of the catalog.
#[expect(unreachable_pub, clippy::pedantic, reason = "generated code")]
pub(crate) mod messages {
    tonic::include_proto!("shop");
}

/// What `demo-app` is told.
#[derive(Args, Debug)]
pub(crate) struct AppArgs {
    /// Which application
    role: Role,
    /// Where it listens, if it is called by anybody
    #[arg(long)]
    listen: Option<SocketAddr>,
}

/// The applications.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Role {
    /// The front end: HTTP/1.1, calls catalog and payments.
    Web,
    /// gRPC.
    Catalog,
    /// HTTP/1.1, calls the store.
    Payments,
    /// A line protocol over plain TCP, in which the server speaks first.
    Store,
    /// A customer: calls web at a decent pace.
    Shopper,
    /// The nightly batch: charges payments as fast as it can.
    Batch,
    /// Calls what is none of its business.
    Intruder,
}

type Work = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// Runs the application until a signal.
///
/// # Errors
/// When it cannot listen, or was not told where to call.
pub(crate) async fn run(args: AppArgs) -> Result<Exit, Failure> {
    let tally = Tally::default();
    let mut signals = Signals::take()?;
    let mut work: Work = match args.role {
        Role::Web => {
            let backends = web::Backends { catalog: address("catalog")?, payments: address("payments")? };
            Box::pin(web::run(listen(args.listen).await?, backends, tally.clone()))
        }
        Role::Catalog => Box::pin(catalog::run(listen(args.listen).await?)),
        Role::Payments => {
            Box::pin(payments::run(listen(args.listen).await?, address("store")?, tally.clone()))
        }
        Role::Store => Box::pin(store::run(listen(args.listen).await?)),
        Role::Shopper => Box::pin(caller::run(address("web")?, caller::SHOPPER, tally.clone())),
        Role::Batch => Box::pin(caller::run(address("payments")?, caller::BATCH, tally.clone())),
        Role::Intruder => {
            let targets = intruder::Targets {
                payments: address("payments")?,
                catalog: address("catalog")?,
                store: address("store")?,
            };
            Box::pin(intruder::run(targets, tally.clone()))
        }
    };
    let mut telling = std::pin::pin!(tally.tell());
    loop {
        // Cancel safe: both futures are only borrowed.
        tokio::select! {
            ended = &mut work => return ended.map(|()| Exit::Done),
            () = &mut telling => return Ok(Exit::Done),
            signal = signals.next() => if processes::asks_to_end(signal) {
                return Ok(Exit::Done);
            },
        }
    }
}

fn address(service: &str) -> Result<SocketAddr, Failure> {
    config::address_of(service).ok_or_else(|| {
        let variable = config::outbound_variable(service);
        Failure::usage(format!("{variable} does not say where {service} is called")).next("meshctl demo")
    })
}

async fn listen(address: Option<SocketAddr>) -> Result<TcpListener, Failure> {
    let address =
        address.ok_or_else(|| Failure::usage("this application needs --listen").next("meshctl demo"))?;
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::failed(format!("cannot listen on {address}: {error}")))
}

/// Serves connections until the listener fails; each is a task, and all end with this future.
pub(crate) async fn serve<F, Fut>(listener: TcpListener, handle: F) -> Result<(), Failure>
where
    F: Fn(tokio::net::TcpStream) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener
            .accept()
            .await
            .map_err(|error| Failure::failed(format!("cannot accept a connection: {error}")))?;
        // Small answers must not wait for more (Nagle); a failure here only costs time.
        let _ = stream.set_nodelay(true);
        connections.spawn(handle(stream));
        while connections.try_join_next().is_some() {}
    }
}
