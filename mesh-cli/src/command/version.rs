//! `meshctl version`: of this program, and of the control plane if one answers.

use crate::failure::{Exit, Failure};
use crate::output;
use crate::replicas;
use crate::session::Session;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;

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
    /// How many proxies run each version.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    proxies: BTreeMap<String, usize>,
}

/// Prints the versions. An absent control plane is not an error.
///
/// # Errors
/// When the output cannot be written.
pub(crate) async fn run(args: VersionArgs, session: &Session) -> Result<Exit, Failure> {
    let mut versions =
        Versions { meshctl: env!("CARGO_PKG_VERSION"), control: None, proxies: BTreeMap::new() };
    if !args.client
        && let Ok(client) = session.admin().await
    {
        let status = replicas::status(&client).await?.status;
        versions.control = Some(output::clean(&status.version));
        for proxy in &status.proxies {
            let count = versions.proxies.entry(output::clean(&proxy.version)).or_default();
            *count = count.saturating_add(1);
        }
    }
    output::print_value(session.format, &versions, || {
        let control = versions.control.as_deref().unwrap_or("none answers");
        let mut text = format!("meshctl  {}\ncontrol  {control}\n", versions.meshctl);
        for (version, count) in &versions.proxies {
            text.push_str(&format!("proxies  {version} ({count})\n"));
        }
        text
    })?;
    Ok(Exit::Done)
}
