//! `meshctl audit`: the hash-chained record of every change.

use crate::failure::{Exit, Failure};
use crate::output::{self, Grid, Tone};
use crate::session::Session;
use clap::Args;
use mesh_proto::wire::v1;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  meshctl audit                 # the latest records
  meshctl audit --verify        # checks the whole chain; exit code 3 when it is broken";

/// What `audit` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AuditArgs {
    /// How many records at most
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: u32,
    /// Check every record against its predecessor's hash
    #[arg(long)]
    verify: bool,
}

#[derive(Serialize)]
struct AuditOut {
    records: Vec<RecordOut>,
    #[serde(skip_serializing_if = "String::is_empty")]
    verified: String,
}

#[derive(Serialize)]
struct RecordOut {
    sequence: u64,
    time: String,
    actor: String,
    verb: String,
    subject: String,
    detail: String,
    hash: String,
}

/// Prints the records, or the outcome of the verification.
///
/// # Errors
/// When no control plane answers.
pub(crate) async fn run(args: AuditArgs, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let request = v1::AuditRequest { limit: args.limit, verify: args.verify };
    let response = client.answer(client.api().audit(request).await)?;
    let records = response.records.into_iter().map(RecordOut::from).collect();
    let audit = AuditOut { records, verified: response.verified };
    output::print_value(session.format, &audit, || table(&audit))?;
    Ok(if args.verify && !audit.is_intact() { Exit::Bad } else { Exit::Done })
}

impl AuditOut {
    fn is_intact(&self) -> bool {
        self.verified.contains("intact")
    }
}

impl From<v1::AuditRecord> for RecordOut {
    fn from(record: v1::AuditRecord) -> Self {
        let v1::AuditRecord { sequence, time_ms, actor, verb, subject, detail, hash } = record;
        Self { sequence, time: output::time(time_ms), actor, verb, subject, detail, hash }
    }
}

fn table(audit: &AuditOut) -> String {
    let mut text = String::new();
    if !audit.records.is_empty() {
        let mut grid = Grid::new(&["SEQUENCE", "TIME", "WHO", "WHAT", "SUBJECT", "DETAIL", "HASH"]);
        for record in &audit.records {
            grid.row([
                (Tone::Plain, record.sequence.to_string()),
                (Tone::Dim, record.time.clone()),
                (Tone::Plain, record.actor.clone()),
                (Tone::Plain, record.verb.clone()),
                (Tone::Plain, record.subject.clone()),
                (Tone::Plain, record.detail.clone()),
                (Tone::Dim, record.hash.get(..12).unwrap_or(&record.hash).to_owned()),
            ]);
        }
        text.push_str(&grid.to_text());
    }
    if !audit.verified.is_empty() {
        let tone = if audit.is_intact() { Tone::Good } else { Tone::Bad };
        text.push_str(&format!("{}\n", output::paint(tone, &output::clean_lines(&audit.verified))));
    }
    text
}
