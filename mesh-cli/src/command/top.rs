//! `meshctl top`: what happens right now, busiest first, every second.

use super::flows::{self, Span, SpanOut};
use super::stat::{self, Of, Row};
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};
use crate::session::Session;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::cmp::Reverse;
use std::time::Duration;

/// How often it asks: proxies report once a second.
const EVERY: Duration = Duration::from_secs(1);
/// Rows where there is no terminal whose height says how many.
const ROWS: usize = 20;
/// Lines of a terminal that are no rows: the header, a remark, the cursor.
const OTHER_LINES: usize = 4;

const EXAMPLES: &str = "\
Examples:
  meshctl top                        # the busiest edges, every second until Ctrl-C
  meshctl top service --sort p99
  meshctl top --sort denied --once
  meshctl top -o json                # one object a line";

/// What `top` is told.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TopArgs {
    /// Of what
    #[arg(value_enum, default_value_t = Of::Edge, hide_default_value = true)]
    of: Of,
    /// What comes first
    #[arg(long, value_enum, default_value_t = Sort::Rate, value_name = "BY")]
    sort: Sort,
    /// The span that ends now
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = flows::window)]
    window: Duration,
    /// At most so many rows; 0: all [default: as many as fit, 20 in a pipe]
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// Show it once
    #[arg(long)]
    once: bool,
}

/// What comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Sort {
    /// The most requests
    Rate,
    /// The most errors and failures
    Errors,
    /// The most refusals by policy and identity
    Denied,
    /// The most refusals by limits
    Limited,
    /// The slowest
    P99,
    /// The most bytes, both ways
    Bytes,
}

#[derive(Serialize)]
struct Top {
    of: Of,
    #[serde(flatten)]
    span: SpanOut,
    rows: Vec<Row>,
}

/// Prints tables until Ctrl-C.
///
/// # Errors
/// When no control plane answers.
pub(crate) async fn run(args: TopArgs, session: &Session) -> Result<Exit, Failure> {
    let client = session.admin().await?;
    let show = async || -> Result<(), Failure> {
        let span = Span::ask(&client, args.window).await?;
        let mut rows = stat::rows(&span.picture(), args.of, span.seconds());
        let cut = sort(&mut rows, args.sort, args.limit.unwrap_or_else(fitting));
        if session.format != Format::Table {
            return output::print_line(&Top { of: args.of, span: span.out(), rows });
        }
        let clear = if args.once { "" } else { flows::clear() };
        let mut text = if rows.is_empty() { span.nothing() } else { stat::table(&rows, args.of) };
        if cut > 0 {
            text.push_str(&format!("and {cut} more\n"));
        }
        output::print(&format!("{clear}{text}{}", span.remarks()))
    };
    if args.once {
        show().await?;
    } else {
        flows::again(EVERY, show).await?;
    }
    Ok(Exit::Done)
}

/// Sorts, cuts, and says how many went; what is equal stays in the order of names, so that rows do not jump.
fn sort(rows: &mut Vec<Row>, by: Sort, limit: usize) -> usize {
    rows.sort_by_key(|row| {
        let figures = &row.figures;
        Reverse(match by {
            Sort::Rate => row.weight(),
            Sort::Errors => figures.errors.saturating_add(figures.failed),
            Sort::Denied => figures.denied,
            Sort::Limited => figures.limited,
            Sort::P99 => figures.p99_us.unwrap_or(0),
            Sort::Bytes => figures.bytes_in.saturating_add(figures.bytes_out),
        })
    });
    let cut = if limit == 0 { 0 } else { rows.len().saturating_sub(limit) };
    rows.truncate(rows.len().saturating_sub(cut));
    cut
}

fn fitting() -> usize {
    output::terminal_height().map_or(ROWS, |lines| usize::from(lines).saturating_sub(OTHER_LINES).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::flows::Figures;

    #[test]
    fn the_heaviest_come_first_and_equals_stay_in_order() {
        let row = |name: &str, requests, p99_us| Row {
            name: name.to_owned(),
            to: None,
            protocols: None,
            plaintext: None,
            figures: Figures { requests, p99_us, ..Figures::default() },
            sent: None,
        };
        let all = [row("a", 1, Some(9)), row("b", 7, None), row("c", 7, Some(2)), row("d", 2, None)];
        for (by, limit, expected, cut) in [
            (Sort::Rate, 0, "bcda", 0),
            (Sort::Rate, 2, "bc", 2),
            (Sort::P99, 0, "acbd", 0),
            (Sort::Denied, 1, "a", 3),
        ] {
            let mut rows = all.to_vec();
            assert_eq!(sort(&mut rows, by, limit), cut, "{by:?}");
            assert_eq!(rows.iter().map(|row| &*row.name).collect::<String>(), expected, "{by:?}");
        }
    }
}
