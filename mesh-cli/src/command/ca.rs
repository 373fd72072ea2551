//! `meshctl ca`: the certificate authority: its state, rotation, revocation, join tokens.

pub(crate) mod revoke;
pub(crate) mod rotate;
pub(crate) mod token;

use crate::duration;
use crate::failure::{Exit, Failure};
use crate::output::{self, Grid, Tone};
use crate::session::Session;
use clap::{Args, Subcommand};
use mesh_proto::wire::v1;
use serde::Serialize;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  meshctl ca status
  meshctl ca rotate                    # replaces the root, gated on every sidecar
  meshctl ca revoke spiffe://mesh.local/ns/default/sa/web --reason stolen
  meshctl ca token --service-account reports";

/// What `ca` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

/// What can be done with the authority.
#[derive(Subcommand, Debug)]
enum CaCommand {
    /// Shows roots, the issuing certificate, and how far a rotation is
    Status,
    /// Replaces the root (or only the issuing certificate) with no failed request
    Rotate(rotate::RotateArgs),
    /// Refuses a certificate or an identity everywhere, and cuts its connections
    Revoke(revoke::RevokeArgs),
    /// Makes a one-time token with which a workload of another machine joins
    #[command(visible_alias = "join-token")]
    Token(token::TokenArgs),
}

/// The authority's state, as scripts see it.
#[derive(Serialize, Clone, Debug)]
pub(crate) struct CaOut {
    roots: Vec<CertificateOut>,
    issuing: Option<CertificateOut>,
    pub(crate) rotation: String,
    pub(crate) waiting_for: String,
    pub(crate) proxies_total: u32,
    pub(crate) proxies_trusting: u32,
    pub(crate) svids_total: u32,
    pub(crate) svids_on_new: u32,
    issued_total: u64,
    revoked: u32,
}

/// One certificate of the authority.
#[derive(Serialize, Clone, Debug)]
struct CertificateOut {
    subject: String,
    serial: String,
    not_before: String,
    not_after: String,
    #[serde(skip)]
    expires_ms: u64,
    state: String,
    sha256: String,
}

/// Does what was asked of the authority.
///
/// # Errors
/// The command's own.
pub(crate) async fn run(args: CaArgs, session: &Session) -> Result<Exit, Failure> {
    match args.command {
        CaCommand::Status => {
            let client = session.admin().await?;
            let response = client.answer(client.api().ca_status(v1::CaStatusRequest {}).await)?;
            let status = CaOut::from(response);
            output::print_value(session.format, &status, || status.table())?;
            Ok(Exit::Done)
        }
        CaCommand::Rotate(args) => rotate::run(args, session).await,
        CaCommand::Revoke(args) => revoke::run(args, session).await,
        CaCommand::Token(args) => token::run(args, session).await,
    }
}

/// A moment seen from now: `in 23h 59m`, `expired 3m ago`.
pub(crate) fn when(ms: u64, now_ms: u64) -> String {
    if ms == 0 {
        return "-".to_owned();
    }
    match ms.checked_sub(now_ms) {
        Some(left) if left > 0 => format!("in {}", duration::show(Duration::from_millis(left))),
        _ => format!("expired {} ago", duration::show(Duration::from_millis(now_ms.saturating_sub(ms)))),
    }
}

impl From<v1::CaStatusResponse> for CaOut {
    fn from(response: v1::CaStatusResponse) -> Self {
        let v1::CaStatusResponse {
            roots,
            issuing,
            rotation,
            waiting_for,
            proxies_total,
            proxies_trusting,
            svids_total,
            svids_on_new,
            issued_total,
            revoked,
        } = response;
        Self {
            roots: roots.into_iter().map(CertificateOut::from).collect(),
            issuing: issuing.map(CertificateOut::from),
            rotation,
            waiting_for,
            proxies_total,
            proxies_trusting,
            svids_total,
            svids_on_new,
            issued_total,
            revoked,
        }
    }
}

impl From<v1::CaCertificate> for CertificateOut {
    fn from(certificate: v1::CaCertificate) -> Self {
        let v1::CaCertificate { subject, serial, not_before_ms, not_after_ms, state, sha256 } = certificate;
        Self {
            subject,
            serial,
            not_before: output::time(not_before_ms),
            not_after: output::time(not_after_ms),
            expires_ms: not_after_ms,
            state,
            sha256,
        }
    }
}

impl CaOut {
    /// Whether no root rotation is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.rotation.is_empty() || self.rotation.starts_with("idle")
    }

    /// One line for `status`.
    pub(crate) fn summary(&self, now_ms: u64) -> String {
        let roots = match self.roots.as_slice() {
            [root] => format!("root expires {}", when(root.expires_ms, now_ms)),
            roots => format!("{} roots", roots.len()),
        };
        let issuing =
            self.issuing.as_ref().map(|issuing| when(issuing.expires_ms, now_ms)).unwrap_or_default();
        let rotation = if self.is_idle() { String::new() } else { format!(", {}", self.progress()) };
        format!("{roots}, issuing certificate {issuing}, {} certificates live{rotation}", self.svids_total)
    }

    /// How far a root rotation is, in one line.
    pub(crate) fn progress(&self) -> String {
        if self.is_idle() {
            return "no rotation under way".to_owned();
        }
        let waiting = match self.waiting_for.as_str() {
            "" => String::new(),
            waiting => format!("; waiting for {}", output::clean(waiting)),
        };
        format!(
            "rotation step {}: {}/{} sidecars trust the new root, {}/{} certificates are from it{waiting}",
            output::clean(&self.rotation),
            self.proxies_trusting,
            self.proxies_total,
            self.svids_on_new,
            self.svids_total,
        )
    }

    fn table(&self) -> String {
        let now = output::now_ms();
        let mut grid = Grid::new(&["CERTIFICATE", "STATE", "SUBJECT", "SERIAL", "EXPIRES", "SHA-256"]);
        let named = self.roots.iter().map(|root| ("root", root));
        for (what, certificate) in named.chain(self.issuing.iter().map(|issuing| ("issuing", issuing))) {
            let tone = if certificate.state == "retiring" { Tone::Warn } else { Tone::Good };
            grid.row([
                (Tone::Plain, what.to_owned()),
                (tone, certificate.state.clone()),
                (Tone::Plain, certificate.subject.clone()),
                (Tone::Dim, certificate.serial.clone()),
                (Tone::Plain, when(certificate.expires_ms, now)),
                (Tone::Dim, certificate.sha256.clone()),
            ]);
        }
        format!(
            "{}\n{}\n{} certificates issued, {} live, {} revoked\n",
            grid.to_text(),
            self.progress(),
            self.issued_total,
            self.svids_total,
            self.revoked
        )
    }
}
