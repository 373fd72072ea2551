//! The canonical path of a request, and patterns over it.
//!
//! # Why
//! Nearly every policy bypass in the field is two parties reading one path differently (CVE-2019-9901, CVE-2021-29492,
//! CVE-2021-32779). So there is one spelling, made once, judged and forwarded. Where origins differ although the spelling
//! is one, matching looks through the difference instead of changing what the application receives ([`matching_form`]):
//!
//! - `;parameters` are set aside in every segment (servlet containers cut them off before they route);
//! - encoded printable characters equal plain ones (`/v1/docs%3Abatch` is `/v1/docs:batch` to every origin);
//! - a final `/` is set aside (`/admin/` is `/admin` to many origins, and a deny rule must hold for both).
//!
//! The alternative, to refuse all of these, lost: session parameters and encoded `:` are common in honest traffic.

use super::pattern::{PATTERN_BYTES_MAX, PatternError};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest path that is compared, in bytes; RFC 9110, section 4.1 recommends 8000 as what everybody supports.
pub const PATH_BYTES_MAX: usize = 8192;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathProblem {
    /// Empty or not starting with `/`.
    #[error("the path does not start with '/'")]
    NotAbsolute,
    /// Longer than [`PATH_BYTES_MAX`].
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
    /// A raw `?`: the query was not split off.
    #[error("the path has a raw '?'")]
    Query,
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
    /// A segment of nothing but parameters before another segment: empty to those who cut them off.
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
            Self::Query => "path_query",
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
/// The query is not judged and not changed, but it may not carry what a target never has.
///
/// # Errors
/// [`PathProblem::NotAbsolute`] for any other form; control bytes, spaces, `#` and bytes from 0x80 in the query. The
/// path's own bytes are left to [`canonical_path`].
pub fn split_target(raw: &[u8]) -> Result<(&[u8], Option<&[u8]>), PathProblem> {
    if raw.first() != Some(&b'/') {
        return Err(PathProblem::NotAbsolute);
    }
    let mut parts = raw.splitn(2, |byte| *byte == b'?');
    let path = parts.next().unwrap_or_default();
    let query = parts.next();
    for &byte in query.unwrap_or_default() {
        match byte {
            b'#' => return Err(PathProblem::Fragment),
            0..=0x20 | 0x7f => return Err(PathProblem::ControlByte),
            0x80.. => return Err(PathProblem::NonAscii),
            _ => {}
        }
    }
    Ok((path, query))
}

/// The one spelling of a path, or why it has none. Borrowed when the path is in it already.
///
/// Empty segments are merged, encoded unreserved characters decoded (once), other escapes written in upper case
/// (RFC 3986, section 6.2.2). Making it again changes nothing.
///
/// # Errors
/// See [`PathProblem`].
pub fn canonical_path(raw: &[u8]) -> Result<Cow<'_, str>, PathProblem> {
    if raw.first() != Some(&b'/') {
        return Err(PathProblem::NotAbsolute);
    }
    if raw.len() > PATH_BYTES_MAX {
        return Err(PathProblem::TooLong);
    }
    if is_plain(raw) {
        return std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| PathProblem::NonAscii);
    }
    let (mut rewrite, mut look_closer, mut last) = (false, false, 0);
    for &byte in raw {
        match byte {
            b'/' => rewrite |= last == b'/',
            b'.' => look_closer |= last == b'/',
            b'%' => rewrite = true,
            b';' => look_closer = true,
            b'#' => return Err(PathProblem::Fragment),
            b'?' => return Err(PathProblem::Query),
            b'\\' => return Err(PathProblem::Backslash),
            0..=0x20 | 0x7f => return Err(PathProblem::ControlByte),
            0x80.. => return Err(PathProblem::NonAscii),
            _ => {}
        }
        last = byte;
    }
    let text = std::str::from_utf8(raw).map_err(|_| PathProblem::NonAscii)?;
    if !rewrite && !look_closer {
        return Ok(Cow::Borrowed(text));
    }
    let canonical = if rewrite { rewritten(text)? } else { Cow::Borrowed(text) };
    let mut segments = canonical.split('/').peekable();
    while let Some(segment) = segments.next() {
        let stem = without_parameters(segment);
        if stem == "." || stem == ".." {
            return Err(PathProblem::DotSegment);
        }
        if stem.is_empty() && !segment.is_empty() && segments.peek().is_some() {
            return Err(PathProblem::HiddenEmptySegment);
        }
    }
    Ok(canonical)
}

