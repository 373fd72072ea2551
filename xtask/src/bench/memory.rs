//! What a contestant costs when nothing happens, and how soon it is ready. Each figure comes from a fresh pair.

use super::backend::Backend;
use super::contestant::{Contestant, Entry};
use super::load::{self, Word};
use super::mesh;
use super::process::Process;
use super::work::Needs;
use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit};
use std::path::Path;
use std::time::Duration;

/// Time for buffers to be given back after the last byte moved.
const SETTLE: Duration = Duration::from_secs(2);

/// Memory of both sides, client first, at one moment.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Resident {
    /// `http` or `tcp`; empty while idle.
    pub(super) kind: String,
    /// Idle connections that are open.
    pub(super) connections: usize,
    /// MB of each process.
    pub(super) mb: Vec<f64>,
}

/// One fresh start and what followed.
#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Sample {
    /// From the start of both processes to the first answer through them, in ms.
    pub(super) ready_ms: f64,
    /// Where certificates come from a control plane: from there on, in ms, of the slower side.
    pub(super) ready_after_certificate_ms: Option<f64>,
    pub(super) resident: Vec<Resident>,
    /// What could not be measured, and why.
    pub(super) gaps: Vec<String>,
}

/// Starts a pair for HTTP and one for TCP, opens ever more idle connections, and reads memory in between.
#[expect(clippy::disallowed_methods, reason = "buffers are given back some time after the last byte")]
pub(super) fn measure(entry: &Entry, folder: &Path, backend: &Backend, steps: &[usize]) -> Result<Sample> {
    let mut sample = Sample::default();
    let mut ready = Vec::new();
    for (kind, needs, word) in [("http", Needs::Http1, Word::Get), ("tcp", Needs::Tcp, Word::Echo)] {
        let (mut contestant, ready_ms) = fresh(entry, &folder.join(kind), backend)?;
        let Some(address) = contestant.address_of(needs) else { continue };
        ready.push(ready_ms);
        if entry.name == "mesh" {
            match mesh::ready_after_certificate_ms(&contestant) {
                Ok(each) => sample.ready_after_certificate_ms = each.into_iter().reduce(f64::max),
                Err(error) => sample.gaps.push(format!("time from certificate to ready: {error:#}")),
            }
        }
        std::thread::sleep(SETTLE);
        if sample.resident.is_empty() {
            sample.resident.push(resident("", 0, &contestant));
        }
        load::block_on(async {
            let mut idle = Vec::new();
            for &connections in steps {
                if let Some(gap) = no_room(kind, connections) {
                    sample.gaps.push(gap);
                    break;
                }
                let opened = load::open_idle(address, word, connections, &mut idle).await;
                tokio::time::sleep(SETTLE).await;
                if let Err(error) = opened {
                    // What could be opened tells what one more costs.
                    sample.gaps.push(format!("{kind}, {connections} connections: {error:#}"));
                    sample.resident.push(resident(kind, idle.len(), &contestant));
                    break;
                }
                sample.resident.push(resident(kind, connections, &contestant));
            }
            Ok(())
        })?;
        contestant.proxies.iter_mut().try_for_each(|proxy| proxy.check(&contestant.folder))?;
    }
    sample.ready_ms = ready.into_iter().reduce(f64::min).context("carries nothing")?;
    Ok(sample)
}

/// A fresh pair, and how many ms it took to the first answer.
fn fresh(entry: &Entry, folder: &Path, backend: &Backend) -> Result<(Contestant, f64)> {
    let mut contestant = entry.start(folder, backend)?;
    contestant.wait_for_answer()?;
    let first = contestant.proxies.iter().map(Process::started).min();
    let ready_ms = first.map_or(0.0, |started| started.elapsed().as_secs_f64() * 1e3);
    Ok((contestant, ready_ms))
}

