//! `meshctl ca revoke`: refuses a certificate or an identity everywhere, at once.

use crate::admin_client::AdminClient;
use crate::command::apply::receipt::ReceiptOut;
use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};
use crate::session::Session;
use clap::Args;
use mesh_ca::authority::{SERIAL_DIGITS_MAX, SERIAL_DIGITS_MIN, serial_digits};
use mesh_proto::identity::SpiffeId;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  meshctl identity web                                       # which serials are there
  meshctl ca revoke 4f9a0c7718d2e6b3 --reason 'laptop lost'   # one instance's certificates
  meshctl ca revoke spiffe://mesh.local/ns/default/sa/web    # a whole identity
  meshctl ca revoke --intermediate --reason 'key exposed'    # the issuing one; all are renewed
  meshctl ca revoke spiffe://mesh.local/ns/default/sa/web --undo";

/// How often the sidecars' state is looked at: a revocation is pushed within milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What `ca revoke` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RevokeArgs {
    /// A certificate, by its serial or the beginning of it, with all others of its instance; or a whole identity, which then gets
    /// no certificate any more either
    #[arg(value_name = "SERIAL|SPIFFE-ID", value_parser = target, required_unless_present = "intermediate")]
    target: Option<Target>,
    /// The issuing certificate in use
    #[arg(long, conflicts_with = "target")]
    intermediate: bool,
    /// Why; kept in the audit record
    #[arg(long, default_value = "")]
    reason: String,
    /// Take the revocation back
    #[arg(long)]
    undo: bool,
    /// Take a serial of which nothing is known, because its record was lost; it must be whole
    #[arg(long, conflicts_with_all = ["intermediate", "undo"])]
    force: bool,
    /// How long to wait until every affected sidecar enforces it
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration::parse)]
    wait: Duration,
}

#[derive(Serialize)]
struct RevokedOut {
    /// Every serial that was revoked by this call, or whose revocation was taken back.
    serials: Vec<String>,
    /// Whose they are.
    whom: String,
    revision: u64,
    affected_proxies: u32,
    enforced: bool,
    /// What follows from it.
    notes: Vec<String>,
}

/// Revokes, and waits until that is enforced.
///
/// # Errors
/// When there is no such certificate.
pub(crate) async fn run(args: RevokeArgs, session: &Session) -> Result<Exit, Failure> {
    let (serial, identity) = match args.target {
        Some(Target::Serial(serial)) => (serial, String::new()),
        Some(Target::Identity(identity)) => (String::new(), identity.to_string()),
        None => (String::new(), String::new()),
    };
    let request = v1::CaRevokeRequest {
        serial,
        identity,
        intermediate: args.intermediate,
        reason: args.reason,
        undo: args.undo,
        force: args.force,
    };
    let client = session.admin().await?;
    let response = client.answer(client.api().ca_revoke(request).await);
    let response = response.map_err(|failure| failure.next("meshctl identity --all"))?;
    let receipt = settled(&client, args.wait).await?;
    let is_enforced = receipt.done && receipt.refused.is_empty();
    let v1::CaRevokeResponse { revision, affected_proxies, serials, whom, notes } = response;
    let revoked = RevokedOut { serials, whom, revision, affected_proxies, enforced: is_enforced, notes };
    let verb = if args.undo { "revocation taken back" } else { "revoked" };
    output::print_value(session.format, &revoked, || revoked.text(verb, &receipt))?;
    if session.format == Format::Table {
        revoked.notes.iter().for_each(|note| output::note(&output::clean(note)));
    }
    if session.format == Format::Table && args.intermediate && !args.undo {
        output::note("workloads are getting new certificates; follow it with: meshctl identity");
    }
    Ok(if is_enforced { Exit::Done } else { Exit::Bad })
}

impl RevokedOut {
    /// The outcome, and each serial on a line of its own.
    fn text(&self, verb: &str, receipt: &ReceiptOut) -> String {
        let mut text = format!("{verb}: {}\n", receipt.text());
        for serial in &self.serials {
            text.push_str(&format!("  {serial} {}", output::clean(&self.whom)));
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }
}

/// Waits until every connected sidecar has acknowledged all that it was sent: a revocation is no revision of its own.
async fn settled(client: &AdminClient, within: Duration) -> Result<ReceiptOut, Failure> {
    let began = now();
    let mut was_settled = false;
    loop {
        let status = client.answer(client.api().status(v1::StatusRequest {}).await)?;
        let of = |state: &str| status.proxies.iter().filter(|proxy| proxy.state == state).collect::<Vec<_>>();
        let (waiting, refused) = (of("updating"), of("refused"));
        let count = |list: usize| u32::try_from(list).unwrap_or(u32::MAX);
        // Seen twice: the first look may come before the sidecars' streams have taken the news up.
        let is_settled = waiting.is_empty() && std::mem::replace(&mut was_settled, waiting.is_empty());
        let elapsed = now().saturating_duration_since(began);
        if is_settled || elapsed >= within {
            let enforced = status.proxies.len().saturating_sub(waiting.len()).saturating_sub(refused.len());
            return Ok(ReceiptOut {
                enforced: count(enforced),
                affected: count(status.proxies.len()),
                elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
                waiting: waiting.iter().map(|proxy| proxy.instance.clone()).collect(),
                refused: refused
                    .iter()
                    .map(|proxy| format!("{}: {}", proxy.instance, proxy.refusal))
                    .collect(),
                done: is_settled,
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the wait owns its deadline")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// What is revoked.
#[derive(Clone, Debug)]
enum Target {
    Serial(String),
    Identity(SpiffeId),
}

/// A SPIFFE ID, or hex digits with or without colons.
fn target(text: &str) -> Result<Target, String> {
    if text.contains("://") {
        return text
            .parse()
            .map(Target::Identity)
            .map_err(|error: mesh_proto::identity::IdentityError| error.to_string());
    }
    serial_digits(text.trim_end_matches('…')).map(Target::Serial).map_err(|_| {
        format!(
            "it is neither a SPIFFE ID nor {SERIAL_DIGITS_MIN} to {SERIAL_DIGITS_MAX} hexadecimal digits of a serial; see: meshctl identity"
        )
    })
}
