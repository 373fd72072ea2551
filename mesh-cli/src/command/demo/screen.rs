//! What the demo shows: steps that stay, and below them, on a terminal, a region that is redrawn.
//!
//! In a pipe only the steps are printed, as plain lines, and the table of edges at the end of an act.

use crate::command::edges::{self, EdgeOut};
use crate::failure::Failure;
use crate::output::{self, Grid, Tone};
use std::io::IsTerminal as _;
use std::time::Duration;
use tokio::time::Instant;

/// The demo's output.
pub(crate) struct Screen {
    started: Instant,
    /// Lines of the redrawn region that are on the terminal now.
    drawn: usize,
    is_live: bool,
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    /// Something begins.
    Act,
    /// As it must be.
    Pass,
    /// Not as it must be.
    Fail,
    /// Only told.
    Note,
}

impl Screen {
    /// Starts the clock.
    pub(crate) fn new(started: Instant) -> Self {
        Self { started, drawn: 0, is_live: std::io::stdout().is_terminal() }
    }

    /// Whether there is a region to redraw.
    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints a line that stays.
    ///
    /// # Errors
    /// When the reader is gone.
    pub(crate) fn step(&mut self, mark: Mark, text: &str) -> Result<(), Failure> {
        self.clear()?;
        let time = format!("{:5.1} s", self.elapsed().as_secs_f64());
        let line = match mark {
            Mark::Act => format!("\n{}  {}", output::paint(Tone::Dim, &time), output::bold(text)),
            Mark::Pass => {
                format!("{}  {} {text}", output::paint(Tone::Dim, &time), output::paint(Tone::Good, "✓"))
            }
            Mark::Fail => {
                format!("{}  {} {text}", output::paint(Tone::Dim, &time), output::paint(Tone::Bad, "✗"))
            }
            Mark::Note => format!("{}    {text}", output::paint(Tone::Dim, &time)),
        };
        output::print(&line)
    }

    /// Prints text that stays, without a time.
    ///
    /// # Errors
    /// When the reader is gone.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.clear()?;
        output::print(text)
    }

    /// Redraws the region: what is going on, and the edges. Nothing in a pipe.
    ///
    /// # Errors
    /// When the reader is gone.
    pub(crate) fn redraw(&mut self, doing: &str, edges: &[EdgeOut]) -> Result<(), Failure> {
        if !self.is_live {
            return Ok(());
        }
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let (columns, rows) =
            size.map_or((100, 30), |size| (size.ws_col.max(40), usize::from(size.ws_row.max(10))));
        let mut text = format!("\n{} {doing}\n\n", output::paint(Tone::Warn, "…"));
        text.push_str(&edge_table(edges, Some(columns)));
        // A region higher than the terminal could not be cleared again.
        let lines: Vec<&str> = text.lines().take(rows.saturating_sub(2)).collect();
        self.clear()?;
        self.drawn = lines.len();
        output::print(&lines.join("\n"))
    }

    fn clear(&mut self) -> Result<(), Failure> {
        if self.drawn > 0 {
            // Up to the region's first line, then clear to the end of the screen.
            let up = std::mem::take(&mut self.drawn);
            output::print_raw(format!("\x1b[{up}A\x1b[J").as_bytes())?;
        }
        Ok(())
    }
}

/// The rule of the last refusal, with its file's name only: the table is wide enough as it is.
fn refused_by(edge: &EdgeOut) -> String {
    let rule = match edge.last_rule.as_str() {
        "" => &edge.last_reason,
        rule => rule,
    };
    match rule.rsplit_once('(') {
        Some((rule, place)) => format!("{rule}({}", place.rsplit('/').next().unwrap_or(place)),
        None => rule.to_owned(),
    }
}

/// The demo's table of edges: as the callee's sidecar saw them, which knows the caller's proven identity.
pub(crate) fn edge_table(all: &[EdgeOut], width: Option<u16>) -> String {
    let mut grid = Grid::new(&[
        "FROM (proven identity)",
        "TO",
        "PROTOCOL",
        "TLS",
        "ALLOWED",
        "REFUSED",
        "429",
        "P50",
        "P99",
        "REFUSED BY",
    ]);
    for edge in all.iter().filter(|edge| edge.direction == "inbound") {
        grid.row([
            (Tone::Plain, edges::short(&edge.source)),
            (Tone::Plain, edges::target(edge)),
            (Tone::Plain, edge.protocol.clone()),
            edges::tls(edge),
            edges::count(edge.allowed, Tone::Good),
            edges::count(edge.denied, Tone::Bad),
            edges::count(edge.limited, Tone::Warn),
            edges::latency(edge.p50_us, edge.allowed),
            edges::latency(edge.p99_us, edge.allowed),
            (Tone::Plain, refused_by(edge)),
        ]);
    }
    if grid.is_empty() { "  no traffic reported yet\n".to_owned() } else { grid.render(width) }
}
