//! Samples into a table: minimum, median and maximum over the rounds, and the ratio of medians to the mesh's.

use super::load::Done;
use super::memory;
use super::process::Cpu;
use super::work::Work;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One round of one work through one contestant.
#[derive(Clone, Serialize)]
pub(super) struct Sample {
    /// CPU of all its proxies, µs for each request (ms for each GB of bulk).
    cpu_us: f64,
    /// CPU of each of its processes, likewise: client side, server side.
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
    pub(super) fn new(work: Work, done: &Done, before: &[Cpu], after: &[Cpu]) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let float = |number: u64| number as f64;
        let count = float(done.count.max(1));
        let scale = work.unit() / 1000.0 / count;
        let pairs = || before.iter().zip(after);
        let each_us: Vec<f64> =
            pairs().map(|(b, a)| float(a.total_ns.saturating_sub(b.total_ns)) * scale).collect();
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

/// What the rounds of one work through one contestant came to: medians, unless said otherwise.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Figures {
    /// CPU of both proxies for each request, µs (bulk: ms for each GB).
    pub(super) cpu: f64,
    pub(super) cpu_min: f64,
    pub(super) cpu_max: f64,
    /// The client side's part of it, and the server side's.
    pub(super) each: Vec<f64>,
    pub(super) user: f64,
    pub(super) per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    /// System calls for each request, by process; empty where not counted.
    pub(super) calls: Vec<f64>,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn of(samples: &[Sample], calls: &[f64]) -> Self {
        let sides = samples.first().map_or(0, |sample| sample.each_us.len());
        let side = |at: usize| median(samples, |s| s.each_us.get(at).copied().unwrap_or(0.0));
        Self {
            cpu: median(samples, |s| s.cpu_us),
            cpu_min: samples.iter().map(|s| s.cpu_us).fold(f64::INFINITY, f64::min),
            cpu_max: samples.iter().map(|s| s.cpu_us).fold(0.0, f64::max),
            each: (0..sides).map(side).collect(),
            user: median(samples, |s| s.user),
            per_second: median(samples, |s| s.per_second),
            p50_us: median(samples, |s| s.p50_us as f64),
            p99_us: median(samples, |s| s.p99_us as f64),
            p999_us: median(samples, |s| s.p999_us as f64),
            calls: calls.to_vec(),
        }
    }
}

/// A whole run, as it is kept and compared.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Summary {
    /// Processor, cores, kernel.
    pub(super) machine: String,
    /// Rounds and their length.
    pub(super) run: String,
    /// By work and contestant.
    pub(super) works: BTreeMap<String, BTreeMap<String, Figures>>,
    /// By contestant.
    pub(super) memory: BTreeMap<String, memory::Sample>,
}

/// All samples, in the order of the works and contestants.
#[derive(Default, Serialize)]
pub(super) struct Table {
    works: Vec<(String, Vec<Row>)>,
    memory: Vec<(String, memory::Sample)>,
}

/// All rounds of one contestant.
#[derive(Serialize)]
struct Row {
    contestant: String,
    samples: Vec<Sample>,
    calls: Vec<f64>,
}

impl Table {
    fn row(&mut self, work: Work, contestant: &str) -> &mut Row {
        let name = work.name();
        let at = self.works.iter().position(|(one, _)| *one == name).unwrap_or(self.works.len());
        if at == self.works.len() {
            self.works.push((name, Vec::new()));
        }
        // Found or pushed just now.
        let rows = &mut self.works[at].1;
        let row = rows.iter().position(|row| row.contestant == contestant).unwrap_or(rows.len());
        if row == rows.len() {
            rows.push(Row { contestant: contestant.to_owned(), samples: Vec::new(), calls: Vec::new() });
        }
        &mut rows[row]
    }

    pub(super) fn add(&mut self, work: Work, contestant: &str, sample: Sample) {
        self.row(work, contestant).samples.push(sample);
    }

    pub(super) fn add_calls(&mut self, work: Work, contestant: &str, calls: Vec<f64>) {
        self.row(work, contestant).calls = calls;
    }

    pub(super) fn add_memory(&mut self, contestant: &str, sample: memory::Sample) {
        self.memory.push((contestant.to_owned(), sample));
    }

    pub(super) fn summary(&self, run: &str) -> Summary {
        let rows = |rows: &[Row]| {
            rows.iter().map(|row| (row.contestant.clone(), Figures::of(&row.samples, &row.calls))).collect()
        };
        Summary {
            machine: machine(),
            run: run.to_owned(),
            works: self.works.iter().map(|(work, all)| (work.clone(), rows(all))).collect(),
            memory: self.memory.iter().cloned().collect(),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::from(
            "CPU: µs of both proxies for each request (bulk: ms for each GB): min, median, max over the rounds, and each side's median\n\
             ratio: the mesh's median divided by this contestant's; calls: system calls for each request, client side + server side\n",
        );
        for (work, rows) in &self.works {
            let head = ["min", "median", "max", "ratio", "client", "server", "user"];
            let titles: String = head.iter().map(|title| format!("{title:>8}")).collect();
            let more: String =
                ["per s", "p50", "p99", "p99.9"].iter().map(|title| format!("{title:>11}")).collect();
            _ = writeln!(text, "\n{work:<18}{titles}{more}  calls");
            let figures: Vec<(&str, Figures)> = rows
                .iter()
                .map(|row| (row.contestant.as_str(), Figures::of(&row.samples, &row.calls)))
                .collect();
            let mesh = figures.iter().find(|(name, _)| *name == "mesh").map(|(_, figures)| figures.cpu);
            for (name, figures) in &figures {
                text.push_str(&line(name, figures, mesh));
            }
        }
        if !self.memory.is_empty() {
            _ = write!(text, "\n{}", memory::text(&self.memory));
        }
        text
    }
}

fn line(name: &str, figures: &Figures, mesh: Option<f64>) -> String {
    let Figures { cpu, cpu_min, cpu_max, each, user, per_second, p50_us, p99_us, p999_us, calls } = figures;
    let ratio = mesh.filter(|_| *cpu > 0.0).map_or_else(String::new, |mesh| format!("{:.2}", mesh / cpu));
    let side = |at: usize| each.get(at).map_or_else(String::new, |us| format!("{us:.1}"));
    let calls: Vec<String> = calls.iter().map(|count| format!("{count:.2}")).collect();
    let latency = |us: &f64| if *us > 0.0 { format!("{us:.0}") } else { String::new() };
    format!(
        "  {name:<16}{cpu_min:>8.1}{cpu:>8.1}{cpu_max:>8.1}{ratio:>8}{:>8}{:>8}{user:>8.2}{per_second:>11.0}{:>11}{:>11}{:>11}  {}\n",
        side(0),
        side(1),
        latency(p50_us),
        latency(p99_us),
        latency(p999_us),
        calls.join(" + ")
    )
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Processor, cores and kernel.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{model}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
