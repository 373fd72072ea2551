//! One HTTP/1 request and its response between a caller's and an origin's connection.
//!
//! `inbound::http` and `outbound::http` call [`forward`] with a request that has been judged. It streams both bodies at
//! once, passes interim responses on, becomes a tunnel after an upgrade, and says in its [`Outcome`] what may happen to
//! the two connections. It never answers by itself: a failure before the first byte of an answer is handed back, so that
//! the caller can try another origin or refuse.
//!
//! # Why
//! One task, no channel: the four directions are `poll_` functions of one future, because a second task for each exchange
//! costs more than all parsing. The request's first body bytes leave with its head, the response's with its own.
//!
//! An end of the caller's connection while its answer is awaited cancels the exchange, as with nginx, Envoy and hyper: a
//! caller that half-closes and still wants an answer cannot be told from one that has died.

mod state;
mod transfer;
mod tunnel;

use super::canonical::Canonical;
use super::h1::{After, Client, Server};
use super::{Failure, Limits, Meter, Origin};
use state::Exchange;
use std::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};

/// What to forward and how.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// The one canonical request, made from a head of this connection.
    pub request: &'a Canonical<'a>,
    /// Complete header lines to add, each `name: value\r\n`; may be empty. They are ours, and if there are any, they take the
    /// place of the trace context that came.
    pub append: &'a [u8],
    /// Who answers.
    pub origin: Origin,
}

/// What became of an exchange.
#[derive(Debug)]
pub struct Outcome {
    /// What to do with the caller's connection. Meaningless if `failure` was not answered.
    pub caller: After,
    /// Whether the origin's connection can carry another exchange. If not, drop it.
    pub reusable: bool,
    /// `None`: all went well.
    pub failure: Option<Failure>,
    /// Whether it became a tunnel, which has ended now.
    pub upgraded: bool,
}

/// Sends a request to the origin and its response to the caller.
///
/// After a failure that was not answered, the request can be forwarded once more if [`Failure::retry`] allows it: what was
/// used of its body has been put back.
///
/// Not cancel safe: dropped half way, both connections must be dropped too.
pub async fn forward<S, U>(
    server: &mut Server<S>,
    what: Forward<'_>,
    client: &mut Client<U>,
    limits: &Limits,
    meter: &mut Meter,
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut exchange = match Exchange::begin(server, what, client, limits, meter) {
        Ok(exchange) => exchange,
        Err(failure) => return Outcome::failed(failure),
    };
    match poll_fn(|cx| exchange.poll(cx)).await {
        Ok(state::End::Answered) => exchange.finish(),
        Ok(state::End::Upgraded) => exchange.tunnel().await,
        Err(stop) => Outcome::failed(exchange.fail(stop)),
    }
}

impl Outcome {
    fn failed(failure: Failure) -> Self {
        let caller = if failure.answered { After::Abort } else { After::Close };
        Self { caller, reusable: false, failure: Some(failure), upgraded: false }
    }
}