/// Whether a path has no byte that needs a closer look, so that it is canonical as it stands.
///
/// Both loops run to their end, since the compiler turns such into a few vector instructions; a loop that stops at what it
/// finds took more than twice as long.
fn is_plain(raw: &[u8]) -> bool {
    let is_special =
        |byte: u8| byte <= 0x20 || byte >= 0x7f || matches!(byte, b'#' | b'?' | b'\\' | b'%' | b';');
    let special = raw.iter().fold(false, |found, byte| found | is_special(*byte));
    let pairs = raw.iter().zip(raw.iter().skip(1));
    let doubtful = pairs.fold(false, |found, (a, b)| found | (*a == b'/' && (*b == b'/' || *b == b'.')));
    !special && !doubtful
}

/// Merges empty segments, decodes unreserved characters and writes other escapes in upper case.
fn rewritten(text: &str) -> Result<Cow<'_, str>, PathProblem> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'/' if out.ends_with('/') => {}
            b'%' => match escaped(&mut rest).ok_or(PathProblem::BadEscape)? {
                b'/' => return Err(PathProblem::EncodedSlash),
                b'\\' => return Err(PathProblem::EncodedBackslash),
                0 => return Err(PathProblem::EncodedNul),
                decoded if is_unreserved(decoded) => out.push(char::from(decoded)),
                other => push_escape(&mut out, other),
            },
            _ => out.push(char::from(byte)),
        }
    }
    Ok(if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) })
}

/// The byte that the next two hex digits mean.
fn escaped(rest: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let mut digit = || char::from(rest.next()?).to_digit(16);
    let (high, low) = (digit()?, digit()?);
    u8::try_from(high.checked_mul(16)?.checked_add(low)?).ok()
}

fn push_escape(out: &mut String, byte: u8) {
    out.push('%');
    for nibble in [byte >> 4, byte & 15] {
        out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0').to_ascii_uppercase());
    }
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// A segment of a canonical path up to its first `;`, encoded or not.
fn without_parameters(segment: &str) -> &str {
    let plain = segment.split(';').next().unwrap_or_default();
    plain.split("%3B").next().unwrap_or_default()
}

/// What patterns are compared with: a canonical path without its first and its final `/`, without `;parameters`, and
/// with printable escapes decoded, `%25` excepted. Empty for `/`. Borrowed unless the path has a `;` or a `%`.
pub(crate) fn matching_form(path: &str) -> Cow<'_, str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    if !path.bytes().fold(false, |found, byte| found | (byte == b';') | (byte == b'%')) {
        return Cow::Borrowed(path.strip_suffix('/').unwrap_or(path));
    }
    let mut out = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            out.push('/');
        }
        decode_printable(&mut out, without_parameters(segment));
    }
    if out.ends_with('/') {
        out.pop();
    }
    Cow::Owned(out)
}

fn decode_printable(out: &mut String, segment: &str) {
    let mut rest = segment;
    while let Some((plain, after)) = rest.split_once('%') {
        out.push_str(plain);
        let mut bytes = after.bytes();
        match escaped(&mut bytes) {
            Some(byte @ 0x21..=0x7e) if byte != b'%' && byte != b'/' => out.push(char::from(byte)),
            Some(byte) => push_escape(out, byte),
            None => out.push('%'),
        }
        rest = after.get(2..).unwrap_or_default();
    }
    out.push_str(rest);
}

/// Path: exact (`/healthz`), everything at and below a prefix (`/v1/*`), or with whole segments left open
/// (`/orders/{id}/items`, `/users/{user}/files/*`).
///
/// Written as canonical paths are, without `;parameters` and final `/`. A literal `*`, `{`, `}`, `?` or `#` is written
/// as its escape.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PathPattern {
    text: Arc<str>,
    segments: Arc<[Segment]>,
    reach: Reach,
}

/// One segment of a pattern.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Segment {
    /// This text, in [`matching_form`].
    Literal(Arc<str>),
    /// Any text but none.
    Any,
}

/// Whether a pattern means what is below it too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Reach {
    /// Only itself.
    Here,
    /// Itself and everything below.
    Below,
}

const WHAT: &str = "path";

impl PathPattern {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a canonical path is meant.
    pub fn matches(&self, path: &str) -> bool {
        if !path.starts_with('/') {
            return false;
        }
        let form = matching_form(path);
        let mut rest = form.split('/').filter(|_| !form.is_empty());
        for segment in &*self.segments {
            match (segment, rest.next()) {
                (Segment::Any, Some(given)) if !given.is_empty() => {}
                (Segment::Literal(own), Some(given)) if **own == *given => {}
                _ => return false,
            }
        }
        self.reach == Reach::Below || rest.next().is_none()
    }

