//! Logging, the same in every program: text for people, JSON for machines, on standard error.
//!
//! Called once, first thing in `main`. Standard output belongs to what a program answers, never to its log.

use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;
use tracing_subscriber::filter::EnvFilter;

/// How a log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people; coloured on a terminal only.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

impl LogFormat {
    /// The word for it on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(word: &str) -> Result<Self, LogError> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::Format(word.chars().take(40).collect())),
        }
    }
}

/// What to log, and how.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines: a level, or `target=level` pairs joined by commas. Empty: `info`.
    pub filter: String,
}

/// Why logging could not be set up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// No such format.
    #[error("unknown log format {0:?}; write text or json")]
    Format(String),
    /// The filter is malformed.
    #[error(
        "log filter {filter:?} is not understood: {problem}; write for instance info, or mesh_proxy=debug,info"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody set up logging before.
    #[error("logging is already set up")]
    Twice,
}

/// Sets up logging for the process.
///
/// # Errors
/// When the filter is malformed, or logging was set up before.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = parse_filter(&config.filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).with_ansi(false).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    done.map_err(|_| LogError::Twice)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    let filter = if filter.is_empty() { "info" } else { filter };
    EnvFilter::try_new(filter)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        assert!(parse_filter("").is_ok());
        assert!(parse_filter("mesh_proxy=debug,info").is_ok());
        let error = parse_filter("mesh_proxy=loud").unwrap_err().to_string();
        assert!(error.contains("mesh_proxy=loud") && error.contains("write for instance info"), "{error}");
    }

    #[test]
    fn formats_are_words() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("yaml".parse::<LogFormat>(), Err(LogError::Format("yaml".to_owned())));
    }
}
