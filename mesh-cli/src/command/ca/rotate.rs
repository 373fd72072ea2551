//! `meshctl ca rotate`: replaces the root, or the issuing certificate, while everything runs.

use super::CaOut;
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use std::time::Duration;

/// How often the progress is asked for.
const ASK_EVERY: Duration = Duration::from_millis(250);

const EXAMPLES: &str = "\
Examples:
  meshctl ca rotate                    # a new root; shows the progress until the old one is gone
  meshctl ca rotate --no-wait          # starts it, returns at once
  meshctl ca rotate --pause            # stays at the present step
  meshctl ca rotate --resume
  meshctl ca rotate --abort            # back to the old root, while that is still possible
  meshctl ca rotate --force            # without the machines that `ca status` says are waited for
  meshctl ca rotate --intermediate     # only the issuing certificate, and all workloads'

Steps: prepare, trust (every sidecar acknowledges both roots), sign (new certificates for all),
retire (the old root goes).";

/// What `ca rotate` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own; clap keeps them apart")]
pub(crate) struct RotateArgs {
    /// Stay at the present step
    #[arg(long, group = "action")]
    pause: bool,
    /// Go on
    #[arg(long, group = "action")]
    resume: bool,
    /// Go back to the old root
    #[arg(long, group = "action")]
    abort: bool,
    /// Go on without machines that joined with a token and are away; each then needs a new token
    #[arg(long, group = "action")]
    force: bool,
    /// Only a new issuing certificate under the same root
    #[arg(long, group = "action")]
    intermediate: bool,
    /// Return at once
    #[arg(long)]
    no_wait: bool,
    /// How long to follow the rotation before giving up; it goes on
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration::parse)]
    timeout: Duration,
}

/// Starts, steers and follows a rotation.
///
/// # Errors
/// When the step asked for makes no sense now.
pub(crate) async fn run(args: RotateArgs, session: &Session) -> Result<Exit, Failure> {
    let action = match (args.pause, args.resume, args.abort, args.force) {
        (true, ..) => "pause",
        (_, true, ..) => "resume",
        (.., true, _) => "abort",
        (.., true) => "force",
        _ => "start",
    };
    let client = session.admin().await?;
    let request = v1::CaRotateRequest { action: action.to_owned(), intermediate_only: args.intermediate };
    let response = client.answer(client.api().ca_rotate(request).await);
    let mut status = CaOut::from(response.map_err(|failure| failure.next("meshctl ca status"))?);
    let follow = matches!(action, "start" | "resume" | "force") && !args.intermediate && !args.no_wait;
    if follow {
        let following = async {
            let mut shown = String::new();
            while !status.is_idle() {
                let progress = status.progress();
                if progress != shown && session.format == Format::Table {
                    output::note(&progress);
                    shown = progress;
                }
                if status.rotation.contains("paused") {
                    return Ok(Exit::Done);
                }
                tokio::time::sleep(ASK_EVERY).await;
                status = client.answer(client.api().ca_status(v1::CaStatusRequest {}).await)?.into();
            }
            Ok::<_, Failure>(Exit::Done)
        };
        match tokio::time::timeout(args.timeout, following).await {
            Ok(result) => result?,
            Err(_) => {
                output::print_value(session.format, &status, || status.table())?;
                output::warn("the rotation goes on; follow it with: meshctl ca status");
                return Ok(Exit::Bad);
            }
        };
    }
    output::print_value(session.format, &status, || status.table())?;
    Ok(Exit::Done)
}
