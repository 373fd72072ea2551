//! Samples into a table: minimum, median and maximum over the rounds, and the ratio of medians to the mesh's.

use super::load::Done;
use super::process::Cpu;
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::Write;

/// One round of one work through one contestant.
#[derive(Clone, serde::Serialize)]
pub(super) struct Sample {
    /// CPU of all its proxies, µs for each request (ms for each GB of bulk).
    cpu_us: f64,
    /// CPU of each of its processes, likewise.
    each_us: Vec<f64>,
    /// Share of CPU in user mode, 0 to 1; coarse.
    user: f64,
    /// Requests (or bytes) a second.
    per_second: f64,
    /// Latency in µs, from when each was due; 0 where not measured.
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
}

impl Sample {
    pub(super) fn new(done: &Done, before: &[Cpu], after: &[Cpu]) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let float = |number: u64| number as f64;
        let count = float(done.count.max(1));
        let pairs = || before.iter().zip(after);
        let each_us: Vec<f64> =
            pairs().map(|(b, a)| float(a.total_ns.saturating_sub(b.total_ns)) / 1000.0 / count).collect();
        let ticks = |of: fn(&Cpu) -> u64| float(pairs().map(|(b, a)| of(a).saturating_sub(of(b))).sum());
        let at = |q| done.latency.as_ref().map_or(0, |latency| latency.value_at_quantile(q));
        Self {
            cpu_us: each_us.iter().fold(0.0, |sum, one| sum + one),
            each_us,
            user: ticks(|cpu| cpu.user_ticks) / ticks(|cpu| cpu.all_ticks).max(1.0),
            per_second: count / done.time.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
        }
    }
}

/// All samples, by work and contestant.
#[derive(Default)]
pub(super) struct Table(BTreeMap<String, Vec<(String, Vec<Sample>)>>);

impl Table {
    pub(super) fn add(&mut self, work: String, contestant: &str, sample: Sample) {
        let rows = self.0.entry(work).or_default();
        match rows.iter_mut().find(|(name, _)| name == contestant) {
            Some((_, samples)) => samples.push(sample),
            None => rows.push((contestant.to_owned(), vec![sample])),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::from(
            "CPU: µs of all proxies for each request (bulk: ns for each byte = ms for each MB); min / median / max over the rounds\n\
             ratio: the mesh's median divided by this contestant's\n",
        );
        for (work, rows) in &self.0 {
            let head = ["CPU min", "median", "max", "ratio", "user", "per s", "p50", "p99", "p99.9 µs"];
            let titles: String = head.iter().map(|title| format!("{title:>10}")).collect();
            _ = writeln!(text, "\n{work:<18}{titles}");
            let mesh = rows
                .iter()
                .find(|(name, _)| name == "mesh")
                .map(|(_, samples)| median(samples, |s| s.cpu_us));
            for (name, samples) in rows {
                let cpu = median(samples, |s| s.cpu_us);
                let ratio =
                    mesh.filter(|_| cpu > 0.0).map_or_else(String::new, |mesh| format!("{:.2}", mesh / cpu));
                let low = samples.iter().map(|s| s.cpu_us).fold(f64::INFINITY, f64::min);
                let high = samples.iter().map(|s| s.cpu_us).fold(0.0, f64::max);
                #[expect(clippy::cast_precision_loss, reason = "figures for people")]
                let latency = [
                    median(samples, |s| s.p50_us as f64),
                    median(samples, |s| s.p99_us as f64),
                    median(samples, |s| s.p999_us as f64),
                ];
                _ = writeln!(
                    text,
                    "  {name:<16}{low:>10.1}{cpu:>10.1}{high:>10.1}{ratio:>10}{:>10.2}{:>10.0}{:>10.0}{:>10.0}{:>10.0}",
                    median(samples, |s| s.user),
                    median(samples, |s| s.per_second),
                    latency[0],
                    latency[1],
                    latency[2]
                );
            }
        }
        text
    }

    pub(super) fn json(&self) -> Result<String> {
        let all: BTreeMap<&String, BTreeMap<&String, &Vec<Sample>>> = self
            .0
            .iter()
            .map(|(work, rows)| (work, rows.iter().map(|(name, samples)| (name, samples)).collect()))
            .collect();
        Ok(serde_json::to_string_pretty(&all)?)
    }
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
