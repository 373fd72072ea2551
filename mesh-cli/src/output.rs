//! What people and scripts read: tables, JSON, YAML, failures.
//!
//! All printing of the commands goes through here. Colour is for terminals only (`NO_COLOR` and `--color` are obeyed by
//! `anstream`); text that came from outside is cleaned of control characters, so that a path in a decision cannot move
//! the reader's cursor. JSON and YAML have the same fields in the same order and are promises: fields are added, never
//! renamed.

use crate::failure::{Failure, Kind};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;

/// What may be typed after `-o`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Typed {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// The same fields as YAML.
    Yaml,
    /// For Graphviz: `graph` alone.
    #[value(hide = true)]
    Dot,
    /// A picture: `graph` alone.
    #[value(hide = true)]
    Svg,
}

/// What is drawn rather than printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Drawing {
    /// For Graphviz.
    Dot,
    /// A picture.
    Svg,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// The same fields as YAML.
    Yaml,
}

impl Typed {
    /// The format of a command that draws nothing.
    ///
    /// # Errors
    /// A drawing was asked for.
    pub(crate) fn format(self) -> Result<Format, Failure> {
        let word = match self {
            Self::Table => return Ok(Format::Table),
            Self::Json => return Ok(Format::Json),
            Self::Yaml => return Ok(Format::Yaml),
            Self::Dot => "dot",
            Self::Svg => "svg",
        };
        Err(Failure::usage(format!("-o {word}: only `graph` draws; allowed here are table, json and yaml"))
            .next(format!("meshctl graph -o {word}")))
    }
}

/// When colour is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal without NO_COLOR.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a piece of text means to the reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// Look at this.
    Warn,
    /// Wrong.
    Bad,
    /// Less important.
    Dim,
}

/// Applies `--color` to everything printed afterwards.
pub(crate) fn choose_color(choice: ColorWhen) {
    match choice {
        ColorWhen::Auto => anstream::ColorChoice::Auto,
        ColorWhen::Always => anstream::ColorChoice::Always,
        ColorWhen::Never => anstream::ColorChoice::Never,
    }
    .write_global();
}

/// Text in its tone, with the escape codes that `print` strips where colour is not wanted.
pub(crate) fn paint(tone: Tone, text: &str) -> String {
    let style = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Warn => AnsiColor::Yellow.on_default(),
        Tone::Bad => AnsiColor::Red.on_default().bold(),
        Tone::Dim => Style::new().dimmed(),
    };
    format!("{style}{text}{style:#}")
}

/// Emphasised text, for headings.
pub(crate) fn bold(text: &str) -> String {
    let style = Style::new().bold();
    format!("{style}{text}{style:#}")
}

/// Prints text to standard output, with a line end if it has none.
///
/// # Errors
/// When the reader is gone or the disk full.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

/// Prints bytes as they are: scripts and documents.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Tells something beside the result, on standard error: progress, where a thing was written.
pub(crate) fn note(text: &str) {
    // A closed standard error cannot be told to anybody.
    drop(writeln!(anstream::stderr().lock(), "{text}"));
}

/// Tells of something that is not wrong yet.
pub(crate) fn warn(text: &str) {
    note(&format!("{} {text}", paint(Tone::Warn, "warning:")));
}

/// Prints a failure and what to type next.
pub(crate) fn print_failure(failure: &Failure) {
    if failure.kind == Kind::ReaderGone {
        return;
    }
    let mut text = format!("{} {}", paint(Tone::Bad, "error:"), clean_lines(&failure.message));
    for (index, next) in failure.next.iter().enumerate() {
        let label = if index == 0 { "next:" } else { "   or" };
        let _ = write!(text, "\n  {} {}", paint(Tone::Dim, label), clean_lines(next));
    }
    note(&text);
}

/// Prints a value as JSON or YAML, or what `table` makes for people.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_value<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match format {
        Format::Table => print(&table()),
        Format::Json => {
            let mut text = serde_json::to_vec_pretty(value)
                .map_err(|error| Failure::failed(format!("cannot write the result as JSON: {error}")))?;
            text.push(b'\n');
            print_raw(&text)
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(value)
                .map_err(|error| Failure::failed(format!("cannot write the result as YAML: {error}")))?;
            print_raw(text.as_bytes())
        }
    }
}

