//! `meshctl version`: of this program, and of the control plane if one answers.

use crate::failure::{Exit, Failure};
use crate::output;
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  meshctl version
  meshctl version --client -o json";

/// What `version` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VersionArgs {
    /// Do not ask the control plane
    #[arg(long)]
    client: bool,
}

#[derive(Serialize)]
struct Versions {
    meshctl: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<String>,
}

/// Prints the versions. An absent control plane is not an error.
///
/// # Errors
/// When the output cannot be written.
pub(crate) async fn run(args: VersionArgs, session: &Session) -> Result<Exit, Failure> {
    let mut versions = Versions { meshctl: env!("CARGO_PKG_VERSION"), control: None };
    if !args.client
        && let Ok(client) = session.admin().await
    {
        let status = client.answer(client.api().status(v1::StatusRequest {}).await)?;
        versions.control = Some(output::clean(&status.version));
    }
    output::print_value(session.format, &versions, || {
        let control = versions.control.as_deref().unwrap_or("none answers");
        format!("meshctl  {}\ncontrol  {control}\n", versions.meshctl)
    })?;
    Ok(Exit::Done)
}
