//! gRPC messages and services (`v1`), and their conversions to domain types and back.
//!
//! The only place where control plane and proxy meet. Each conversion destructures its source, so that a new field does
//! not compile unhandled, and every field that arrives is checked by the type it becomes. Nothing here does I/O.
//!
//! # Why
//! Protobuf skips what it does not know, so that a message of a newer release can mean less here than there. That is
//! harmless for most fields and fatal for a rule's conditions: without one an allow rule is wider. Rules and operations
//! therefore count their conditions, alternatives are entries of a `oneof` or an enum, and what does not add up is an error:
//! the proxy refuses the update and keeps what it has.

pub mod discovery;
pub mod item;
pub mod policy;

pub use item::{Item, ItemKey, Items, Part};

use std::fmt;

/// The generated messages, clients and servers of `mesh.v1`.
#[expect(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("mesh.v1");
}

/// The largest gRPC message either side accepts, in bytes: a full snapshot of 10,000 rules is about 2 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A message that means nothing, and the field that says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct WireError {
    /// Path of the field within the message, for instance `rules[0].to[1].paths[0]`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl WireError {
    /// An error of one field.
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }

    /// The same error, seen from the message that holds `outer`.
    #[must_use]
    pub fn within(self, outer: impl fmt::Display) -> Self {
        let field = if self.field.is_empty() { outer.to_string() } else { format!("{outer}.{}", self.field) };
        Self { field, problem: self.problem }
    }
}

/// Parses a text field.
fn text<T>(field: &str, value: &str) -> Result<T, WireError>
where
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    value.parse().map_err(|error| WireError::new(field, error))
}

/// Parses a text field that may be empty for "none".
fn optional_text<T>(field: &str, value: &str) -> Result<Option<T>, WireError>
where
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    if value.is_empty() { Ok(None) } else { text(field, value).map(Some) }
}

/// Converts each entry; an error says which one.
fn each<A, B>(
    field: &str,
    entries: Vec<A>,
    convert: impl Fn(A) -> Result<B, WireError>,
) -> Result<Vec<B>, WireError> {
    let converted = entries
        .into_iter()
        .enumerate()
        .map(|(index, entry)| convert(entry).map_err(|error| error.within(format_args!("{field}[{index}]"))));
    converted.collect()
}

/// Parses each text of a list; an error says which one.
fn texts<T>(field: &str, values: &[String]) -> Result<Vec<T>, WireError>
where
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    let parsed = values.iter().enumerate().map(|(index, value)| text(&format!("{field}[{index}]"), value));
    parsed.collect()
}

/// Renders each entry as text.
fn rendered<T: fmt::Display>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// A sub-message that must be there.
fn required<T>(field: &str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or_else(|| WireError::new(field, "is missing"))
}
