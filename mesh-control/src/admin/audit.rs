//! The audit log for people and for auditors: its newest records, its verification, its export.

use super::query::{hex, limit};
use super::server::Answers;
use super::{Control, store_status};
use crate::audit::{export::Exporter, unsigned_by};
use crate::clock;
use crate::store::view;
use mesh_proto::wire::v1;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Bytes of one piece of an export.
const CHUNK_BYTES: usize = 64 * 1024;
/// Pieces that wait for the caller.
const CHUNKS_WAITING_MAX: usize = 8;

impl Control {
    /// The newest audit records, newest first; on demand the whole chain is read from the disk again and checked.
    pub(super) async fn audit(
        self: &Arc<Self>,
        request: v1::AuditRequest,
    ) -> Result<v1::AuditResponse, Status> {
        let verified = if request.verify {
            let control = self.clone();
            // Reads everything from the disk: not on a thread that others wait for.
            let checked = tokio::task::spawn_blocking(move || {
                let report = control.store.verify_audit()?;
                Ok((report, unsigned_by(&control.audit_key, &*control.store)))
            });
            let checked =
                checked.await.map_err(|_| Status::internal("the check of the audit chain broke off"))?;
            let (report, signed) = checked.map_err(|error| store_status(&error))?;
            verified(&report, signed)
        } else {
            String::new()
        };
        let view = self.store.read();
        let last = view.audit_sequence();
        let count = u64::try_from(limit(request.limit)).unwrap_or(u64::MAX);
        let first = last.saturating_sub(count).saturating_add(1);
        let records = view.audit(first..=last);
        let record = |record: &view::AuditRecord| v1::AuditRecord {
            sequence: record.sequence,
            time_ms: record.time_ms,
            actor: record.actor.clone(),
            verb: record.verb.to_string(),
            subject: subject(record),
            detail: record.detail.clone(),
            hash: hex(&record.hash),
        };
        let records = records.iter().rev().map(|found| record(found)).collect();
        Ok(v1::AuditResponse { records, verified, key: hex(self.audit_key.public()) })
    }

    /// The audit log from a record on, as lines that prove themselves.
    pub(super) fn audit_export(self: &Arc<Self>, from: u64) -> Answers<v1::AuditExportChunk> {
        let (send, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
        let control = self.clone();
        // Ends with its lines, or when the caller goes away; all of it is owned by the blocking thread.
        drop(tokio::task::spawn_blocking(move || {
            let domain = control.authority.trust_domain().to_string();
            let exporter = Exporter::new(&*control.store, &control.audit_key, domain, clock::wall());
            let mut data = Vec::with_capacity(CHUNK_BYTES);
            for line in exporter.lines(from) {
                data.extend_from_slice(line.as_bytes());
                data.push(b'\n');
                if data.len() >= CHUNK_BYTES {
                    let chunk = v1::AuditExportChunk { data: std::mem::take(&mut data) };
                    if send.blocking_send(Ok(chunk)).is_err() {
                        return;
                    }
                }
            }
            let _ = send.blocking_send(Ok(v1::AuditExportChunk { data }));
        }));
        Box::pin(ReceiverStream::new(chunks))
    }
}

fn verified(report: &view::AuditReport, (signed, unsigned): (usize, Option<u64>)) -> String {
    match (&report.broken, unsigned) {
        (None, None) => format!(
            "{} records, chain intact, head {}, {signed} signed checkpoints",
            report.records,
            hex(&report.head)
        ),
        (None, Some(sequence)) => format!(
            "broken at record {sequence}: what was signed of it is not what is there; the chain was made anew from there or before"
        ),
        (Some(broken), _) => format!(
            "broken at record {}: {}; {} records before it are intact",
            broken.sequence, broken.problem, report.records
        ),
    }
}

/// The objects an audit record is about, shortened to the first three.
fn subject(record: &view::AuditRecord) -> String {
    let mut text = String::new();
    for (index, change) in record.changes.iter().take(3).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{}", change.key);
    }
    let more = record.changes.len().saturating_sub(3);
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}
