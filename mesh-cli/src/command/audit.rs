//! `meshctl audit`: the hash-chained record of every change and refusal.

use crate::failure::{Exit, Failure};
use crate::output::{self, Grid, Tone};
use crate::session::Session;
use clap::{Args, Subcommand};
use mesh_control::audit;
use mesh_proto::wire::v1;
use serde::Serialize;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  meshctl audit                              # the latest records
  meshctl audit --verify                     # checks the whole chain; exit code 3 when it is broken
  meshctl audit export > audit.jsonl         # everything, with the control plane's signatures
  meshctl audit key > audit.pub              # the public key: keep it where nobody of the mesh can write
  meshctl audit verify audit.jsonl --key \"$(cat audit.pub)\"   # anywhere, without the control plane";

/// What `audit` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: Option<AuditCommand>,
    #[command(flatten)]
    list: ListArgs,
}

/// What is done with the audit log.
#[derive(Subcommand, Debug)]
enum AuditCommand {
    /// Shows the latest records
    #[command(after_help = EXAMPLES)]
    List(ListArgs),
    /// Checks an export, or without one the running control plane's chain; exit code 3 when one byte is not as it was
    #[command(after_help = EXAMPLES)]
    Verify(VerifyArgs),
    /// Writes records, documents and signatures as JSON lines to standard output
    #[command(after_help = EXAMPLES)]
    Export(ExportArgs),
    /// Prints the public key that verifies exports
    #[command(after_help = EXAMPLES)]
    Key,
}

#[derive(Args, Debug)]
struct ListArgs {
    /// How many records at most
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: u32,
    /// Check every record against its predecessor's hash
    #[arg(long)]
    verify: bool,
}

#[derive(Args, Debug)]
struct VerifyArgs {
    /// What `audit export` wrote; "-" for standard input
    #[arg(requires = "key")]
    file: Option<PathBuf>,
    /// The public key, as `audit key` printed it: 64 hexadecimal digits
    #[arg(long, value_name = "KEY", requires = "file")]
    key: Option<String>,
}

#[derive(Args, Debug)]
struct ExportArgs {
    /// The first record
    #[arg(long, default_value_t = 1, value_name = "N")]
    from: u64,
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

/// What the check of an export came to, as scripts see it.
#[derive(Serialize)]
struct VerifiedOut {
    intact: bool,
    records: u64,
    from: u64,
    checkpoints: u64,
    /// The last record that a good signature stands for.
    signed: u64,
    trust_domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
}

/// Shows, verifies or exports.
///
/// # Errors
/// When no control plane answers, or the file to verify cannot be read.
pub(crate) async fn run(args: AuditArgs, session: &Session) -> Result<Exit, Failure> {
    match args.command {
        None => list(&args.list, session).await,
        Some(AuditCommand::List(args)) => list(&args, session).await,
        Some(AuditCommand::Verify(VerifyArgs { file: Some(file), key: Some(key) })) => {
            verify_file(&file, &key, session)
        }
        Some(AuditCommand::Verify(_)) => list(&ListArgs { limit: 1, verify: true }, session).await,
        Some(AuditCommand::Export(args)) => export(args.from, session).await,
        Some(AuditCommand::Key) => {
            let client = session.admin().await?;
            let request = v1::AuditRequest { limit: 1, verify: false };
            output::print(&client.answer(client.api().audit(request).await)?.key)?;
            Ok(Exit::Done)
        }
    }
}

async fn list(args: &ListArgs, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let request = v1::AuditRequest { limit: args.limit, verify: args.verify };
    let response = client.answer(client.api().audit(request).await)?;
    let records = response.records.into_iter().map(RecordOut::from).collect();
    let audit = AuditOut { records, verified: response.verified };
    output::print_value(session.format, &audit, || table(&audit))?;
    Ok(if args.verify && !audit.is_intact() { Exit::Bad } else { Exit::Done })
}

async fn export(from: u64, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let request = v1::AuditExportRequest { from };
    let mut stream = client.answer(client.api().audit_export(request).await)?;
    while let Some(chunk) = stream.message().await.map_err(|status| client.refused(&status))? {
        output::print_raw(&chunk.data)?;
    }
    Ok(Exit::Done)
}

fn verify_file(file: &Path, key: &str, session: &Session) -> Result<Exit, Failure> {
    let cannot = |error| Failure::failed(format!("cannot read {}: {error}", file.display()));
    let report = if file == Path::new("-") {
        audit::verify(std::io::stdin().lock(), key)
    } else {
        audit::verify(BufReader::new(File::open(file).map_err(cannot)?), key)
    };
    let audit::Report { records, from, checkpoints, signed, trust_domain, broken } =
        report.map_err(|problem| Failure::usage(problem).next("meshctl audit key"))?;
    let (line, problem) = broken.map(|broken| (broken.line, broken.problem)).unzip();
    let problem = problem.unwrap_or_default();
    let verified = VerifiedOut {
        intact: line.is_none(),
        records,
        from,
        checkpoints,
        signed,
        trust_domain,
        line,
        problem,
    };
    output::print_value(session.format, &verified, || verified.text())?;
    Ok(if verified.intact { Exit::Done } else { Exit::Bad })
}

impl VerifiedOut {
    fn text(&self) -> String {
        let Self { records, checkpoints, signed, trust_domain, problem, .. } = self;
        let text = match self.line {
            None => {
                format!("{records} records of {trust_domain} are intact; {checkpoints} signatures are good")
            }
            Some(line) => format!(
                "broken at line {line}: {problem}\n{records} records before it are linked, up to record {signed} they are signed"
            ),
        };
        let tone = if self.intact { Tone::Good } else { Tone::Bad };
        format!("{}\n", output::paint(tone, &output::clean_lines(&text)))
    }
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