    /// Whether every path that `other` means is meant by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        let pairwise = self.segments.iter().zip(&*other.segments).all(|pair| match pair {
            (Segment::Any, _) => true,
            (Segment::Literal(a), Segment::Literal(b)) => a == b,
            (Segment::Literal(_), Segment::Any) => false,
        });
        pairwise
            && match self.reach {
                Reach::Below => other.segments.len() >= self.segments.len(),
                Reach::Here => other.reach == Reach::Here && other.segments.len() == self.segments.len(),
            }
    }

    /// How many segments at the start of the path agree, for "nearest".
    pub(crate) fn agreement(&self, path: &str) -> usize {
        let form = matching_form(path);
        let agrees = |(own, given): &(&Segment, &str)| match own {
            Segment::Any => !given.is_empty(),
            Segment::Literal(own) => **own == **given,
        };
        self.segments.iter().zip(form.split('/')).take_while(agrees).count()
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    /// The pattern that means a gRPC method, or all of a service.
    pub(crate) fn for_grpc(service: &str, method: Option<&str>) -> Self {
        let last = method.map_or(Segment::Any, |method| Segment::Literal(method.into()));
        Self {
            text: format!("/{service}/{}", method.unwrap_or("{method}")).into(),
            segments: [Segment::Literal(service.into()), last].into(),
            reach: Reach::Here,
        }
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let error = |problem: Cow<'static, str>| PatternError::new(WHAT, text, problem);
        if text.len() > PATTERN_BYTES_MAX {
            return Err(error("is longer than 1024 bytes".into()));
        }
        let canonical = canonical_pattern(text).map_err(|problem| error(problem.into()))?;
        if canonical != text {
            return Err(error(format!("is not in its canonical spelling; write {canonical}").into()));
        }
        let below = text.strip_suffix("/*");
        let stem = below.unwrap_or(text).strip_prefix('/').unwrap_or_default();
        let mut segments = Vec::new();
        for segment in stem.split('/').filter(|_| !stem.is_empty()) {
            segments.push(Segment::parse(segment).map_err(|problem| error(problem.into()))?);
        }
        let reach = if below.is_some() { Reach::Below } else { Reach::Here };
        Ok(Self { text: text.into(), segments: segments.into(), reach })
    }
}

impl Segment {
    fn parse(segment: &str) -> Result<Self, &'static str> {
        if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let is_name =
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
            return if is_name {
                Ok(Self::Any)
            } else {
                Err("has a '{…}' whose name is not made of A-Z a-z 0-9 _ -; write for instance /orders/{id}")
            };
        }
        if segment.contains(['{', '}']) {
            return Err(
                "has a '{…}' that is not a whole segment; write for instance /orders/{id}, and %7B for a literal '{'",
            );
        }
        if segment.contains('*') {
            return Err(
                "has a '*' that is not the whole last segment; write for instance /v1/*, {name} for one open segment, and %2A for a literal '*'",
            );
        }
        let mut form = String::with_capacity(segment.len());
        decode_printable(&mut form, segment);
        Ok(Self::Literal(form.into()))
    }
}

/// The spelling that a pattern should have.
fn canonical_pattern(text: &str) -> Result<String, &'static str> {
    if !text.starts_with('/') {
        return Err("does not start with '/'; write for instance /v1/*");
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let (byte, written) = match byte {
            b'%' => (
                escaped(&mut rest).ok_or("has a '%' that is not followed by two hex digits")?,
                Written::Escaped,
            ),
            _ => (byte, Written::Plain),
        };
        match (byte, written) {
            (b'/', Written::Plain) if out.ends_with('/') => {}
            (b'/' | b'*' | b'{' | b'}', Written::Plain) => out.push(char::from(byte)),
            (b'/' | b'\\' | 0, _) => {
                return Err("has an encoded '/', a '\\' or a NUL; such requests are refused anyway");
            }
            (b';', _) => {
                return Err("has a ';'; parameters are set aside before paths are compared, leave them out");
            }
            (b'?', Written::Plain) => {
                return Err(
                    "has a '?'; rules do not look at the query, leave it out (%3F for a literal one)",
                );
            }
            (b'#', Written::Plain) => {
                return Err("has a '#'; requests carry no fragment, leave it out (%23 for a literal one)");
            }
            (b'%' | b'*' | b'{' | b'}' | b'?' | b'#', Written::Escaped) => push_escape(&mut out, byte),
            (0x21..=0x7e, _) => out.push(char::from(byte)),
            _ => push_escape(&mut out, byte),
        }
    }
    if out.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("has a '.' or '..' segment; such requests are refused anyway");
    }
    if out.len() > 1 && out.ends_with('/') {
        out.pop();
    }
    Ok(out)
}

/// How a byte of a pattern was written.
#[derive(Clone, Copy)]
enum Written {
    Plain,
    Escaped,
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
