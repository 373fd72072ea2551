//! What the mesh is to cost at most, beside its peers in the same run, and whether it does.

use super::mesh::{FEW_RULES, MANY_RULES, UNSHARED};
use super::report::{Figures, Summary};
use std::fmt::Write;

/// The mesh's CPU for each request, as a share of a peer's: work, peer, most.
const CPU: [(&str, &str, f64); 17] = [
    ("http1-get-64", "envoy", 0.26),
    ("http1-get-64", "haproxy", 0.75),
    ("http1-post-1024", "envoy", 0.26),
    ("http1-post-65536", "envoy", 0.62),
    ("http2-get-8x8", "envoy", 0.30),
    ("http2-get-8x8", "linkerd2-proxy", 0.75),
    ("grpc-8x8", "envoy", 0.35),
    ("grpc-8x8", "linkerd2-proxy", 0.75),
    ("fixed-1000", "envoy", 0.50),
    ("fixed-2000", "envoy", 0.50),
    ("tcp-bulk-up", "envoy", 0.90),
    ("tcp-bulk-down", "envoy", 0.90),
    ("tcp-ping-pong-32", "envoy", 0.72),
    ("tcp-ping-pong-1", "envoy", 0.72),
    ("new-tcp", "envoy", 0.25),
    ("new-http", "envoy", 0.50),
    ("http1-get-1", "envoy", 0.26),
];

/// CPU for each request among many access rules, as a share of that among few.
const MANY_TO_FEW_RULES: f64 = 1.02;
/// Latency at a fixed rate: what the median adds to going direct, and the 99th percentile, as shares of Envoy's.
const ADDED_P50: f64 = 0.5;
const P99: f64 = 0.7;

/// Resident MB of the larger side at most: kind, connections, MB.
const MEMORY: [(&str, usize, f64); 3] = [("", 0, 9.0), ("http", 5_000, 35.0), ("tcp", 5_000, 45.0)];
/// From the certificate to the first call, in ms.
const READY_MS: f64 = 80.0;
/// System calls for each request and proxy when saturated.
const CALLS: f64 = 4.2;

/// One line for each target that this run can speak of.
pub(super) fn text(run: &Summary) -> String {
    let mut lines = Lines(String::from("targets (the mesh's figure, at most):\n"));
    let of = |work: &str, name: &str| run.works.get(work).and_then(|all| all.get(name));
    for (work, peer, most) in CPU {
        if let (Some(mesh), Some(other)) = (of(work, "mesh"), of(work, peer)) {
            lines.add(work, mesh.cpu / other.cpu, most, &format!("× {peer}'s CPU"));
        } else if of(work, "mesh").is_some() {
            _ = writeln!(lines.0, "  ?     {work:<18} {peer} was not measured");
        }
    }
    if let (Some(few), Some(many)) = (of("rules", FEW_RULES), of("rules", MANY_RULES)) {
        lines.add("rules", many.cpu / few.cpu, MANY_TO_FEW_RULES, "× the CPU among 10 rules, among 10,000");
    }
    if let Some(figures) = of("handshake", UNSHARED) {
        let each = |side: usize| figures.each.get(side).map_or(0.0, |us| 1e6 / us.max(1.0));
        _ = writeln!(
            lines.0,
            "        handshake          a core does {:.0} a second as caller, {:.0} as called side, with the connection that needs it",
            each(0),
            each(1)
        );
    }
    for work in ["fixed-1000", "fixed-2000"] {
        if let (Some(mesh), Some(envoy), Some(direct)) =
            (of(work, "mesh"), of(work, "envoy"), of(work, "direct"))
        {
            let added = |one: &Figures| (one.p50_us - direct.p50_us).max(1.0);
            lines.add(work, added(mesh) / added(envoy), ADDED_P50, "× envoy's added median latency");
            lines.add(work, mesh.p99_us / envoy.p99_us.max(1.0), P99, "× envoy's 99th percentile");
        }
    }
    if let Some(mesh) = of("http1-get-64", "mesh")
        && let Some(calls) = mesh.calls.iter().copied().reduce(f64::max)
    {
        lines.add("http1-get-64", calls, CALLS, "system calls for a request and proxy");
    }
    if let Some(mesh) = run.memory.get("mesh") {
        for (kind, connections, most) in MEMORY {
            let found = mesh.resident.iter().find(|one| one.kind == kind && one.connections == connections);
            if let Some(mb) = found.and_then(|one| one.mb.iter().copied().reduce(f64::max)) {
                lines.add(&format!("{connections} idle {kind}"), mb, most, "MB resident");
            }
        }
        if let Some(ms) = mesh.ready_after_certificate_ms {
            lines.add("ready", ms, READY_MS, "ms after the certificate");
        }
    }
    lines.0
}

struct Lines(String);

impl Lines {
    fn add(&mut self, what: &str, is: f64, most: f64, unit: &str) {
        let word = if is <= most { "holds" } else { "MISS " };
        _ = writeln!(self.0, "  {word} {what:<18} {is:>7.2} (at most {most}) {unit}");
    }
}

/// What changed since the kept result: ratios to the peers, since the machine may be another.
pub(super) fn comparison(before: &Summary, now: &Summary) -> String {
    let mut text = format!(
        "since the kept result ({}, {}): the mesh's CPU as a share of each peer's\n",
        before.machine, before.run
    );
    for (work, rows) in &now.works {
        let Some(mesh) = rows.get("mesh") else { continue };
        let Some(old) = before.works.get(work) else { continue };
        let Some(old_mesh) = old.get("mesh") else { continue };
        _ = write!(text, "  {work:<18}");
        for (name, figures) in rows.iter().filter(|(name, figures)| *name != "mesh" && figures.cpu > 0.0) {
            let Some(old) = old.get(name).filter(|old| old.cpu > 0.0) else { continue };
            let (is, was) = (mesh.cpu / figures.cpu, old_mesh.cpu / old.cpu);
            // A tenth is within what two runs on a shared machine differ by.
            let mark = if is > was * 1.1 {
                " worse"
            } else if is < was / 1.1 {
                " better"
            } else {
                ""
            };
            _ = write!(text, "  {name} {was:.2} -> {is:.2}{mark}");
        }
        _ = writeln!(text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mesh: f64, envoy: f64) -> Summary {
        let figures = |cpu| Figures { cpu, ..Figures::default() };
        let rows = [("mesh".to_owned(), figures(mesh)), ("envoy".to_owned(), figures(envoy))];
        let works = [("new-tcp".to_owned(), rows.into_iter().collect())];
        Summary { works: works.into_iter().collect(), ..Summary::default() }
    }

    #[test]
    fn a_target_holds_or_is_missed_by_the_ratio() {
        assert!(text(&run(24.0, 100.0)).contains("holds new-tcp"));
        assert!(text(&run(26.0, 100.0)).contains("MISS  new-tcp"));
    }

    #[test]
    fn a_comparison_names_what_got_worse() {
        let text = comparison(&run(20.0, 100.0), &run(30.0, 100.0));
        assert!(text.contains("envoy 0.20 -> 0.30 worse"), "{text}");
    }
}
