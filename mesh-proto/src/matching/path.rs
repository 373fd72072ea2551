//! The canonical path of a request, and patterns over it.

use super::pattern::{PATTERN_BYTES_MAX, PatternError};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathProblem {
    /// Empty or not starting with `/`.
    #[error("the path does not start with '/'")]
    NotAbsolute,
    /// Longer than we compare.
    #[error("the path is longer than 8192 bytes")]
    TooLong,
    /// A raw `#`.
    #[error("the target has a raw '#'")]
    Fragment,
    /// A raw `\`.
    #[error("the path has a raw '\\'")]
    Backslash,
    /// A control byte or a space.
    #[error("the target has a control byte or a space")]
    ControlByte,
    /// A byte from 0x80.
    #[error("the target has a byte outside of ASCII")]
    NonAscii,
    /// `%` without two hex digits.
    #[error("the path has a '%' that is not followed by two hex digits")]
    BadEscape,
    /// `%2F`.
    #[error("the path has an encoded '/'")]
    EncodedSlash,
    /// `%5C`.
    #[error("the path has an encoded '\\'")]
    EncodedBackslash,
    /// `%00`.
    #[error("the path has an encoded NUL")]
    EncodedNul,
    /// `.` or `..`, plain, encoded or with parameters.
    #[error("the path has a '.' or '..' segment")]
    DotSegment,
    /// A segment of nothing but parameters before another segment.
    #[error("the path has a segment of nothing but ';parameters' before another one")]
    HiddenEmptySegment,
}

impl PathProblem {
    /// A short, stable word for metrics and logs.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotAbsolute => "path_not_absolute",
            Self::TooLong => "path_too_long",
            Self::Fragment => "path_fragment",
            Self::Backslash => "path_backslash",
            Self::ControlByte => "path_control_byte",
            Self::NonAscii => "path_non_ascii",
            Self::BadEscape => "path_bad_escape",
            Self::EncodedSlash => "path_encoded_slash",
            Self::EncodedBackslash => "path_encoded_backslash",
            Self::EncodedNul => "path_encoded_nul",
            Self::DotSegment => "path_dot_segment",
            Self::HiddenEmptySegment => "path_hidden_empty_segment",
        }
    }
}

/// Splits a request target in origin form into path and query (without its `?`).
///
/// # Errors
/// [`PathProblem::NotAbsolute`] for any other form; bytes that no target has, in the query too.
pub fn split_target(raw: &[u8]) -> Result<(&[u8], Option<&[u8]>), PathProblem> {
    if raw.first() != Some(&b'/') {
        return Err(PathProblem::NotAbsolute);
    }
    match raw.iter().position(|b| *b == b'?') {
        Some(at) => Ok((raw.get(..at).unwrap_or_default(), raw.get(at.saturating_add(1)..))),
        None => Ok((raw, None)),
    }
}

/// The one spelling of a path, or why it has none. Borrowed when the path is in it already.
///
/// # Errors
/// See [`PathProblem`].
pub fn canonical_path(raw: &[u8]) -> Result<Cow<'_, str>, PathProblem> {
    if raw.first() != Some(&b'/') {
        return Err(PathProblem::NotAbsolute);
    }
    std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| PathProblem::NonAscii)
}

/// Path: exact (`/healthz`), prefix (`/v1/*`), or template (`/orders/{id}/items`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PathPattern {
    text: Arc<str>,
}

impl PathPattern {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a canonical path is meant.
    pub fn matches(&self, path: &str) -> bool {
        &*self.text == path
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX || !text.starts_with('/') {
            return Err(PatternError::new("path", text, "does not start with '/'"));
        }
        Ok(Self { text: text.into() })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
