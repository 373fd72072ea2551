//! What all patterns share: their error; and the two that are plain words, methods and gRPC names.

use super::path::PathPattern;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest pattern of any kind, in bytes: more than any sane rule, and a bound for what a tenant can make us compare.
pub(super) const PATTERN_BYTES_MAX: usize = 1024;
/// The longest method, in bytes; the longest registered one has 17 (IANA HTTP method registry).
const METHOD_BYTES_MAX: usize = 32;

/// Why a text is not a matcher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} {problem}")]
pub struct PatternError {
    /// What was expected.
    pub what: &'static str,
    /// The offending text, cut to 120 characters.
    pub value: String,
    /// What is wrong, and what is allowed.
    pub problem: Cow<'static, str>,
}

impl PatternError {
    pub(super) fn new(what: &'static str, value: &str, problem: impl Into<Cow<'static, str>>) -> Self {
        Self { what, value: value.chars().take(120).collect(), problem: problem.into() }
    }
}

/// Whether the byte may stand in a token (RFC 9110, section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An HTTP method: an RFC 9110 token, case-sensitive, at most 32 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Method(Arc<str>);

impl Method {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the request's method is this one, byte for byte (RFC 9110, section 9.1).
    pub fn matches(&self, method: &str) -> bool {
        &*self.0 == method
    }
}

impl FromStr for Method {
    type Err = PatternError;

    /// Parses a token. A well-known method in another case is refused, since it would never match what people mean.
    fn from_str(text: &str) -> Result<Self, PatternError> {
        const WHAT: &str = "method";
        const KNOWN: [&str; 10] =
            ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];
        if text == "*" {
            return Err(PatternError::new(WHAT, text, "is no method; leave methods out to mean all of them"));
        }
        if text.is_empty() || text.len() > METHOD_BYTES_MAX || !text.bytes().all(is_token) {
            return Err(PatternError::new(
                WHAT,
                text,
                "is not a method; write for instance GET, at most 32 characters",
            ));
        }
        if let Some(known) = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(text) && **known != text) {
            return Err(PatternError::new(
                WHAT,
                text,
                format!("would never match, methods are case-sensitive; write {known}"),
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A gRPC service and method: `package.Service/Method`, or `package.Service/*` for every method.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GrpcPattern {
    service: Arc<str>,
    method: Option<Arc<str>>,
}

impl GrpcPattern {
    /// `package.Service`.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The method; `None` is every method.
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// Whether a canonical path addresses this method (gRPC over HTTP/2, "Requests": `/Service-Name/{method name}`).
    pub fn matches(&self, path: &str) -> bool {
        self.as_path().matches(path)
    }

    /// Whether every method that `other` means is meant by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        self.service == other.service && (self.method.is_none() || self.method == other.method)
    }

    /// The path pattern that means the same.
    pub fn as_path(&self) -> PathPattern {
        PathPattern::for_grpc(&self.service, self.method.as_deref())
    }
}

impl FromStr for GrpcPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        const WHAT: &str = "gRPC method";
        let error = |problem| Err(PatternError::new(WHAT, text, problem));
        if text.len() > PATTERN_BYTES_MAX {
            return error("is longer than 1024 bytes");
        }
        let Some((service, method)) = text.split_once('/') else {
            return error(
                "has no '/'; write package.Service/Method, or package.Service/* for all its methods",
            );
        };
        let is_identifier = |part: &str| {
            part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && part.bytes().next().is_some_and(|b| !b.is_ascii_digit())
        };
        if !service.split('.').all(is_identifier) {
            return error("has no valid service name; write package.Service/Method without a leading '/'");
        }
        if method != "*" && !is_identifier(method) {
            return error(
                "has no valid method name; write package.Service/Method, or package.Service/* for all its methods",
            );
        }
        Ok(Self { service: service.into(), method: (method != "*").then(|| method.into()) })
    }
}

impl fmt::Display for GrpcPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.method.as_deref().unwrap_or("*"))
    }
}