/// Prints a value as one line of JSON, which is YAML, too: one of a stream.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    let mut text = serde_json::to_vec(value)
        .map_err(|error| Failure::failed(format!("cannot write the result as JSON: {error}")))?;
    text.push(b'\n');
    print_raw(&text)
}

/// A table for people: no lines, columns two spaces apart, as wide as the terminal at most.
pub(crate) struct Grid {
    header: Vec<&'static str>,
    rows: Vec<Vec<(Tone, String)>>,
}

impl Grid {
    /// With the titles of its columns.
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = (Tone, String)>) {
        self.rows.push(cells.into_iter().map(|(tone, text)| (tone, clean(&text))).collect());
    }

    /// Whether it has no row.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text. `width` is the most columns a line may take; `None`: no bound (a pipe).
    pub(crate) fn render(&self, width: Option<u16>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if wants_color() {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        match width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table.set_header(
            self.header.iter().map(|title| Cell::new(title).add_attribute(comfy_table::Attribute::Bold)),
        );
        for row in &self.rows {
            table.add_row(row.iter().map(|(tone, text)| {
                let cell = Cell::new(text);
                match tone {
                    Tone::Plain => cell,
                    Tone::Good => cell.fg(Color::Green),
                    Tone::Warn => cell.fg(Color::Yellow),
                    Tone::Bad => cell.fg(Color::Red),
                    Tone::Dim => cell.add_attribute(comfy_table::Attribute::Dim),
                }
            }));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        // Without colour, the padding of the last column would be spaces at the end of each line.
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// The text for standard output: as wide as the terminal, unbounded in a pipe.
    pub(crate) fn to_text(&self) -> String {
        self.render(terminal_width())
    }
}

/// Whether text on standard output is coloured.
fn wants_color() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never
}

/// Columns of the terminal on standard output; `None` when it is none.
pub(crate) fn terminal_width() -> Option<u16> {
    terminal().map(|size| size.ws_col).filter(|columns| *columns >= 20)
}

/// Lines of the terminal on standard output; `None` when it is none.
pub(crate) fn terminal_height() -> Option<u16> {
    terminal().map(|size| size.ws_row).filter(|lines| *lines > 0)
}

fn terminal() -> Option<rustix::termios::Winsize> {
    use std::io::IsTerminal as _;
    if !std::io::stdout().is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(std::io::stdout()).ok()
}

/// Text from outside on one line, without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// Text from outside that may have several lines, without other control characters.
pub(crate) fn clean_lines(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && c != '\t' && is_harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// Control characters, and the bidirectional overrides that make text read as something else.
fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A Unix time in milliseconds as RFC 3339 in UTC; empty for 0, which means "never".
pub(crate) fn time(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .filter(|ms| *ms != 0)
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}

/// Milliseconds since the Unix epoch: the one clock of the commands that show ages.
#[expect(clippy::disallowed_methods, reason = "commands show ages against the present")]
pub(crate) fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A colored unified diff.
pub(crate) fn paint_diff(diff: &str) -> String {
    let mut text = String::with_capacity(diff.len());
    for line in clean_lines(diff).lines() {
        let tone = match line.as_bytes().first() {
            Some(b'+') => Tone::Good,
            Some(b'-') => Tone::Bad,
            Some(b'@') => Tone::Dim,
            _ => Tone::Plain,
        };
        text.push_str(&paint(tone, line));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_move_the_cursor() {
        assert_eq!(clean("/a\x1b[2J\r\nb\u{202e}c"), "/a\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}c");
        assert_eq!(clean_lines("a\nb\x07"), "a\nb\u{fffd}");
    }

    #[test]
    fn a_table_in_a_pipe_has_no_line_breaks_within_cells() {
        let mut grid = Grid::new(&["NAME", "RULE"]);
        grid.row([(Tone::Plain, "web".to_owned()), (Tone::Bad, "x ".repeat(200))]);
        assert_eq!(grid.render(None).lines().count(), 2);
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(time(0), "");
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20Z");
    }
}
