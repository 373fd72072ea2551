//! A past for a mesh that was started just now: a flow ledger of a day, in the form in which the control plane keeps it.
//!
//! What is usual on an edge is learnt for a day before anything unusual is told of it. No test can wait for that.

use aws_lc_rs::digest;
use mesh_proto::wire::v1;
use prost::Message as _;
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

const HOUR_MS: u64 = 3_600_000;
/// More than the day that is learnt, by what an hour has begun.
const HOURS: u64 = 26;
/// Minutes that are told of each hour.
const MINUTES: u64 = 6;

/// An edge that was always used a little.
#[derive(Debug, Clone, Copy)]
pub struct Usual {
    /// The calling account of the namespace `default`.
    pub from: &'static str,
    /// The called one, which is its service, too.
    pub to: &'static str,
    /// Bytes that it read in a minute.
    pub bytes: u64,
}

/// Writes the ledger of a day that ends an hour ago into a control plane's state directory.
///
/// The control plane must not run, and reads it when it starts.
#[track_caller]
pub fn write(state: &Path, edges: &[Usual], now: SystemTime) {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let last = u64::try_from(now).unwrap_or(0) / HOUR_MS;
    let folder = state.join("ledger");
    let written = std::fs::create_dir_all(&folder).and_then(|()| {
        for hour in last.saturating_sub(HOURS)..last {
            let mut file = std::fs::File::create(folder.join(format!("{hour}.flows")))?;
            for minute in 0..MINUTES {
                let from_ms = hour * HOUR_MS + minute * (HOUR_MS / MINUTES);
                let body = frame(edges, from_ms).encode_to_vec();
                let digest = digest::digest(&digest::SHA256, &body);
                file.write_all(&u32::try_from(body.len()).unwrap_or(0).to_le_bytes())?;
                file.write_all(digest.as_ref().get(..8).unwrap_or_default())?;
                file.write_all(&body)?;
            }
        }
        Ok(())
    });
    written.unwrap_or_else(|error| panic!("a past in {}: {error}", folder.display()));
}

fn frame(edges: &[Usual], from_ms: u64) -> v1::LedgerFrame {
    let mut frame = v1::LedgerFrame { from_ms, to_ms: from_ms + 60_000, ..v1::LedgerFrame::default() };
    let mut name = |text: String| {
        frame.names.push(text);
        u32::try_from(frame.names.len() - 1).unwrap_or(0)
    };
    let id = |account: &str| format!("spiffe://mesh.local/ns/default/sa/{account}");
    let rows = edges.iter().map(|edge| v1::LedgerRow {
        source: name(id(edge.from)),
        destination: name(id(edge.to)),
        service: name(format!("default/{}", edge.to)),
        protocol: name("http1".to_owned()),
        tls_version: name("TLSv1.3".to_owned()),
        allowed: 60,
        bytes_in: 6_000,
        bytes_out: edge.bytes,
        ..v1::LedgerRow::default()
    });
    frame.rows = rows.collect();
    frame
}
