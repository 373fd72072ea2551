//! One HTTP/1 request and its response between a caller's and an origin's connection.

use super::canonical::Canonical;
use super::h1::{After, Client, Server};
use super::{Failure, Limits, Meter, Origin, Retry};
use crate::refusal::Refusal;
use tokio::io::{AsyncRead, AsyncWrite};

/// What to forward and how.
pub struct Forward<'a> {
    /// The one canonical request, made from a head of this connection.
    pub request: &'a Canonical<'a>,
    /// Complete header lines to add, each `name: value\r\n`; may be empty. They are ours: nothing from outside.
    pub append: &'a [u8],
    /// Who answers.
    pub origin: Origin,
}

/// What became of an exchange.
#[derive(Debug)]
pub struct Outcome {
    /// What to do with the caller's connection. Meaningless if `failure` was not answered.
    pub caller: After,
    /// Whether the origin's connection can carry another exchange.
    pub reusable: bool,
    /// `None`: all went well.
    pub failure: Option<Failure>,
    /// Whether it became a tunnel, which has ended now.
    pub upgraded: bool,
}

/// Sends a request to the origin and its response to the caller.
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
    let _ = (server.io(), what.request, what.append, what.origin, client.io(), limits, meter);
    let failure = Failure { refusal: Refusal::NotReady, answered: false, retry: Retry::Safe };
    Outcome { caller: After::Close, reusable: false, failure: Some(failure), upgraded: false }
}
