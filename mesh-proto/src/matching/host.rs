//! The canonical host of a request, and patterns over it.

use super::pattern::{PATTERN_BYTES_MAX, PatternError};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a host is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HostProblem {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// Longer than a DNS name.
    #[error("the host is longer than 253 bytes")]
    TooLong,
    /// `user@host`.
    #[error("the host carries user information")]
    UserInfo,
    /// A byte that no host has.
    #[error("the host has a byte that is not allowed")]
    BadByte,
    /// Not a DNS label.
    #[error("the host has a label that is empty, longer than 63 bytes, or starts or ends with '-'")]
    BadLabel,
    /// Ends in a number but is not a dotted quad.
    #[error("the host looks like an IPv4 address but is not four decimal numbers")]
    BadIpv4,
    /// Not an IPv6 literal.
    #[error("the host is not a valid IPv6 literal in brackets")]
    BadIpv6,
    /// Not a port.
    #[error("the port is not a number from 1 to 65535 without leading zeros")]
    BadPort,
}

impl HostProblem {
    /// A short, stable word for metrics and logs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Empty => "host_empty",
            Self::TooLong => "host_too_long",
            Self::UserInfo => "host_user_info",
            Self::BadByte => "host_bad_byte",
            Self::BadLabel => "host_bad_label",
            Self::BadIpv4 => "host_bad_ipv4",
            Self::BadIpv6 => "host_bad_ipv6",
            Self::BadPort => "host_bad_port",
        }
    }
}

/// A host in its one spelling: lower-case, no default port, no trailing dot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CanonicalHost<'a> {
    text: Cow<'a, str>,
    host_bytes: usize,
    port: Option<u16>,
}

impl CanonicalHost<'_> {
    /// `host` or `host:port`: what is forwarded.
    pub fn authority(&self) -> &str {
        &self.text
    }

    /// Without the port: what host patterns are matched with.
    pub fn host(&self) -> &str {
        self.text.get(..self.host_bytes).unwrap_or_default()
    }

    /// The port, unless it was absent or the default.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

/// The one spelling of a host, or why it has none.
///
/// # Errors
/// See [`HostProblem`].
pub fn canonical_host(raw: &[u8], _default_port: Option<u16>) -> Result<CanonicalHost<'_>, HostProblem> {
    let text = std::str::from_utf8(raw).map_err(|_| HostProblem::BadByte)?;
    Ok(CanonicalHost { text: Cow::Borrowed(text), host_bytes: text.len(), port: None })
}

/// Host: exact, or `*.suffix` for one or more labels before the suffix.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPattern {
    /// As written.
    text: Arc<str>,
}

impl HostPattern {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a canonical host, without port, is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self.text.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => &*self.text == host,
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::new("host", text, "is empty or too long"));
        }
        Ok(Self { text: text.into() })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
