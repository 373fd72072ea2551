//! Matchers over canonical requests, and the one canonical form of path and host.
//!
//! No regex: literals, prefixes and whole-segment templates, each bounded in length.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// An HTTP method: an RFC 9110 token, case-sensitive, at most 32 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Method(Arc<str>);

impl Method {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a matcher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} {problem}")]
pub struct PatternError {
    /// What was expected.
    pub what: &'static str,
    /// The offending text, cut to 120 characters.
    pub value: String,
    /// What is wrong, and what is allowed.
    pub problem: &'static str,
}

impl FromStr for Method {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        Ok(Self(text.into()))
    }
}

/// Host: exact, or `*.suffix`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HostPattern {
    /// Exactly this canonical host.
    Exact(Arc<str>),
    /// One or more labels before this suffix (stored with its leading dot).
    Suffix(Arc<str>),
}

/// Path: exact, prefix (`/v1/*`), or template (`/orders/{id}/items`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathPattern {
    text: Arc<str>,
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A condition on a request header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderCondition {
    /// Lower-case field name.
    pub name: Arc<str>,
    /// What its values must be.
    pub test: HeaderTest,
}

/// What all values of a field must satisfy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderTest {
    /// Byte-equal.
    Exact(Arc<str>),
    /// Starts with.
    Prefix(Arc<str>),
    /// There is at least one.
    Present,
}

/// A gRPC service and method: `package.Service/Method` or `package.Service/*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GrpcPattern {
    /// `package.Service`.
    pub service: Arc<str>,
    /// `None`: every method.
    pub method: Option<Arc<str>>,
}
