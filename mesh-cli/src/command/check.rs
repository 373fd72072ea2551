//! `meshctl check`.
use crate::failure::{Exit, Failure};
use crate::session::Session;
/// What `check` is told.
#[derive(clap::Args, Debug)]
pub(crate) struct CheckArgs {}
pub(crate) async fn run(_args: CheckArgs, _session: &Session) -> Result<Exit, Failure> { Ok(Exit::Done) }
