//! `meshctl identity`: what certificate, from whom, on what evidence, until when.

use super::ca::when;
use crate::failure::{Exit, Failure};
use crate::output::{self, Grid, Tone};
use crate::replicas;
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  meshctl identity                                        # every certificate that has not expired
  meshctl identity web
  meshctl identity --all                                  # also what was replaced
  meshctl identity spiffe://mesh.local/ns/default/sa/web -o json";

/// What `identity` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct IdentityArgs {
    /// An instance, a workload or a SPIFFE ID; all when left out
    name: Option<String>,
    /// Also certificates that were replaced and have not expired
    #[arg(short, long)]
    all: bool,
}

#[derive(Serialize)]
struct Identities {
    identities: Vec<IdentityOut>,
}

#[derive(Serialize)]
struct IdentityOut {
    spiffe_id: String,
    instance: String,
    serial: String,
    issuer: String,
    attestor: String,
    issued: String,
    not_before: String,
    not_after: String,
    #[serde(skip)]
    expires_ms: u64,
    /// Whether it is its instance's newest.
    current: bool,
    revoked: bool,
}

/// Prints the certificates.
///
/// # Errors
/// When nothing has the name asked for.
pub(crate) async fn run(args: IdentityArgs, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let name = args.name.unwrap_or_default();
    let mut infos = replicas::identities(&client, v1::IdentitiesRequest { name: name.clone() }).await?;
    infos.sort_by(|a, b| {
        (&a.spiffe_id, &a.instance, b.issued_ms).cmp(&(&b.spiffe_id, &b.instance, a.issued_ms))
    });
    let mut identities = Identities { identities: infos.into_iter().map(IdentityOut::from).collect() };
    mark_current(&mut identities.identities);
    if !args.all {
        identities.identities.retain(|identity| identity.current);
    }
    if identities.identities.is_empty() && !name.is_empty() {
        return Err(Failure::failed(format!("no unexpired certificate was issued to {name:?}"))
            .next("meshctl identity   # all of them"));
    }
    output::print_value(session.format, &identities, || table(&identities.identities))?;
    Ok(Exit::Done)
}

impl From<v1::IdentityInfo> for IdentityOut {
    fn from(info: v1::IdentityInfo) -> Self {
        let v1::IdentityInfo {
            spiffe_id,
            instance,
            serial,
            not_before_ms,
            not_after_ms,
            issuer,
            attestor,
            issued_ms,
            revoked,
        } = info;
        Self {
            spiffe_id,
            instance,
            serial,
            issuer,
            attestor,
            issued: output::time(issued_ms),
            not_before: output::time(not_before_ms),
            not_after: output::time(not_after_ms),
            expires_ms: not_after_ms,
            current: false,
            revoked,
        }
    }
}

/// Marks the first of each instance; they are sorted with the newest first.
fn mark_current(identities: &mut [IdentityOut]) {
    let mut before: Option<(String, String)> = None;
    for identity in identities {
        let whose = (identity.spiffe_id.clone(), identity.instance.clone());
        identity.current = before.as_ref() != Some(&whose);
        before = Some(whose);
    }
}

fn table(identities: &[IdentityOut]) -> String {
    if identities.is_empty() {
        return "no certificate was issued yet\n".to_owned();
    }
    let now = output::now_ms();
    let mut grid = Grid::new(&["IDENTITY", "INSTANCE", "SERIAL", "EVIDENCE", "ISSUER", "EXPIRES"]);
    for identity in identities {
        // Enough to be pasted into `ca revoke`: 56 random bits.
        let serial = identity.serial.get(..16).unwrap_or(&identity.serial).to_owned();
        let expires = match identity.revoked {
            true => (Tone::Bad, "revoked".to_owned()),
            false => (Tone::Plain, when(identity.expires_ms, now)),
        };
        grid.row([
            (Tone::Plain, identity.spiffe_id.clone()),
            (Tone::Plain, identity.instance.clone()),
            (Tone::Dim, serial),
            (Tone::Plain, identity.attestor.clone()),
            (Tone::Plain, identity.issuer.clone()),
            expires,
        ]);
    }
    grid.to_text()
}
