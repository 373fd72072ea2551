//! Conditions on request headers.

use super::pattern::{PATTERN_BYTES_MAX, PatternError, is_token};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The header fields of a request, however the codec keeps them.
pub trait Fields {
    /// Visits every value of a field, in order; `name` is lower-case. A repeated field is visited once for each line.
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8]));
}

/// A condition on a request header.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HeaderCondition {
    name: Arc<str>,
    test: HeaderTest,
}

/// What the values of a field must satisfy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HeaderTest {
    /// Byte-equal.
    Exact(Arc<str>),
    /// Starts with; never empty.
    Prefix(Arc<str>),
    /// There is at least one.
    Present,
}

impl HeaderCondition {
    /// Checks name and value.
    ///
    /// # Errors
    /// Says which name or value is allowed instead.
    pub fn new(name: &str, test: HeaderTest) -> Result<Self, PatternError> {
        const WHAT: &str = "header";
        if name.is_empty() || name.len() > PATTERN_BYTES_MAX || !name.bytes().all(is_token) {
            return Err(PatternError::new(WHAT, name, "is not a field name"));
        }
        Ok(Self { name: name.into(), test })
    }

    /// Lower-case field name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its values must be.
    pub fn test(&self) -> &HeaderTest {
        &self.test
    }
}

impl FromStr for HeaderCondition {
    type Err = PatternError;

    /// Parses `name` (present), `name: value`, `name: prefix*`, or `name: "value that ends in *"`.
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let Some((name, value)) = text.split_once(':') else {
            return Self::new(text, HeaderTest::Present);
        };
        let value = value.trim_matches([' ', '\t']);
        if let Some(quoted) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            return Self::new(name, HeaderTest::Exact(quoted.into()));
        }
        match value.strip_suffix('*') {
            Some(prefix) => Self::new(name, HeaderTest::Prefix(prefix.into())),
            None => Self::new(name, HeaderTest::Exact(value.into())),
        }
    }
}

impl fmt::Display for HeaderCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.test {
            HeaderTest::Present => f.write_str(&self.name),
            HeaderTest::Prefix(prefix) => write!(f, "{}: {prefix}*", self.name),
            HeaderTest::Exact(value)
                if value.is_empty()
                    || value.ends_with('*')
                    || (value.starts_with('"') && value.ends_with('"')) =>
            {
                write!(f, "{}: \"{value}\"", self.name)
            }
            HeaderTest::Exact(value) => write!(f, "{}: {value}", self.name),
        }
    }
}