/// Why so many connections cannot be open here.
fn no_room(kind: &str, connections: usize) -> Option<String> {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let needed = u64::try_from(connections).unwrap_or(u64::MAX).saturating_mul(4);
    (needed > limit).then(|| {
        format!("{kind}, {connections} connections: not measured, they need {needed} descriptors for a process and the system allows {limit}")
    })
}

fn resident(kind: &str, connections: usize, contestant: &Contestant) -> Resident {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let mb = |process: &Process| process.resident_kib() as f64 / 1024.0;
    Resident { kind: kind.to_owned(), connections, mb: contestant.proxies.iter().map(mb).collect() }
}

/// The table of all samples, one column for each contestant.
pub(super) fn text(samples: &[(String, Sample)]) -> String {
    use std::fmt::Write;
    let mut text = String::from(
        "memory, MB resident of client side / server side; ready: ms from start to first answer\n",
    );
    let mut rows: Vec<(String, usize)> = Vec::new();
    for resident in samples.iter().flat_map(|(_, sample)| &sample.resident) {
        let row = (resident.kind.clone(), resident.connections);
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    _ = write!(text, "{:<18}", "");
    for (name, _) in samples {
        _ = write!(text, "{name:>18}");
    }
    for (kind, connections) in rows {
        let label = if kind.is_empty() { "idle".to_owned() } else { format!("{connections} idle {kind}") };
        _ = write!(text, "\n{label:<18}");
        for (_, sample) in samples {
            let found = sample.resident.iter().find(|one| one.kind == kind && one.connections == connections);
            let cell = found.map_or_else(String::new, |one| {
                one.mb.iter().map(|mb| format!("{mb:.1}")).collect::<Vec<_>>().join(" / ")
            });
            _ = write!(text, "{cell:>18}");
        }
    }
    _ = write!(text, "\n{:<18}", "ready");
    for (_, sample) in samples {
        _ = write!(text, "{:>18.0}", sample.ready_ms);
    }
    _ = writeln!(text);
    for (name, sample) in samples {
        if let Some(ms) = sample.ready_after_certificate_ms {
            _ = writeln!(text, "{name}: ready {ms:.0} ms after its certificate was there");
        }
        for line in each_connection(sample) {
            _ = writeln!(text, "{name}: {line}");
        }
        for gap in &sample.gaps {
            _ = writeln!(text, "!! {name}: {gap}");
        }
    }
    text
}

/// What one more idle connection costs each side, from the fewest to the most that were open.
fn each_connection(sample: &Sample) -> Vec<String> {
    let of = |kind: &str| -> Option<String> {
        let moments: Vec<&Resident> = sample.resident.iter().filter(|one| one.kind == kind).collect();
        let (few, many) = (moments.first()?, moments.last()?);
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let more = many.connections.checked_sub(few.connections).filter(|more| *more > 0)? as f64;
        let sides =
            few.mb.iter().zip(&many.mb).map(|(few, many)| format!("{:.1}", (many - few) * 1024.0 / more));
        let sides = sides.collect::<Vec<_>>().join(" / ");
        Some(format!(
            "{sides} KiB for each {kind} connection from {} to {}",
            few.connections, many.connections
        ))
    };
    ["http", "tcp"].into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_moment_and_names_gaps() {
        let moment = |kind: &str, connections, mb| Resident { kind: kind.to_owned(), connections, mb };
        let sample = Sample {
            ready_ms: 41.0,
            ready_after_certificate_ms: Some(12.0),
            resident: vec![
                moment("", 0, vec![9.0, 8.5]),
                moment("tcp", 1000, vec![20.0, 21.0]),
                moment("tcp", 2024, vec![24.0, 26.0]),
            ],
            gaps: vec!["tcp, 5000 connections: refused".to_owned()],
        };
        let text = text(&[("mesh".to_owned(), sample)]);
        for part in [
            "9.0 / 8.5",
            "1000 idle tcp",
            "ready 12 ms after",
            "!! mesh: tcp, 5000",
            "4.0 / 5.0 KiB for each tcp",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }
}
