//! The canonical host of a request, and patterns over it.
//!
//! Nothing here resolves names or converts Unicode: a host is ASCII, internationalised names come as A-labels.

use super::pattern::{PATTERN_BYTES_MAX, PatternError};
use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// The longest DNS name in text, in bytes (RFC 1035, section 2.3.4, less length and root bytes).
const NAME_BYTES_MAX: usize = 253;
/// The longest DNS label, in bytes.
const LABEL_BYTES_MAX: usize = 63;

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
    #[error("the host has a character other than A-Z a-z 0-9 . - _")]
    BadByte,
    /// Not a DNS label.
    #[error("the host has a label that is empty, longer than 63 bytes, or starts or ends with '-'")]
    BadLabel,
    /// Ends in a number but is not a dotted quad (`127.1`, `0x7f000001`).
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

    /// Without the port: what host patterns are matched with. An IPv6 literal keeps its brackets.
    pub fn host(&self) -> &str {
        self.text.get(..self.host_bytes).unwrap_or_default()
    }

    /// The port, unless it was absent or the default.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

/// The one spelling of a `Host` field or an authority, or why it has none. Borrowed when it is in it already.
///
/// `default_port` is dropped from the text: 80 for plain HTTP, 443 under the application's own TLS.
///
/// # Errors
/// See [`HostProblem`].
pub fn canonical_host(raw: &[u8], default_port: Option<u16>) -> Result<CanonicalHost<'_>, HostProblem> {
    if raw.is_empty() {
        return Err(HostProblem::Empty);
    }
    if raw.contains(&b'@') {
        return Err(HostProblem::UserInfo);
    }
    let text = std::str::from_utf8(raw).map_err(|_| HostProblem::BadByte)?;
    let (name, rest) = if text.starts_with('[') {
        let end = text.find(']').ok_or(HostProblem::BadIpv6)?;
        text.split_at(end.saturating_add(1))
    } else {
        text.split_at(text.find(':').unwrap_or(text.len()))
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return Err(HostProblem::BadIpv6),
        Some(digits) => Some(parse_port(digits)?).filter(|port| Some(*port) != default_port),
    };
    let host = if name.starts_with('[') { canonical_ipv6(name)? } else { canonical_name(name)? };
    let host_bytes = host.len();
    let text = match (host, port) {
        (host, None) => host,
        (Cow::Borrowed(host), Some(_)) if host.len() == name.len() => Cow::Borrowed(text),
        (host, Some(port)) => Cow::Owned(format!("{host}:{port}")),
    };
    Ok(CanonicalHost { text, host_bytes, port })
}

/// `08080`, `+80` and an empty port have more than one reading.
fn parse_port(digits: &str) -> Result<u16, HostProblem> {
    if digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostProblem::BadPort);
    }
    digits.parse().map_err(|_| HostProblem::BadPort)
}

/// RFC 5952 text in brackets; zone identifiers are no part of it.
fn canonical_ipv6(bracketed: &str) -> Result<Cow<'_, str>, HostProblem> {
    let inner =
        bracketed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or(HostProblem::BadIpv6)?;
    let address: Ipv6Addr = inner.parse().map_err(|_| HostProblem::BadIpv6)?;
    let text = format!("[{address}]");
    Ok(if text == bracketed { Cow::Borrowed(bracketed) } else { Cow::Owned(text) })
}

fn canonical_name(name: &str) -> Result<Cow<'_, str>, HostProblem> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(HostProblem::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(HostProblem::TooLong);
    }
    let mut has_upper = false;
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' => has_upper = true,
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {}
            _ => return Err(HostProblem::BadByte),
        }
    }
    let mut last = "";
    for label in name.split('.') {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX || label.starts_with('-') || label.ends_with('-')
        {
            return Err(HostProblem::BadLabel);
        }
        last = label;
    }
    if is_number(last) && name.parse::<Ipv4Addr>().is_err() {
        return Err(HostProblem::BadIpv4);
    }
    Ok(if has_upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// Whether resolvers may take a name with this last label for an IPv4 address (URL standard, "ends in a number").
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// Host: exact, or `*.suffix` for one or more labels before the suffix.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPattern {
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

    /// Whether every host that `other` means is meant by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.text.strip_prefix('*'), other.text.strip_prefix('*')) {
            (None, None) => self.text == other.text,
            (None, Some(_)) => false,
            (Some(_), None) => self.matches(&other.text),
            (Some(own), Some(longer)) => longer.ends_with(own),
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let error = |problem: Cow<'static, str>| Err(PatternError::new("host", text, problem));
        if text.len() > PATTERN_BYTES_MAX {
            return error("is longer than 1024 bytes".into());
        }
        if text == "*" {
            return error("means every host; leave hosts out instead".into());
        }
        if !text.is_ascii() {
            return error("is not ASCII; write internationalised names as A-labels (xn--…)".into());
        }
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or_default();
            return error(format!("has a scheme; write {host}").into());
        }
        let (star, name) = text.strip_prefix("*.").map_or(("", text), |suffix| ("*.", suffix));
        if name.contains('*') {
            return error(
                "has a '*' that is not the whole first label; write for instance *.shop.example".into(),
            );
        }
        let host = match canonical_host(name.as_bytes(), None) {
            Ok(host) if host.port().is_some() => {
                return error(
                    format!("has a port; write {star}{} and state ports as such", host.host()).into(),
                );
            }
            Ok(host) => host,
            Err(problem) => {
                return error(
                    format!(
                        "is not a host: {problem}; write for instance pay.shop.example or *.shop.example"
                    )
                    .into(),
                );
            }
        };
        if host.host() != name {
            return error(format!("is not in its canonical spelling; write {star}{}", host.host()).into());
        }
        let is_address = name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok();
        if !star.is_empty() && is_address {
            return error(
                "has a '*' before an address; write names as *.shop.example, addresses in full".into(),
            );
        }
        Ok(Self { text: text.into() })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
