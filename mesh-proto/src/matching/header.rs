//! Conditions on request headers.
//!
//! # Why
//! Gateways that looked at the first, the last or the joined values of a repeated field were bypassed (CVE-2020-25017,
//! CVE-2021-32777, CVE-2026-26308). So an allow asks *all* values, a deny *any*. A line with commas is the same as several
//! lines (RFC 9110, section 5.3), so its members are values too, except where the condition itself has a comma and
//! for the fields that are no lists ([`SINGLE_VALUED`]): those are compared as a whole.

use super::pattern::{PATTERN_BYTES_MAX, PatternError, is_token};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Fields whose value may have a comma without being a list (RFC 9110, RFC 6265).
const SINGLE_VALUED: [&str; 13] = [
    "authorization",
    "content-disposition",
    "content-type",
    "cookie",
    "date",
    "from",
    "if-modified-since",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "proxy-authorization",
    "referer",
    "user-agent",
];

/// Fields that frame a message or belong to one hop: made anew on each, so that a rule on them means nothing.
const NOT_JUDGED: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
];

/// The header fields of a request, however the codec keeps them.
pub trait Fields {
    /// Visits every value of a field, in order; `name` is lower-case. A repeated field is visited once for each line.
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8]));
}

/// How many values of a field must satisfy a condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quantifier {
    /// Every one, and there is at least one: what lets pass.
    All,
    /// At least one: what refuses.
    Any,
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
            return Err(PatternError::new(WHAT, name, "is not a field name; write for instance x-tenant"));
        }
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let lower = name.to_ascii_lowercase();
            return Err(PatternError::new(
                WHAT,
                name,
                format!("is not in its canonical spelling; write {lower}"),
            ));
        }
        if name.contains('_') {
            let dashed = name.replace('_', "-");
            let problem = format!(
                "has a '_', which servers read differently, so such fields are refused; write {dashed}"
            );
            return Err(PatternError::new(WHAT, name, problem));
        }
        if name == "host" {
            return Err(PatternError::new(WHAT, name, "is judged in its canonical form; use hosts"));
        }
        if NOT_JUDGED.contains(&name) || name.starts_with("x-mesh-") {
            let problem = "is made anew by the mesh and never comes from the caller; judge another field";
            return Err(PatternError::new(WHAT, name, problem));
        }
        let (HeaderTest::Exact(value) | HeaderTest::Prefix(value)) = &test else {
            return Ok(Self { name: name.into(), test });
        };
        if value.len() > PATTERN_BYTES_MAX
            || value.bytes().any(|byte| byte < 0x20 && byte != b'\t' || byte == 0x7f)
        {
            return Err(PatternError::new(
                WHAT,
                value,
                "is not a field value: no control characters, at most 1024 bytes",
            ));
        }
        let is_prefix = matches!(test, HeaderTest::Prefix(_));
        if value.starts_with([' ', '\t']) || (value.ends_with([' ', '\t']) && !is_prefix) {
            return Err(PatternError::new(
                WHAT,
                value,
                "starts or ends with a space, which no field value does",
            ));
        }
        if is_prefix && value.is_empty() {
            return Err(PatternError::new(
                WHAT,
                name,
                "has an empty prefix; leave the value out to ask for presence",
            ));
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

    /// Whether the values of the field satisfy the condition. An absent field satisfies none.
    pub fn matches(&self, fields: &dyn Fields, quantifier: Quantifier) -> bool {
        let (mut any, mut all) = (false, true);
        fields.each(&self.name, &mut |line| {
            let line = trim(line);
            let (line_any, line_all) = self.judge(line);
            any |= line_any;
            all &= line_all;
        });
        match quantifier {
            Quantifier::Any => any,
            // `all` is true without a value, `any` is not.
            Quantifier::All => any && all,
        }
    }

    /// Whether any, and whether every value of one line satisfies the test.
    fn judge(&self, line: &[u8]) -> (bool, bool) {
        let whole = self.test.holds(line);
        if !line.contains(&b',') || !self.reads_lists() {
            return (whole, whole);
        }
        let (mut any, mut all, mut members) = (whole, true, false);
        for member in line.split(|byte| *byte == b',').map(trim).filter(|member| !member.is_empty()) {
            let holds = self.test.holds(member);
            (any, all, members) = (any | holds, all & holds, true);
        }
        (any, if members { all } else { whole })
    }

    fn reads_lists(&self) -> bool {
        let has_comma = match &self.test {
            HeaderTest::Exact(value) | HeaderTest::Prefix(value) => value.contains(','),
            HeaderTest::Present => true,
        };
        !has_comma && !SINGLE_VALUED.contains(&&*self.name)
    }

    /// Whether whatever satisfies `other` satisfies this one too.
    pub fn covers(&self, other: &Self) -> bool {
        self.name == other.name
            && match (&self.test, &other.test) {
                (HeaderTest::Present, _) => true,
                (HeaderTest::Exact(a), HeaderTest::Exact(b)) => a == b,
                (HeaderTest::Prefix(a), HeaderTest::Exact(b) | HeaderTest::Prefix(b)) => {
                    // With a comma on one side only, the two read lines differently.
                    b.starts_with(&**a) && a.contains(',') == b.contains(',')
                }
                _ => false,
            }
    }
}

impl HeaderTest {
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::Present => true,
        }
    }
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let Some(rest) = value.strip_prefix(b" ").or_else(|| value.strip_prefix(b"\t")) {
        value = rest;
    }
    while let Some(rest) = value.strip_suffix(b" ").or_else(|| value.strip_suffix(b"\t")) {
        value = rest;
    }
    value
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
